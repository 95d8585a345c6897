//! The way back from the programs to the agent: what they know of a connection or an exchange, as `l7` needs it.

use porthole_bpf_types::{
    kernel_key::{CONTEXT_MAX, Completed, RequestKey, TEXT_MAX},
    offload::{
        OffloadedConnection, PENDING_MAX, ParseState, PendingRequest, framing_state, request_flag, side,
    },
};
use porthole_l7::{
    ClientId, Connection, ParserContext, ScopeId, Side, Timestamp, TraceContext,
    offload::{
        BufferedBytes, ConnectionState, DirectionState, ExchangeDetail, FramingState, OffloadedExchange,
        ResultPhase, ResultState,
    },
    redis_commands,
};
use porthole_protocol::Offload;

use super::kernel_keys::KernelKeys;

/// An exchange that the programs paired; `None` when it is of no known protocol.
pub fn exchange<'a>(
    scope: ScopeId,
    client: ClientId,
    completed: &Completed,
    name: &'a [u8],
    text: &'a [u8],
) -> Option<OffloadedExchange<'a>> {
    let failed = completed.status != 0;
    let line = text.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let offload = Offload::from_number(u16::try_from(completed.key.protocol).ok()?)?;
    let detail = match offload {
        Offload::Http1 => {
            ExchangeDetail::Http1 { request: name, status: u16::try_from(completed.status).ok()? }
        }
        Offload::Redis => ExchangeDetail::Redis {
            command: usize::try_from(completed.key.request).ok()?,
            error: failed.then_some(line),
        },
        Offload::Mysql => ExchangeDetail::Mysql { request: name, error: failed.then_some(text) },
        Offload::Postgresql => ExchangeDetail::Postgresql { request: name, failed, text },
    };
    Some(OffloadedExchange {
        detail,
        scope,
        client,
        side: side_of(u16::try_from(completed.key.side).ok()?),
        start: Timestamp(completed.start),
        end: Timestamp(completed.end),
        request_bytes: completed.request_bytes,
        response_bytes: completed.response_bytes,
        trace: (offload == Offload::Http1).then(|| trace(&completed.text)).flatten(),
    })
}

/// The beginning of an outcome's text, as it was captured.
pub fn text(completed: &Completed) -> Vec<u8> {
    completed.text.iter().take(TEXT_MAX / 8).flat_map(|word| word.to_ne_bytes()).collect()
}

/// The trace that lines of a request's head name, if there are any.
fn trace(lines: &[u64; CONTEXT_MAX / 8]) -> Option<TraceContext> {
    let mut bytes = [0; CONTEXT_MAX];
    bytes.as_chunks_mut().0.iter_mut().zip(lines).for_each(|(to, word)| *to = word.to_ne_bytes());
    if bytes[0] == 0 { None } else { TraceContext::of_lines(&bytes) }
}

/// `l7` resumes the connection.
pub fn resume(
    connection: &mut Connection,
    scope: ScopeId,
    offloaded: &OffloadedConnection,
    keys: &KernelKeys,
    context: &mut ParserContext,
) {
    let Some(offload) = Offload::from_number(offloaded.protocol) else { return };
    let name_of = |request: u64| match offload {
        Offload::Redis => redis_name(request),
        Offload::Http1 | Offload::Mysql | Offload::Postgresql => keys.name(&RequestKey {
            cgroup: offloaded.cgroup,
            remote: offloaded.remote,
            request,
            protocol: offloaded.protocol.into(),
            side: offloaded.side.into(),
        }),
    };
    let pending: Vec<porthole_l7::offload::PendingRequest<'_>> = numbered(offloaded)
        .map(|(number, pending)| porthole_l7::offload::PendingRequest {
            request: name_of(pending.request),
            start: Timestamp(pending.start),
            bytes: pending.bytes.into(),
            head: pending.flags & request_flag::HEAD != 0,
            trace: (offloaded.context_of == u64::from(number) + 1)
                .then(|| trace(&offloaded.context))
                .flatten(),
        })
        .collect();
    let name = if offload == Offload::Redis { redis_name(offloaded.requests.request) } else { &[] };
    let state = ConnectionState {
        protocol: offload.protocol(),
        side: side_of(offloaded.side),
        offsets: offloaded.offset,
        requests: DirectionState { name, ..end(&offloaded.requests) },
        responses: if offload.is_sql() { answer(&offloaded.responses) } else { end(&offloaded.responses) },
        pending: &pending,
    };
    connection.resume(scope, &state, context);
}

