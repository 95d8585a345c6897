//! Import of the kernel's exchanges and connections of HTTP/1 and Redis.

use crate::{
    Chunk, ClientId, Connection, Direction, ErrorClass, Exchange, Limits, ParserContext, Protocol, ScopeId,
    Side, Status, Symbol, Timestamp,
    offload::{
        ConnectionState, DirectionState, ExchangeDetail, FramingState, OffloadedExchange, PendingRequest,
    },
    redis_commands,
};
pub(super) const START: Timestamp = Timestamp(1_000);
pub(super) const NOW: Timestamp = Timestamp(5_000);

/// Resumes a connection of a server, and gives it chunks.
fn exchanges(resumed: &ConnectionState<'_>, chunks: &[(Direction, &[u8])]) -> (Vec<Exchange>, ParserContext) {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = Connection::new(ScopeId(1));
    connection.resume(ScopeId(1), resumed, &mut context);
    let mut found = exchanges_of(&mut connection, resumed.offsets, chunks, &mut context);
    connection.close(NOW, &mut context, &mut |exchange| found.push(exchange));
    (found, context)
}

/// Gives a connection chunks.
pub(super) fn exchanges_of(
    connection: &mut Connection,
    mut offsets: [u64; 2],
    chunks: &[(Direction, &[u8])],
    context: &mut ParserContext,
) -> Vec<Exchange> {
    let mut found = Vec::new();
    for (direction, bytes) in chunks {
        let offset = &mut offsets[*direction as usize];
        let chunk = Chunk {
            direction: *direction,
            timestamp: NOW,
            offset: *offset,
            bytes,
            total: bytes.len() as u64,
        };
        *offset += chunk.total;
        connection.chunk(&chunk, context, &mut |exchange| found.push(exchange));
    }
    found
}

fn resumed<'a>(protocol: Protocol, pending: &'a [PendingRequest<'a>]) -> ConnectionState<'a> {
    ConnectionState {
        protocol,
        side: Side::Server,
        offsets: [700, 900],
        requests: DirectionState::default(),
        responses: DirectionState::default(),
        pending,
    }
}

fn request(text: &[u8]) -> PendingRequest<'_> {
    PendingRequest { request: text, start: START, bytes: 60, head: false, trace: None }
}

