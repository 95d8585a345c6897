//! What a generator decides by: bytes of a fuzzer, or numbers that look random and are the same in each run.

/// A source of choices.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl Choices<'static> {
    /// Numbers that look random, by `SplitMix64`.
    pub fn seeded(seed: u64) -> Self {
        Self { bytes: &[], state: seed }
    }
}

impl<'a> Choices<'a> {
    /// Two bytes for each choice; behind the last one as with a seed that all of them make.
    pub fn of_bytes(bytes: &'a [u8]) -> Self {
        let mix = |state: u64, &byte: &u8| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self { bytes, state: bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix) }
    }

    fn next(&mut self) -> u64 {
        if let Some((&[low, high], rest)) = self.bytes.split_first_chunk() {
            self.bytes = rest;
            return u16::from_le_bytes([low, high]).into();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Seldom puts a control character at any place, or in place of another; returns whether it did.
    pub fn control(&mut self, bytes: &mut Vec<u8>) -> bool {
        if bytes.is_empty() || !self.once_in(60) {
            return false;
        }
        let at = self.below(bytes.len());
        let control = self.of(&[0, 1, b'\t', b'\n', b'\r', 0x1a, 0x1b, 0x7f, 0x80]);
        if self.once_in(2) {
            bytes.insert(at, control);
        } else {
            bytes[at] = control;
        }
        true
    }

    /// Letters.
    pub fn text(&mut self, len: usize) -> String {
        let mut word = self.next();
        let mut letter = || {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            char::from(b"abZ0 -_x"[usize::try_from(word >> 61).expect("small")])
        };
        (0..len).map(|_| letter()).collect()
    }

    /// Mostly short, sometimes longer than a window.
    pub fn size(&mut self) -> usize {
        let most = self.of(&[1, 3, 20, 20, 20, 300, 1100, 5000]);
        self.below(most + 1)
    }
}
