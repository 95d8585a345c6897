//! DNS over UDP and TCP: one exchange per question.
//!
//! ```text
//! Segment → datagram, or Framer (TCP, one per direction) → message → by id and question → Exchange
//! ```
//!
//! - Operation: the question's type (`A`, `AAAA`, …; `NOTIFY` and `UPDATE` by their opcode). Resource: the question's
//!   name, converged. Status: the response code, of successes too (`NOERROR`, `NXDOMAIN`, …).
//! - Paired by peer, id and question ([`waiting`]): a server's one UDP socket has all its clients' questions, a client's
//!   the same question to several servers, and parallel ones for `A` and `AAAA`. Each name of a search list is a question
//!   of its own.
//! - A client that queries several servers at once needs one answer: the questions that are not answered then are not
//!   counted.
//! - A message is announced when it comes to its end, so that these need none.
//! - A truncated answer is an answer; the client's second query, over TCP, is another exchange.
//! - A zone transfer lasts until its first message.
//! - Multicast DNS is set aside: its questions have many answers, or none.
//!
//! Names leave this module converged. Of answers' data there are the addresses that a client looked up, for names of the servers that it
//! calls then ([`ParserContext::looked_up`](crate::ParserContext::looked_up)).

mod message;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::{
    ErrorClass, NameKind, Protocol, Side, Status, Symbol, Timestamp,
    dns::{
        message::{Message, MessageMatch, NOTIFY, Question, UPDATE},
        waiting::{Key, Waiting, WaitingQuestions},
    },
    domain,
    parser::{
        ConnectionContext, Detection, Entry, Flow, Framing, Outcome, Parser, Prefix, Request, Resource,
        Segment, Sender, Start, Transport,
    },
    stream::{Framer, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Dns,
    transports: &[Transport::Datagram, Transport::Stream],
    detect,
    start: |start: Start| {
        Box::new(Dns { datagrams: start.transport == Transport::Datagram, ..Dns::default() })
    },
    offload: None,
};

/// Most bytes of a message that are looked at when it comes in a stream: header, longest question, and some records.
const LOOKED_AT: usize = 512;

/// Length field before a message in a stream, bytes (RFC 1035 section 4.2.2).
const PREFIX: usize = 2;

/// How long a datagram's answer is waited for, nanoseconds: clients repeat the query or give up after 5 s.
const TIMEOUT_NS: u64 = 15_000_000_000;

fn detect(prefix: &Prefix<'_>) -> Detection {
    let found = match prefix.transport {
        Transport::Datagram => {
            message::match_message(prefix.bytes, usize::try_from(prefix.total).unwrap_or(usize::MAX))
        }
        Transport::Stream => in_stream(prefix.bytes),
    };
    match found {
        MessageMatch::Query => Detection::Yes(Sender::Client),
        MessageMatch::Response => Detection::Yes(Sender::Server),
        MessageMatch::Cut if prefix.may_grow() => Detection::More,
        MessageMatch::Cut | MessageMatch::No => Detection::No,
    }
}

/// A message behind its length.
fn in_stream(bytes: &[u8]) -> MessageMatch {
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX) else { return MessageMatch::Cut };
    let length = usize::from(u16::from_be_bytes([prefix[0], prefix[1]]));
    message::match_message(rest.get(..length).unwrap_or(rest), length)
}

/// One connection, or one socket of datagrams.
#[derive(Debug, Default)]
struct Dns {
    datagrams: bool,
    queries: Framer,
    responses: Framer,
    waiting: WaitingQuestions,
    /// The current response, and the request that it answers.
    answering: Option<(Request, Outcome)>,
    /// The id of a zone transfer: its further messages answer nothing.
    transfer: Option<u16>,
    scratch: String,
}

