//! Memcached: the text protocol, its meta commands, and the binary protocol.
//!
//! ```text
//! Segment → lines or frames (one reader per direction) → Memcached: first in, first out → Exchange
//! ```
//!
//! - One exchange per command; `get a b c` is one. Its status is the answer's first word (`STORED`, `NOT_FOUND`, …), for
//!   retrievals `HIT` or `MISS`.
//! - Commands with `noreply` are over at once and have no status. Quiet ones (meta `q`, binary `…Q`) are answered
//!   only sometimes: what was kept silent about is known at the next answer that is not theirs.
//! - The resource is the key's class: what comes before its first `:`, when that is a plain word. No more of a key
//!   leaves this module.

mod binary;
mod detect;
#[cfg(test)]
mod tests;
mod text;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp,
    lines::{Line, LineReader, Piece, Step},
    memcached::binary::Binary,
    parser::{
        ConnectionContext, Entry, Flow, Framing, Outcome, Parser, Request, Resource, Segment, Sender, Start,
        Transport,
    },
    pending::{Fifo, Next},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Memcached,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |start: Start| Box::new(Memcached::Undecided(start.is_boundary)),
    offload: None,
};

/// Longest line, bytes: 100 keys of 20 bytes in one `get`, or a key of 250 in base64 with all meta flags.
const LINE_MAX: usize = 8 * 1024;

/// Longest class of keys, bytes.
const CLASS_MAX: usize = 32;

/// Quiet time after which an answer that could not be read counts as ended, nanoseconds.
const UNREAD_QUIET_NS: u64 = 2_000_000_000;

/// What answers a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Nothing,
    /// One line, or one value.
    Line,
    /// Values or statistics, then `END`.
    UntilEnd,
    /// One line, or silence.
    Quiet,
    /// `MN`, after which nothing more comes for those before.
    Barrier,
}

/// One connection.
#[derive(Debug)]
enum Memcached {
    /// Of client and server: whether the first bytes begin a message.
    Undecided([bool; 2]),
    Text(Box<Text>),
    Binary(Box<Binary>),
}

impl Parser for Memcached {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        if let Self::Undecided(is_boundary) = self {
            let Some(first) = segment.bytes.first() else { return Flow::Continue };
            *self = match first & 0xfe {
                0x80 => Self::Binary(Box::default()),
                _ => Self::Text(Box::new(Text::new(*is_boundary))),
            };
        }
        match self {
            Self::Text(text) => text.segment(segment, cx),
            Self::Binary(binary) => binary.segment(segment, cx),
            Self::Undecided(_) => {}
        }
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        match (self, from) {
            (Self::Text(text), Sender::Client) => text.requests.framing(),
            (Self::Text(text), Sender::Server) => text.answers.framing(),
            (Self::Binary(binary), _) => binary.framing(from),
            (Self::Undecided(_), _) => Framing::Head(0),
        }
    }

    fn pending(&self) -> usize {
        match self {
            Self::Text(text) => text.waiting.known(),
            Self::Binary(binary) => binary.pending(),
            Self::Undecided(_) => 0,
        }
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        match self {
            Self::Text(text) => text.close(now, cx),
            Self::Binary(binary) => binary.close(now, cx),
            Self::Undecided(_) => {}
        }
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Self::Text(text) = self
            && text.unread > 0
            && now.since(text.answered_at) >= UNREAD_QUIET_NS
        {
            text.finish_truncated(cx);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    command: &'static str,
    expect: Expect,
}

/// An answer of several lines that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Answering {
    bytes: u64,
    hit: bool,
}

/// One connection of the text protocol.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one connection, not states.
struct Text {
    requests: LineReader,
    answers: LineReader,
    waiting: Fifo<Waiting>,
    /// A command whose value is still coming.
    incoming: Option<Waiting>,
    answering: Answering,
    /// The value of an answer of one line is being sent.
    value: bool,
    /// The end of the answer was not captured: it ends with the server's last byte before the next command.
    truncated: bool,
    /// So many bytes of the answer moved, of which not one could be read.
    unread: u64,
    /// When the server sent last.
    answered_at: Timestamp,
    /// Bytes are missing: nothing can be paired before a command follows a whole answer.
    gapped: bool,
    turn: bool,
}

