//! Reads one direction of an HTTP/1 connection: finds where messages start and end, and hands out their start lines.
//!
//! Lines are looked at in place; only one that is cut between two segments is copied, up to a bound. Bodies are
//! counted, not read. Where the framing falls into bytes that were lost or not captured, the message is *unframed*: it
//! ends when the next one starts at the beginning of a segment, when the other end sends something that only makes
//! sense after it, or with the connection.

use crate::{
    Timestamp,
    http1::{detect, fields::Fields},
    offload::{DirectionState, FramingState},
    parser::{Detection, Framing, Segment, Sender},
    resync::{GapKind, ResponsePosition},
};

/// Most bytes of a line that is cut between segments which are kept; the rest of it is skipped.
const LINE_BYTES_MAX: usize = 1024;

/// Capacity that is kept between lines, bytes.
const IDLE_CAPACITY: usize = 256;

/// What follows a chunk's data: CRLF.
const CHUNK_TAIL: u64 = 2;

/// What follows the last chunk's data in a message without trailers: CRLF, `0`, CRLF, CRLF.
const LAST_CHUNK_TAIL: u64 = 7;

/// Quiet time after which an unframed response counts as ended, nanoseconds.
const UNFRAMED_QUIET_NS: u64 = 5_000_000_000;

/// How a message continues after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing follows.
    None,
    /// Nothing follows, and the message is only a forerunner of another.
    Interim,
    /// So many bytes, not 0.
    Length(u64),
    /// RFC 9112 section 7.1.
    Chunked,
    /// Until the connection ends.
    UntilClose,
    /// Unknown.
    Unframed,
    /// What follows is not HTTP.
    Tunnel,
}