impl Parser for Dns {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        if self.datagrams {
            let total = segment.bytes.len() as u64 + segment.truncated;
            if let Some((request, outcome)) = self.message(segment.bytes, total, segment.from, segment.at, cx)
            {
                end(&request, &outcome, cx);
            }
            return Flow::Continue;
        }
        let from = segment.from;
        let mut framer = std::mem::take(self.framer(from));
        framer.segment(segment, PREFIX + LOOKED_AT, |piece| self.piece(&piece, from, cx));
        *self.framer(from) = framer;
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.queries.framing(),
            Sender::Server => self.responses.framing(),
        }
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some((request, _)) = self.answering.take() {
            end(&request, &Outcome::none(now), cx);
        }
        while let Some(waiting) = self.waiting.pop_oldest_if(|_| true) {
            give_up(&waiting, now, cx);
        }
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if !self.datagrams {
            return;
        }
        let late = |waiting: &Waiting| now.since(waiting.request.start) > TIMEOUT_NS;
        while let Some(waiting) = self.waiting.pop_oldest_if(late) {
            let end = Timestamp(waiting.request.start.0.saturating_add(TIMEOUT_NS));
            give_up(&waiting, end, cx);
        }
    }
}

impl Dns {
    fn framer(&mut self, from: Sender) -> &mut Framer {
        match from {
            Sender::Client => &mut self.queries,
            Sender::Server => &mut self.responses,
        }
    }

    fn piece(&mut self, piece: &Piece<'_>, from: Sender, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Head(head) => {
                let Some((prefix, rest)) = head.bytes.split_at_checked(PREFIX) else { return Step::More };
                let length = usize::from(u16::from_be_bytes([prefix[0], prefix[1]]));
                if head.resync {
                    match in_stream(head.bytes) {
                        MessageMatch::Query | MessageMatch::Response => {}
                        MessageMatch::Cut if !head.last => return Step::More,
                        MessageMatch::Cut | MessageMatch::No => return Step::Lost,
                    }
                }
                let wanted = length.min(LOOKED_AT);
                if length < message::HEADER {
                    return Step::Lost;
                }
                if rest.len() < wanted && !head.last {
                    return Step::More;
                }
                let bytes = rest.get(..wanted).unwrap_or(rest);
                let total = (PREFIX + length) as u64;
                self.answering = self.message(bytes, total, from, head.at, cx).or(self.answering.take());
                Step::Take(total)
            }
            Piece::End { at } => {
                if from == Sender::Server
                    && let Some((request, outcome)) = self.answering.take()
                {
                    end(&request, &Outcome { end: *at, ..outcome }, cx);
                }
                Step::More
            }
            Piece::Gap => {
                cx.count_gap();
                if from == Sender::Server {
                    if self.answering.take().is_some() {
                        cx.orphan();
                    }
                    // Any of the answers may be among the missing bytes.
                    while self.waiting.pop_oldest_if(|_| true).is_some() {
                        cx.orphan();
                    }
                }
                Step::More
            }
        }
    }

    /// Takes the head of a message that has `total` bytes on the wire; gives what it answers.
    fn message(
        &mut self,
        bytes: &[u8],
        total: u64,
        from: Sender,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) -> Option<(Request, Outcome)> {
        let message = match message::read(bytes) {
            Ok(message) if message::is_set_aside(&message) => return None,
            Ok(message) if message.flags.is_response() == (from == Sender::Server) => message,
            _ => {
                cx.orphan();
                return None;
            }
        };
        if from == Sender::Server {
            return self.response(bytes, &message, total, at, cx);
        }
        let Some(question) = message.question else {
            cx.orphan();
            return None;
        };
        self.query(&message, &question, total, at, cx);
        None
    }

    fn query(
        &mut self,
        message: &Message<'_>,
        question: &Question<'_>,
        total: u64,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        let request = Request {
            operation: operation(message, question, cx),
            resource: Resource::Name(self.name(question, cx)),
            start: at,
            bytes: total,
        };
        let key = Key { id: message.id, question: Some(hash(question)), peer: cx.peer() };
        if self.transfer == Some(message.id) {
            self.transfer = None;
        }
        let transfer = !self.datagrams && matches!(question.kind, 251 | 252);
        if let Some(evicted) = self.waiting.ask(key, request, transfer, cx.limits().pending_per_connection) {
            if evicted.resent_at.is_some() {
                give_up(&evicted, at, cx);
            } else {
                cx.orphan();
            }
        }
    }

    fn response(
        &mut self,
        bytes: &[u8],
        message: &Message<'_>,
        total: u64,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) -> Option<(Request, Outcome)> {
        // Some errors come without the question.
        let key = Key { id: message.id, question: message.question.as_ref().map(hash), peer: cx.peer() };
        let Some(waiting) = self.waiting.answer(key, cx.side()) else {
            if self.transfer != Some(message.id) {
                cx.orphan();
            }
            return None;
        };
        if waiting.transfer {
            self.transfer = Some(message.id);
        }
        let high = message::walk(bytes, message, usize::MAX / 2).rcode_high;
        let rcode = u16::from(high) << 4 | message.flags.rcode();
        let status = match message::rcode_name(rcode) {
            Some(word) => Status::Word(cx.word(word)),
            None => Status::Code(u32::from(rcode)),
        };
        let error = class(rcode);
        let question =
            message.question.filter(|question| matches!(question.kind, message::A | message::AAAA));
        if rcode == 0
            && cx.side() == Side::Client
            && question.is_some()
            && let Resource::Name(name) = waiting.request.resource
        {
            for address in message::addresses(bytes, message) {
                cx.look_up(address, name);
            }
        }
        cx.set_peer(waiting.key.peer.or(key.peer));
        Some((waiting.request, Outcome { status, error, end: at, bytes: total }))
    }

    fn name(&mut self, question: &Question<'_>, cx: &mut ConnectionContext<'_>) -> Symbol {
        let mut dotted = [0_u8; message::NAME_MAX];
        let mut length = 0;
        for label in question.labels() {
            for &byte in label {
                // A dot within a label makes the name none of a host.
                dotted[length] = if byte == b'.' { b' ' } else { byte };
                length += 1;
            }
            dotted[length] = b'.';
            length += 1;
        }
        if length == 0 {
            return cx.word(".");
        }
        domain::converge(dotted.get(..length).unwrap_or_default(), &mut self.scratch);
        cx.name(NameKind::Domain, &self.scratch)
    }
}

