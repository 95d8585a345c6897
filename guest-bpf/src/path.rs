//! Hashes of HTTP methods and paths that leave ids out, so that requests of one route are one key.

/// Methods of requests that the programs parse; a method's number is its position, from 1.
pub const METHODS: [&str; 7] = ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"];

/// Hash of an HTTP request's method and path.
///
/// A segment that is certainly an id (digits; or hexadecimal digits as of a UUID) is hashed as such and not by its
/// value: `/users/1` and `/users/2` are one key. Paths with equal hashes have equal routes; that equal routes may have
/// several hashes does no harm.
#[derive(Clone, Copy, Debug)]
pub struct PathHash {
    hash: u64,
    /// At the beginning of the segment.
    segment: u64,
    /// Of the segment: digits, 12 bits; hexadecimal letters, 12 bits; everything else but dashes, 8 bits.
    counts: u32,
}

/// FNV-1a of 64 bits: prime and offset basis.
pub(crate) const PRIME: u64 = 0x0000_0100_0000_01b3;
pub(crate) const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// No byte: what an id is hashed as.
const ID: u64 = 0x1_00;

const DIGIT: u32 = 1;
const HEX: u32 = 1 << 12;
const WORD: u32 = 1 << 24;

/// What each byte adds to the counts of a [`PathHash`].
pub type Classes = [u32; 256];

/// Digits, hexadecimal letters, dashes, everything else.
pub const CLASSES: Classes = {
    let mut classes = [WORD; 256];
    let mut byte = 0;
    while byte < 256 {
        // ASCII: digits; letters up to `F`, large and small; `-`, `:`, `_`.
        classes[byte] = match byte {
            0x30..=0x39 => DIGIT,
            0x41..=0x46 | 0x61..=0x66 => HEX,
            0x2d | 0x3a | 0x5f => 0,
            _ => WORD,
        };
        byte += 1;
    }
    classes
};

impl PathHash {
    /// Before the path; `method` is the method's number.
    #[inline(always)]
    pub const fn new(method: u64) -> Self {
        let hash = (BASIS ^ method).wrapping_mul(PRIME);
        Self { hash, segment: hash, counts: 0 }
    }

    /// Adds the path's next byte; `class` is the byte's in [`CLASSES`].
    #[inline(always)]
    pub const fn add(&mut self, byte: u8, class: u32) {
        if byte == b'/' {
            self.end_segment();
            self.hash = (self.hash ^ byte as u64).wrapping_mul(PRIME);
            self.segment = self.hash;
            self.counts = 0;
            return;
        }
        self.hash = (self.hash ^ byte as u64).wrapping_mul(PRIME);
        // So many words that they overflow do not fit in a path that is hashed.
        self.counts = self.counts.wrapping_add(class);
        if self.counts >= 2 * WORD {
            self.counts -= WORD;
        }
    }

    /// The hash of the whole path.
    #[inline(always)]
    pub const fn finish(mut self) -> u64 {
        self.end_segment();
        self.hash
    }

    #[inline(always)]
    const fn end_segment(&mut self) {
        let (digits, hex) = (self.counts & 0xfff, (self.counts >> 12) & 0xfff);
        let id = self.counts < WORD && digits > 0 && (hex == 0 || digits + hex >= 8 || digits >= 4);
        if id {
            self.hash = (self.segment ^ ID).wrapping_mul(PRIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(path: &str) -> u64 {
        let mut hash = PathHash::new(1);
        for byte in path.bytes() {
            hash.add(byte, CLASSES[usize::from(byte)]);
        }
        hash.finish()
    }

    #[test]
    fn ids_are_one_key_and_words_are_not() {
        assert_eq!(hash("/users/1"), hash("/users/4711"));
        assert_eq!(hash("/users/1/orders/2024-01-31"), hash("/users/22/orders/2025-12-01"));
        let uuid = "/items/0f3c9a1e-77aa-4d1b-9c2e-0123456789ab";
        assert_eq!(hash(uuid), hash("/items/123"));
        for (one, other) in [
            ("/users/a", "/users/b"),
            ("/users/1", "/users/1/"),
            ("/users/1", "/orders/1"),
            ("/users/1", "/users/-"),
            ("/1", "/1/1"),
            ("/v1", "/v2"),
            ("/face", "/cafe"),
            ("/", "//"),
        ] {
            assert_ne!(hash(one), hash(other), "{one} {other}");
        }
        assert_ne!(hash("/users/1"), PathHash::new(2).finish());
    }

    #[test]
    fn long_segments_do_not_overflow_the_counts() {
        let (words, digits) = ("w".repeat(1023), "1".repeat(1023));
        assert_ne!(hash(&format!("/{words}1")), hash(&format!("/{words}2")));
        assert_eq!(hash(&format!("/{digits}")), hash("/7"));
    }
}