#[test]
fn requests_that_wait_are_answered() {
    let waiting = [
        request(b"GET /a HTTP/1.1\r\n"),
        PendingRequest { head: true, ..request(b"HEAD /b HTTP/1.1\r\n") },
        request(b"GET /c HTTP/1.1\r\n"),
    ];
    let (found, context) = exchanges(
        &resumed(Protocol::Http1, &waiting),
        &[
            (Direction::Egress, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 Not Fo"),
            (Direction::Egress, b"und\r\nContent-Length: 9\r\n\r\n"),
        ],
    );
    let seen: Vec<_> = found
        .iter()
        .map(|one| (context.name(one.operation), context.name(one.resource), one.status, one.error))
        .collect();
    assert_eq!(
        seen,
        [
            ("GET", "/a", Status::Code(200), ErrorClass::None),
            ("HEAD", "/b", Status::Code(404), ErrorClass::Client),
            ("GET", "/c", Status::None, ErrorClass::NoResponse),
        ]
    );
    assert!(found.iter().all(|one| one.start == START && one.request_bytes == 60));
    assert_eq!(context.tally().messages_seen, 3);
}

#[test]
fn a_request_goes_on_behind_its_first_byte() {
    let requests =
        DirectionState { framing: FramingState::FirstByte(b'G'), start: START, ..DirectionState::default() };
    let (found, context) = exchanges(
        &ConnectionState { requests, ..resumed(Protocol::Http1, &[]) },
        &[
            (Direction::Ingress, b"ET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
            (Direction::Egress, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ],
    );
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((context.name(one.operation), context.name(one.resource)), ("GET", "/a"));
    assert_eq!((one.start, one.end, one.request_bytes), (START, NOW, 28));
}

#[test]
fn bodies_go_on_where_they_stood() {
    for (framing, rest) in [
        (FramingState::Body(5), &b"12345"[..]),
        (FramingState::ChunkData(7), b"12345\r\n0\r\n\r\n"),
        (FramingState::ChunkData(2), b"\r\n0\r\n\r\n"),
        (FramingState::ChunkSize, b"5\r\n12345\r\n0\r\n\r\n"),
    ] {
        let waiting = [request(b"GET /a HTTP/1.1\r\n"), request(b"GET /b HTTP/1.1\r\n")];
        let responses = DirectionState { framing, bytes: 100, start: START, status: 500, name: &[] };
        let resumed = ConnectionState { responses, ..resumed(Protocol::Http1, &waiting) };
        let bytes = [rest, b"HTTP/1.1 204 No Content\r\n\r\n"].concat();
        let (found, _) = exchanges(&resumed, &[(Direction::Egress, &bytes)]);
        let seen: Vec<_> = found.iter().map(|one| (one.status, one.response_bytes)).collect();
        let first = 100 + rest.len() as u64;
        assert_eq!(seen, [(Status::Code(500), first), (Status::Code(204), 27)], "{framing:?}");
    }
}

#[test]
fn redis_goes_on_in_the_middle_of_commands_and_replies() {
    let waiting = [request(b"GET"), request(b"LRANGE")];
    let requests = DirectionState {
        framing: FramingState::Values { remaining: 3, items: 1 },
        bytes: 20,
        start: START,
        status: 0,
        name: b"set",
    };
    let responses = DirectionState {
        framing: FramingState::Values { remaining: 4, items: 0 },
        bytes: 10,
        start: START,
        ..DirectionState::default()
    };
    let resumed = ConnectionState { requests, responses, ..resumed(Protocol::Redis, &waiting) };
    let (found, context) = exchanges(
        &resumed,
        &[
            (Direction::Ingress, b"k\r\n$1\r\nv\r\n"),
            (Direction::Egress, b"ab\r\n*2\r\n$1\r\na\r\n:5\r\n-READONLY You can't write\r\n"),
        ],
    );
    let seen: Vec<_> = found
        .iter()
        .map(|one| (context.name(one.operation), one.error, one.request_bytes, one.response_bytes))
        .collect();
    assert_eq!(
        seen,
        [
            ("GET", ErrorClass::None, 60, 14),
            ("LRANGE", ErrorClass::None, 60, 15),
            ("SET", ErrorClass::Server, 30, 27),
        ]
    );
}

#[test]
fn found_exchanges_are_called_as_parsed_ones_and_last_once_their_route_is_known() {
    let mut context = ParserContext::new(Limits::default());
    let mut name = |detail| {
        context
            .name_offloaded(&OffloadedExchange {
                detail,
                scope: ScopeId(1),
                client: ClientId::default(),
                side: Side::Client,
                start: START,
                end: NOW,
                request_bytes: 1,
                response_bytes: 2,
                trace: None,
            })
            .expect("the kernel pairs these")
    };
    let http = |status| ExchangeDetail::Http1 { request: b"GET /users/17?x HTTP/1.1\r\n", status };
    let (first, second) = (name(http(200)), name(http(503)));
    assert_eq!((first.is_stable, second.is_stable), (false, true));
    assert_eq!(first.exchange.resource, second.exchange.resource);
    assert_eq!((second.exchange.status, second.exchange.error), (Status::Code(503), ErrorClass::Server));
    let unknown = name(ExchangeDetail::Http1 { request: b"", status: 200 });
    assert!(!unknown.is_stable && unknown.exchange.resource == Symbol::OTHER);
    let (get, ..) = redis_commands().find(|(_, name, _)| *name == "GET").expect("listed");
    let wrong = name(ExchangeDetail::Redis { command: get, error: Some(b"WRONGTYPE Operation against") });
    assert!(!wrong.is_stable && wrong.exchange.error == ErrorClass::Client);
    assert!(name(ExchangeDetail::Redis { command: get, error: None }).is_stable);
    assert_eq!(context.name(first.exchange.resource), "/users/{}");
    assert_eq!((context.tally().messages_seen, context.tally().exchanges), (5, 5));
}

#[test]
fn commands_that_change_the_connection_are_not_listed() {
    let listed: Vec<_> = redis_commands().collect();
    for name in ["SUBSCRIBE", "PUNSUBSCRIBE", "MONITOR", "PSYNC"] {
        assert!(listed.iter().all(|(_, listed, _)| *listed != name), "{name}");
    }
    assert!(listed.iter().any(|(_, name, mind_argument)| *name == "CLIENT" && *mind_argument));
    assert!(listed.len() > 200);
}
