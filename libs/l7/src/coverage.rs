//! Bytes that no exchange accounts for: the measure of what is missing, taken against what moved.
//!
//! Every byte of a connection whose protocol is known either belongs to a message whose beginning and length a parser
//! found, or is counted here: what was lost, what was not captured and is not the rest of a message, and what a parser went
//! past while it looked for the next message. Bodies of which only the length is needed belong to their message.
//!
//! Of a connection whose protocol is not known no byte counts, unless not one was captured although bytes moved in both
//! directions (`io_uring`, programs of 32 bits): it might have had exchanges.

use crate::{Protocol, exchange::Exchange};

/// Number of protocols.
const PROTOCOLS: usize = Protocol::ALL.len();

/// Bytes by protocol, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnaccountedBytes {
    by_protocol: [u64; PROTOCOLS],
    uncaptured: u64,
}

impl UnaccountedBytes {
    /// The bytes of each protocol that has any.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, u64)> {
        let all = Protocol::ALL.iter().copied().zip(self.by_protocol);
        all.filter(|(_, bytes)| *bytes > 0)
    }

    /// Those of connections of which nothing was captured.
    pub fn uncaptured(&self) -> u64 {
        self.uncaptured
    }

    /// All together.
    pub fn sum(&self) -> u64 {
        self.by_protocol.iter().fold(self.uncaptured, |sum, bytes| sum.saturating_add(*bytes))
    }

    pub(crate) fn add(&mut self, protocol: Protocol, bytes: u64) {
        if let Some(sum) = self.by_protocol.get_mut(protocol as usize) {
            *sum = sum.saturating_add(bytes);
        }
    }

    pub(crate) fn add_uncaptured(&mut self, bytes: u64) {
        self.uncaptured = self.uncaptured.saturating_add(bytes);
    }
}

/// What became of a segment, seen from its direction's framing.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one segment.
pub(crate) struct Framed {
    /// The framing did not know where messages start, before the segment.
    pub was_lost: bool,
    /// The same behind it.
    pub is_lost: bool,
    /// The parser found that bytes are missing.
    pub has_gap: bool,
    /// Bytes are missing before the segment, or within it.
    pub is_cut: bool,
}

impl Framed {
    /// Bytes that belong to no message: of those that were lost before a segment, not captured of it, and captured.
    pub(crate) fn unaccounted(self, lost: u64, truncated: u64, captured: u64) -> u64 {
        let missing = lost.saturating_add(truncated);
        match self {
            Self { was_lost: true, is_lost: true, .. } => missing.saturating_add(captured),
            Self { was_lost: true, is_lost: false, .. } => lost,
            // What was captured made no message.
            Self { has_gap: true, is_cut: false, .. } => captured,
            Self { has_gap: true, is_cut: true, .. } => missing,
            Self { has_gap: false, .. } => 0,
        }
    }
}

impl Exchange {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.request_bytes.saturating_add(self.response_bytes)
    }
}

#[cfg(test)]
mod tests;
