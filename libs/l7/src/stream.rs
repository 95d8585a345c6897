//! Framing for protocols of length-prefixed messages: joins what was cut, skips what is not needed, detects
//! losses.
//!
//! A parser is offered the head of a message; it returns how long the message is, and gets the next one when that many
//! bytes were sent, captured or not. So large bodies cost nothing and their capture may be truncated.

use crate::{
    Timestamp,
    parser::{Framing, Segment},
};

/// What a [`Framer`] gives the parser.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Bytes from the start of a message.
    Head(Head<'a>),
    /// The message that was taken is complete.
    End {
        /// When its last byte moved.
        at: Timestamp,
    },
    /// Bytes are missing and nothing is known of where messages start. The message that was taken, if it did not
    /// end, will not.
    Gap,
}

/// The start of a message.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// What there is of it, and what follows it.
    pub bytes: &'a [u8],
    /// When its first byte moved.
    pub at: Timestamp,
    /// No more than `bytes` will be captured of it: [`Step::More`] would be in vain and counts as [`Step::Lost`].
    pub last: bool,
    /// After a loss: the bytes start a segment, not certainly a message. Anything but a beyond doubt plausible start
    /// is to be answered with [`Step::Lost`].
    pub resync: bool,
}

impl Head<'_> {
    /// Whether fewer than the wanted bytes of the message were captured, so that its content is not known whole.
    pub fn lacks(&self, wanted: usize) -> bool {
        self.last && self.bytes.len() < wanted
    }
}

/// What the parser answers to a [`Piece::Head`]; the answer to other pieces is ignored unless it is `Stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The message is this long in all, bytes; at least 1.
    Take(u64),
    /// More bytes are needed to decide.
    More,
    /// This is no start of a message: look for one at the start of the next segment.
    Lost,
    /// Leave the rest of this segment alone; `Framer::segment` returns how much that is.
    Stop,
}

/// Frames one direction of a connection.
#[derive(Debug, Default)]
pub struct Framer {
    /// Bytes of an incomplete head.
    buffered: Vec<u8>,
    buffered_at: Timestamp,
    /// When the last bytes were captured.
    seen_at: Timestamp,
    /// Length of the current message.
    length: u64,
    /// Bytes that the current message still has to come.
    remaining: u64,
    inside: bool,
    lost: bool,
    /// A head of which the rest is missing is offered all the same.
    takes_cut_heads: bool,
}

/// Capacity that an idle framer keeps, bytes.
const IDLE_CAPACITY: usize = 256;

impl Framer {
    /// Of a protocol that has at a message's start what matters, and whose messages may move in part without being
    /// captured: a head is offered also when its rest is missing.
    pub fn taking_cut_heads() -> Self {
        Self { takes_cut_heads: true, ..Self::default() }
    }

    /// The connection is over: nothing follows what is buffered.
    pub fn close(&mut self, mut parser: impl FnMut(Piece<'_>) -> Step) {
        self.take_cut_head(&mut parser);
    }

    /// Takes a segment; at most `bound` bytes of a head are buffered. Returns how many captured bytes were left alone
    /// because the parser returned [`Step::Stop`].
    pub fn segment(
        &mut self,
        segment: &Segment<'_>,
        bound: usize,
        mut parser: impl FnMut(Piece<'_>) -> Step,
    ) -> usize {
        if segment.gap > 0 {
            // What is missing moved at some time since then; by now it may be long over.
            self.skip_gap(segment.gap, self.seen_at, &mut parser);
        }
        self.seen_at = segment.at;
        let mut input = segment.bytes;
        loop {
            if self.inside {
                let step = (input.len() as u64).min(self.remaining);
                self.remaining -= step;
                // Fits: not larger than the input's length.
                input = input.get(usize::try_from(step).unwrap_or(usize::MAX)..).unwrap_or_default();
                if self.remaining > 0 {
                    break;
                }
                self.inside = false;
                if parser(Piece::End { at: segment.at }) == Step::Stop {
                    return input.len();
                }
            }
            if input.is_empty() {
                break;
            }
            let joined = !self.buffered.is_empty();
            if !joined {
                self.buffered_at = segment.at;
            }
            let before = self.buffered.len();
            if joined {
                let room = bound.saturating_sub(before).min(input.len());
                self.buffered.extend_from_slice(&input[..room]);
            }
            let bytes = if joined { self.buffered.as_slice() } else { input };
            let full = bytes.len() >= bound;
            let last = full || segment.truncated > 0;
            match parser(Piece::Head(Head { bytes, at: self.buffered_at, last, resync: self.lost })) {
                Step::Take(length) => {
                    self.lost = false;
                    self.inside = true;
                    self.length = length;
                    self.remaining = length.max(1).saturating_sub(before as u64);
                    self.release();
                }
                Step::More if !last => {
                    if !joined {
                        self.buffered.extend_from_slice(input);
                    }
                    return 0;
                }
                Step::Stop => {
                    self.release();
                    return input.len();
                }
                Step::More | Step::Lost => {
                    self.lose(&mut parser);
                    return 0;
                }
            }
        }
        if segment.truncated > 0 {
            self.skip_gap(segment.truncated, segment.at, &mut parser);
        }
        0
    }

    /// Whether a message has begun that did not end.
    pub fn in_message(&self) -> bool {
        self.inside || !self.buffered.is_empty()
    }

    /// Bytes that moved of the message that was taken and has not ended.
    pub fn begun(&self) -> u64 {
        if self.inside { self.length.saturating_sub(self.remaining) } else { 0 }
    }

    /// Whether the start of the next message is unknown.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Where the direction's bytes stand.
    pub fn framing(&self) -> Framing {
        if self.lost { Framing::Lost } else { Framing::Head(self.buffered.len() as u64) }
    }

    /// Offers the bytes of an incomplete head of which no more will be captured: what follows moved in another way than by
    /// the calls that are captured (sendfile(2) behind a head that was written), or was lost.
    fn take_cut_head(&mut self, parser: &mut impl FnMut(Piece<'_>) -> Step) {
        if !self.takes_cut_heads || self.inside || self.buffered.is_empty() {
            return;
        }
        let head = Head { bytes: &self.buffered, at: self.buffered_at, last: true, resync: self.lost };
        if let Step::Take(length) = parser(Piece::Head(head)) {
            self.lost = false;
            self.inside = true;
            self.length = length;
            self.remaining = length.max(1).saturating_sub(self.buffered.len() as u64);
            self.release();
        }
    }

    fn skip_gap(&mut self, bytes: u64, at: Timestamp, parser: &mut impl FnMut(Piece<'_>) -> Step) {
        self.take_cut_head(parser);
        if self.inside && self.remaining >= bytes {
            self.remaining -= bytes;
            if self.remaining == 0 {
                self.inside = false;
                parser(Piece::End { at });
            }
            return;
        }
        if self.inside {
            // The message ended somewhere within what is missing.
            self.inside = false;
            self.remaining = 0;
            parser(Piece::End { at });
        }
        self.lose(parser);
    }

    fn lose(&mut self, parser: &mut impl FnMut(Piece<'_>) -> Step) {
        self.release();
        if !self.lost {
            self.lost = true;
            parser(Piece::Gap);
        }
    }

    fn release(&mut self) {
        self.buffered.clear();
        self.buffered.shrink_to(IDLE_CAPACITY);
    }
}
