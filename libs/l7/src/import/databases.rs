//! Answers of databases that the kernel followed up to any byte at which it may stop.

use super::tests::{NOW, START, exchanges_of};
use crate::{
    Chunk, ClientId, Connection, Direction, ErrorClass, Limits, ParserContext, Protocol, ScopeId, Side,
    Status, Symbol, Timestamp, Transport,
    offload::{
        BufferedBytes, ConnectionState, DirectionState, ExchangeDetail, FramingState, OffloadedExchange,
        PendingRequest, ResultPhase, ResultState,
    },
    sql::name::statement_name,
};

/// A message of an answer, the phase of the result when it begins and when its header was seen, and whether the kernel may stop in
/// the middle of it.
struct Message {
    bytes: Vec<u8>,
    before: ResultPhase,
    within: ResultPhase,
    skipped: bool,
}

fn mysql(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("short");
    [&[len, 0, 0, sequence], payload].concat()
}

/// Two columns and three rows.
fn mysql_answer(deprecate_eof: bool) -> Vec<Message> {
    let mut sequence = 0;
    let mut message = |payload: &[u8], before, within, skipped| {
        sequence += 1;
        Message { bytes: mysql(sequence, payload), before, within, skipped }
    };
    let mut answer = vec![
        message(&[2], ResultPhase::Start, ResultPhase::Start, false),
        message(b"\x03def the first definition", ResultPhase::Columns(2), ResultPhase::Columns(1), true),
        message(b"\x03def the second one", ResultPhase::Columns(1), ResultPhase::BehindColumns, true),
    ];
    if !deprecate_eof {
        answer.push(message(
            b"\xfe\0\0\x02\0",
            ResultPhase::BehindColumns,
            ResultPhase::BehindColumns,
            false,
        ));
    }
    let before = if deprecate_eof { ResultPhase::BehindColumns } else { ResultPhase::Rows };
    answer.push(message(b"\x01a\x05first", before, ResultPhase::Rows, true));
    answer.push(message(b"\xfb\x06second", ResultPhase::Rows, ResultPhase::Rows, true));
    answer.push(message(b"\0", ResultPhase::Rows, ResultPhase::Rows, true));
    let end: &[u8] = if deprecate_eof { b"\xfe\0\0\x02\0\0\0" } else { b"\xfe\0\0\x02\0" };
    answer.push(message(end, ResultPhase::Rows, ResultPhase::Rows, false));
    answer
}

fn postgres(kind: u8, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len() + 4).expect("short").to_be_bytes();
    [&[kind][..], &len, content].concat()
}

fn postgres_answer() -> Vec<Message> {
    let message = |kind, content: &[u8], before, skipped| Message {
        bytes: postgres(kind, content),
        before,
        within: ResultPhase::Rows,
        skipped,
    };
    vec![
        message(b'T', b"\0\x01a description", ResultPhase::Start, true),
        message(b'D', b"\0\x01\0\0\0\x02ab", ResultPhase::Rows, true),
        message(b'D', b"\0\x01\0\0\0\x05 C Z ", ResultPhase::Rows, true),
        message(b'C', b"SELECT 2\0", ResultPhase::Rows, false),
    ]
}

/// Every place in an answer at which the kernel may stop, with the number of bytes before it.
fn places(answer: &[Message], header: usize) -> Vec<(DirectionState<'static>, usize)> {
    let mut places = Vec::new();
    let mut before = 0;
    for message in answer {
        let last = if message.skipped { message.bytes.len() - 1 } else { header - 1 };
        for cut in 0..=last {
            let (phase, remaining, buffered, bytes) = if cut < header {
                let mut word = [0; 8];
                word[..cut].copy_from_slice(&message.bytes[..cut]);
                (message.before, 0, BufferedBytes::of(u64::from_le_bytes(word), cut as u64), before)
            } else {
                let left = (message.bytes.len() - cut) as u64;
                (message.within, left, BufferedBytes::default(), before + cut)
            };
            let framing = FramingState::Result(ResultState { phase, remaining, buffered });
            let end =
                DirectionState { framing, bytes: bytes as u64, start: START, ..DirectionState::default() };
            places.push((end, before + cut));
        }
        before += message.bytes.len();
    }
    places
}

/// A connection on which one exchange was seen to its end.
fn idle_connection(protocol: Protocol, context: &mut ParserContext) -> Connection {
    let (request, response) = match protocol {
        Protocol::Mysql => (mysql(0, b"\x03SET x = 1"), mysql(1, b"\0\0\0\x02\0\0\0")),
        _ => (postgres(b'Q', b"SET x = 1\0"), [postgres(b'C', b"SET\0"), postgres(b'Z', b"I")].concat()),
    };
    let mut connection =
        Connection::known(ScopeId(1), Transport::Stream, protocol, Side::Server).expect("in the table");
    let chunks = [(Direction::Ingress, &request[..]), (Direction::Egress, &response[..])];
    let found = exchanges_of(&mut connection, [0; 2], &chunks, context);
    assert_eq!(found.len(), 1);
    assert!(connection.idle_state().is_some(), "{connection:?}");
    connection
}

