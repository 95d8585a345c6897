//! Reads one direction of an HTTP/1 connection: finds where messages start and end, and hands out their start lines.
//!
//! Lines are looked at in place; only one that is cut between two segments is copied, up to a bound. Bodies are
//! counted, not read. Where the framing falls into bytes that were lost or not captured, the message is *unframed*: it
//! ends when the next one starts at the beginning of a segment, when the other end sends something that only makes
//! sense after it, or with the connection.

mod handler;
mod missing;
mod starts;

pub(super) use handler::{Body, Handler};
pub(super) use missing::UNFRAMED_QUIET_NS;

use crate::{
    Timestamp,
    http1::{detect::Place, fields::Fields},
    offload::{DirectionState, FramingState},
    parser::{Detection, Framing, Segment, Sender},
    resync::{GapKind, ResponsePosition},
};

/// Most bytes of a line that is cut between segments which are kept; the rest of it is skipped.
const LINE_BYTES_MAX: usize = 1024;

/// What follows a chunk's data: CRLF.
const CHUNK_TAIL: u64 = 2;

/// Capacity that is kept between lines, bytes.
const IDLE_CAPACITY: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages, or within a start line.
    Start,
    Header,
    Length(u64),
    ChunkSize,
    /// Data, then its line end.
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
    Unframed,
    /// No message; waits for one at the beginning of a segment.
    Lost,
    Tunnel,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Reader {
    from: Sender,
    state: State,
    /// How far what comes next can be relied on to begin a message, as long as none is known.
    place: Place,
    line: Vec<u8>,
    /// The line is longer than what is kept of it.
    long: bool,
    fields: Fields,
    /// The client may leave the body out: it waits for `100 Continue`, and nothing of the body has come.
    body_optional: bool,
    /// `line` is the beginning of segments that are either more of the message or the next one, since then.
    undecided: Option<Timestamp>,
    bytes: u64,
    first: Timestamp,
    last: Timestamp,
    misses: u16,
}

impl Reader {
    /// Whether a message's first byte comes next.
    pub(super) fn is_between(&self) -> bool {
        self.state == State::Start && self.line.is_empty() && !self.long
    }

    /// One whose first bytes stand there.
    pub(super) fn new(from: Sender, place: Place) -> Self {
        Self {
            from,
            state: State::Start,
            place,
            line: Vec::new(),
            long: false,
            fields: Fields::default(),
            body_optional: false,
            undecided: None,
            bytes: 0,
            first: Timestamp::default(),
            last: Timestamp::default(),
            misses: 0,
        }
    }

    /// One that the kernel followed so far.
    pub(super) fn resumed(from: Sender, end: &DirectionState<'_>) -> Self {
        let state = match end.framing {
            FramingState::Body(left) => State::Length(left),
            FramingState::ChunkData(left) => match left.saturating_sub(CHUNK_TAIL) {
                0 => State::ChunkEnd,
                data => State::ChunkData(data),
            },
            FramingState::ChunkSize => State::ChunkSize,
            FramingState::Start
            | FramingState::FirstByte(_)
            | FramingState::Values { .. }
            | FramingState::CommandHeader(_)
            | FramingState::Result(_) => State::Start,
        };
        let line = if let FramingState::FirstByte(byte) = end.framing { vec![byte] } else { Vec::new() };
        let bytes = if state == State::Start { line.len() as u64 } else { end.bytes };
        Self { state, line, bytes, first: end.start, last: end.start, ..Self::new(from, Place::Boundary) }
    }

    /// Bytes so far of a message whose head ended and whose body did not.
    pub(super) fn body_bytes(&self) -> Option<u64> {
        match self.state {
            State::Start | State::Header | State::Lost | State::Tunnel => None,
            _ => Some(self.bytes),
        }
    }

    /// Segments in a row without a message start since the framing was lost.
    pub(super) fn misses(&self) -> u16 {
        self.misses
    }

    /// Whether the message's end cannot be seen in its own direction.
    pub(super) fn is_unframed(&self) -> bool {
        self.state == State::Unframed
    }

    /// How far what was sent goes.
    pub(super) fn answer(&self) -> ResponsePosition {
        match self.state {
            State::Start if self.line.is_empty() => ResponsePosition::Boundary,
            State::Lost | State::Tunnel => ResponsePosition::Boundary,
            State::Unframed | State::UntilClose => ResponsePosition::Unbounded,
            _ => ResponsePosition::Inside,
        }
    }

    /// Where the direction's bytes stand.
    pub(super) fn framing(&self) -> Framing {
        match self.state {
            State::Lost => Framing::Lost,
            State::Start => Framing::Head(self.line.len() as u64),
            _ => Framing::Head(0),
        }
    }

