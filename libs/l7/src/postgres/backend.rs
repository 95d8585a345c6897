//! What the server sends: the progress and the end of the first item in line.

use crate::{
    NameKind, Protocol, Status, Symbol, Timestamp,
    names::PIPELINE_ABORTED,
    parser::{ConnectionContext, Outcome, Request, Resource, Sender},
    postgres::{
        ClientData, Completion, Execution, HEAD_MAX, Kind, Next, Pairing, Phase, Postgres, ResponseState,
        ServerState, Statement, UNKNOWN_STATE, class, failure,
        wire::{self, HEADER_BYTES},
    },
    resync::GapKind,
    stream::{Head, Step},
};

/// Bytes of an error that are looked at: severity and SQLSTATE stand first.
const ERROR_MAX: usize = 192;

/// The current message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    kind: u8,
    length: u64,
    position: u64,
    /// Of an error.
    state: Option<[u8; 5]>,
    /// Of a completion.
    operation: Option<&'static str>,
}

impl Postgres {
    pub(super) fn server_head(&mut self, head: &Head<'_>, before: u64) -> Step {
        if head.resync {
            self.server_position = before;
            if self.response == ResponseState::Truncated {
                // Within an answer nothing marks where a message starts.
                return Step::Lost;
            }
        }
        if self.phase == Phase::Start && !self.may_welcome(head) {
            return Step::Lost;
        }
        if self.phase == Phase::Encryption
            && let Some(answer @ (b'S' | b'N' | b'G')) = head.bytes.first()
        {
            let message = Message { kind: *answer, length: 1, position: 0, state: None, operation: None };
            self.message = Some(message);
            self.server_position += 1;
            return Step::Take(1);
        }
        let Some((header, content)) = wire::message(head.bytes) else { return Step::More };
        if !wire::is_backend(header) {
            return Step::Lost;
        }
        let wanted = match header.kind {
            b'C' => header.length,
            b'E' => header.length.min(ERROR_MAX),
            b'R' => HEADER_BYTES + 4,
            _ => HEADER_BYTES,
        };
        if head.bytes.len() < wanted.min(HEAD_MAX) && !head.last {
            return Step::More;
        }
        let state = if header.kind == b'E' { wire::sqlstate(content) } else { None };
        let operation = if header.kind == b'C' { wire::tag(content) } else { None };
        if head.resync && header.kind == b'E' && state.is_none() {
            return Step::Lost;
        }
        let length = header.length as u64;
        let position = self.server_position;
        self.message = Some(Message { kind: header.kind, length, position, state, operation });
        self.server_position += length;
        Step::Take(length)
    }

    /// A server that lets a client in whose startup message was not seen.
    fn may_welcome(&mut self, head: &Head<'_>) -> bool {
        let welcome = head.bytes.starts_with(b"R\0\0\0\x08\0\0\0\0");
        if welcome {
            self.phase = Phase::Login;
        }
        welcome
    }

    pub(super) fn server_end(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Some(message) = self.message.take() else { return };
        match self.phase {
            Phase::Encryption if message.length == 1 => match message.kind {
                b'S' => self.next = Next::Tls,
                b'G' => self.next = Next::Nothing,
                _ => self.phase = Phase::Start,
            },
            Phase::Commands => self.answer(&message, at, cx),
            Phase::Start | Phase::Login | Phase::Encryption => self.login_answer(&message, at, cx),
        }
    }

    fn login_answer(&mut self, message: &Message, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        match message.kind {
            b'Z' => {
                self.phase = Phase::Commands;
                self.pairing = Pairing::Aligned;
                self.server_state = ServerState::Ready;
            }
            b'E' => {
                cx.message();
                let request = Request {
                    operation: cx.word("CONNECT"),
                    resource: Resource::Name(Symbol::NONE),
                    start: self.login_start,
                    bytes: self.login_bytes,
                };
                let (status, error) = failure(message.state.unwrap_or(UNKNOWN_STATE), cx);
                let outcome = Outcome { status, error, end: at, bytes: self.server_position };
                cx.emit(Protocol::Postgresql, &request, &outcome);
                self.next = Next::Nothing;
            }
            _ => {}
        }
    }

    fn answer(&mut self, message: &Message, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if matches!(message.kind, b'N' | b'A' | b'S' | b'R' | b'K' | b'v') {
            return;
        }
        self.server_state = ServerState::Busy;
        if self.response == ResponseState::Awaited {
            self.response = ResponseState::Begun;
            self.answer_start = message.position;
            self.answer_bytes = 0;
        }
        self.answer_bytes += message.length;
        match message.kind {
            b'C' | b'I' | b's' => self.completed(message.operation, at, cx),
            b'E' => self.failed(message.state.unwrap_or(UNKNOWN_STATE), at, cx),
            b'Z' => self.is_ready(at, cx),
            b'1' => self.parsed(at, cx),
            b'T' | b'D' | b'H' => self.next_begins(cx),
            b'G' => {
                self.next_begins(cx);
                if let Some(front) = self.line.front_mut() {
                    self.client_data = ClientData::Copy;
                    if front.kind == Kind::Execute {
                        // The server passes over a `Sync` before the data; another follows them.
                        front.sync = false;
                    }
                }
            }
            b'W' => {
                // Replication: no statements from here on.
                self.completed(None, at, cx);
                self.finish_held(cx);
                self.next = Next::Nothing;
            }
            _ => {}
        }
    }

    /// Of a simple query the next statement begins.
    fn next_begins(&mut self, cx: &mut ConnectionContext<'_>) {
        if self.completion.is_some() && self.line.front().is_some_and(|front| front.kind == Kind::Query) {
            self.advance(cx);
        }
    }

