//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length ascend with their symbols, so the lengths define it.

/// Length of each symbol's code, bits; the last one is the end of string, which never appears.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const EOS: u16 = 256;
const LENGTH_MAX: usize = 30;

/// Bits that the short table looks at.
const SHORT: usize = 9;

/// For each length: the first code, and where its symbols start among the sorted ones.
const CODES: ([u32; LENGTH_MAX + 2], [u16; LENGTH_MAX + 2], [u16; 257]) = codes();

/// For each value of the next bits: symbol and length of the code that stands there, or length 0.
static SHORT_TABLE: [(u8, u8); 1 << SHORT] = short_table();

#[allow(clippy::cast_possible_truncation)] // Counts up to 257.
const fn codes() -> ([u32; LENGTH_MAX + 2], [u16; LENGTH_MAX + 2], [u16; 257]) {
    let mut first = [0_u32; LENGTH_MAX + 2];
    let mut start = [0_u16; LENGTH_MAX + 2];
    let mut sorted = [0_u16; 257];
    let mut placed = 0;
    let mut code = 0_u32;
    let mut length = 1;
    while length <= LENGTH_MAX {
        first[length] = code;
        start[length] = placed as u16;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                sorted[placed] = symbol as u16;
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    start[LENGTH_MAX + 1] = placed as u16;
    (first, start, sorted)
}

#[allow(clippy::cast_possible_truncation)] // Symbols of short codes are bytes.
const fn short_table() -> [(u8, u8); 1 << SHORT] {
    let (first, start, sorted) = codes();
    let mut table = [(0, 0); 1 << SHORT];
    let mut length = 1;
    while length <= SHORT {
        let count = (start[length + 1] - start[length]) as usize;
        let mut at = 0;
        while at < count {
            let code = (first[length] as usize + at) << (SHORT - length);
            let symbol = sorted[start[length] as usize + at] as u8;
            let mut filler = 0;
            while filler < 1 << (SHORT - length) {
                table[code + filler] = (symbol, length as u8);
                filler += 1;
            }
            at += 1;
        }
        length += 1;
    }
    table
}

/// Decodes a string: appends its first bytes to `out`, up to `keep`, and gives its whole length. `None` when it is not
/// well formed.
pub(super) fn decode(input: &[u8], keep: usize, out: &mut Vec<u8>) -> Option<usize> {
    let mut bits = 0_u64;
    let mut available = 0_usize;
    let mut length = 0;
    let mut input = input.iter();
    loop {
        while available <= 56
            && let Some(&byte) = input.next()
        {
            bits |= u64::from(byte) << (56 - available);
            available += 8;
        }
        let (symbol, used) = next(bits)?;
        if used > available {
            // What is left must be padding: fewer than eight bits, all ones.
            let padding = bits >> (64 - available.max(1));
            return (available == 0 || (available < 8 && padding == (1 << available) - 1)).then_some(length);
        }
        bits <<= used;
        available -= used;
        if length < keep {
            out.push(symbol);
        }
        length += 1;
    }
}

/// The symbol whose code stands at the top of `bits`, and its length. Past the end of the input, where zeros stand, the
/// length exceeds what is available or the padding is not a code's.
fn next(bits: u64) -> Option<(u8, usize)> {
    let top = usize::try_from(bits >> (64 - SHORT)).ok()?;
    let (symbol, length) = *SHORT_TABLE.get(top)?;
    if length > 0 {
        return Some((symbol, usize::from(length)));
    }
    let (first, start, sorted) = &CODES;
    for length in SHORT + 1..=LENGTH_MAX {
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let count = u32::from(start[length + 1] - start[length]);
        if code >= first[length] && code - first[length] < count {
            let at = usize::from(start[length]) + usize::try_from(code - first[length]).ok()?;
            let symbol = *sorted.get(at)?;
            return if symbol == EOS { None } else { Some((u8::try_from(symbol).ok()?, length)) };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex"))
            .collect()
    }

    fn decoded(text: &str) -> Option<String> {
        let mut out = Vec::new();
        let length = decode(&hex(text), usize::MAX, &mut out)?;
        assert_eq!(length, out.len());
        Some(String::from_utf8(out).expect("text"))
    }

    /// RFC 7541 appendixes C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc() {
        for (code, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
            ("", ""),
        ] {
            assert_eq!(decoded(code).as_deref(), Some(text));
        }
    }

    #[test]
    fn every_symbol_has_its_code() {
        let (first, start, sorted) = &CODES;
        for symbol in 0..=255_u8 {
            let length = usize::from(LENGTHS[usize::from(symbol)]);
            let at = (usize::from(start[length])..257)
                .find(|at| sorted[*at] == u16::from(symbol))
                .expect("placed");
            let code = first[length] + u32::try_from(at - usize::from(start[length])).expect("small");
            // The code, then ones up to whole bytes.
            let bytes = length.div_ceil(8);
            let padded = (u64::from(code) << (8 * bytes - length)) | ((1 << (8 * bytes - length)) - 1);
            let mut out = Vec::new();
            let input = padded.to_be_bytes();
            assert_eq!(decode(&input[8 - bytes..], 9, &mut out), Some(1), "symbol {symbol}");
            assert_eq!(out, [symbol]);
        }
    }

    #[test]
    fn bad_padding_and_the_end_of_string_are_refused() {
        for code in ["ffffffff", "f1e3c2e5f23a6ba0ab90f4ffff", "00ffffffff", "18"] {
            assert_eq!(decoded(code), None, "{code}");
        }
    }

    #[test]
    fn only_what_is_to_be_kept_is_kept() {
        let mut out = Vec::new();
        assert_eq!(decode(&hex("f1e3c2e5f23a6ba0ab90f4ff"), 3, &mut out), Some(15));
        assert_eq!(out, b"www");
    }
}
