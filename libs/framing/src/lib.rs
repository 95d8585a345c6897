//! Where messages begin and end in a stream, as pure steps over windows of its bytes: for the eBPF programs, whose window
//! is a map's value, and for user space, whose window is a slice.
//!
//! - [`Window`]: the bytes at hand.
//! - [`layout`]: the table of protocols whose messages begin with their length.
//! - [`walk`]: follows such messages through the calls of a connection, and returns which of their bytes a parser
//!   needs.
//!
//! Invariants: `no_std`, no allocation, no panic on any bytes; a step takes bounded time and reads eight bytes at most of
//! its window, so that programs can take some of them under the kernel's verifier.
#![no_std]
#![forbid(unsafe_code)]

pub mod layout;
pub mod walk;

pub use layout::Framing;
pub use walk::{Piece, Walk};

/// Bytes at hand.
pub trait Window {
    /// The eight bytes from an index on, the first one lowest. Those beyond the window's end may be any.
    fn word(&self, index: u64) -> u64;
}

impl Window for [u8] {
    #[inline]
    fn word(&self, index: u64) -> u64 {
        let rest = usize::try_from(index).ok().and_then(|index| self.get(index..)).unwrap_or_default();
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    }
}