impl Text {
    fn new([client, server]: [bool; 2]) -> Self {
        Self { requests: LineReader::new(client), answers: LineReader::new(server), ..Self::default() }
    }

    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) {
        match segment.from {
            Sender::Client => {
                if segment.is_unreadable() && !self.requests.in_message() {
                    self.finish_truncated(cx);
                }
                let mut requests = std::mem::take(&mut self.requests);
                requests.segment(segment, LINE_MAX, |piece| self.request(&piece, cx));
                self.requests = requests;
                self.turn = false;
            }
            Sender::Server => {
                self.answered_at = segment.at;
                if self.is_unread(segment) {
                    self.unread = self.unread.saturating_add(segment.truncated);
                }
                let mut answers = std::mem::take(&mut self.answers);
                answers.segment(segment, LINE_MAX, |piece| self.answer(&piece, cx));
                self.turn = !answers.in_message() && !answers.is_lost();
                self.answers = answers;
            }
        }
    }

    /// Whether a segment that could not be read is of the answer to the only command that waits.
    fn is_unread(&self, segment: &Segment<'_>) -> bool {
        segment.is_unreadable() && !self.gapped && !self.answers.in_message() && self.is_lone()
    }

    /// Whether one command waits, of whose answer nothing was seen.
    fn is_lone(&self) -> bool {
        let is_answered = |front: &Waiting| front.expect != Expect::Quiet;
        self.waiting.len() == 1
            && self.waiting.front().is_some_and(is_answered)
            && self.answering.bytes == 0
            && !self.truncated
    }

    fn request(&mut self, piece: &Piece<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Line(line) => {
                if line.text.is_empty() {
                    return Step::Next;
                }
                let Some(command) = text::command(line.text) else {
                    return self.unknown_command(line, cx);
                };
                cx.message();
                let request = Request {
                    operation: cx.word(command.name),
                    resource: Resource::Name(class(command.key, cx)),
                    start: line.start,
                    bytes: line.bytes + command.data,
                };
                let waiting = Waiting { request, command: command.name, expect: command.expect };
                if command.data > 0 {
                    self.incoming = Some(waiting);
                    return Step::Data(command.data);
                }
                self.arrive(waiting, line.end, cx);
            }
            Piece::DataEnd { at } => {
                if let Some(waiting) = self.incoming.take() {
                    self.arrive(waiting, *at, cx);
                }
            }
            Piece::Head(line) => {
                // The last word may be cut; the first key is not.
                let end = memchr::memrchr(b' ', line.text).unwrap_or(0);
                let text = line.text.get(..end).unwrap_or_default();
                let command = text::command(text).filter(|command| command.expect == Expect::UntilEnd);
                let Some(command) = command.filter(|_| !line.resync) else { return Step::Lost };
                cx.message();
                let request = Request {
                    operation: cx.word(command.name),
                    resource: Resource::Name(class(command.key, cx)),
                    start: line.start,
                    bytes: line.bytes,
                };
                self.arrive(Waiting { request, command: command.name, expect: command.expect }, line.end, cx);
            }
            Piece::Gap { begun } => {
                match self.incoming.take() {
                    Some(_) => cx.unparsed(),
                    None if *begun => cx.orphan(),
                    None => {}
                }
                // What is missing may be commands that wait for an answer.
                self.turn = false;
                self.lose(cx);
            }
        }
        Step::Next
    }

    /// The server answers `ERROR` to what it does not know.
    fn unknown_command(&mut self, line: &Line<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        if line.resync || !line.text.iter().all(|b| (b' '..0x7f).contains(b)) {
            return Step::Lost;
        }
        cx.message();
        let request = Request {
            operation: Symbol::OTHER,
            resource: Resource::Name(Symbol::NONE),
            start: line.start,
            bytes: line.bytes,
        };
        self.arrive(Waiting { request, command: "", expect: Expect::Line }, line.end, cx);
        Step::Next
    }

    fn arrive(&mut self, waiting: Waiting, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if waiting.expect == Expect::Nothing {
            let outcome = Outcome { status: Status::None, error: ErrorClass::None, end: at, bytes: 0 };
            return cx.emit(Protocol::Memcached, &waiting.request, &outcome);
        }
        self.finish_truncated(cx);
        if self.gapped && !self.turn {
            return cx.unparsed();
        }
        self.gapped = false;
        if self.waiting.push(waiting, cx.pending_max()).is_some() {
            cx.unparsed();
        }
    }

    fn answer(&mut self, piece: &Piece<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Line(line) => {
                let Some(answer) = text::answer(line.text) else { return Step::Lost };
                if answer.data > 0 {
                    self.answering.bytes += line.bytes + answer.data;
                    self.answering.hit = true;
                    self.value = answer.word == b"VA";
                    return Step::Data(answer.data);
                }
                self.answering.bytes += line.bytes;
                self.answered(answer.word, line.end, cx);
            }
            Piece::DataEnd { at } if self.value => {
                self.value = false;
                self.answered(b"HIT", *at, cx);
            }
            Piece::DataEnd { .. } => {}
            Piece::Head(_) => return Step::Lost,
            // Values were found, and what is missing is the rest of them.
            Piece::Gap { .. } if self.answering.hit && self.waiting.len() == 1 => {
                cx.count_gap();
                self.truncated = true;
            }
            Piece::Gap { .. } if self.unread > 0 => cx.count_gap(),
            Piece::Gap { .. } => self.lose(cx),
        }
        Step::Next
    }

    fn finish_truncated(&mut self, cx: &mut ConnectionContext<'_>) {
        let unread = std::mem::take(&mut self.unread);
        if unread > 0
            && let Some(Next::Waiting(waiting)) = self.waiting.pop()
        {
            let (status, error) = cx.unknown_status();
            let outcome = Outcome { status, error, end: self.answered_at, bytes: unread };
            cx.emit(Protocol::Memcached, &waiting.request, &outcome);
        }
        if self.truncated {
            let end = if self.value { b"HIT" } else { b"END" };
            self.answered(end, self.answered_at, cx);
        }
    }

    /// A line that may be the last of an answer.
    fn answered(&mut self, word: &[u8], at: Timestamp, cx: &mut ConnectionContext<'_>) {
        while let Some(&front) = self.waiting.front() {
            let silent =
                front.expect == Expect::Quiet && (word == b"MN" || text::suppressed(front.command, word));
            if !silent {
                break;
            }
            self.waiting.pop();
            let outcome = Outcome { status: Status::None, error: ErrorClass::None, end: at, bytes: 0 };
            cx.emit(Protocol::Memcached, &front.request, &outcome);
        }
        let error = error_class(word);
        // `stats reset` and `stats detail on` are answered by one word.
        let ends =
            |front: &Waiting| word == b"END" || front.command == "stats" && matches!(word, b"RESET" | b"OK");
        let goes_on =
            |front: &Waiting| front.expect == Expect::UntilEnd && !ends(front) && error == ErrorClass::None;
        if self.waiting.front().is_some_and(goes_on) {
            return;
        }
        (self.truncated, self.unread) = (false, 0);
        let answering = std::mem::take(&mut self.answering);
        if let Some(Next::Waiting(waiting)) = self.waiting.pop() {
            let word = match (waiting.command, word) {
                ("get" | "gets" | "gat" | "gats", b"END") if answering.hit => b"HIT",
                ("get" | "gets" | "gat" | "gats", b"END") | ("mg", b"EN") => b"MISS".as_slice(),
                ("stats", b"END" | b"RESET" | b"OK") => b"",
                (_, word) => word,
            };
            let outcome = Outcome { status: status(word, cx), error, end: at, bytes: answering.bytes };
            cx.emit(Protocol::Memcached, &waiting.request, &outcome);
        }
    }

    fn lose(&mut self, cx: &mut ConnectionContext<'_>) {
        cx.count_gap();
        while self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
        self.answering = Answering::default();
        (self.value, self.truncated, self.unread) = (false, false, 0);
        self.gapped = true;
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        if self.incoming.take().is_some() {
            cx.unparsed();
        }
        while let Some(waiting) = self.waiting.drain_one() {
            cx.emit(Protocol::Memcached, &waiting.request, &Outcome::none(now));
        }
    }
}

