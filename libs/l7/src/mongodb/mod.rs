//! MongoDB: `OP_MSG`, and the older `OP_QUERY` with which drivers still begin.
//!
//! ```text
//! Segment → Framer (one per direction) → message, command → by the request's id → Exchange
//! ```
//!
//! - Operation: the command (`find`, `insert`, `aggregate`, …). Resource: the collection, when the command is about
//!   one.
//! - Status: the error's code (`ok: 0`, or the first write error); none for success. When an answer is longer than what is
//!   looked at and nothing in it shows an error, it was a success: an error is at the start of its answer. When less than that
//!   was captured, or it is compressed, the status is unknown.
//! - Paired by the request's id. A write without an answer ends with its last byte. Of an exhaust cursor's
//!   answers the first one ends the exchange; the others answer nothing.
//! - What waits by design is called so: a `hello` that waits for a change (`maxAwaitTimeMS`), a `getMore` that waits for
//!   documents (`maxTimeMS`). A request without an answer ends after [`TIMEOUT_NS`].
//! - Compressed messages (`OP_COMPRESSED`) are paired as well; what they are about is not known.
//!
//! Documents, filters and credentials do not leave this module.

mod bson;
mod command;
mod message;
#[cfg(test)]
mod tests;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp,
    mongodb::{
        bson::{Elements, Fault, Value},
        message::{Body, HEADER, Header, MessageMatch},
    },
    parser::{
        ConnectionContext, Entry, Flow, Framing, Outcome, Parser, Request, Resource, Segment, Sender, Start,
        Transport,
    },
    pending::{ById, Late},
    stream::{Framer, Head, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Mongodb,
    transports: &[Transport::Stream],
    detect: message::detect,
    start: |_: Start| Box::new(Mongodb::default()),
    offload: None,
};

/// Most bytes of a message that are looked at: a command's first elements, an answer's error.
const LOOKED_AT: usize = 1024;

/// A request gets no answer any more after so long, nanoseconds. Commands may run long.
const TIMEOUT_NS: u64 = 600_000_000_000;

/// One connection.
#[derive(Debug, Default)]
struct Mongodb {
    requests: Framer,
    responses: Framer,
    waiting: ById<i32, Request>,
    late: Late<i32>,
    /// The current request, if it will not be answered.
    one_way: Option<Request>,
    /// The current answer, and the request that it answers.
    answering: Option<(Request, Outcome)>,
    /// The id of an answer that another follows unasked.
    exhaust: Option<i32>,
}

impl Parser for Mongodb {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let from = segment.from;
        let mut framer = std::mem::take(self.framer(from));
        framer.segment(segment, LOOKED_AT, |piece| self.piece(&piece, from, cx));
        *self.framer(from) = framer;
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.requests.framing(),
            Sender::Server => self.responses.framing(),
        }
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let begun = self.one_way.take().into_iter().chain(self.answering.take().map(|(request, _)| request));
        for request in begun {
            cx.emit(Protocol::Mongodb, &request, &Outcome::none(now));
        }
        while let Some(request) = self.waiting.pop_oldest_if(|_| true) {
            unanswered(&request, now, cx);
        }
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let over = |request: &Request| now.since(request.start) >= TIMEOUT_NS;
        for (id, request) in self.waiting.take_all_if(over) {
            self.late.push(id);
            unanswered(&request, Timestamp(request.start.0.saturating_add(TIMEOUT_NS)), cx);
        }
    }
}

/// Ends a request without an answer; of a long poll that is no failure.
fn unanswered(request: &Request, end: Timestamp, cx: &mut ConnectionContext<'_>) {
    let mut outcome = Outcome::none(end);
    if LONG_POLLS.iter().any(|(_, name)| cx.word(name) == request.operation) {
        outcome.error = ErrorClass::None;
    }
    cx.emit(Protocol::Mongodb, request, &outcome);
}

/// Commands that wait by design, how they are called then, and the element by which they are recognised (MongoDB
/// specifications: server discovery and monitoring, "Streaming protocol"; find, getMore and killCursors commands,
/// "Tailable cursors").
const LONG_POLLS: [(&str, &str); 4] = [
    ("hello", "hello (long poll)"),
    ("isMaster", "isMaster (long poll)"),
    ("ismaster", "ismaster (long poll)"),
    ("getMore", "getMore (long poll)"),
];

impl Mongodb {
    fn framer(&mut self, from: Sender) -> &mut Framer {
        match from {
            Sender::Client => &mut self.requests,
            Sender::Server => &mut self.responses,
        }
    }

