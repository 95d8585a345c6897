//! One direction of a TCP connection: segments into the order of their sequence numbers (RFC 9293 section 3.4).

use std::collections::VecDeque;

/// Bytes and segments that wait for an earlier one; with more, the missing one is taken for lost.
const WAITING_BYTES_MAX: usize = 1 << 20;
const WAITING_SEGMENTS_MAX: usize = 512;

/// Packets of the connection after which bytes that the other end has acknowledged, and that were not seen, are taken for
/// lost. Before, they may merely come late: captures on machines of several cores are a little out of order.
const PATIENCE_PACKETS: u32 = 32;

/// Bytes of a segment.
#[derive(Clone, Debug)]
struct Segment {
    /// Position in the stream.
    offset: u64,
    /// The captured head.
    bytes: Vec<u8>,
    /// Bytes in all.
    length: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// In-order bytes: position in the stream, captured head, length in all.
pub type Deliver<'a> = &'a mut dyn FnMut(u64, &[u8], u64);

/// One direction.
#[derive(Debug, Default)]
pub struct Direction {
    /// Sequence number of the stream's position 0; unknown before the first packet.
    base: Option<u32>,
    /// Position of the next byte.
    next: u64,
    /// Segments beyond it, sorted, without overlap among themselves being removed.
    waiting: VecDeque<Segment>,
    waiting_bytes: usize,
    /// How far the other end has acknowledged.
    acknowledged: u64,
    /// Packets since then while bytes are missing.
    impatience: u32,
    /// Position of the end, once it was announced.
    end: Option<u64>,
    /// Bytes that were never seen.
    pub lost_bytes: u64,
    /// Bytes that came again.
    pub repeated_bytes: u64,
}

impl Direction {
    /// Whether nothing is known yet.
    pub fn is_new(&self) -> bool {
        self.base.is_none()
    }

    /// Whether this sequence number is another connection's beginning.
    pub fn begins_anew(&self, sequence: u32) -> bool {
        self.base.is_some_and(|base| base != sequence.wrapping_add(1))
    }

    /// Begins at a sequence number, if nothing is known yet.
    pub fn begin(&mut self, sequence: u32) {
        self.base.get_or_insert(sequence);
    }

    /// Whether everything up to the announced end has been delivered.
    pub fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// The position that a sequence number stands for, near the expected one; negative before the beginning.
    fn position(&self, sequence: u32) -> i64 {
        let base = self.base.unwrap_or(sequence);
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
        let expected = base.wrapping_add(self.next as u32);
        let ahead = i64::from(sequence.wrapping_sub(expected).cast_signed());
        i64::try_from(self.next).unwrap_or(i64::MAX).saturating_add(ahead)
    }

