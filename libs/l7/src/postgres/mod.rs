//! PostgreSQL: one exchange per statement, simple and extended protocol.
//!
//! ```text
//! Segment → Framer (one per direction) → frontend: Item in line → backend: its result → Exchange
//! ```
//!
//! - The operation is the statement's, or the one that the server's command tag names. An `Execute` resolves to what
//!   was parsed, through its portal and named statement; both are remembered within bounds. One that continues a
//!   suspended portal is `FETCH`; a `Parse` that nothing executes in the same batch is `PREPARE`.
//! - Each statement of a simple query is an exchange of its own, from the query's first byte.
//! - The last statement before a `Sync`, and of a simple query, lasts until the server is ready again: the transaction
//!   is committed in between. Others end with their own completion.
//! - Behind an error the server passes over everything up to the next `Sync`: those statements have the status
//!   `PIPELINE_ABORTED`, as libpq calls it, and the class of that error.
//! - The status is the SQLSTATE. Logins are no exchanges; one that the server refuses is one, `CONNECT`.
//! - `COPY` is one exchange with all its data. Notices, notifications and parameters answer nothing.
//! - Where the capture of a long answer is cut, its end is recognised by its last bytes, or is the last byte before the
//!   next request: a client that does not pipeline waits for it.
//! - TLS is handed to its own parser; GSSAPI encryption, cancellations and replication are ignored.
//!
//! Only the statement's verb, its table and the SQLSTATE leave this module.

mod backend;
mod detect;
mod frontend;
mod offload;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp,
    parser::{
        ConnectionContext, Entry, Flow, Framing, Offload, Offloadable, Outcome, Parser, Request, Segment,
        Sender, Start, Transport,
    },
    pending::ById,
    postgres::{
        backend::Message,
        frontend::{Batch, Portal},
        wire::Tail,
    },
    resync::{GapKind, ResponsePosition, Resync},
    sql,
    stream::{Framer, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Postgresql,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |_: Start| {
        let resync = Resync::optimistic();
        Box::new(Postgres { resync, ..Postgres::default() })
    },
    offload: Some(Offload { name: offload::name_offloaded, restore: None }),
};

/// Bytes of a message that are looked at.
const HEAD_MAX: usize = 4096;

/// Most prepared statements that are remembered on one connection.
const STATEMENTS_MAX: usize = 512;

/// Most named portals that are remembered on one connection.
const PORTALS_MAX: usize = 64;

/// Most statements of a simple query that are distinguished by their text.
const FURTHER_MAX: usize = 32;

/// Stands for an SQLSTATE that was not captured.
const UNKNOWN_STATE: [u8; 5] = [0; 5];

/// An answer of which the end was not captured has ended after this time without bytes, nanoseconds.
const PAUSE: u64 = 2_000_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing is known.
    #[default]
    Start,
    /// The client requested encryption.
    Encryption,
    /// The client has sent its startup message.
    Login,
    Commands,
}

/// What a statement is about.
#[derive(Clone, Copy, Debug)]
struct Statement {
    /// `None` when its text was not seen.
    operation: Option<&'static str>,
    table: Symbol,
}

impl Statement {
    const UNKNOWN: Self = Self { operation: None, table: Symbol::NONE };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Query,
    Execute,
    Prepare,
    Function,
    /// A `Sync` with nothing of its own before it.
    Sync,
}

/// What the server answers in turn.
#[derive(Debug)]
struct Item {
    kind: Kind,
    request: Request,
    /// The operation is to be taken from the command tag.
    unnamed: bool,
    /// `ReadyForQuery` follows.
    sync: bool,
    /// The further statements of a simple query.
    further: VecDeque<Statement>,
}

/// The result of a statement, when it may last a little longer.
#[derive(Clone, Copy, Debug)]
struct Completion {
    state: Option<[u8; 5]>,
    /// Whether there is a state is among bytes that are missing.
    unknown: bool,
    end: Timestamp,
    bytes: u64,
}

/// Where the client's next message stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ClientPosition {
    /// The last message ended a batch: a simple query, or `Sync`.
    #[default]
    BetweenBatches,
    InBatch,
}

