//! Both directions of a TCP connection, in the order in which its ends saw them.
//!
//! Requests and responses are paired by their order, so bytes that answer other bytes must come after them. A segment
//! acknowledges what its sender had when it sent it: while a part of that is missing here, because the capture is out of
//! order, the segment is held back; when the part does not come soon, it is lost, and what follows goes on.

use std::collections::VecDeque;

use crate::tcp::Direction;

/// Packets of the connection for which a segment is held back. Captures of machines with several cores are out of order
/// by a few packets.
const PATIENCE_PACKETS: u32 = 16;

/// What is held back of one connection at most.
const HELD_SEGMENTS_MAX: usize = 64;
const HELD_BYTES_MAX: usize = 1 << 20;

/// A segment of either direction.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Index of the direction.
    pub from: usize,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// What its sender expected next.
    pub acknowledged: Option<u32>,
    /// The captured head of its bytes.
    pub bytes: &'a [u8],
    /// How many bytes it has.
    pub length: u64,
    /// Whether the direction ends behind it.
    pub fin: bool,
    /// When it was captured, nanoseconds.
    pub timestamp_ns: u64,
}

#[derive(Debug)]
struct Held {
    from: usize,
    sequence: u32,
    acknowledged: u32,
    bytes: Vec<u8>,
    length: u64,
    fin: bool,
    timestamp_ns: u64,
}

impl Held {
    fn segment(&self) -> Segment<'_> {
        let Self { from, sequence, acknowledged, length, fin, timestamp_ns, .. } = *self;
        Segment {
            from,
            sequence,
            acknowledged: Some(acknowledged),
            bytes: &self.bytes,
            length,
            fin,
            timestamp_ns,
        }
    }
}

/// Bytes in order: direction, time in nanoseconds, position in the stream, captured head, length in all.
pub type Deliver<'a> = &'a mut dyn FnMut(usize, u64, u64, &[u8], u64);

/// A connection.
#[derive(Debug, Default)]
pub struct Conversation {
    directions: [Direction; 2],
    held: VecDeque<Held>,
    held_bytes: usize,
    impatience: u32,
}

impl Conversation {
    /// Whether a SYN with that sequence number, by that direction, begins another connection.
    pub fn begins_anew(&self, from: usize, sequence: u32) -> bool {
        self.directions[from].begins_anew(sequence)
    }

    /// Whether both directions have ended and everything was delivered.
    pub fn is_finished(&self) -> bool {
        self.directions.iter().all(Direction::is_finished)
    }

    /// Bytes that were never seen, and bytes that were seen again.
    pub fn lost_and_repeated(&self) -> (u64, u64) {
        self.directions.iter().fold((0, 0), |(lost, repeated), direction| {
            (lost + direction.lost_bytes, repeated + direction.repeated_bytes)
        })
    }

    /// Takes a segment.
    pub fn segment(&mut self, segment: &Segment<'_>, deliver: Deliver<'_>) {
        let other = 1 - segment.from;
        self.directions[segment.from].begin(segment.sequence);
        let missing = segment.acknowledged.filter(|acknowledged| {
            self.directions[other].begin(*acknowledged);
            segment.length > 0 && self.directions[other].lacks(*acknowledged)
        });
        if let Some(acknowledged) = missing {
            self.hold(segment, acknowledged);
        } else {
            self.apply(segment, deliver);
        }
        self.release(deliver);
        if !self.held.is_empty() {
            self.impatience += 1;
            while self.impatience > PATIENCE_PACKETS
                || self.held.len() > HELD_SEGMENTS_MAX
                || self.held_bytes > HELD_BYTES_MAX
            {
                self.give_up_first(deliver);
            }
        }
        for (from, direction) in self.directions.iter_mut().enumerate() {
            direction.tick(&mut |offset, bytes, length| {
                deliver(from, segment.timestamp_ns, offset, bytes, length);
            });
        }
        self.release(deliver);
    }

    /// No further segment comes.
    pub fn flush(&mut self, now_ns: u64, deliver: Deliver<'_>) {
        while !self.held.is_empty() {
            self.give_up_first(deliver);
        }
        for (from, direction) in self.directions.iter_mut().enumerate() {
            direction.flush(&mut |offset, bytes, length| deliver(from, now_ns, offset, bytes, length));
        }
    }