/// Receives the messages.
pub(super) trait Handler {
    /// A start line, without its line feed. `whole` is false when its end was not captured or kept. Returns whether it
    /// is one.
    fn start(&mut self, line: &[u8], whole: bool, at: Timestamp) -> bool;
    /// The head ended; `certain` is false when its end is in bytes that were not captured.
    fn head(&mut self, fields: &Fields, certain: bool, bytes: u64, at: Timestamp) -> Body;
    /// So many bytes, since then, are no message; `is_line` when they end with a line feed.
    fn malformed(&mut self, at: Timestamp, bytes: u64, is_line: bool);
    /// The message ended.
    fn end(&mut self, bytes: u64, at: Timestamp);
    /// The message, whose head did not end, is none.
    fn abandon(&mut self);
    /// Whether a message could start although the one before has not ended by its own framing.
    fn next_expected(&self) -> bool;
    /// The framing was lost behind the message at hand.
    fn gap(&mut self, gap: GapKind);
}

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

    pub(super) fn new(from: Sender) -> Self {
        Self {
            from,
            state: State::Start,
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
        Self { state, line, bytes, first: end.start, last: end.start, ..Self::new(from) }
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

    /// Whether a message starts with this segment, as far as it and the bytes before it show.
    pub(super) fn starts(&self, segment: &Segment<'_>) -> bool {
        match self.state {
            State::Start => self.line.is_empty() && !segment.bytes.is_empty(),
            State::Lost | State::Unframed | State::UntilClose => self.opens(segment) != Detection::No,
            _ => false,
        }
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

    /// Whether it could not find a message's end or start in bytes that are missing now.
    pub(super) fn is_blind(&self) -> bool {
        matches!(self.state, State::Lost | State::Unframed | State::UntilClose)
    }

    /// So many bytes were lost.
    pub(super) fn lost(&mut self, bytes: u64, handler: &mut impl Handler) {
        self.decide(false, handler);
        self.skip_gap(bytes, false, handler);
        // The end of a request's body is not needed.
        if self.from == Sender::Client && self.is_blind() {
            self.end_unframed(handler);
            self.lose(GapKind::Lost, handler);
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

    /// The message, if it is unframed, has ended with its last byte so far.
    pub(super) fn end_unframed(&mut self, handler: &mut impl Handler) {
        self.decide(false, handler);
        if self.state == State::Unframed {
            self.finish(handler);
            self.state = State::Lost;
        }
    }

    /// The connection was closed.
    pub(super) fn close(&mut self, handler: &mut impl Handler) {
        self.decide(false, handler);
        match self.state {
            State::Header => handler.abandon(),
            State::Start if !self.line.is_empty() => {
                if handler.start(&self.line, false, self.first) {
                    handler.abandon();
                }
            }
            State::Start | State::Lost | State::Tunnel => {}
            _ => self.finish(handler),
        }
        self.state = State::Lost;
    }

    /// Nothing moved for a while.
    pub(super) fn tick(&mut self, now: Timestamp, handler: &mut impl Handler) {
        if now.since(self.last) >= UNFRAMED_QUIET_NS {
            self.end_unframed(handler);
        }
    }

    /// At the beginning of a segment: does a message start here although none was due? True if only what follows shows it: then the
    /// segment is held.
    fn restart(&mut self, segment: &Segment<'_>, handler: &mut impl Handler) -> bool {
        if self.undecided.is_some() {
            let held = self.line.len();
            self.hold(segment.bytes);
            let detection = self.detect(&self.line, true);
            if detection == Detection::More && self.may_wait(held + segment.bytes.len(), segment) {
                return true;
            }
            self.line.truncate(held);
            self.long = false;
            let next = matches!(detection, Detection::Yes(_));
            self.decide(next, handler);
            // Else the segment may still begin a message by itself.
            if next {
                return false;
            }
        }
        match self.state {
            State::Lost if segment.bytes.is_empty() => {}
            State::Lost => {
                if self.opens(segment) == Detection::No {
                    self.misses = self.misses.saturating_add(1);
                } else {
                    self.state = State::Start;
                }
            }
            // A client has to send the whole body before its next request, or to close the connection, also when the
            // response comes early (RFC 9112 section 9.3), unless it waits for `100 Continue` (RFC 9110 section 10.1.1).
            State::Length(_) | State::ChunkSize
                if self.from == Sender::Client && (!self.body_optional || !self.line.is_empty()) => {}
            State::ChunkSize if self.from == Sender::Server => {}
            State::Unframed | State::UntilClose | State::Length(_) | State::ChunkSize
                if handler.next_expected() =>
            {
                match self.opens(segment) {
                    Detection::Yes(_) => self.begin_next(handler),
                    Detection::More if self.may_wait(segment.bytes.len(), segment) => {
                        self.undecided = Some(segment.at);
                        self.hold(segment.bytes);
                        return true;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        false
    }

    /// Whether so many bytes, up to a segment's end, may stay undecided: what a length ends with is the message's.
    fn may_wait(&self, held: usize, segment: &Segment<'_>) -> bool {
        let is_rest = matches!(self.state, State::Length(rest) if rest == held as u64);
        (1..=LINE_BYTES_MAX).contains(&held) && segment.truncated == 0 && !is_rest
    }

    /// The next message begins, whether the one at hand has ended by its framing or not.
    fn begin_next(&mut self, handler: &mut impl Handler) {
        if self.from == Sender::Server && matches!(self.state, State::Length(_)) {
            handler.gap(GapKind::Malformed);
        }
        self.finish(handler);
    }

    /// What is held is the next message, or more of the one at hand.
    fn decide(&mut self, next: bool, handler: &mut impl Handler) {
        let Some(at) = self.undecided.take() else { return };
        let held = std::mem::take(&mut self.line);
        if next {
            self.begin_next(handler);
        }
        let mut input = held.as_slice();
        while !input.is_empty() {
            input = self.step(input, at, handler);
        }
    }

    /// Whether the segment's bytes look like the start of a message.
    fn opens(&self, segment: &Segment<'_>) -> Detection {
        self.detect(segment.bytes, true)
    }

    /// Whether what is buffered of a start line can become one.
    fn detect_line(&self) -> Detection {
        self.detect(&self.line, false)
    }

    fn detect(&self, bytes: &[u8], strict: bool) -> Detection {
        match self.from {
            Sender::Client => detect::request(bytes, strict),
            Sender::Server => detect::response(bytes),
        }
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
                        handler.malformed(self.first, self.bytes, false);
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
                if handler.start(line, whole, self.first) {
                    self.misses = 0;
                    self.state = State::Header;
                } else {
                    handler.malformed(self.first, self.bytes, true);
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

    /// `bytes` of this direction were not captured. With `one_call` they are the rest of what was moved at once, so
    /// that a message or a chunk most likely ends with them.
    fn skip_gap(&mut self, bytes: u64, one_call: bool, handler: &mut impl Handler) {
        let gap = if one_call { GapKind::Truncated } else { GapKind::Lost };
        self.body_optional = false;
        let before = self.bytes;
        self.bytes = self.bytes.saturating_add(bytes);
        match self.state {
            State::Start if self.line.is_empty() => self.lose(gap, handler),
            // The message at hand is still the next one: only what follows it is unknown.
            State::Start => {
                let buffered = std::mem::take(&mut self.line);
                self.fields = Fields::default();
                if handler.start(&buffered, false, self.first) {
                    self.misses = 0;
                    self.head(false, handler);
                } else {
                    self.state = State::Lost;
                    self.bytes = 0;
                }
                handler.gap(gap);
            }
            State::Header => {
                self.head(false, handler);
                handler.gap(gap);
            }
            State::Length(remaining) if bytes < remaining => self.state = State::Length(remaining - bytes),
            State::Length(remaining) => {
                self.bytes = before.saturating_add(remaining);
                self.finish(handler);
                if bytes > remaining {
                    self.lose(gap, handler);
                }
            }
            State::ChunkData(remaining) if bytes <= remaining => {
                self.state =
                    if bytes == remaining { State::ChunkEnd } else { State::ChunkData(remaining - bytes) };
            }
            State::ChunkData(remaining) if one_call && bytes - remaining == CHUNK_TAIL => {
                self.state = State::ChunkSize;
            }
            State::ChunkData(remaining) if one_call && bytes - remaining == LAST_CHUNK_TAIL => {
                self.finish(handler);
            }
            State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailer => {
                handler.gap(gap);
                self.state = State::Unframed;
            }
            State::Lost => self.bytes = 0,
            State::UntilClose | State::Unframed | State::Tunnel => {}
        }
        self.line.clear();
        self.long = false;
    }

    fn finish(&mut self, handler: &mut impl Handler) {
        self.state = State::Start;
        let bytes = std::mem::take(&mut self.bytes);
        self.line.clear();
        self.long = false;
        handler.end(bytes, self.last);
    }

    fn lose(&mut self, gap: GapKind, handler: &mut impl Handler) {
        self.bytes = 0;
        if self.state != State::Lost {
            self.state = State::Lost;
            handler.gap(gap);
        }
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