/// The error class of an answer's first word (memcached: doc/protocol.txt, "Error strings").
pub(crate) fn error_class(word: &[u8]) -> ErrorClass {
    match word {
        b"ERROR" | b"CLIENT_ERROR" => ErrorClass::Client,
        b"SERVER_ERROR" => ErrorClass::Server,
        _ => ErrorClass::None,
    }
}

/// Words of the protocol begin with a letter; `incr` and `decr` answer with the value, which is the application's own.
fn status(word: &[u8], cx: &mut ConnectionContext<'_>) -> Status {
    match std::str::from_utf8(word) {
        Ok(word) if word.starts_with(|c: char| c.is_ascii_uppercase()) => {
            Status::Word(cx.name(NameKind::ErrorWord, word))
        }
        _ => Status::None,
    }
}

/// The class of a key.
fn class(key: &[u8], cx: &mut ConnectionContext<'_>) -> Symbol {
    let Some(end) = memchr::memchr(b':', key) else { return Symbol::NONE };
    let class = key.get(..end).unwrap_or_default();
    let plain = (1..=CLASS_MAX).contains(&class.len())
        && class.iter().all(|b| b.is_ascii_alphabetic() || b"_-".contains(b));
    match std::str::from_utf8(class) {
        Ok(class) if plain => cx.name(NameKind::Destination, class),
        _ => Symbol::NONE,
    }
}