/// The response to the first request in line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ResponseState {
    #[default]
    Awaited,
    Begun,
    /// Its end was not captured: its tail, the next request or a pause shows that it has ended.
    Truncated,
}

/// What the server does with the messages of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Execution {
    #[default]
    Running,
    /// Behind an error of this class nothing is executed up to the next `Sync`.
    Skipping(ErrorClass),
}

/// What the client sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ClientData {
    #[default]
    Statements,
    /// Data of a `COPY … FROM STDIN`.
    Copy,
}

/// Whether requests and responses are known to correspond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pairing {
    #[default]
    Unknown,
    /// Only the batch at hand is known to be answered next.
    LoneBatch,
    Aligned,
}

/// What the server does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ServerState {
    /// It waits for a request.
    #[default]
    Ready,
    /// It answers, or nothing is known.
    Busy,
}

/// What is known about the last request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastRequest {
    /// A simple query, which the kernel can follow without knowing more about the connection.
    Offloadable,
    /// It may change the connection's state.
    #[default]
    Stateful,
}

/// What comes next on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// Messages.
    #[default]
    Messages,
    /// TLS.
    Tls,
    /// Nothing that can be followed: another encryption, replication, or the connection's end.
    Nothing,
}

/// Statements for which room is kept when none waits.
const LINE_KEPT: usize = 1024;

/// One connection.
#[derive(Debug, Default)]
struct Postgres {
    client: Framer,
    server: Framer,
    phase: Phase,
    login_start: Timestamp,
    login_bytes: u64,
    line: VecDeque<Item>,
    /// What the client has begun and not yet executed.
    batch: Option<Batch>,
    client_position: ClientPosition,
    statements: ById<u64, Statement>,
    unnamed_statement: Option<Statement>,
    portals: ById<u64, Portal>,
    unnamed_portal: Portal,
    /// The current message of the server.
    message: Option<Message>,
    completion: Option<Completion>,
    /// Of the first in line.
    response: ResponseState,
    /// Its bytes so far, and where it started in the server's stream.
    answer_bytes: u64,
    answer_start: u64,
    execution: Execution,
    /// An error that was sent before its cause was complete.
    early: Option<([u8; 5], Timestamp)>,
    client_data: ClientData,
    pairing: Pairing,
    resync: Resync,
    server_state: ServerState,
    server_bytes: u64,
    server_position: u64,
    server_at: Timestamp,
    last_request: LastRequest,
    next: Next,
    scratch: String,
}

impl Parser for Postgres {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        match segment.from {
            Sender::Client => {
                if segment.is_unreadable() && !self.client.in_message() {
                    self.finish_truncated(cx);
                }
                self.client_segment(segment);
                let mut framer = std::mem::take(&mut self.client);
                let total = segment.bytes.len() as u64 + segment.truncated;
                framer.segment(segment, HEAD_MAX, |piece| match piece {
                    Piece::Head(head) => self.client_head(&head, total, cx),
                    Piece::End { .. } => self.next_step(),
                    Piece::Gap => {
                        self.client_gap(gap_kind(segment), cx);
                        Step::Lost
                    }
                });
                self.client = framer;
            }
            Sender::Server => self.server_segment(segment, cx),
        }
        if self.line.is_empty() {
            self.line.shrink_to(LINE_KEPT);
        }
        match self.next {
            Next::Messages => Flow::Continue,
            Next::Tls => {
                self.drop_line(cx);
                Flow::Switch { to: Protocol::Tls, rest: 0, handover: None, unrecognised: None }
            }
            Next::Nothing => {
                self.drop_line(cx);
                Flow::Done
            }
        }
    }

    fn offloadable(&mut self) -> Option<&mut dyn Offloadable> {
        Some(self)
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if now.since(self.server_at) > PAUSE {
            self.finish_truncated(cx);
        }
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            // What was begun and is not executed any more is no statement.
            Sender::Client => match (self.client.framing(), &self.batch) {
                (Framing::Head(bytes), Some(batch)) => Framing::Head(bytes.saturating_add(batch.bytes())),
                (framing, _) => framing,
            },
            Sender::Server => self.server.framing(),
        }
    }

    fn pending(&self) -> usize {
        self.line.len()
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        if let Some(completion) = self.completion.take()
            && let Some(item) = self.line.pop_front()
        {
            self.emit(&item, completion, cx);
        }
        while let Some(item) = self.line.pop_front() {
            if item.kind != Kind::Sync {
                cx.emit(Protocol::Postgresql, &item.request, &Outcome::none(now));
            }
        }
    }
}

