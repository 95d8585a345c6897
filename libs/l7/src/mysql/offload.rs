//! Import of what the kernel followed of MySQL: commands and answers by name, and the state of a connection.

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol,
    mysql::{
        AnswerFraming, CurrentResponse, LastCommand, Mysql, Next, PacketRole, Pairing, Phase, Waiting,
        command,
        command::Shape,
        outcome,
        response::{Response, Stage},
        wire,
    },
    offload::{ConnectionState, ExchangeDetail, FramingState, OffloadedExchange, ResultPhase, ResultState},
    parser::{ConnectionContext, Offloadable, Outcome, Request, Resource, Sender},
    sql,
};

/// Emits an exchange that the kernel paired; returns whether an equal one will always have the same names.
pub(super) fn name_offloaded(found: &OffloadedExchange<'_>, cx: &mut ConnectionContext<'_>) -> bool {
    let ExchangeDetail::Mysql { request: name, error: failure } = found.detail else { return false };
    let (operation, mut table, _) = words(name, cx);
    if failure.is_none() {
        table = cx.confirmed(table, found.end);
    }
    let request = Request {
        operation,
        resource: Resource::Name(table),
        start: found.start,
        bytes: found.request_bytes,
    };
    let (status, error) = match failure {
        None => (Status::None, ErrorClass::None),
        Some(text) => wire::failure_behind(text).map_or((Status::None, ErrorClass::Client), outcome),
    };
    cx.emit(
        Protocol::Mysql,
        &request,
        &Outcome { status, error, end: found.end, bytes: found.response_bytes },
    );
    failure.is_none() && !operation.is_other() && !table.is_other()
}

/// Operation, table and shape of the answer.
fn words(name: &[u8], cx: &mut ConnectionContext<'_>) -> (Symbol, Symbol, Shape) {
    if let [number] = name
        && let Some(command) = command::command(*number)
    {
        return (cx.word(command.name), Symbol::NONE, command.answer.unwrap_or(Shape::Single));
    }
    match sql::name::decode(name) {
        Some((operation, table)) => {
            (cx.word(operation), cx.candidate(NameKind::Table, table), Shape::Results)
        }
        None => (Symbol::OTHER, Symbol::OTHER, Shape::Results),
    }
}

impl Offloadable for Mysql {
    fn is_idle(&self) -> bool {
        self.phase == Phase::Commands
            && self.is_aligned()
            && self.last_command == LastCommand::Offloadable
            && self.next == Next::Packets
            && self.client_packet == PacketRole::First
            && self.server_packet == PacketRole::First
            && self.stray.is_none()
            && self.waiting.is_empty()
            && self.answer.is_none()
            && [&self.client, &self.server].iter().all(|framer| !framer.in_message() && !framer.is_lost())
    }

    fn export_statements(&mut self, export: &mut dyn FnMut(u32, Symbol, Symbol)) {
        self.statements.for_each_entry_mut(|id, statement| {
            if !std::mem::replace(&mut statement.exported, true) {
                export(id, statement.operation, statement.table);
            }
        });
    }

    /// The kernel continues with the client's next request: an answer whose end was not captured has ended.
    fn offload_accepted(&mut self, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        self.drop_waiting(cx);
        (self.client, self.server) = Default::default();
        self.server_position = self.server_bytes;
        self.stray = None;
        self.pairing = Pairing::Aligned;
    }

    fn resume(&mut self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> bool {
        // The kernel may have dropped them: each is exported again.
        self.statements.for_each_mut(|statement| statement.exported = false);
        for waiting in resumed.pending {
            cx.message();
            let (operation, table, shape) = words(waiting.request, cx);
            let resource = Resource::Name(table);
            let request = Request { operation, resource, start: waiting.start, bytes: waiting.bytes };
            let _ = self.waiting.push(Waiting { request, shape, statement: None, sequence: 1 }, usize::MAX);
        }
        if let FramingState::CommandHeader(length) = resumed.requests.framing {
            let [low, middle, high, ..] = length.to_le_bytes();
            self.replay(Sender::Client, &[low, middle, high, 0], resumed, cx);
        }
        let FramingState::Result(ResultState { phase, remaining: left, buffered }) =
            resumed.responses.framing
        else {
            return true;
        };
        let stage = match phase {
            ResultPhase::Start => Stage::First,
            // The current packet was counted already.
            ResultPhase::Columns(columns) => Stage::Columns(u64::from(columns) + u64::from(left > 0)),
            ResultPhase::BehindColumns if left > 0 => Stage::Columns(1),
            ResultPhase::BehindColumns => Stage::BehindColumns,
            ResultPhase::Rows => Stage::Rows,
        };
        let bytes = resumed.responses.bytes;
        if bytes > 0 {
            let shape = self.waiting.front().map_or(Shape::Results, |front| front.shape);
            self.answer = Some(CurrentResponse {
                response: Response::at(shape, stage),
                start: self.server_position,
                bytes,
                sequence: None,
                end: None,
                framing: AnswerFraming::Followed,
            });
        }
        if left > 0 {
            // At least a byte of its payload is behind.
            let [low, middle, high, ..] = (left + 1).to_le_bytes();
            self.replay(Sender::Server, &[low, middle, high, 0, 0], resumed, cx);
            if let Some(answer) = &mut self.answer {
                answer.sequence = None;
                answer.bytes = bytes + left;
            }
        }
        self.replay(Sender::Server, buffered.bytes(), resumed, cx);
        true
    }
}
