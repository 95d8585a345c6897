//! Kafka: one exchange per request.
//!
//! ```text
//! Segment → Framer (one per direction) → header, layout of the body → by correlation id → Exchange
//! ```
//!
//! - Operation: the API's name. Resource: the topic, when the request is about one; absent when it is about several.
//!   Topics that are called by their id get the name that a `Metadata` or `CreateTopics` response of the same
//!   application gave them; absent until one was seen. Incremental fetches, which name nothing, are about what their
//!   session is about.
//! - Status: the first error code of the response that is not 0, by its name.
//! - A `Produce` request with `acks=0` has no response, and is over with its last byte.
//! - A `Fetch` that the server may answer late, and that took no longer than that, is a `Fetch (long poll)`: its
//!   duration is the time in which there was nothing to fetch, not a latency. One that took longer than it was
//!   allowed to, or was not allowed to wait, is a `Fetch`. A client that leaves while it polls is no failure.
//! - A `Produce` request of one record, which is not compressed and whole in what is looked at, has the trace that the record's
//!   headers name.
//! - Behind a `SaslHandshake` of version 0 the login's tokens have no headers; they are passed over.
//! - A request without a response ends after [`TIMEOUT_NS`], of a group's members after [`GROUP_TIMEOUT_NS`].
//!
//! Records, keys, group and member names do not leave this module.

mod api;
mod errors;
mod header;
mod layout;
mod records;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use errors::class_of as error_class;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp,
    kafka::{
        api::{Api, FETCH, JOIN_GROUP, PRODUCE, SASL_HANDSHAKE, SYNC_GROUP},
        header::{Header, MessageMatch, PREFIX},
        layout::{End, RequestFields, Topic},
    },
    parser::{
        ConnectionContext, Entry, Flow, Framing, Outcome, Parser, Request, Resource, Segment, Sender, Start,
        Transport,
    },
    pending::{ById, Late},
    stream::{Framer, Head, Piece, Step},
    trace::TraceContext,
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Kafka,
    transports: &[Transport::Stream],
    detect: header::detect,
    start: |_: Start| Box::new(Kafka::new()),
    offload: None,
};

/// Most bytes of a request that are looked at.
const REQUEST_BYTES_MAX: usize = 1024;

/// Most bytes of a response that are looked at: errors and topic ids stand behind lists of brokers and partitions.
const RESPONSE_BYTES_MAX: usize = 4096;

/// How much longer than requested a long poll may take, nanoseconds: timers and transport.
const POLL_SLACK_NS: u64 = 100_000_000;

/// A request gets no response any more after so long, and after the wait that it allows, nanoseconds: clients give up
/// after 30 s to 2 min (`request.timeout.ms`, `delivery.timeout.ms`).
const TIMEOUT_NS: u64 = 120_000_000_000;

/// The same of requests that wait until all members of a group have come, nanoseconds: by default up to 5 min
/// (`max.poll.interval.ms`).
const GROUP_TIMEOUT_NS: u64 = 900_000_000_000;

/// What a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Subject {
    #[default]
    None,
    Name(Symbol),
    Id([u8; 16]),
    Several,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    api: Option<&'static Api>,
    version: i16,
    subject: Subject,
    /// How long the server may wait before it answers, nanoseconds.
    max_wait_ns: u64,
    /// In the order of the requests.
    number: u64,
    trace: Option<TraceContext>,
}

/// One connection.
#[derive(Debug)]
struct Kafka {
    requests: Framer,
    /// A broker writes the head of a `Fetch` response and lets the kernel send the records from a file.
    responses: Framer,
    waiting: ById<i32, Waiting>,
    late: Late<i32>,
    number: u64,
    /// The current request, if it will not be answered.
    one_way: Option<Waiting>,
    /// The current response, and the request that it answers.
    answering: Option<(Waiting, Outcome)>,
    /// What the fetch session is about.
    session: Subject,
    /// Responses may have been lost.
    gapped: bool,
    login: Login,
}

/// How far a login has come whose tokens follow in both directions, each behind its length and without a header: those behind a
/// `SaslHandshake` of version 0, until the next request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Login {
    #[default]
    None,
    /// The server has answered the handshake: the client's first token comes.
    Begun,
    /// The client waits for the answer to its token.
    Sent,
    /// Another token of the client's comes, or a request.
    Answered,
}

