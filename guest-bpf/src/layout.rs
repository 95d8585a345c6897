//! Of which build programs and agent are: what one of them writes, the other can read only if they share every type.

/// Hash of the sources of what programs and agent share.
pub const HASH: u64 = parse(env!("PORTHOLE_LAYOUT").as_bytes());

/// Section of the object file that has [`HASH`], in little-endian byte order.
pub const SECTION: &str = "porthole_layout";

const fn parse(digits: &[u8]) -> u64 {
    let (mut number, mut at) = (0_u64, 0);
    while at < digits.len() {
        number = number.wrapping_mul(10).wrapping_add((digits[at] - b'0') as u64);
        at += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_builds() {
        assert_eq!(HASH.to_string(), env!("PORTHOLE_LAYOUT"));
    }
}
