//! Import of what the kernel followed of PostgreSQL: simple queries by name, and the state of a connection.

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol,
    offload::{ConnectionState, ExchangeDetail, FramingState, OffloadedExchange, ResultPhase, ResultState},
    parser::{ConnectionContext, Offloadable, Outcome, Request, Resource, Sender},
    postgres::{
        ClientData, ClientPosition, Execution, LastRequest, Next, Pairing, Phase, Postgres, ResponseState,
        ServerState, UNKNOWN_STATE, failure, wire, wire::HEADER_BYTES,
    },
    sql,
};

/// Emits an exchange that the kernel paired; returns whether an equal one will always have the same names.
pub(super) fn name_offloaded(found: &OffloadedExchange<'_>, cx: &mut ConnectionContext<'_>) -> bool {
    let ExchangeDetail::Postgresql { request: name, failed, text } = found.detail else { return false };
    let named = words(name, cx);
    let tag = if failed { None } else { wire::tag(text) };
    let (operation, table) = match named {
        Some((Some(operation), table)) => (operation, table),
        Some((None, table)) => (cx.word(tag.unwrap_or(sql::OTHER)), table),
        None => (Symbol::OTHER, Symbol::OTHER),
    };
    let table = if failed { table } else { cx.confirmed(table, found.end) };
    let resource = Resource::Name(table);
    let request = Request { operation, resource, start: found.start, bytes: found.request_bytes };
    let (status, error) = if failed {
        failure(wire::sqlstate(text).unwrap_or(UNKNOWN_STATE), cx)
    } else {
        (Status::None, ErrorClass::None)
    };
    let outcome = Outcome { status, error, end: found.end, bytes: found.response_bytes };
    cx.emit(Protocol::Postgresql, &request, &outcome);
    // What the tag names may be another the next time.
    !failed && matches!(named, Some((Some(_), table)) if !table.is_other())
}

/// Operation, where the statement has it, and table; `None` when nothing is known of it.
fn words(name: &[u8], cx: &mut ConnectionContext<'_>) -> Option<(Option<Symbol>, Symbol)> {
    let (operation, table) = sql::name::decode(name)?;
    let operation = (operation != sql::OTHER).then(|| cx.word(operation));
    Some((operation, cx.candidate(NameKind::Table, table)))
}

/// In place of a query that the kernel has seen.
const QUERY: &[u8] = b"Q\0\0\0\x0dSELECT 1\0";

impl Offloadable for Postgres {
    fn is_idle(&self) -> bool {
        self.phase == Phase::Commands
            && self.pairing == Pairing::Aligned
            && self.server_state == ServerState::Ready
            && self.client_position == ClientPosition::BetweenBatches
            && self.last_request == LastRequest::Offloadable
            && self.next == Next::Messages
            && self.response == ResponseState::Awaited
            && self.execution == Execution::Running
            && self.client_data == ClientData::Statements
            && !self.resync.is_desynced()
            && self.early.is_none()
            && self.completion.is_none()
            && self.batch.is_none()
            && self.message.is_none()
            && self.line.is_empty()
            && [&self.client, &self.server].iter().all(|framer| !framer.in_message() && !framer.is_lost())
    }

    /// The kernel continues with the client's next request: an answer whose end was not captured has ended.
    fn offload_accepted(&mut self, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        self.drop_line(cx);
        (self.client, self.server) = Default::default();
        self.server_position = self.server_bytes;
        self.message = None;
        self.server_state = ServerState::Ready;
        self.client_position = ClientPosition::BetweenBatches;
        self.pairing = Pairing::Aligned;
    }

    fn resume(&mut self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> bool {
        for waiting in resumed.pending {
            self.replay(Sender::Client, QUERY, resumed, cx);
            let (named, table) = words(waiting.request, cx).unwrap_or((None, Symbol::NONE));
            let other = if waiting.request.is_empty() { Symbol::OTHER } else { cx.word(sql::OTHER) };
            if let Some(item) = self.line.back_mut() {
                item.unnamed = named.is_none();
                item.request = Request {
                    operation: named.unwrap_or(other),
                    resource: Resource::Name(table),
                    start: waiting.start,
                    bytes: waiting.bytes,
                };
            }
        }
        let FramingState::Result(ResultState { phase, remaining: left, buffered }) =
            resumed.responses.framing
        else {
            return true;
        };
        let bytes = resumed.responses.bytes;
        if phase != ResultPhase::Start {
            self.server_state = ServerState::Busy;
            self.response = ResponseState::Begun;
            self.answer_start = self.server_position;
            self.answer_bytes = bytes;
        }
        if left > 0 {
            // Its header was counted already. Data to copy may be of any length, and is not read.
            self.answer_bytes = bytes.saturating_sub(HEADER_BYTES as u64);
            let length = u32::try_from(left + 4).unwrap_or(u32::MAX).to_be_bytes();
            self.replay(Sender::Server, &[&b"d"[..], &length].concat(), resumed, cx);
        }
        self.replay(Sender::Server, buffered.bytes(), resumed, cx);
        true
    }
}