/// The pending requests with their numbers, the oldest first.
fn numbered(offloaded: &OffloadedConnection) -> impl Iterator<Item = (u32, &PendingRequest)> {
    let count = (offloaded.pushed.wrapping_sub(offloaded.popped) as usize).min(PENDING_MAX);
    let oldest = offloaded.popped as usize % PENDING_MAX;
    let numbers = (0..).map(|index| offloaded.popped.wrapping_add(index));
    numbers.zip(offloaded.pending.iter().cycle().skip(oldest).take(count))
}

fn redis_name(command: u64) -> &'static [u8] {
    let mut commands = redis_commands();
    let found = commands.find(|(id, ..)| u64::try_from(*id) == Ok(command));
    found.map_or(&[], |(_, name, _)| name.as_bytes())
}

fn side_of(side: u16) -> Side {
    if side == side::CLIENT { Side::Client } else { Side::Server }
}

/// The same of a database's answers.
fn answer(state: &ParseState) -> DirectionState<'static> {
    let phase = match state.framing {
        framing_state::COLUMNS => ResultPhase::Columns(state.items),
        framing_state::AFTER_COLUMNS => ResultPhase::BehindColumns,
        framing_state::ROWS => ResultPhase::Rows,
        _ => ResultPhase::Start,
    };
    let framing = FramingState::Result(ResultState {
        phase,
        remaining: state.left.into(),
        buffered: BufferedBytes::of(state.buffered.into(), state.buffered_len.into()),
    });
    DirectionState { framing, bytes: state.bytes, start: Timestamp(state.start), status: 0, name: &[] }
}

fn end(state: &ParseState) -> DirectionState<'static> {
    let framing = match state.framing {
        framing_state::BODY => FramingState::Body(state.left.into()),
        framing_state::CHUNK_DATA => FramingState::ChunkData(state.left.into()),
        framing_state::CHUNK_SIZE => FramingState::ChunkSize,
        framing_state::FIRST_BYTE_READ => {
            FramingState::FirstByte(u8::try_from(state.buffered).unwrap_or_default())
        }
        framing_state::HEADER_READ => FramingState::CommandHeader(state.left.into()),
        framing_state::VALUES => FramingState::Values { remaining: state.left.into(), items: state.items },
        _ => FramingState::Start,
    };
    DirectionState {
        framing,
        bytes: state.bytes,
        start: Timestamp(state.start),
        status: state.status,
        name: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_requests_come_in_order_across_the_end_of_the_ring() {
        let request = |request| PendingRequest { request, ..PendingRequest::default() };
        let mut offloaded = offloaded();
        let places = u32::try_from(PENDING_MAX).expect("small");
        offloaded.popped = 3 * places - 2;
        offloaded.pushed = offloaded.popped + 3;
        for (place, number) in [(PENDING_MAX - 2, 1), (PENDING_MAX - 1, 2), (0, 3)] {
            offloaded.pending[place] = request(number);
        }
        let pending: Vec<u64> = numbered(&offloaded).map(|(_, pending)| pending.request).collect();
        assert_eq!(pending, [1, 2, 3]);
    }

    fn offloaded() -> OffloadedConnection {
        OffloadedConnection::offered(1, Offload::Http1.number(), side::SERVER, [0; 2])
    }

    #[test]
    fn a_response_keeps_its_status_and_its_rest_in_fields_of_their_own() {
        let state = ParseState {
            left: 5,
            request: 7,
            status: 404,
            framing: framing_state::BODY,
            ..ParseState::AT_START
        };
        let direction = end(&state);
        assert_eq!((direction.status, direction.framing), (404, FramingState::Body(5)));
    }

    #[test]
    fn a_first_byte_and_a_cut_header_are_the_buffered_bytes() {
        let first = ParseState {
            buffered: u32::from(b'P'),
            buffered_len: 1,
            framing: framing_state::FIRST_BYTE_READ,
            ..ParseState::AT_START
        };
        assert_eq!(end(&first).framing, FramingState::FirstByte(b'P'));
        let cut = ParseState {
            buffered: u32::from_le_bytes([5, 0, 0, 3]),
            buffered_len: 4,
            items: 2,
            framing: framing_state::COLUMNS,
            ..ParseState::AT_START
        };
        let FramingState::Result(result) = answer(&cut).framing else { panic!("a database's response") };
        assert_eq!(result.phase, ResultPhase::Columns(2));
        assert_eq!(result.buffered.bytes(), [5, 0, 0, 3]);
    }

    #[test]
    fn a_hostile_count_is_bounded() {
        let offloaded = OffloadedConnection { pushed: u32::MAX, ..offloaded() };
        assert_eq!(numbered(&offloaded).count(), PENDING_MAX);
    }
}