    fn piece(&mut self, piece: &Piece<'_>, from: Sender, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Head(head) => self.head(head, from, cx),
            Piece::End { at } => {
                let over = match from {
                    Sender::Client => self.one_way.take().map(|request| {
                        let status = Status::None;
                        (request, Outcome { status, error: ErrorClass::None, end: *at, bytes: 0 })
                    }),
                    Sender::Server => self
                        .answering
                        .take()
                        .map(|(request, outcome)| (request, Outcome { end: *at, ..outcome })),
                };
                if let Some((request, outcome)) = over {
                    cx.emit(Protocol::Mongodb, &request, &outcome);
                }
                Step::More
            }
            Piece::Gap => {
                cx.count_gap();
                let begun = match from {
                    Sender::Client => self.one_way.take(),
                    Sender::Server => self.answering.take().map(|(request, _)| request),
                };
                if begun.is_some() {
                    cx.unparsed();
                }
                // Any of the answers may be among the missing bytes.
                while from == Sender::Server && self.waiting.pop_oldest_if(|_| true).is_some() {
                    cx.unparsed();
                }
                Step::More
            }
        }
    }

    fn head(&mut self, head: &Head<'_>, from: Sender, cx: &mut ConnectionContext<'_>) -> Step {
        let more = if head.last { Step::Lost } else { Step::More };
        if head.resync {
            match message::match_message(head.bytes) {
                MessageMatch::From(sender) if sender == from => {}
                MessageMatch::Cut => return more,
                _ => return Step::Lost,
            }
        }
        let header = match message::header(head.bytes) {
            Ok(header) => header,
            Err(Fault::Cut) => return more,
            Err(Fault::Bad) => return Step::Lost,
        };
        let wanted = header.length.min(LOOKED_AT);
        if head.bytes.len() < wanted && !head.last {
            return Step::More;
        }
        let rest = head.bytes.get(HEADER..head.bytes.len().min(wanted)).unwrap_or_default();
        let body = match message::body(&header, rest) {
            Ok(body) => Some(body),
            Err(Fault::Cut) => None,
            Err(Fault::Bad) => return Step::Lost,
        };
        if head.lacks(wanted) && from == Sender::Client {
            cx.incomplete();
        }
        match from {
            Sender::Client => self.request(&header, body.as_ref(), head.at, cx),
            Sender::Server => self.answer(&header, body.as_ref(), head.lacks(wanted), head.at, cx),
        }
        Step::Take(header.length as u64)
    }

    fn request(
        &mut self,
        header: &Header,
        body: Option<&Body<'_>>,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        cx.message();
        let (operation, collection) = about(header, body, cx);
        let resource = Resource::Name(collection);
        let request = Request { operation, resource, start: at, bytes: header.length as u64 };
        let one_way = match header.opcode {
            message::OP_INSERT | message::OP_UPDATE | message::OP_DELETE | message::OP_KILL_CURSORS => true,
            _ => body.is_some_and(|body| body.more_to_come),
        };
        if one_way {
            self.one_way = Some(request);
        } else if self.waiting.insert(header.id, request, cx.limits().pending_per_connection).is_some() {
            cx.unparsed();
        }
    }

    fn answer(
        &mut self,
        header: &Header,
        body: Option<&Body<'_>>,
        is_cut: bool,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        let unasked = self.exhaust.take() == Some(header.answers);
        let reported = body.and_then(|body| body.elements.clone()).map_or(Reported::Unknown, reported);
        if body.is_some_and(|body| body.more_to_come) {
            self.exhaust = Some(header.id);
        }
        let Some(request) = self.waiting.remove(header.answers) else {
            if !unasked && !self.late.remove(&header.answers) {
                cx.orphan();
            }
            return;
        };
        let compressed = header.opcode == message::OP_COMPRESSED;
        let (status, error) = match reported {
            Reported::Unknown if is_cut || compressed => cx.unknown_status(),
            // An error stands within what is looked at.
            Reported::Success | Reported::Unknown => (Status::None, ErrorClass::None),
            Reported::Error(Some(code)) => (Status::Code(code), class(code)),
            Reported::Error(None) => (cx.unknown_status().0, ErrorClass::Client),
        };
        self.answering = Some((request, Outcome { status, error, end: at, bytes: header.length as u64 }));
    }
}

