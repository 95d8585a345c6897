//! Framing for protocols of text lines, some of which are followed by counted bytes: Memcached, NATS.
//!
//! Lines are joined where they were cut; counted bytes are skipped by length, captured or not.

use crate::{
    Timestamp,
    parser::{Framing, Segment},
};

/// What a [`LineReader`] gives the parser.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A line, without its end.
    Line(Line<'a>),
    /// The counted bytes after the line before are complete.
    DataEnd {
        /// When the last of them moved.
        at: Timestamp,
    },
    /// The head of a line whose end was not captured, or is longer than the bound. With [`Step::Next`] the parser has taken
    /// it for a whole line; with anything else a [`Piece::Gap`] follows.
    Head(Line<'a>),
    /// Bytes are missing or were no line. `begun` means that a line had begun that will not end, or that counted bytes
    /// will not.
    Gap {
        /// Whether something had begun.
        begun: bool,
    },
}

/// One line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Its text, without `\r\n` or `\n`.
    pub text: &'a [u8],
    /// When its first byte moved.
    pub start: Timestamp,
    /// When its last byte moved.
    pub end: Timestamp,
    /// Its size with its end, bytes.
    pub bytes: u64,
    /// After a loss, or where the connection was joined: the line starts a segment, not certainly a message.
    pub resync: bool,
}

/// What the parser answers to a line; the answer to other pieces is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another line follows.
    Next,
    /// So many bytes follow before the next line.
    Data(u64),
    /// This is none of the protocol's lines: look for one at the start of the next segment.
    Lost,
}

/// Reads one direction of a connection.
#[derive(Debug, Default)]
pub struct LineReader {
    buffered: Vec<u8>,
    buffered_at: Timestamp,
    data: u64,
    lost: bool,
    /// Nothing is known of what came before, and no line was taken since.
    joined: bool,
}

impl LineReader {
    /// One whose first bytes begin a line, or may be anywhere within one or within counted bytes.
    pub fn new(is_boundary: bool) -> Self {
        Self { joined: !is_boundary, ..Self::default() }
    }

    /// Takes a segment; a line may be at most `bound` bytes long.
    pub fn segment(
        &mut self,
        segment: &Segment<'_>,
        bound: usize,
        mut parser: impl FnMut(Piece<'_>) -> Step,
    ) {
        if segment.gap > 0 {
            self.skip_gap(segment.gap, segment.at, &mut parser);
        }
        let mut input = segment.bytes;
        while !input.is_empty() {
            if self.data > 0 {
                let step = usize::try_from(self.data).unwrap_or(usize::MAX).min(input.len());
                input = input.get(step..).unwrap_or_default();
                self.pass(step as u64, segment.at, &mut parser);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                if self.buffered.is_empty() {
                    self.buffered_at = segment.at;
                }
                if self.lost || self.buffered.len() + input.len() > bound {
                    if !self.buffered.is_empty() && self.take_head(segment.at, &mut parser) {
                        return;
                    }
                    return self.lose(&mut parser);
                }
                self.buffered.extend_from_slice(input);
                break;
            };
            let (line, rest) = input.split_at(end + 1);
            input = rest;
            if self.buffered.len() + line.len() > bound {
                if !self.buffered.is_empty() && self.take_head(segment.at, &mut parser) {
                    // The line ends here: the next one begins behind it.
                    self.found();
                    continue;
                }
                return self.lose(&mut parser);
            }
            let step = if self.buffered.is_empty() {
                parser(self.line(line, segment.at, segment.at))
            } else {
                self.buffered.extend_from_slice(line);
                let buffered = std::mem::take(&mut self.buffered);
                let step = parser(self.line(&buffered, self.buffered_at, segment.at));
                self.buffered = buffered;
                self.buffered.clear();
                step
            };
            match step {
                Step::Next => self.found(),
                Step::Data(bytes) => {
                    self.found();
                    self.data = bytes;
                }
                Step::Lost => return self.lose(&mut parser),
            }
        }
        if segment.truncated > 0 {
            self.skip_gap(segment.truncated, segment.at, &mut parser);
        }
    }

    /// Whether a line or counted bytes have begun that did not end.
    pub fn in_message(&self) -> bool {
        self.data > 0 || !self.buffered.is_empty()
    }

    /// Whether the start of the next line is unknown.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Where the direction's bytes stand.
    pub fn framing(&self) -> Framing {
        if self.lost { Framing::Lost } else { Framing::Head(self.buffered.len() as u64) }
    }

    fn line<'a>(&self, line: &'a [u8], start: Timestamp, end: Timestamp) -> Piece<'a> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Piece::Line(Line { text, start, end, bytes: line.len() as u64, resync: self.lost || self.joined })
    }

    /// A line of the protocol was taken.
    fn found(&mut self) {
        (self.lost, self.joined) = (false, false);
    }

    fn pass(&mut self, bytes: u64, at: Timestamp, parser: &mut impl FnMut(Piece<'_>) -> Step) {
        self.data -= bytes;
        if self.data == 0 {
            parser(Piece::DataEnd { at });
        }
    }

    fn skip_gap(&mut self, bytes: u64, at: Timestamp, parser: &mut impl FnMut(Piece<'_>) -> Step) {
        if self.data >= bytes {
            self.pass(bytes, at, parser);
        } else if self.data > 0 || self.buffered.is_empty() || !self.take_head(at, parser) {
            self.lose(parser);
        }
    }

    /// Gives out what there is of a line; false when the parser has no use for it. Then, as after a gap, the next line starts
    /// with a segment.
    fn take_head(&mut self, at: Timestamp, parser: &mut impl FnMut(Piece<'_>) -> Step) -> bool {
        let buffered = std::mem::take(&mut self.buffered);
        let line = Line {
            text: &buffered,
            start: self.buffered_at,
            end: at,
            bytes: buffered.len() as u64,
            resync: self.lost || self.joined,
        };
        let taken = parser(Piece::Head(line)) == Step::Next;
        if taken {
            self.lost = true;
        } else {
            self.buffered = buffered;
        }
        taken
    }

    fn lose(&mut self, parser: &mut impl FnMut(Piece<'_>) -> Step) {
        let begun = self.in_message();
        self.buffered = Vec::new();
        self.data = 0;
        if !self.lost {
            self.lost = true;
            parser(Piece::Gap { begun });
        }
    }
}
