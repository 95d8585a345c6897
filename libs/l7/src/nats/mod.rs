//! NATS: publications, requests and deliveries.
//!
//! ```text
//! Segment → LineReader (one per direction) → wire: command → requests and pulls by their inbox → Exchange
//! ```
//!
//! - `REQUEST`: a publication whose answer comes to an inbox that this connection subscribed; it lasts until the
//!   answer is here.
//! - `PUB`: any other publication. The protocol answers none: it is over when its last byte moved.
//! - `MSG`: a delivery that answers no request; over likewise.
//!
//! The server sends first (`INFO {…}`). The resource is the converged subject. Payloads and headers are skipped by length.

#[cfg(test)]
mod tests;
mod wire;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::{
    ErrorClass, NameKind, Protocol, Status, Timestamp,
    lines::{Line, LineReader, Piece, Step},
    nats::wire::{Message, Verb},
    parser::{
        ConnectionContext, Detection, Entry, Flow, Framing, Outcome, Parser, Prefix, Request, Resource,
        Segment, Sender, Start, Transport,
    },
    pending::{ById, Late},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Nats,
    transports: &[Transport::Stream],
    detect,
    start: |start: Start| {
        let [client, server] = start.is_boundary.map(LineReader::new);
        Box::new(Nats { client, server, ..Nats::default() })
    },
    offload: None,
};

/// Longest line, bytes: an `INFO` of a large cluster lists all its members.
const LINE_MAX: usize = 64 * 1024;

/// Most subscriptions of which a connection's inboxes are remembered: the newest.
const INBOXES_MAX: usize = 64;

/// Looks at first bytes: the server's `INFO {"server_id":…`, the client's `CONNECT {`, or, where the connection was open
/// before, a whole message.
fn detect(prefix: &Prefix<'_>) -> Detection {
    let bytes = prefix.bytes;
    let marks: [(&[u8], Sender); 3] = [
        (b"INFO {\"server_id\":", Sender::Server),
        (b"CONNECT {\"verbose\":", Sender::Client),
        (b"CONNECT {", Sender::Client),
    ];
    for (mark, sender) in marks {
        if bytes.starts_with(mark) {
            return Detection::Yes(sender);
        }
        if mark.starts_with(bytes) {
            return if prefix.may_grow() { Detection::More } else { Detection::No };
        }
    }
    match message(bytes) {
        Detection::More if !prefix.may_grow() => Detection::No,
        detection => detection,
    }
}

/// `PUB`, `HPUB`, `MSG` or `HMSG` with its data and the line end behind it.
fn message(bytes: &[u8]) -> Detection {
    let verbs: [&[u8]; 4] = [b"PUB ", b"HPUB ", b"MSG ", b"HMSG "];
    if !verbs.iter().any(|verb| verb.starts_with(bytes) || bytes.starts_with(verb)) {
        return Detection::No;
    }
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return if bytes.len() < LINE_MAX { Detection::More } else { Detection::No };
    };
    let Some(line) = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")) else { return Detection::No };
    let (message, sender) = match wire::line(line).filter(Verb::is_plausible) {
        Some(Verb::Publish(message)) => (message, Sender::Client),
        Some(Verb::Deliver(message)) => (message, Sender::Server),
        _ => return Detection::No,
    };
    let data = bytes.get(end + 1..).unwrap_or_default();
    match data.get(..usize::try_from(message.data).unwrap_or(usize::MAX)) {
        Some(data) if data.ends_with(b"\r\n") => Detection::Yes(sender),
        Some(_) => Detection::No,
        None => Detection::More,
    }
}

#[derive(Debug)]
struct Incoming {
    request: Request,
    /// Of a publication: the inbox, where an answer is awaited. Of a delivery: the subject.
    inbox: Option<u64>,
    delivery: bool,
    /// It is a pull of `JetStream`.
    pull: bool,
    /// The status in its headers.
    status: Option<u16>,
}

/// A request without an answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    pull: bool,
    inbox: u64,
}

/// How a pull of `JetStream` is called: it lasts until there are messages, which does not depend on the server's speed.
const LONG_POLL: &str = "REQUEST (long poll)";

/// A request gets no answer any more after so long, nanoseconds. Clients wait for two to ten seconds by default.
const TIMEOUT_NS: u64 = 60_000_000_000;

/// What a pull that found nothing comes to: it is no failure.
const NOT_ANSWERED: Outcome =
    Outcome { status: Status::None, error: ErrorClass::None, end: Timestamp(0), bytes: 0 };

