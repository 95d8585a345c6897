//! One direction of a TCP connection: segments into the order of their sequence numbers (RFC 9293 section 3.4).

use std::collections::VecDeque;

/// Bytes and segments that wait for an earlier one; with more, the missing one is taken for lost.
const WAITING_BYTES_MAX: usize = 1 << 20;
const WAITING_SEGMENTS_MAX: usize = 512;

/// Packets of the connection after which bytes that the other end has acknowledged, and that were not captured, are taken
/// for lost. Before, they may merely come late: captures on machines of several cores are a little out of order.
const REORDERING_PACKETS_MAX: u32 = 32;

/// How far from the sequence numbers that were seen one may be and still belong to the same connection: the largest
/// window without scaling. A capture that lost more of the stream than that is rare.
pub(crate) const NEAR_BYTES: u64 = 65_535;

/// Bytes of a direction, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// When the last byte that comes before or with them was captured, nanoseconds.
    pub time_ns: u64,
    /// Position in the stream.
    pub offset: u64,
    /// The captured head.
    pub bytes: &'a [u8],
    /// Bytes in all.
    pub length: u64,
}

/// Takes bytes in order.
pub type Deliver<'a> = &'a mut dyn FnMut(Piece<'_>);

/// Bytes of a segment that wait for earlier ones.
#[derive(Clone, Debug)]
struct Waiting {
    time_ns: u64,
    offset: u64,
    bytes: Vec<u8>,
    length: u64,
}

impl Waiting {
    fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// One direction.
#[derive(Debug, Default)]
pub struct Direction {
    /// Sequence number of the stream's position 0; unknown before the first packet.
    base: Option<u32>,
    /// Position of the next byte.
    next: u64,
    /// When the bytes before it were captured, nanoseconds.
    delivered_ns: u64,
    /// Segments beyond it, sorted, without overlap among themselves being removed.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// How far the other end has acknowledged.
    acknowledged: u64,
    /// Whether the other end has acknowledged anything of this numbering.
    is_agreed: bool,
    /// Packets since then while bytes are missing.
    packets_since_gap: u32,
    /// Position of the end, once it was announced.
    end: Option<u64>,
    /// Bytes that were never captured.
    pub lost_bytes: u64,
    /// Bytes that came again.
    pub repeated_bytes: u64,
}

impl Direction {
    /// Whether nothing is known yet.
    pub fn is_new(&self) -> bool {
        self.base.is_none()
    }

    /// Whether the stream's first byte has another sequence number, as far as that is known.
    pub fn begins_elsewhere(&self, first: u32) -> bool {
        self.base.is_some_and(|base| base != first)
    }

    /// Whether no byte has been delivered or waits.
    pub fn is_empty(&self) -> bool {
        self.next == 0 && self.waiting.is_empty()
    }

    /// Begins at a sequence number, if nothing is known yet.
    pub fn begin(&mut self, sequence: u32) {
        self.base.get_or_insert(sequence);
    }

    /// Begins at another sequence number than was thought.
    pub fn begin_again(&mut self, sequence: u32) {
        let (lost_bytes, repeated_bytes) = (self.lost_bytes, self.repeated_bytes);
        *self = Self { base: Some(sequence), lost_bytes, repeated_bytes, ..Self::default() };
    }

    /// Forgets what the other end is thought to have acknowledged.
    pub fn forget_acknowledged(&mut self) {
        self.acknowledged = 0;
        self.is_agreed = false;
    }

    /// Whether the other end has acknowledged anything of this numbering.
    pub fn is_agreed(&self) -> bool {
        self.is_agreed
    }

    /// Whether everything up to the announced end has been delivered.
    pub fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// Whether a sequence number can be this connection's; any can while nothing is known.
    pub fn is_near(&self, sequence: u32) -> bool {
        self.is_within(sequence, NEAR_BYTES)
    }

    /// Whether a sequence number is so near to what is known of the stream; any is while nothing is known.
    pub fn is_within(&self, sequence: u32, bytes: u64) -> bool {
        let ahead = self.position(sequence).saturating_sub(i64::try_from(self.known()).unwrap_or(i64::MAX));
        self.base.is_none() || ahead.unsigned_abs() <= bytes
    }

    /// Whether a sequence number is one of what is known of the stream, or the next; any can be while nothing is known.
    pub fn covers(&self, sequence: u32) -> bool {
        let position = u64::try_from(self.position(sequence));
        self.base.is_none() || position.is_ok_and(|position| position <= self.known())
    }

    /// Whether the stream's sender can be at that sequence number, or the other end can expect it next.
    pub fn may_end_at(&self, sequence: u32) -> bool {
        let Ok(position) = u64::try_from(self.position(sequence)) else { return false };
        // The end of the stream has a number, too.
        let behind_end = self.end.map(|end| end.saturating_add(1));
        [self.next, self.known(), self.acknowledged].contains(&position) || behind_end == Some(position)
    }

    /// How far the stream goes, as far as is known.
    fn known(&self) -> u64 {
        self.waiting.back().map_or(0, Waiting::end).max(self.next).max(self.acknowledged)
    }

    /// Whether the other end can have acknowledged what comes before a sequence number: it was sent, and not all of it is
    /// older than the connection.
    pub fn has_sent(&self, sequence: u32) -> bool {
        let sent = self.waiting.back().map_or(0, Waiting::end).max(self.next);
        // The end of the stream has a number, too.
        let sent = i64::try_from(sent).unwrap_or(i64::MAX).saturating_add(1);
        self.base.is_none() || (0..=sent).contains(&self.position(sequence))
    }

    /// The position that a sequence number stands for, near the expected one; negative before the beginning.
    fn position(&self, sequence: u32) -> i64 {
        let base = self.base.unwrap_or(sequence);
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
        let expected = base.wrapping_add(self.next as u32);
        let ahead = i64::from(sequence.wrapping_sub(expected).cast_signed());
        i64::try_from(self.next).unwrap_or(i64::MAX).saturating_add(ahead)
    }

    /// Takes a segment: `length` bytes from `sequence` on, of which the head was captured at `time_ns`.
    pub fn segment(&mut self, sequence: u32, bytes: &[u8], length: u64, time_ns: u64, deliver: Deliver<'_>) {
        self.begin(sequence);
        let position = self.position(sequence);
        let behind = u64::try_from(position.saturating_add(i64::try_from(length).unwrap_or(i64::MAX)));
        if self.end.is_some_and(|end| behind.is_ok_and(|behind| behind > end)) && !self.is_end_agreed() {
            // What announced the end was not the stream's.
            self.end = None;
        }
        // What is before the next byte has been delivered or given up.
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
            self.pass(Piece { time_ns, offset, bytes, length }, deliver);
            self.drain(deliver);
            return;
        }
        let at = self.waiting.partition_point(|waiting| waiting.offset < offset);
        if self.waiting.get(at).is_some_and(|same| same.offset == offset && same.length >= length) {
            self.repeated_bytes += length;
            return;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.insert(at, Waiting { time_ns, offset, bytes: bytes.to_vec(), length });
        while self.waiting_bytes > WAITING_BYTES_MAX || self.waiting.len() > WAITING_SEGMENTS_MAX {
            self.skip_gap(deliver);
        }
    }

    /// The end of the stream is behind that sequence number.
    pub fn finish(&mut self, sequence: u32) {
        self.begin(sequence);
        if let Ok(end) = u64::try_from(self.position(sequence))
            && end >= self.next
            && !self.is_end_agreed()
        {
            self.end = Some(end);
        }
    }

    /// Whether the other end has acknowledged the end, which has a number, too.
    fn is_end_agreed(&self) -> bool {
        self.end.is_some_and(|end| self.acknowledged > end)
    }

    /// The other end has everything before that sequence number.
    pub fn acknowledge(&mut self, sequence: u32) {
        if !self.is_new()
            && let Ok(position) = u64::try_from(self.position(sequence))
        {
            self.acknowledged = self.acknowledged.max(position);
            self.is_agreed = true;
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

    /// What is before that sequence number and has not come will not come.
    pub fn skip_until(&mut self, sequence: u32, deliver: Deliver<'_>) {
        let target = self.target(sequence);
        while self.next < target {
            let next = self.waiting.front().map_or(target, |first| first.offset.min(target));
            self.lost_bytes += next.saturating_sub(self.next);
            self.next = self.next.max(next);
            self.drain(deliver);
        }
    }

    /// Bytes that the other end has had, as far as is known, and that did not come.
    pub fn missing_at_end(&self) -> u64 {
        // Without its segment, the end of the stream may be what was acknowledged last.
        let acknowledged = self.acknowledged.saturating_sub(1);
        let is_plausible = |end: &u64| end.saturating_sub(self.known()) <= NEAR_BYTES;
        let sent = self.end.filter(is_plausible).unwrap_or(acknowledged);
        sent.saturating_sub(self.next)
    }

    /// The bytes so far, those included that are missing at the end.
    pub fn moved(&self) -> u64 {
        self.next.saturating_add(self.missing_at_end())
    }

    /// Since when bytes wait behind others that the other end has acknowledged, nanoseconds: those will not come.
    pub fn waits_since(&self) -> Option<u64> {
        let first = self.waiting.front()?;
        (first.offset <= self.acknowledged).then_some(first.time_ns)
    }

    /// Counts a packet of the connection: bytes that were acknowledged and are still missing soon after will not come.
    pub fn tick(&mut self, deliver: Deliver<'_>) {
        if self.waits_since().is_none() {
            self.packets_since_gap = 0;
            return;
        }
        self.packets_since_gap += 1;
        if self.packets_since_gap > REORDERING_PACKETS_MAX {
            self.skip_gap(deliver);
        }
    }

    /// No further packet comes, as far as is known.
    pub fn flush(&mut self, deliver: Deliver<'_>) {
        while !self.waiting.is_empty() {
            self.skip_gap(deliver);
        }
    }

    /// Goes on behind what is missing.
    fn skip_gap(&mut self, deliver: Deliver<'_>) {
        self.packets_since_gap = 0;
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
                let (offset, length) = (self.next, first.length - skip);
                self.pass(
                    Piece { time_ns: first.time_ns, offset, bytes: &first.bytes[head..], length },
                    deliver,
                );
            }
        }
    }

    /// Delivers the next bytes. An application has them when it has those before them.
    fn pass(&mut self, piece: Piece<'_>, deliver: Deliver<'_>) {
        self.delivered_ns = self.delivered_ns.max(piece.time_ns);
        self.next = piece.offset + piece.length;
        deliver(Piece { time_ns: self.delivered_ns, ..piece });
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