impl Parser for Kafka {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        match segment.from {
            Sender::Client => {
                let mut framer = std::mem::take(&mut self.requests);
                framer.segment(segment, PREFIX + REQUEST_BYTES_MAX, |piece| self.client(&piece, cx));
                self.requests = framer;
            }
            Sender::Server => {
                let mut framer = std::mem::take(&mut self.responses);
                framer.segment(segment, PREFIX + RESPONSE_BYTES_MAX, |piece| self.server(&piece, cx));
                self.responses = framer;
            }
        }
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.requests.framing(),
            Sender::Server => self.responses.framing(),
        }
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some(waiting) = self.one_way.take() {
            emit(&waiting, &Outcome::none(now), cx);
        }
        // The head gives the end of a response; records that sendfile(2) moved are not captured.
        let mut framer = std::mem::take(&mut self.responses);
        framer.close(|piece| self.server(&piece, cx));
        if let Some((waiting, outcome)) = self.answering.take() {
            emit(&waiting, &outcome, cx);
        }
        while let Some(waiting) = self.waiting.pop_oldest_if(|_| true) {
            emit(&waiting, &Outcome::none(now), cx);
        }
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let over = |waiting: &Waiting| now.since(waiting.request.start) >= waiting.timeout_ns();
        // Those that may wait longer do not hold up the others.
        for (correlation, waiting) in self.waiting.take_all_if(over) {
            self.late.push(correlation);
            let end = waiting.request.start.0.saturating_add(waiting.timeout_ns());
            emit(&waiting, &Outcome::none(Timestamp(end)), cx);
        }
    }
}

impl Waiting {
    fn timeout_ns(&self) -> u64 {
        let group = self.api.is_some_and(|api| matches!(api.key, JOIN_GROUP | SYNC_GROUP));
        let timeout = if group { GROUP_TIMEOUT_NS } else { TIMEOUT_NS };
        timeout.saturating_add(self.max_wait_ns)
    }
}

impl Kafka {
    fn new() -> Self {
        Self {
            requests: Framer::default(),
            responses: Framer::taking_cut_heads(),
            waiting: ById::default(),
            late: Late::default(),
            number: 0,
            one_way: None,
            answering: None,
            session: Subject::None,
            gapped: false,
            login: Login::None,
        }
    }

    /// Passes a token of a login; none where a request or a response begins, or where that is not known.
    fn token(&mut self, head: &Head<'_>, from: Sender) -> Option<Step> {
        if self.login == Login::None || head.resync {
            return None;
        }
        let length = match header::token_length(head.bytes) {
            Ok(length) => length,
            Err(End::Cut) if !head.last => return Some(Step::More),
            Err(_) => return None,
        };
        let next = match (from, self.login) {
            (Sender::Server, Login::Sent) => Login::Answered,
            // The client's token was not seen.
            (Sender::Server, Login::Begun) if self.waiting.is_empty() => Login::Answered,
            (Sender::Server, _) => return None,
            (Sender::Client, login) => {
                // Tokens that a client sends once it was answered do not read like a header.
                let found = match login {
                    Login::Answered => header::match_header(head.bytes),
                    _ => header::match_message(head.bytes),
                };
                match found {
                    MessageMatch::Cut if !head.last => return Some(Step::More),
                    MessageMatch::Cut | MessageMatch::No => Login::Sent,
                    MessageMatch::Request | MessageMatch::Perhaps(_) => return None,
                }
            }
        };
        self.login = next;
        Some(Step::Take(PREFIX as u64 + length))
    }