/// Why bytes are missing that a segment's framing cannot account for.
fn gap_kind(segment: &Segment<'_>) -> GapKind {
    if segment.gap > 0 { GapKind::Lost } else { GapKind::Truncated }
}

impl Postgres {
    fn client_segment(&mut self, segment: &Segment<'_>) {
        if segment.gap > 0 {
            self.resync.desync(Sender::Client, GapKind::Lost);
        }
        let lost = segment.gap > 0 || self.client.is_lost();
        let starts = if lost {
            matches!(segment.bytes.first(), Some(b'Q' | b'P' | b'B' | b'F' | b'S'))
        } else {
            self.client_position == ClientPosition::BetweenBatches
                && !self.client.in_message()
                && !segment.bytes.is_empty()
        };
        if starts && self.server_state == ServerState::Ready && self.server.is_lost() {
            // What comes next is an answer from its start.
            self.server = Framer::default();
            self.server_position = self.server_bytes;
            self.message = None;
        }
        let half = self.server.in_message() && self.response != ResponseState::Truncated;
        self.resync.client(
            segment,
            starts,
            match () {
                () if self.response == ResponseState::Truncated => ResponsePosition::Unbounded,
                () if half => ResponsePosition::Inside,
                () => ResponsePosition::Boundary,
            },
        );
    }