/// One connection.
#[derive(Debug, Default)]
struct Nats {
    client: LineReader,
    server: LineReader,
    publishing: Option<Incoming>,
    delivering: Option<Incoming>,
    requests: ById<u64, Waiting>,
    /// Those that may wait for as long as they like.
    pulls: ById<u64, Waiting>,
    late: Late<u64>,
    /// The headers of a delivered message come next: bytes of the message.
    header: Option<u64>,
    /// Hashes of the prefixes of subscribed inboxes.
    inboxes: Vec<u64>,
    scratch: String,
}

impl Parser for Nats {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let mut reader = std::mem::take(self.reader(segment.from));
        let from = segment.from;
        reader.segment(segment, LINE_MAX, |piece| self.piece(&piece, from, cx));
        *self.reader(from) = reader;
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.client.framing(),
            Sender::Server => self.server.framing(),
        }
    }

    fn pending(&self) -> usize {
        self.requests.len() + self.pulls.len()
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        // What a reply answers still waits.
        let delivering = self.delivering.take().filter(|incoming| incoming.delivery);
        for _ in self.publishing.take().into_iter().chain(delivering) {
            cx.unparsed();
        }
        for requests in [&mut self.requests, &mut self.pulls] {
            while let Some(waiting) = requests.pop_oldest_if(|_| true) {
                unanswered(&waiting, now, cx);
            }
        }
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let over = |waiting: &Waiting| now.since(waiting.request.start) >= TIMEOUT_NS;
        while let Some(waiting) = self.requests.pop_oldest_if(over) {
            let end = Timestamp(waiting.request.start.0.saturating_add(TIMEOUT_NS));
            self.late.push(waiting.inbox);
            unanswered(&waiting, end, cx);
        }
    }
}

impl Nats {
    fn reader(&mut self, from: Sender) -> &mut LineReader {
        match from {
            Sender::Client => &mut self.client,
            Sender::Server => &mut self.server,
        }
    }