#[test]
fn an_answer_resumes_at_every_place() {
    let ready = postgres(b'Z', b"I");
    for (protocol, header, answer, end) in [
        (Protocol::Mysql, 5, mysql_answer(false), &[][..]),
        (Protocol::Mysql, 5, mysql_answer(true), &[]),
        (Protocol::Postgresql, 5, postgres_answer(), &ready),
    ] {
        let bytes: Vec<u8> = answer.iter().flat_map(|message| &message.bytes).chain(end).copied().collect();
        for (responses, cut) in places(&answer, header) {
            let mut context = ParserContext::new(Limits::default());
            let mut connection = idle_connection(protocol, &mut context);
            let name = statement_name(crate::sql::Dialect::Mysql, b"SELECT * FROM t");
            let waiting =
                [PendingRequest { request: &name, start: START, bytes: 77, head: false, trace: None }];
            let resumed = ConnectionState {
                protocol,
                side: Side::Server,
                offsets: [5_000, 9_000],
                requests: DirectionState::default(),
                responses,
                pending: &waiting,
            };
            connection.resume(ScopeId(1), &resumed, &mut context);
            let found = exchanges_of(
                &mut connection,
                [5_000, 9_000],
                &[(Direction::Egress, &bytes[cut..])],
                &mut context,
            );
            let [one] = &found[..] else { panic!("{protocol:?} at {cut}: {found:?}") };
            assert_eq!((context.name(one.operation), context.name(one.resource)), ("SELECT", "t"));
            assert_eq!((one.start, one.end, one.status), (START, NOW, Status::None), "{protocol:?} at {cut}");
            assert_eq!(
                (one.request_bytes, one.response_bytes),
                (77, bytes.len() as u64),
                "{protocol:?} at {cut}"
            );
            assert!(connection.idle_state().is_some(), "{protocol:?} at {cut}: {connection:?}");
            let tally = context.tally();
            assert_eq!(
                (tally.messages_seen, tally.exchanges, tally.gaps),
                (2, 2, 0),
                "{protocol:?} at {cut}"
            );
        }
    }
}

#[test]
fn what_is_taken_behind_an_answer_has_ended() {
    let mysql_query = mysql(0, b"\x03SELECT * FROM t");
    let postgres_query = postgres(b'Q', b"SELECT * FROM t\0");
    for (protocol, query, answer) in [
        (Protocol::Mysql, &mysql_query, mysql_answer(true)),
        (Protocol::Postgresql, &postgres_query, postgres_answer()),
    ] {
        let mut context = ParserContext::new(Limits::default());
        let mut connection = idle_connection(protocol, &mut context);
        let offsets = connection.idle_state().expect("idle").offsets;
        exchanges_of(&mut connection, offsets, &[(Direction::Ingress, query)], &mut context);
        // More rows than are captured.
        let head: Vec<u8> =
            answer.iter().take(answer.len() - 1).flat_map(|message| &message.bytes).copied().collect();
        let offset = offsets[Direction::Egress as usize];
        let chunk =
            Chunk { direction: Direction::Egress, timestamp: NOW, offset, bytes: &head, total: 100_000 };
        let mut found = Vec::new();
        connection.chunk(&chunk, &mut context, &mut |exchange| found.push(exchange));
        assert!(found.is_empty() && connection.idle_state().is_none(), "{protocol:?}: {found:?}");
        connection.offload_accepted(&mut context, &mut |exchange| found.push(exchange));
        let [one] = &found[..] else { panic!("{protocol:?}: {found:?}") };
        assert_eq!((context.name(one.operation), one.response_bytes), ("SELECT", 100_000), "{protocol:?}");
        assert!(connection.idle_state().is_some(), "{protocol:?}: {connection:?}");
        let tally = context.tally();
        assert_eq!((tally.messages_seen, tally.exchanges), (2, 2), "{protocol:?}");
    }
}

#[test]
fn a_command_goes_on_behind_its_header() {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = idle_connection(Protocol::Mysql, &mut context);
    let requests = DirectionState {
        framing: FramingState::CommandHeader(16),
        bytes: 4,
        start: START,
        ..DirectionState::default()
    };
    let resumed = ConnectionState {
        protocol: Protocol::Mysql,
        side: Side::Server,
        offsets: [5_000, 9_000],
        requests,
        responses: DirectionState::default(),
        pending: &[],
    };
    connection.resume(ScopeId(1), &resumed, &mut context);
    let error = mysql(1, b"\xff\x1e\x04#42S22no such column");
    let chunks = [(Direction::Ingress, &b"\x03SELECT 1 FROM t"[..]), (Direction::Egress, &error)];
    let found = exchanges_of(&mut connection, [5_000, 9_000], &chunks, &mut context);
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((context.name(one.operation), context.name(one.resource)), ("SELECT", "t"));
    assert_eq!((one.start, one.status, one.request_bytes), (START, Status::Code(1054), 20));
}

