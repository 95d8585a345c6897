//! MongoDB: `OP_MSG`, and the older `OP_QUERY` with which drivers still begin.
//!
//! ```text
//! Segment → Framer (one per direction) → message, command → by the request's id → Exchange
//! ```
//!
//! - Operation: the command (`find`, `insert`, `aggregate`, …). Resource: the collection, when the command is about
//!   one.
//! - Status: the error's code (`ok: 0`, or the first write error); none for success. When an answer's end was not
//!   captured and nothing before it shows an error, it was a success: an error is at the start of its answer.
//! - Paired by the request's id. A write without an answer ends with its last byte. Of an exhaust cursor's
//!   answers the first one ends the exchange; the others answer nothing.
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
        ConnectionContext, Entry, Flow, Outcome, Parser, Request, Resource, Segment, Sender, Start, Transport,
    },
    pending::ById,
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

/// One connection.
#[derive(Debug, Default)]
struct Mongodb {
    requests: Framer,
    responses: Framer,
    waiting: ById<i32, Request>,
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

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let begun = self.one_way.take().into_iter().chain(self.answering.take().map(|(request, _)| request));
        for request in begun {
            cx.emit(Protocol::Mongodb, &request, &Outcome::none(now));
        }
        while let Some(request) = self.waiting.pop_oldest_if(|_| true) {
            cx.emit(Protocol::Mongodb, &request, &Outcome::none(now));
        }
    }
}

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
        match from {
            Sender::Client => self.request(&header, body.as_ref(), head.at, cx),
            Sender::Server => self.answer(&header, body.as_ref(), head.at, cx),
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
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        let unasked = self.exhaust.take() == Some(header.answers);
        let code = body.and_then(|body| body.elements.clone()).and_then(error);
        if body.is_some_and(|body| body.more_to_come) {
            self.exhaust = Some(header.id);
        }
        let Some(request) = self.waiting.remove(header.answers) else {
            if !unasked {
                cx.orphan();
            }
            return;
        };
        let (status, error) = match code {
            None => (Status::None, ErrorClass::None),
            Some(code) => (Status::Code(code), class(code)),
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
        _ => "(unknown)",
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
            std::str::from_utf8(name).map_or(Symbol::OTHER, |name| cx.name(NameKind::Command, name))
        }
        None => cx.word(word),
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
        Ok(text) if name.iter().all(|b| *b >= b' ') => cx.name(NameKind::Collection, text),
        _ => cx.word("{}"),
    }
}

/// The code of an error that an answer reports.
fn error(elements: Elements<'_>) -> Option<u32> {
    let mut failed = false;
    let mut code = None;
    for (name, value) in elements.map_while(Result::ok) {
        match (name, value) {
            (b"ok", Value::Number(0)) => failed = true,
            (b"code", Value::Number(number)) => code = u32::try_from(number).ok(),
            (b"writeErrors", Value::Document(errors)) => return Some(first_code(errors).unwrap_or(0)),
            (b"writeConcernError", Value::Document(error)) => return code_of(error),
            _ => {}
        }
    }
    // An error without a code is of an old server.
    failed.then_some(code.unwrap_or(0))
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
fn class(code: u32) -> ErrorClass {
    match code {
        1 | 6 | 7 | 8 | 46 | 50 | 64 | 79 | 89 | 91 | 100 | 112 | 133 | 134 | 136 | 146 | 175 | 189 | 202
        | 262 | 317 | 358 | 384 | 8000 | 9001 | 10058 | 10107 | 11600 | 11602 | 13435 | 13436 => {
            ErrorClass::Server
        }
        _ => ErrorClass::Client,
    }
}