/// A request's command and collection.
fn about(header: &Header, body: Option<&Body<'_>>, cx: &mut ConnectionContext<'_>) -> (Symbol, Symbol) {
    let word = match header.opcode {
        message::OP_COMPRESSED => "(compressed)",
        message::OP_UPDATE => "OP_UPDATE",
        message::OP_INSERT => "OP_INSERT",
        message::OP_GET_MORE => "OP_GET_MORE",
        message::OP_DELETE => "OP_DELETE",
        message::OP_KILL_CURSORS => "OP_KILL_CURSORS",
        _ => "other",
    };
    let Some(Body { elements: Some(elements), namespace, .. }) = body else {
        return (cx.word(word), Symbol::NONE);
    };
    // A legacy query of a collection, not a command.
    if !namespace.is_empty() && !namespace.ends_with(b".$cmd") {
        let dot = namespace.iter().position(|b| *b == b'.').map_or(0, |dot| dot + 1);
        return (cx.word("OP_QUERY"), collection(namespace.get(dot..).unwrap_or_default(), cx));
    }
    let mut elements = elements.clone();
    let mut first = elements.next();
    if let Some(Ok((b"$query" | b"query", Value::Document(inner)))) = first
        && let Ok((_, inner)) = bson::document(inner)
    {
        elements = inner;
        first = elements.next();
    }
    let Some(Ok((name, value))) = first else { return (cx.word(word), Symbol::NONE) };
    let operation = match command::known(name) {
        Some(known) => cx.word(known),
        None if message::is_word(name) => {
            std::str::from_utf8(name).map_or(Symbol::OTHER, |name| cx.candidate(NameKind::Command, name))
        }
        None => cx.word(word),
    };
    let waits = if name == b"getMore" { b"maxTimeMS".as_slice() } else { b"maxAwaitTimeMS" };
    let operation = match LONG_POLLS.iter().find(|(command, _)| command.as_bytes() == name) {
        Some((_, word)) if elements.clone().map_while(Result::ok).any(|(name, _)| name == waits) => {
            cx.word(word)
        }
        // Perhaps it waits by design.
        Some(_) if elements.clone().any(|element| element == Err(Fault::Cut)) => Symbol::OTHER,
        _ => operation,
    };
    let about = match value {
        Value::Text(text) if command::is_about_a_collection(name) => Some(text),
        // `{getMore: <cursor>, collection: "orders"`
        _ if name == b"getMore" => elements.flatten().find_map(|(name, value)| match value {
            Value::Text(text) if name == b"collection" => Some(text),
            _ => None,
        }),
        _ => None,
    };
    (operation, about.map_or(Symbol::NONE, |about| collection(about, cx)))
}

fn collection(name: &[u8], cx: &mut ConnectionContext<'_>) -> Symbol {
    match std::str::from_utf8(name) {
        Ok(text) if name.iter().all(|b| *b >= b' ') => cx.candidate(NameKind::Collection, text),
        _ => cx.word("{}"),
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reported {
    Success,
    /// With this code, if that is there.
    Error(Option<u32>),
    /// That is not in the bytes that were captured.
    Unknown,
}

/// Reads an answer as far as it goes.
fn reported(elements: Elements<'_>) -> Reported {
    let (mut failed, mut cut) = (false, false);
    let mut code = None;
    for element in elements {
        match element {
            Ok((b"ok", Value::Number(0))) => failed = true,
            Ok((b"code", Value::Number(number))) => code = u32::try_from(number).ok(),
            Ok((b"writeErrors", Value::Document(errors))) => return Reported::Error(first_code(errors)),
            Ok((b"writeConcernError", Value::Document(error))) => return Reported::Error(code_of(error)),
            Ok(_) => {}
            Err(_) => cut = true,
        }
    }
    match (failed, cut) {
        (true, true) => Reported::Error(code),
        // An error without a code is of an old server.
        (true, false) => Reported::Error(Some(code.unwrap_or(0))),
        (false, true) => Reported::Unknown,
        (false, false) => Reported::Success,
    }
}

/// The code of the first error of an array.
fn first_code(errors: &[u8]) -> Option<u32> {
    match bson::document(errors).ok()?.1.next()? {
        Ok((_, Value::Document(error))) => code_of(error),
        _ => None,
    }
}

fn code_of(error: &[u8]) -> Option<u32> {
    bson::document(error).ok()?.1.map_while(Result::ok).find_map(|(name, value)| match value {
        Value::Number(number) if name == b"code" => u32::try_from(number).ok(),
        _ => None,
    })
}

/// Whose fault it is (mongo: `src/mongo/base/error_codes.yml`; the categories of network errors, time-outs, shutdown
/// and primaries that step down are the server's).
pub(crate) fn class(code: u32) -> ErrorClass {
    match code {
        1 | 6 | 7 | 8 | 46 | 50 | 64 | 79 | 89 | 91 | 100 | 112 | 133 | 134 | 136 | 146 | 175 | 189 | 202
        | 262 | 317 | 358 | 384 | 8000 | 9001 | 10058 | 10107 | 11600 | 11602 | 13435 | 13436 => {
            ErrorClass::Server
        }
        _ => ErrorClass::Client,
    }
}