    fn client(&mut self, piece: &Piece<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Head(head) => {
                if let Some(step) = self.token(head, Sender::Client) {
                    return step;
                }
                if head.resync {
                    match header::match_message(head.bytes) {
                        MessageMatch::Request | MessageMatch::Perhaps(_) => {}
                        MessageMatch::Cut if !head.last => return Step::More,
                        MessageMatch::Cut | MessageMatch::No => return Step::Lost,
                    }
                }
                let (length, bytes) = match message(head, REQUEST_BYTES_MAX) {
                    Ok(found) => found,
                    Err(step) => return step,
                };
                let Ok(header) = header::request(bytes) else { return Step::Lost };
                let cut = head.lacks(PREFIX + length.min(REQUEST_BYTES_MAX));
                self.request(&header, cut, (PREFIX + length) as u64, head.at, cx);
                Step::Take((PREFIX + length) as u64)
            }
            Piece::End { at } => {
                if let Some(waiting) = self.one_way.take() {
                    let outcome =
                        Outcome { status: Status::None, error: ErrorClass::None, end: *at, bytes: 0 };
                    emit(&waiting, &outcome, cx);
                }
                Step::More
            }
            Piece::Gap => {
                cx.count_gap();
                // Where the next request begins is looked for, and what comes before it is no token.
                self.login = Login::None;
                if self.one_way.take().is_some() {
                    cx.unparsed();
                }
                Step::More
            }
        }
    }

    fn request(
        &mut self,
        header: &Header<'_>,
        cut: bool,
        bytes: u64,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        self.login = Login::None;
        cx.message();
        let api = api::of(header.key);
        let operation = match api {
            Some(api) => cx.word(api.name),
            None => cx.name(NameKind::Command, &format!("API{}", header.key)),
        };
        let (found, end) = header::body(header);
        let lacks = cut && found.lacks(end);
        let mut subject = subject(&found, cx);
        let mut operation = operation;
        if lacks {
            cx.incomplete();
            // It may name further topics, or none of those that it seems to.
            subject = Subject::Name(Symbol::OTHER);
            if header.key == FETCH && found.min_bytes.is_none() {
                // Perhaps a long poll.
                operation = Symbol::OTHER;
            }
        }
        let mut max_wait_ns = 0;
        if header.key == FETCH {
            if let Some(epoch) = found.epoch {
                subject = self.in_session(epoch, subject);
            }
            if found.min_bytes.is_some_and(|bytes| bytes > 0) {
                max_wait_ns = u64::try_from(found.max_wait).unwrap_or(0) * 1_000_000;
            }
        }
        self.number += 1;
        let resource = Resource::Name(Symbol::NONE);
        let request = Request { operation, resource, start: at, bytes };
        let number = self.number;
        // Behind bytes that are missing there may be further records.
        let batch = found.batch.filter(|_| header.key == PRODUCE && matches!(end, End::At(_)));
        let trace = batch.and_then(records::trace);
        let waiting = Waiting { request, api, version: header.version, subject, max_wait_ns, number, trace };
        if header.key == PRODUCE && found.acks == Some(0) {
            self.one_way = Some(waiting);
        } else if self
            .waiting
            .insert(header.correlation, waiting, cx.limits().pending_per_connection)
            .is_some()
        {
            cx.unparsed();
        }
    }

    /// What a fetch is about: epoch 0 begins a session, -1 ends it, others change it.
    fn in_session(&mut self, epoch: i32, named: Subject) -> Subject {
        if epoch == -1 {
            let session = std::mem::take(&mut self.session);
            return if named == Subject::None { session } else { named };
        }
        self.session = match (epoch, self.session, named) {
            (0, _, named) | (_, Subject::None, named) => named,
            (_, session, Subject::None) => session,
            (_, session, named) if session == named => session,
            _ => Subject::Several,
        };
        self.session
    }

    fn server(&mut self, piece: &Piece<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Head(head) => {
                if let Some(step) = self.token(head, Sender::Server) {
                    return step;
                }
                let (length, bytes) = match message(head, RESPONSE_BYTES_MAX) {
                    Ok(found) => found,
                    Err(step) => return step,
                };
                let Some((correlation, body)) = bytes.split_first_chunk() else { return Step::Lost };
                let correlation = i32::from_be_bytes(*correlation);
                let total = (PREFIX + length) as u64;
                match self.waiting.remove(correlation) {
                    Some(waiting) => {
                        if std::mem::take(&mut self.gapped) {
                            // Responses come in order: those before were lost.
                            while self
                                .waiting
                                .pop_oldest_if(|before| before.number < waiting.number)
                                .is_some()
                            {
                                cx.unparsed();
                            }
                        }
                        let cut = head.lacks(PREFIX + length.min(RESPONSE_BYTES_MAX));
                        let (status, error) = outcome(&waiting, body, cut, cx);
                        let is_handshake =
                            waiting.api.is_some_and(|api| api.key == SASL_HANDSHAKE) && waiting.version == 0;
                        if is_handshake && error == ErrorClass::None {
                            self.login = Login::Begun;
                        }
                        let outcome = Outcome { status, error, end: head.at, bytes: total };
                        self.answering = Some((waiting, outcome));
                    }
                    None if self.late.remove(&correlation) => {}
                    None if head.resync => return Step::Lost,
                    None => cx.orphan(),
                }
                Step::Take(total)
            }
            Piece::End { at } => {
                if let Some((waiting, outcome)) = self.answering.take() {
                    emit(&waiting, &Outcome { end: *at, ..outcome }, cx);
                }
                Step::More
            }
            Piece::Gap => {
                cx.count_gap();
                if self.login != Login::None {
                    // The answer may be lost. The client's tokens are still whole.
                    self.login = Login::Answered;
                }
                self.gapped = true;
                if self.answering.take().is_some() {
                    cx.unparsed();
                }
                Step::More
            }
        }
    }
}