    fn hold(&mut self, segment: &Segment<'_>, acknowledged: u32) {
        let Segment { from, sequence, bytes, length, fin, timestamp_ns, .. } = *segment;
        self.held_bytes += bytes.len();
        let bytes = bytes.to_vec();
        self.held.push_back(Held { from, sequence, acknowledged, bytes, length, fin, timestamp_ns });
    }

    /// Takes what was held back for bytes that have come.
    fn release(&mut self, deliver: Deliver<'_>) {
        let ready = |conversation: &Self| {
            conversation
                .held
                .iter()
                .position(|held| !conversation.directions[1 - held.from].lacks(held.acknowledged))
        };
        while let Some(at) = ready(self) {
            let Some(held) = self.held.remove(at) else { return };
            self.held_bytes -= held.bytes.len();
            self.impatience = 0;
            self.apply(&held.segment(), deliver);
        }
    }

    /// Goes on without what the segment that was held back longest waits for.
    fn give_up_first(&mut self, deliver: Deliver<'_>) {
        self.impatience = 0;
        let Some(held) = self.held.pop_front() else { return };
        self.held_bytes -= held.bytes.len();
        let other = 1 - held.from;
        self.directions[other].give_up_until(held.acknowledged, &mut |offset, bytes, length| {
            deliver(other, held.timestamp_ns, offset, bytes, length);
        });
        self.apply(&held.segment(), deliver);
        self.release(deliver);
    }

    fn apply(&mut self, segment: &Segment<'_>, deliver: Deliver<'_>) {
        let from = segment.from;
        if let Some(acknowledged) = segment.acknowledged {
            self.directions[1 - from].acknowledge(acknowledged);
        }
        let direction = &mut self.directions[from];
        if segment.length > 0 {
            direction.segment(
                segment.sequence,
                segment.bytes,
                segment.length,
                &mut |offset, bytes, length| {
                    deliver(from, segment.timestamp_ns, offset, bytes, length);
                },
            );
        }
        if segment.fin {
            #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
            direction.finish(segment.sequence.wrapping_add(segment.length as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `(from, sequence, acknowledged, text)` and gives what came out, in order.
    fn order(segments: &[(usize, u32, u32, &str)]) -> Vec<String> {
        let mut conversation = Conversation::default();
        let mut out = Vec::new();
        let mut deliver = |from: usize, _: u64, offset: u64, bytes: &[u8], _: u64| {
            out.push(format!("{from}@{offset} {}", String::from_utf8_lossy(bytes)));
        };
        for (time, (from, sequence, acknowledged, text)) in segments.iter().enumerate() {
            let segment = Segment {
                from: *from,
                sequence: *sequence,
                acknowledged: Some(*acknowledged),
                bytes: text.as_bytes(),
                length: text.len() as u64,
                fin: false,
                timestamp_ns: time as u64,
            };
            conversation.segment(&segment, &mut deliver);
        }
        conversation.flush(0, &mut deliver);
        out
    }

    #[test]
    fn a_request_that_was_captured_before_the_response_that_it_follows_waits_for_it() {
        let right = ["0@0 one", "1@0 ONE", "0@3 two", "1@3 TWO"];
        assert_eq!(order(&[(0, 0, 0, "one"), (1, 0, 3, "ONE"), (0, 3, 3, "two"), (1, 3, 6, "TWO")]), right);
        assert_eq!(order(&[(0, 0, 0, "one"), (0, 3, 3, "two"), (1, 0, 3, "ONE"), (1, 3, 6, "TWO")]), right);
        assert_eq!(order(&[(0, 0, 0, "one"), (0, 3, 3, "two"), (1, 3, 6, "TWO"), (1, 0, 3, "ONE")]), right);
    }

    #[test]
    fn a_response_that_never_comes_is_lost_before_the_request_that_follows_it() {
        let out = order(&[(0, 0, 0, "one"), (0, 3, 3, "two"), (1, 3, 6, "TWO"), (0, 6, 6, "three")]);
        assert_eq!(out, ["0@0 one", "0@3 two", "1@3 TWO", "0@6 three"]);
    }

    #[test]
    fn two_that_wait_for_each_other_do_not_wait_for_ever() {
        let mut segments = vec![(0, 0, 0, "a"), (0, 5, 9, "b"), (1, 9, 6, "c")];
        segments.extend((0..100).map(|_| (0, 6, 9, "")));
        let out = order(&segments);
        assert_eq!(out.len(), 3, "{out:?}");
    }
}