    /// Emits a statement of a simple query; the next one is current.
    fn advance(&mut self, cx: &mut ConnectionContext<'_>) {
        let (Some(completion), Some(mut item)) = (self.completion.take(), self.line.pop_front()) else {
            return;
        };
        let bytes = self.answer_bytes.saturating_sub(completion.bytes);
        self.emit(&item, completion, cx);
        let next = item.further.pop_front().unwrap_or(Statement::UNKNOWN);
        cx.message();
        item.request.operation = cx.word(next.operation.unwrap_or(crate::sql::OTHER));
        item.request.resource = Resource::Name(next.table);
        item.request.bytes = 0;
        item.unnamed = next.operation.is_none();
        self.line.push_front(item);
        self.response = ResponseState::Begun;
        self.answer_bytes = bytes;
        self.answer_start += completion.bytes;
    }

    fn completed(&mut self, operation: Option<&'static str>, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        while self.line.front().is_some_and(|front| front.kind == Kind::Prepare) {
            // Its own answer was passed over.
            self.hold(None, at);
            self.finish_held(cx);
        }
        if self.completion.is_some() {
            self.advance(cx);
        }
        let Some(front) = self.line.front_mut().filter(|front| front.kind != Kind::Sync) else {
            if self.pairing == Pairing::Aligned {
                cx.orphan();
                self.pairing = Pairing::LoneBatch;
                self.resync.desync(Sender::Client, GapKind::Lost);
            }
            return;
        };
        if front.unnamed
            && let Some(operation) = operation
        {
            front.request.operation = cx.word(operation);
            front.unnamed = false;
        }
        let lasts = front.sync;
        self.client_data = ClientData::Statements;
        self.hold(None, at);
        if !lasts {
            self.finish_held(cx);
        }
    }

    fn parsed(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some(front) = self.line.front()
            && front.kind == Kind::Prepare
            && !front.sync
        {
            self.hold(None, at);
            self.finish_held(cx);
        }
    }

    pub(super) fn failed(&mut self, state: [u8; 5], at: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Some(front) = self.line.front() else {
            // What caused it is still being sent, or it is the connection's end.
            self.early = self.batch.is_some().then_some((state, at));
            return;
        };
        if self.execution != Execution::Running {
            return;
        }
        let (lasts, more) = (front.sync, !front.further.is_empty());
        self.execution = Execution::Skipping(class(state));
        self.client_data = ClientData::Statements;
        if front.kind == Kind::Sync {
            return;
        }
        if front.kind == Kind::Query && more && self.completion.is_some() {
            self.advance(cx);
        }
        self.hold(Some(state), at);
        if !lasts {
            self.finish_held(cx);
        }
    }

    fn hold(&mut self, state: Option<[u8; 5]>, end: Timestamp) {
        self.completion = Some(Completion { state, unknown: false, end, bytes: self.answer_bytes });
    }

    fn finish_held(&mut self, cx: &mut ConnectionContext<'_>) {
        if let (Some(completion), Some(item)) = (self.completion.take(), self.line.pop_front()) {
            self.emit(&item, completion, cx);
        }
    }

    /// Everything up to the first `Sync` has been answered.
    fn is_ready(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.server_state = ServerState::Ready;
        self.client_data = ClientData::Statements;
        self.resync.response();
        if self.line.is_empty() && self.pairing == Pairing::Aligned {
            // What it answers was lost.
            self.pairing = Pairing::LoneBatch;
            self.resync.desync(Sender::Client, GapKind::Lost);
        }
        while let Some(item) = self.line.pop_front() {
            let sync = item.sync;
            match (item.kind, self.completion.take()) {
                (Kind::Sync, _) => self.response = ResponseState::Awaited,
                (_, Some(completion)) => {
                    self.emit(&item, Completion { end: at, bytes: self.answer_bytes, ..completion }, cx);
                }
                (Kind::Prepare | Kind::Function, None) if self.execution == Execution::Running => {
                    let bytes = self.answer_bytes;
                    self.emit(&item, Completion { state: None, unknown: false, end: at, bytes }, cx);
                }
                (_, None) => match self.execution {
                    Execution::Skipping(error) => {
                        self.response = ResponseState::Awaited;
                        let status = Status::Word(cx.name(NameKind::ErrorWord, PIPELINE_ABORTED));
                        let outcome = Outcome { status, error, end: at, bytes: 0 };
                        cx.emit(Protocol::Postgresql, &item.request, &outcome);
                    }
                    Execution::Running => cx.unparsed(),
                },
            }
            if sync {
                self.pairing = Pairing::Aligned;
                break;
            }
        }
        self.execution = Execution::Running;
        self.response = ResponseState::Awaited;
        self.answer_bytes = 0;
    }

    /// Bytes of the server are missing.
    pub(super) fn server_gap(&mut self, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        self.message = None;
        if self.phase != Phase::Commands {
            return;
        }
        self.server_state = ServerState::Busy;
        let lone = self.line.len() == 1 && self.line.front().is_some_and(|front| front.sync);
        if lone
            && self.pairing == Pairing::Aligned
            && self.response != ResponseState::Awaited
            && gap == GapKind::Truncated
        {
            cx.count_gap();
            self.response = ResponseState::Truncated;
        } else if self.response == ResponseState::Truncated && gap == GapKind::Truncated {
            // None of its bytes could be read.
            cx.count_gap();
        } else if gap == GapKind::Lost || self.pairing == Pairing::Aligned || !self.line.is_empty() {
            self.lose(Sender::Server, gap, cx);
        }
    }
}