#[test]
fn what_nobody_knows_any_more_is_said_to_be_missing() {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = Connection::new(ScopeId(1));
    let waiting =
        [PendingRequest { request: b"SELECT\0t", start: START, bytes: 7, head: false, trace: None }];
    let resumed = ConnectionState {
        protocol: Protocol::Mysql,
        side: Side::Server,
        offsets: [10, 20],
        requests: DirectionState::default(),
        responses: DirectionState::default(),
        pending: &waiting,
    };
    connection.resume(ScopeId(1), &resumed, &mut context);
    assert_eq!((context.tally().messages_seen, context.tally().unparsed), (1, 1));
}

#[test]
fn statements_are_called_as_parsed_ones() {
    let mut context = ParserContext::new(Limits::default());
    let mut name = |detail| {
        let (start, end) = (Timestamp(1), Timestamp(2));
        let (scope, side) = (ScopeId(1), Side::Client);
        context
            .name_offloaded(&OffloadedExchange {
                detail,
                scope,
                client: ClientId::default(),
                side,
                start,
                end,
                request_bytes: 1,
                response_bytes: 2,
                trace: None,
            })
            .expect("the kernel pairs these")
    };
    let statement = statement_name(crate::sql::Dialect::Mysql, b"INSERT INTO t VALUES (1)");
    let done = name(ExchangeDetail::Mysql { request: &statement, error: None });
    let failed =
        name(ExchangeDetail::Mysql { request: &statement, error: Some(b"\xbd\x04#40001Deadlock found") });
    let ping = name(ExchangeDetail::Mysql { request: &[0x0e], error: None });
    let unknown = name(ExchangeDetail::Mysql { request: b"", error: None });
    assert_eq!([done, failed, ping, unknown].map(|one| one.is_stable), [true, false, true, false]);
    assert_eq!((failed.exchange.status, failed.exchange.error), (Status::Code(1213), ErrorClass::Server));
    assert_eq!(unknown.exchange.resource, Symbol::OTHER);
    let plain =
        name(ExchangeDetail::Postgresql { request: &statement, failed: false, text: b"INSERT 0 1\0" });
    let fields = b"SERROR\0VERROR\0C23505\0Mthere\0\0";
    let refused = name(ExchangeDetail::Postgresql { request: &statement, failed: true, text: fields });
    let tagged =
        name(ExchangeDetail::Postgresql { request: b"OTHER\0", failed: false, text: b"ROLLBACK\0Z" });
    assert_eq!([plain, refused, tagged].map(|one| one.is_stable), [true, false, false]);
    let operations = [done, ping, plain, tagged].map(|one| context.name(one.exchange.operation).to_owned());
    assert_eq!(operations, ["INSERT", "PING", "INSERT", "ROLLBACK"]);
    let Status::Word(state) = refused.exchange.status else { panic!("{refused:?}") };
    assert_eq!((context.name(state), refused.exchange.error), ("23505", ErrorClass::Client));
}

#[test]
fn prepared_statements_are_told_once_until_the_connection_comes_back() {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = idle_connection(Protocol::Mysql, &mut context);
    let exported = |connection: &mut Connection, context: &ParserContext| {
        let mut statements = Vec::new();
        connection.export_statements(|id, operation, table| {
            statements.push((id, context.name(operation).to_owned(), context.name(table).to_owned()));
        });
        statements
    };
    let prepare = mysql(0, b"\x16SELECT a FROM t");
    let prepared = mysql(1, b"\0\x07\0\0\0\0\0\0\0\0\0\0");
    let offsets = [14, 11];
    let chunks = [(Direction::Ingress, &prepare[..]), (Direction::Egress, &prepared)];
    exchanges_of(&mut connection, offsets, &chunks, &mut context);
    assert!(connection.idle_state().is_none(), "detail comes next is not known");
    let offsets = [offsets[0] + prepare.len() as u64, offsets[1] + prepared.len() as u64];
    let execute = mysql(0, b"\x17\x07\0\0\0\0\x01\0\0\0");
    let done = mysql(1, b"\0\0\0\x02\0\0\0");
    let chunks = [(Direction::Ingress, &execute[..]), (Direction::Egress, &done)];
    let found = exchanges_of(&mut connection, offsets, &chunks, &mut context);
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((context.name(one.operation), context.name(one.resource)), ("SELECT", "t"));
    assert!(connection.idle_state().is_some());
    let expected = [(7, "SELECT".to_owned(), "t".to_owned())];
    assert_eq!(exported(&mut connection, &context), expected);
    assert_eq!(exported(&mut connection, &context), []);
    let resumed = ConnectionState {
        protocol: Protocol::Mysql,
        side: Side::Server,
        offsets: [5_000, 9_000],
        requests: DirectionState::default(),
        responses: DirectionState::default(),
        pending: &[],
    };
    connection.resume(ScopeId(1), &resumed, &mut context);
    assert_eq!(exported(&mut connection, &context), expected);
}