/// A question comes to its end.
fn end(request: &Request, outcome: &Outcome, cx: &mut ConnectionContext<'_>) {
    cx.message();
    cx.emit(Protocol::Dns, request, outcome);
}

/// No answer to a question came, and none will.
fn give_up(waiting: &Waiting, now: Timestamp, cx: &mut ConnectionContext<'_>) {
    if waiting.answered_elsewhere {
        return;
    }
    cx.set_peer(waiting.key.peer);
    end(&waiting.request, &Outcome::none(waiting.resent_at.unwrap_or(now)), cx);
}

fn operation(message: &Message<'_>, question: &Question<'_>, cx: &mut ConnectionContext<'_>) -> Symbol {
    match message.flags.opcode() {
        NOTIFY => cx.word("NOTIFY"),
        UPDATE => cx.word("UPDATE"),
        _ => match message::type_name(question.kind) {
            Some(name) => cx.word(name),
            None => cx.name(NameKind::Command, &format!("TYPE{}", question.kind)),
        },
    }
}

/// A question's hash, in which case does not count: clients vary it against forged answers.
fn hash(question: &Question<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for byte in question.labels {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    (question.kind, question.class).hash(&mut hasher);
    hasher.finish()
}

/// The error class of a response code: FORMERR, NXDOMAIN and an update's unmet conditions are the client's.
pub(crate) fn class(rcode: u16) -> ErrorClass {
    match rcode {
        0 => ErrorClass::None,
        1 | 3 | 6..=8 | 10 => ErrorClass::Client,
        _ => ErrorClass::Server,
    }
}