    fn piece(&mut self, piece: &Piece<'_>, from: Sender, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Line(line) => {
                if from == Sender::Server
                    && let Some(left) = self.header.take()
                {
                    return self.header_line(line, left);
                }
                let Some(verb) = wire::line(line.text).filter(|verb| !line.resync || verb.is_plausible())
                else {
                    return Step::Lost;
                };
                match (verb, from) {
                    (Verb::Publish(message), Sender::Client) => {
                        let request = self.request("PUB", &message, line.start, line.bytes, cx);
                        let inbox = message.reply.filter(|reply| self.is_inbox(reply)).map(hash);
                        let pull = wire::is_pull(message.subject);
                        self.publishing =
                            Some(Incoming { request, inbox, delivery: false, pull, status: None });
                        Step::Data(message.data)
                    }
                    (Verb::Deliver(message), Sender::Server) => {
                        let inbox = Some(hash(message.subject));
                        if inbox.is_some_and(|inbox| self.awaits(inbox) || self.late.remove(&inbox)) {
                            // The answer to a request: no message of its own.
                            let request = Request {
                                operation: cx.word("MSG"),
                                resource: Resource::Name(crate::Symbol::NONE),
                                start: line.start,
                                bytes: line.bytes + message.data,
                            };
                            self.delivering =
                                Some(Incoming { request, inbox, delivery: false, pull: false, status: None });
                        } else {
                            let request = self.request("MSG", &message, line.start, line.bytes, cx);
                            self.delivering = Some(Incoming {
                                request,
                                inbox: None,
                                delivery: true,
                                pull: false,
                                status: None,
                            });
                        }
                        if message.headers {
                            self.header = Some(message.data);
                            return Step::Next;
                        }
                        Step::Data(message.data)
                    }
                    (Verb::Subscribe { subject }, Sender::Client) => {
                        self.subscribed(subject);
                        Step::Next
                    }
                    (Verb::Other, _) => Step::Next,
                    _ => Step::Lost,
                }
            }
            Piece::DataEnd { at } => {
                match from {
                    Sender::Client => self.published(*at, cx),
                    Sender::Server => self.delivered(*at, cx),
                }
                Step::Next
            }
            Piece::Head(_) => Step::Lost,
            Piece::Gap { .. } => {
                self.header = None;
                cx.count_gap();
                let begun = match from {
                    Sender::Client => self.publishing.take(),
                    Sender::Server => self.delivering.take().filter(|incoming| incoming.delivery),
                };
                if begun.is_some() {
                    cx.unparsed();
                }
                Step::Next
            }
        }
    }

    fn request(
        &mut self,
        operation: &'static str,
        message: &Message<'_>,
        start: Timestamp,
        line_bytes: u64,
        cx: &mut ConnectionContext<'_>,
    ) -> Request {
        cx.message();
        wire::converge(message.subject, &mut self.scratch);
        Request {
            operation: cx.word(operation),
            resource: Resource::Name(cx.name(NameKind::Destination, &self.scratch)),
            start,
            bytes: line_bytes + message.data,
        }
    }

    /// The first line of a delivered message's headers, `NATS/1.0[ <status>[ <text>]]`; `left` bytes of the message are
    /// still to come, with it.
    fn header_line(&mut self, line: &Line<'_>, left: u64) -> Step {
        let Some(rest) = left.checked_sub(line.bytes).filter(|rest| *rest > 0) else { return Step::Lost };
        let status = line.text.strip_prefix(b"NATS/1.0 ").and_then(|text| text.get(..3));
        let code =
            status.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
        if let Some(delivering) = &mut self.delivering {
            delivering.status = code;
        }
        Step::Data(rest)
    }

    /// `_INBOX.<id>.*` and `_INBOX.<id>` are remembered by what comes before the wildcard.
    fn subscribed(&mut self, subject: &[u8]) {
        let prefix = inbox_prefix(subject);
        if subject.starts_with(b"_") {
            if self.inboxes.len() >= INBOXES_MAX {
                self.inboxes.remove(0);
            }
            self.inboxes.push(hash(prefix));
        }
    }

    fn is_inbox(&self, reply: &[u8]) -> bool {
        self.inboxes.contains(&hash(reply))
            || reply
                .iter()
                .rposition(|b| *b == b'.')
                .is_some_and(|dot| self.inboxes.contains(&hash(reply.get(..dot).unwrap_or_default())))
            || (self.inboxes.is_empty() && reply.starts_with(b"_INBOX."))
    }

    fn awaits(&mut self, inbox: u64) -> bool {
        self.requests.get_mut(inbox).is_some() || self.pulls.get_mut(inbox).is_some()
    }

    fn answered(&mut self, inbox: u64) -> Option<Waiting> {
        self.requests.remove(inbox).or_else(|| self.pulls.remove(inbox))
    }

    /// Where as many wait as may, the oldest of those of which more wait, requests or pulls, makes room for one.
    fn make_room(&mut self, cx: &mut ConnectionContext<'_>) {
        while self.pending() >= cx.pending_max().max(1) {
            let more =
                if self.pulls.len() > self.requests.len() { &mut self.pulls } else { &mut self.requests };
            if more.pop_oldest_if(|_| true).is_none() {
                return;
            }
            cx.unparsed();
        }
    }

    fn published(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Some(Incoming { mut request, inbox, pull, .. }) = self.publishing.take() else { return };
        match inbox {
            Some(inbox) => {
                request.operation = cx.word(if pull { LONG_POLL } else { "REQUEST" });
                let waiting = Waiting { request, pull, inbox };
                self.make_room(cx);
                let requests = if pull { &mut self.pulls } else { &mut self.requests };
                // The bound is of both together.
                if requests.insert(inbox, waiting, usize::MAX).is_some() {
                    cx.unparsed();
                }
            }
            None => cx.emit(Protocol::Nats, &request, &over(at)),
        }
    }

    fn delivered(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Some(incoming) = self.delivering.take() else { return };
        if incoming.delivery {
            return cx.emit(Protocol::Nats, &incoming.request, &over(at));
        }
        if let Some(Waiting { request, .. }) = incoming.inbox.and_then(|inbox| self.answered(inbox)) {
            let (status, error) = match incoming.status {
                Some(code) => (Status::Code(code.into()), status_class(code)),
                None => (Status::None, ErrorClass::None),
            };
            let outcome = Outcome { status, error, bytes: incoming.request.bytes, ..over(at) };
            cx.emit(Protocol::Nats, &request, &outcome);
        }
    }
}

/// The error class of a status of the headers (NATS: ADR-4 and ADR-13): 503, no subscriber of the subject or
/// `JetStream` is not available; 408 and 404, a pull found no messages in time; 100, a heartbeat.
pub(crate) fn status_class(code: u16) -> ErrorClass {
    match code {
        500..=599 => ErrorClass::Server,
        400 | 401 | 403 | 405..=407 | 409..=499 => ErrorClass::Client,
        _ => ErrorClass::None,
    }
}

/// A request without an answer; of a pull that is no failure.
fn unanswered(waiting: &Waiting, now: Timestamp, cx: &mut ConnectionContext<'_>) {
    let outcome = if waiting.pull { Outcome { end: now, ..NOT_ANSWERED } } else { Outcome::none(now) };
    cx.emit(Protocol::Nats, &waiting.request, &outcome);
}

fn over(at: Timestamp) -> Outcome {
    Outcome { status: Status::None, error: ErrorClass::None, end: at, bytes: 0 }
}

fn inbox_prefix(subject: &[u8]) -> &[u8] {
    subject.strip_suffix(b".*").or_else(|| subject.strip_suffix(b".>")).unwrap_or(subject)
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