    /// Takes a segment, whose loss was reported before; returns how many of its captured bytes follow the end of HTTP.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, handler: &mut impl Handler) -> usize {
        if self.restart(segment, handler) {
            return 0;
        }
        let mut input = segment.bytes;
        while !input.is_empty() {
            if self.state == State::Tunnel {
                return input.len();
            }
            input = self.step(input, segment.at, handler);
        }
        if segment.truncated > 0 {
            self.last = segment.at;
            self.skip_gap(segment.truncated, true, handler);
        } else if self.state == State::Unframed && self.fields.chunked && ends_chunked(segment.bytes) {
            self.finish(handler);
        }
        0
    }

    /// The connection was closed.
    pub(super) fn close(&mut self, handler: &mut impl Handler) {
        self.decide(false, handler);
        match self.state {
            State::Header => handler.abandon(),
            State::Start if !self.line.is_empty() => {
                if self.begins_with(&self.line, self.place) && handler.start(&self.line, false, self.first) {
                    handler.abandon();
                }
            }
            State::Start | State::Lost | State::Tunnel => {}
            _ => self.finish(handler),
        }
        self.state = State::Lost;
    }

    /// Advances by one line or one stretch of body; returns what is left.
    fn step<'a>(&mut self, input: &'a [u8], at: Timestamp, handler: &mut impl Handler) -> &'a [u8] {
        self.body_optional &= !matches!(self.state, State::Length(_) | State::ChunkSize);
        match self.state {
            State::Length(remaining) => {
                let (taken, left) = self.skip(input, remaining, at);
                self.state = State::Length(remaining - taken);
                if remaining == taken {
                    self.finish(handler);
                }
                left
            }
            State::ChunkData(remaining) => {
                let (taken, left) = self.skip(input, remaining, at);
                self.state =
                    if remaining == taken { State::ChunkEnd } else { State::ChunkData(remaining - taken) };
                left
            }
            State::UntilClose | State::Unframed => self.skip(input, u64::MAX, at).1,
            State::Lost | State::Tunnel => &[],
            State::Start | State::Header | State::ChunkSize | State::ChunkEnd | State::Trailer => {
                if self.state == State::Start && self.line.is_empty() && self.bytes == 0 {
                    self.first = at;
                }
                let Some(end) = memchr::memchr(b'\n', input) else {
                    self.bytes += input.len() as u64;
                    self.last = at;
                    self.hold(input);
                    if self.state == State::Start && self.detect_line() == Detection::No {
                        self.line.clear();
                        self.long = false;
                        handler.malformed(self.malformed_since(), self.bytes, false);
                        self.lose(GapKind::Malformed, handler);
                    }
                    return &[];
                };
                let (line, left) = input.split_at(end + 1);
                self.bytes += line.len() as u64;
                self.last = at;
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                if self.line.is_empty() && !self.long {
                    self.line(line, true, handler);
                } else {
                    self.hold(line);
                    let buffered = std::mem::take(&mut self.line);
                    let whole = !std::mem::take(&mut self.long);
                    self.line(&buffered, whole, handler);
                    self.line = buffered;
                    self.line.clear();
                    self.line.shrink_to(IDLE_CAPACITY);
                }
                left
            }
        }
    }

    /// A line, without its line feed. Blank lines before a start line, obsolete line folding (RFC 9112 section 5.2)
    /// and bare line feeds are taken as servers take them.
    fn line(&mut self, line: &[u8], whole: bool, handler: &mut impl Handler) {
        let line = if whole { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        match self.state {
            State::Start if line.is_empty() => self.bytes = 0,
            State::Start => {
                self.fields = Fields::default();
                if self.begins_with(line, self.place) && handler.start(line, whole, self.first) {
                    self.misses = 0;
                    self.state = State::Header;
                    self.place = Place::Boundary;
                } else {
                    handler.malformed(self.malformed_since(), self.bytes, true);
                    self.lose(GapKind::Malformed, handler);
                }
            }
            State::Header if line.is_empty() => self.head(true, handler),
            State::Header => self.fields.take(line),
            State::ChunkSize => match chunk_size(line) {
                Some(0) => self.state = State::Trailer,
                Some(size) => self.state = State::ChunkData(size),
                None => {
                    handler.gap(GapKind::Malformed);
                    self.state = State::Unframed;
                }
            },
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => {
                handler.gap(GapKind::Malformed);
                self.state = State::Unframed;
            }
            State::Trailer if line.is_empty() => self.finish(handler),
            _ => {}
        }
    }

    /// Since when bytes that are no message have come, unless they may be the rest of one.
    fn malformed_since(&self) -> Option<Timestamp> {
        (self.place > Place::Anywhere).then_some(self.first)
    }

    fn head(&mut self, certain: bool, handler: &mut impl Handler) {
        self.body_optional = self.fields.expects_continue;
        let body = handler.head(&self.fields, certain, self.bytes, self.last);
        self.state = match body {
            Body::None => {
                self.finish(handler);
                return;
            }
            Body::Interim => State::Start,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::ChunkSize,
            Body::UntilClose => State::UntilClose,
            Body::Unframed => State::Unframed,
            Body::Tunnel => State::Tunnel,
        };
        if body == Body::Interim {
            self.bytes = 0;
        }
    }

    fn finish(&mut self, handler: &mut impl Handler) {
        self.state = State::Start;
        let bytes = std::mem::take(&mut self.bytes);
        self.line.clear();
        self.long = false;
        handler.end(bytes, self.last);
    }

    fn skip<'a>(&mut self, input: &'a [u8], most: u64, at: Timestamp) -> (u64, &'a [u8]) {
        let taken = (input.len() as u64).min(most);
        self.bytes += taken;
        self.last = at;
        // Fits: not larger than the input's length.
        (taken, input.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or_default())
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.long |= bytes.len() > room;
        self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

/// RFC 9112 section 7.1: hexadecimal, then perhaps extensions.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (number, rest) = line.split_at(digits);
    if !matches!(rest.first(), None | Some(b';' | b' ' | b'\t')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()
}

/// Whether a segment looks like the end of a chunked body without trailers.
fn ends_chunked(bytes: &[u8]) -> bool {
    bytes == b"0\r\n\r\n" || bytes.ends_with(b"\r\n0\r\n\r\n")
}