/// The length of the message that starts here, and as much of it, behind its length, as is looked at.
fn message<'a>(head: &Head<'a>, most: usize) -> Result<(usize, &'a [u8]), Step> {
    let length = match header::length(head.bytes) {
        Ok(length) => length,
        Err(End::Cut) => return Err(Step::More),
        Err(_) => return Err(Step::Lost),
    };
    let wanted = length.min(most);
    let rest = head.bytes.get(PREFIX..).unwrap_or_default();
    match rest.get(..wanted) {
        Some(bytes) => Ok((length, bytes)),
        None if head.last => Ok((length, rest)),
        None => Err(Step::More),
    }
}

fn subject(found: &RequestFields<'_>, cx: &mut ConnectionContext<'_>) -> Subject {
    match found.topic {
        _ if found.topics > 1 => Subject::Several,
        None => Subject::None,
        Some(Topic::Name(name)) => Subject::Name(topic(name, cx)),
        Some(Topic::Id(id)) => Subject::Id(*id),
    }
}

fn topic(name: &[u8], cx: &mut ConnectionContext<'_>) -> Symbol {
    match std::str::from_utf8(name) {
        Ok(text) if header::is_topic(name) => cx.candidate(NameKind::Destination, text),
        _ => cx.word("{}"),
    }
}

/// Reads a response: its error, and the ids of topics.
fn outcome(
    waiting: &Waiting,
    body: &[u8],
    cut: bool,
    cx: &mut ConnectionContext<'_>,
) -> (Status, ErrorClass) {
    let Some(api) = waiting.api.filter(|api| waiting.version <= api.latest) else {
        return (Status::None, ErrorClass::None);
    };
    let Some(body) = header::response_body(body, api, waiting.version) else {
        return if cut { cx.unknown_status() } else { (Status::None, ErrorClass::None) };
    };
    let flexible = api.is_flexible(waiting.version);
    let mut named = |name: &[u8], id: &[u8; 16]| {
        // Servers give ids to topics that exist.
        let symbol = topic(name, cx);
        let symbol = cx.confirmed(symbol, Timestamp::default());
        cx.learn_id(*id, symbol);
    };
    let (found, end) = layout::read(body, api.response, waiting.version, flexible, &mut named);
    if cut && found.lacks(end) && found.error == 0 {
        return cx.unknown_status();
    }
    let status = match errors::name(found.error) {
        Some(word) => Status::Word(cx.word(word)),
        None if found.error == 0 => Status::None,
        None => Status::Word(cx.name(NameKind::ErrorWord, &format!("ERROR{}", found.error))),
    };
    (status, errors::class(found.error))
}

fn emit(waiting: &Waiting, outcome: &Outcome, cx: &mut ConnectionContext<'_>) {
    let mut request = waiting.request;
    let mut outcome = *outcome;
    let took = outcome.end.since(request.start);
    let in_time = waiting.max_wait_ns > 0 && took <= waiting.max_wait_ns.saturating_add(POLL_SLACK_NS);
    if in_time && matches!(outcome.error, ErrorClass::None | ErrorClass::NoResponse) {
        request.operation = cx.word("Fetch (long poll)");
        outcome.error = ErrorClass::None;
    }
    let symbol = match waiting.subject {
        Subject::None | Subject::Several => Symbol::NONE,
        Subject::Name(symbol) => symbol,
        Subject::Id(id) => cx.learned_id(id).unwrap_or(Symbol::NONE),
    };
    request.resource = Resource::Name(symbol);
    cx.set_trace(waiting.trace);
    cx.emit(Protocol::Kafka, &request, &outcome);
}
