//! A connection that may have begun between the ends of another that is open.
//!
//! A SYN proves nothing: an end that has a connection answers it with an acknowledgement, and the connection goes on
//! (RFC 5961 section 4). Nor does a SYN-ACK that no SYN waits for. What may begin a connection is kept until the other end
//! has agreed to its numbers; where only one end's packets are captured, until more bytes follow that have them.

use crate::{
    segment::{Held, Segment},
    tcp::NEAR_BYTES,
};

/// What is kept of one at most: a request that was sent before the answer to its SYN was captured.
const SEGMENTS_MAX: usize = 16;
const BYTES_MAX: usize = 16 << 10;

/// Segments of a connection that is not proved.
#[derive(Debug)]
pub(crate) struct Successor {
    /// Number of each direction's first byte, as far as it is known.
    first: [Option<u32>; 2],
    opener: usize,
    /// Directions that a segment has come from.
    heard: [bool; 2],
    segments: Vec<Held>,
    bytes: usize,
}

impl Successor {
    /// One that begins with a SYN, or with the answer to one that was not captured.
    pub fn new(segment: &Segment<'_>) -> Self {
        let mut first = [None; 2];
        first[segment.from] = Some(segment.sequence);
        first[1 - segment.from] = segment.acknowledged;
        let opener = segment.opener();
        let mut successor = Self { first, opener, heard: [false; 2], segments: Vec::new(), bytes: 0 };
        successor.keep(segment);
        successor
    }

    /// The direction that opens it.
    pub fn opener(&self) -> usize {
        self.opener
    }

    /// What was kept, in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.segments.iter().map(Held::segment)
    }

    /// Whether a segment has its numbers.
    pub fn has(&self, segment: &Segment<'_>) -> bool {
        let distance = |direction: usize, number: u32| {
            self.first[direction].map(|first| u64::from(number.wrapping_sub(first)))
        };
        let own = distance(segment.from, segment.sequence);
        let other = segment.acknowledged.and_then(|acknowledged| distance(1 - segment.from, acknowledged));
        // The answer to a SYN acknowledges no more than what came with it.
        let (own_max, other_max) =
            if segment.syn { (0, self.bytes as u64) } else { (NEAR_BYTES, NEAR_BYTES) };
        (own.is_some() || other.is_some())
            && own.is_none_or(|distance| distance <= own_max)
            && other.is_none_or(|distance| distance <= other_max)
    }

    /// Whether a segment begins exactly where its direction does.
    pub fn begins_with(&self, segment: &Segment<'_>) -> bool {
        self.first[segment.from] == Some(segment.sequence)
    }

    /// Whether a segment that has its numbers is the other end's agreement.
    pub fn is_agreed_by(&self, segment: &Segment<'_>) -> bool {
        self.heard[1 - segment.from]
    }

    /// Keeps a segment, as long as there is room.
    pub fn keep(&mut self, segment: &Segment<'_>) {
        self.heard[segment.from] = true;
        if self.segments.len() < SEGMENTS_MAX && self.bytes + segment.bytes.len() <= BYTES_MAX {
            self.bytes += segment.bytes.len();
            self.segments.push(Held::of(segment));
        }
    }
}