    /// Takes a segment: `length` bytes from `sequence` on, of which the head was captured.
    pub fn segment(&mut self, sequence: u32, bytes: &[u8], length: u64, deliver: Deliver<'_>) {
        self.begin(sequence);
        let position = self.position(sequence);
        // What lies before the next byte has been delivered or given up.
        let next = i64::try_from(self.next).unwrap_or(i64::MAX);
        let skip = u64::try_from(next.saturating_sub(position)).unwrap_or(0).min(length);
        self.repeated_bytes += skip;
        if skip == length {
            return;
        }
        let head = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
        let Ok(offset) = u64::try_from(position.saturating_add(i64::try_from(skip).unwrap_or(i64::MAX)))
        else {
            return;
        };
        let (bytes, length) = (&bytes[head..], length - skip);
        if offset == self.next {
            deliver(offset, bytes, length);
            self.next += length;
            self.drain(deliver);
            return;
        }
        let at = self.waiting.partition_point(|waiting| waiting.offset < offset);
        if self.waiting.get(at).is_some_and(|same| same.offset == offset && same.length >= length) {
            self.repeated_bytes += length;
            return;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.insert(at, Segment { offset, bytes: bytes.to_vec(), length });
        while self.waiting_bytes > WAITING_BYTES_MAX || self.waiting.len() > WAITING_SEGMENTS_MAX {
            self.give_up_hole(deliver);
        }
    }

    /// The end of the stream is behind that sequence number.
    pub fn finish(&mut self, sequence: u32) {
        self.begin(sequence);
        if let Ok(end) = u64::try_from(self.position(sequence)) {
            self.end.get_or_insert(end);
        }
    }

    /// The other end has everything before that sequence number.
    pub fn acknowledge(&mut self, sequence: u32) {
        if !self.is_new()
            && let Ok(position) = u64::try_from(self.position(sequence))
        {
            self.acknowledged = self.acknowledged.max(position);
        }
    }

    /// Whether bytes before that sequence number have not come.
    pub fn lacks(&self, sequence: u32) -> bool {
        self.target(sequence) > self.next
    }

    /// The position of a sequence number that the other end expects next. The end of a stream has a number too, and is no
    /// byte.
    fn target(&self, sequence: u32) -> u64 {
        let position = u64::try_from(self.position(sequence)).unwrap_or(0);
        self.end.map_or(position, |end| position.min(end))
    }

    /// What lies before that sequence number and has not come will not come.
    pub fn give_up_until(&mut self, sequence: u32, deliver: Deliver<'_>) {
        let target = self.target(sequence);
        while self.next < target {
            let next = self.waiting.front().map_or(target, |first| first.offset.min(target));
            self.lost_bytes += next.saturating_sub(self.next);
            self.next = self.next.max(next);
            self.drain(deliver);
        }
    }

    /// A packet of the connection has gone by: what was acknowledged and is still missing will not come.
    pub fn tick(&mut self, deliver: Deliver<'_>) {
        let missing = self.waiting.front().is_some_and(|first| first.offset <= self.acknowledged);
        if !missing {
            self.impatience = 0;
            return;
        }
        self.impatience += 1;
        if self.impatience > PATIENCE_PACKETS {
            self.give_up_hole(deliver);
        }
    }

    /// No further packet comes.
    pub fn flush(&mut self, deliver: Deliver<'_>) {
        while !self.waiting.is_empty() {
            self.give_up_hole(deliver);
        }
    }

    /// Goes on behind what is missing.
    fn give_up_hole(&mut self, deliver: Deliver<'_>) {
        self.impatience = 0;
        if let Some(first) = self.waiting.front() {
            self.lost_bytes += first.offset.saturating_sub(self.next);
            self.next = self.next.max(first.offset);
            self.drain(deliver);
        }
    }

    /// Delivers what waited for the bytes that have come.
    fn drain(&mut self, deliver: Deliver<'_>) {
        while let Some(first) = self.waiting.pop_front_if(|first| first.offset <= self.next) {
            self.waiting_bytes -= first.bytes.len();
            let skip = (self.next - first.offset).min(first.length);
            self.repeated_bytes += skip;
            if first.end() > self.next {
                let head = usize::try_from(skip).unwrap_or(usize::MAX).min(first.bytes.len());
                deliver(self.next, &first.bytes[head..], first.length - skip);
                self.next = first.end();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds segments and gives what came out: bytes, and `_` for what was lost or not captured.
    fn order(base: u32, segments: &[(u32, &str)]) -> (String, Direction) {
        let mut direction = Direction::default();
        direction.begin(base);
        let mut out = String::new();
        let mut deliver = |offset: u64, bytes: &[u8], length: u64| {
            while (out.len() as u64) < offset {
                out.push('_');
            }
            out.push_str(std::str::from_utf8(bytes).expect("text"));
            while (out.len() as u64) < offset + length {
                out.push('_');
            }
        };
        for (sequence, text) in segments {
            direction.segment(base.wrapping_add(*sequence), text.as_bytes(), text.len() as u64, &mut deliver);
        }
        direction.flush(&mut deliver);
        (out, direction)
    }

    #[test]
    fn segments_come_out_in_order_once_also_over_the_wrap() {
        for base in [0, 7, u32::MAX - 3, 0x7fff_fffe] {
            let (out, direction) = order(
                base,
                &[(0, "ab"), (6, "ghi"), (2, "cd"), (2, "cd"), (4, "ef"), (3, "defgh"), (9, "jk"), (0, "ab")],
            );
            assert_eq!(out, "abcdefghijk");
            assert_eq!((direction.lost_bytes, direction.repeated_bytes), (0, 2 + 5 + 2), "from {base}");
        }
    }

    #[test]
    fn overlaps_in_the_waiting_segments_are_delivered_once() {
        let (out, _) = order(5, &[(4, "efgh"), (2, "cdef"), (6, "ghij"), (0, "abc")]);
        assert_eq!(out, "abcdefghij");
    }

    #[test]
    fn what_never_comes_is_a_gap() {
        let (out, direction) = order(0, &[(0, "ab"), (5, "fg")]);
        assert_eq!(out, "ab___fg");
        assert_eq!(direction.lost_bytes, 3);
    }

    #[test]
    fn what_was_acknowledged_and_not_seen_is_given_up_after_a_while() {
        let mut direction = Direction::default();
        direction.begin(0);
        let mut out = Vec::new();
        let mut deliver = |offset: u64, bytes: &[u8], _: u64| out.push((offset, bytes.to_vec()));
        direction.segment(10, b"later", 5, &mut deliver);
        for _ in 0..1000 {
            direction.tick(&mut deliver);
        }
        direction.acknowledge(15);
        for _ in 0..PATIENCE_PACKETS {
            direction.tick(&mut deliver);
        }
        direction.segment(0, b"0123456789", 10, &mut deliver);
        direction.segment(25, b"!", 1, &mut deliver);
        direction.acknowledge(26);
        for _ in 0..=PATIENCE_PACKETS {
            direction.tick(&mut deliver);
        }
        assert_eq!(out, [(0, b"0123456789".to_vec()), (10, b"later".to_vec()), (25, b"!".to_vec())]);
    }

    #[test]
    fn a_flood_of_early_segments_is_bounded() {
        let mut direction = Direction::default();
        direction.begin(0);
        let mut delivered = 0;
        for number in 0..100_000_u32 {
            direction.segment(1 + number * 2, b"x", 1, &mut |_, _, _| delivered += 1);
            assert!(direction.waiting.len() <= WAITING_SEGMENTS_MAX);
        }
        assert!(delivered > 99_000);
    }

    #[test]
    fn only_heads_of_segments_keep_their_place() {
        let mut direction = Direction::default();
        let mut out = Vec::new();
        let mut deliver = |offset, bytes: &[u8], length| out.push((offset, bytes.len(), length));
        direction.segment(100, b"head", 1000, &mut deliver);
        direction.segment(1100, b"next", 4, &mut deliver);
        assert_eq!(out, [(0, 4, 1000), (1000, 4, 4)]);
    }
}
