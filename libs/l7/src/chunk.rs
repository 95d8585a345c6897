//! The input of the parsers: bytes that moved on a connection.

/// Nanoseconds of one monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Nanoseconds from `earlier` to this; 0 when the order is reversed.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Which way bytes moved, seen from the observed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The process read them.
    Ingress,
    /// The process wrote them.
    Egress,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// Bytes that moved one way on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Which way.
    pub direction: Direction,
    /// When the move ended.
    pub timestamp: Timestamp,
    /// Position of the first byte in this direction's stream, counted from when the connection was first seen. A
    /// position beyond the end of the chunk before means that something in between was lost.
    pub offset: u64,
    /// The captured head.
    pub bytes: &'a [u8],
    /// Bytes that moved in all; at least `bytes.len()`.
    pub total: u64,
}
