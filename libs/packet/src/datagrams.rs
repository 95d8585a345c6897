//! Datagrams between two ends, each once.
//!
//! A capture of several devices has the same datagram several times, as has a network that repeats packets.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

/// How far apart two captures of one datagram are at most, nanoseconds. Clients that repeat a request wait longer.
const REPEATED_NS_MAX: u64 = 20_000_000;

/// Datagrams that are remembered.
const REMEMBERED_MAX: usize = 16;

/// What was taken.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    /// Positions after the last datagram of each direction.
    positions: [u64; 2],
    recent: VecDeque<Recent>,
}

#[derive(Debug, PartialEq, Eq)]
struct Recent {
    hash: u64,
    time_ns: u64,
}

impl Datagrams {
    /// Whether a datagram of another network is one of these: one that was taken before, or the first of its direction.
    pub fn has_place_for(&self, from: usize, bytes: &[u8], length: u64, time_ns: u64) -> bool {
        let is_first = self.positions[from] == 0 && self.positions[1 - from] > 0;
        is_first || self.has(hash(from, bytes, length), time_ns)
    }

    fn has(&self, hash: u64, time_ns: u64) -> bool {
        self.recent
            .iter()
            .any(|recent| recent.hash == hash && recent.time_ns.abs_diff(time_ns) <= REPEATED_NS_MAX)
    }

    /// Takes a datagram of that direction; gives its position, or none when it is one that was taken before.
    pub fn take(&mut self, from: usize, bytes: &[u8], length: u64, time_ns: u64) -> Option<u64> {
        let hash = hash(from, bytes, length);
        if self.has(hash, time_ns) {
            return None;
        }
        if self.recent.len() >= REMEMBERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent { hash, time_ns });
        let position = self.positions[from];
        self.positions[from] = position.saturating_add(length);
        Some(position)
    }
}

fn hash(from: usize, bytes: &[u8], length: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (from, bytes, length).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_was_captured_twice_is_taken_once() {
        let mut datagrams = Datagrams::default();
        assert_eq!(datagrams.take(0, b"ask", 3, 5), Some(0));
        assert_eq!(datagrams.take(0, b"ask", 3, 1_000), None);
        assert_eq!(datagrams.take(1, b"ask", 3, 1_000), Some(0), "the other direction");
        assert_eq!(datagrams.take(0, b"asks", 4, 1_000), Some(3));
        assert_eq!(datagrams.take(0, b"ask", 3, 2_000_000_000), Some(7), "asked again");
    }
}