    fn server_segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) {
        self.resync.server(segment);
        if segment.gap > 0 && (self.response == ResponseState::Truncated || self.server.is_lost()) {
            self.lose(Sender::Server, GapKind::Lost, cx);
        }
        let before = self.server_bytes + segment.gap;
        self.server_at = segment.at;
        if self.is_unread(segment) {
            self.response = ResponseState::Truncated;
            self.answer_start = before;
        }
        let mut framer = std::mem::take(&mut self.server);
        framer.segment(segment, HEAD_MAX, |piece| match piece {
            Piece::Head(head) => self.server_head(&head, before),
            Piece::End { at } => {
                self.server_end(at, cx);
                self.next_step()
            }
            Piece::Gap => {
                self.server_gap(gap_kind(segment), cx);
                Step::Lost
            }
        });
        self.server_bytes = before + segment.bytes.len() as u64 + segment.truncated;
        let desynced = self.phase == Phase::Commands && self.resync.is_desynced();
        if desynced && framer.in_message() && segment.truncated == 0 && wire::tail(segment.bytes).is_some() {
            // What was taken for a message in the middle of another is none: here the server waits.
            framer = Framer::default();
            self.server_position = self.server_bytes;
            self.message = None;
            self.server_state = ServerState::Ready;
            self.resync.desync(Sender::Server, GapKind::Malformed);
        }
        if framer.is_lost() && self.phase == Phase::Commands {
            if desynced {
                // How much it answered is unknown.
                self.resync.desync(Sender::Server, GapKind::Malformed);
            }
            let tail = wire::tail(segment.bytes).filter(|_| segment.truncated == 0);
            self.server_state = if tail.is_some() { ServerState::Ready } else { ServerState::Busy };
            if let Some(tail) = tail.filter(|_| self.response == ResponseState::Truncated) {
                self.finish_by_tail(tail, cx);
            }
        }
        self.server = framer;
    }

    /// Whether a segment that could not be read is of the answer to the only batch that waits.
    fn is_unread(&self, segment: &Segment<'_>) -> bool {
        segment.is_unreadable()
            && self.phase == Phase::Commands
            && self.pairing == Pairing::Aligned
            && self.response == ResponseState::Awaited
            && !self.server.in_message()
            && self.line.len() == 1
            && self.line.front().is_some_and(|front| front.sync)
    }

    /// What the framer does at the end of a message.
    fn next_step(&self) -> Step {
        if self.next == Next::Messages { Step::Lost } else { Step::Stop }
    }

    /// Emits the exchange of an item's first statement.
    fn emit(&mut self, item: &Item, completion: Completion, cx: &mut ConnectionContext<'_>) {
        let (status, error) = match completion.state {
            Some(state) => failure(state, cx),
            None if completion.unknown => cx.unknown_status(),
            None => (Status::None, ErrorClass::None),
        };
        let outcome = Outcome { status, error, end: completion.end, bytes: completion.bytes };
        cx.emit(Protocol::Postgresql, &item.request, &outcome);
        self.response = ResponseState::Awaited;
        self.answer_bytes = 0;
    }

    /// The answer whose end was not captured has ended.
    fn finish_truncated(&mut self, cx: &mut ConnectionContext<'_>) {
        if self.response == ResponseState::Truncated {
            self.finish_by_tail(Tail::Unknown, cx);
        }
    }

    fn finish_by_tail(&mut self, tail: Tail, cx: &mut ConnectionContext<'_>) {
        self.response = ResponseState::Awaited;
        let Some(mut item) = self.line.pop_front() else { return };
        self.resync.response();
        let known = self.completion.take();
        let (state, operation) = match tail {
            Tail::Failed(state) => (Some(state), None),
            Tail::Complete(operation) => (None, operation),
            Tail::Unknown => (known.and_then(|completion| completion.state), None),
        };
        let unknown = tail == Tail::Unknown && known.is_none();
        if item.unnamed
            && let Some(operation) = operation
        {
            item.request.operation = cx.word(operation);
        }
        let bytes = self.server_bytes.saturating_sub(self.answer_start);
        if item.kind != Kind::Sync {
            self.emit(&item, Completion { state, unknown, end: self.server_at, bytes }, cx);
        }
        self.response = ResponseState::Awaited;
        self.execution = Execution::Running;
        self.client_data = ClientData::Statements;
    }

    /// Bytes are missing: nothing that waits can be paired any more.
    fn lose(&mut self, of: Sender, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        cx.count_gap();
        self.resync.desync(of, gap);
        self.drop_line(cx);
        self.pairing = Pairing::Unknown;
    }

    fn drop_line(&mut self, cx: &mut ConnectionContext<'_>) {
        self.completion = None;
        self.response = ResponseState::Awaited;
        self.answer_bytes = 0;
        self.client_data = ClientData::Statements;
        self.execution = Execution::Running;
        self.early = None;
        self.batch = None;
        while let Some(item) = self.line.pop_front() {
            if item.kind != Kind::Sync {
                cx.unparsed();
            }
        }
    }

    fn shape(&mut self, text: &[u8], complete: bool, cx: &mut ConnectionContext<'_>) -> Statement {
        let operation = sql::shape(sql::Dialect::Postgresql, text, complete, &mut self.scratch);
        let table = cx.candidate(NameKind::Table, &self.scratch);
        self.scratch.clear();
        Statement { operation: (operation != sql::OTHER).then_some(operation), table }
    }
}

/// What an error comes to.
fn failure(state: [u8; 5], cx: &mut ConnectionContext<'_>) -> (Status, ErrorClass) {
    if state == UNKNOWN_STATE {
        return (cx.unknown_status().0, ErrorClass::Client);
    }
    let text = std::str::from_utf8(&state).unwrap_or_default();
    (Status::Word(cx.name(NameKind::ErrorWord, text)), class(state))
}

/// Whose fault an error is (PostgreSQL manual, appendix "PostgreSQL Error Codes"): connections, transactions that
/// could not be serialised, resources, limits, intervention, locks not granted, system, configuration and internal
/// errors are the server's.
pub(crate) fn class(state: [u8; 5]) -> ErrorClass {
    match state {
        [b'0', b'8', ..]
        | [b'4' | b'F', b'0', ..]
        | [b'5', b'3' | b'4' | b'7' | b'8', ..]
        | [b'X', b'X', ..]
        | [b'5', b'5', b'P', b'0', b'3'] => ErrorClass::Server,
        _ => ErrorClass::Client,
    }
}
