//! Many requests of one connection wait at once.

use crate::{
    Connection, Limits, ParserContext, Protocol, ScopeId, Side, Transport, Verdict,
    offload::{ConnectionState, DirectionState},
    testing::Replay,
};

type Bytes = &'static [u8];

/// Request, response, and what comes before them, of protocols whose clients send many requests at once.
fn spoken() -> [(Protocol, Vec<Bytes>, Bytes, Bytes); 7] {
    [
        (
            Protocol::Http1,
            vec![],
            b"GET /a HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (Protocol::Redis, vec![], b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"$2\r\nok\r\n"),
        (Protocol::Memcached, vec![], b"get a\r\n", b"END\r\n"),
        (
            Protocol::Memcached,
            vec![],
            b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\x81\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        (
            Protocol::Postgresql,
            vec![b"\0\0\0\x08\0\x03\0\0", b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"],
            b"Q\0\0\0\x0dSELECT 1\0",
            b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
        ),
        (
            Protocol::Postgresql,
            vec![b"\0\0\0\x08\0\x03\0\0", b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"],
            b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04",
            b"2\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
        ),
        (
            Protocol::Mysql,
            vec![b"\x01\0\0\0\x0e", b"\x07\0\0\x01\0\0\0\x02\0\0\0"],
            b"\x09\0\0\0\x03SELECT 1",
            b"\x07\0\0\x01\0\0\0\x02\0\0\0",
        ),
    ]
}

fn logged_in(protocol: Protocol, login: &[&[u8]], context: ParserContext) -> Replay {
    let known = Connection::known(ScopeId(0), Transport::Stream, protocol, Side::Server);
    let mut replay = Replay::new(known.expect("in the table"));
    replay.context = context;
    for (index, bytes) in login.iter().enumerate() {
        if index % 2 == 0 { replay.ingress(bytes) } else { replay.egress(bytes) }
    }
    replay.exchanges.clear();
    replay
}

#[test]
fn as_many_as_all_connections_share_are_counted() {
    const MANY: usize = 20_000;
    for (protocol, login, request, response) in spoken() {
        let mut replay = logged_in(protocol, &login, ParserContext::new(Limits::default()));
        let (requests, responses) = (request.repeat(MANY), response.repeat(MANY));
        for _ in 0..3 {
            // In calls of the size of usual buffers.
            requests.chunks(1 << 16).for_each(|call| replay.ingress(call));
            assert!(replay.context.shared_pending().taken() >= MANY - 1024, "{protocol:?}");
            responses.chunks(1 << 16).for_each(|call| replay.egress(call));
            assert_eq!(replay.context.shared_pending().taken(), 0, "{protocol:?}");
        }
        assert_eq!(replay.exchanges.len(), 3 * MANY, "{protocol:?} {:?}", replay.context.tally());
        assert_eq!(replay.context.tally().unparsed, 0, "{protocol:?}");
    }
}

#[test]
fn what_a_connection_has_of_the_shared_is_free_at_its_end() {
    let limits = Limits { pending_per_connection: 10, pending_shared: 100, ..Limits::default() };
    for (protocol, login, request, _) in spoken() {
        let mut context = ParserContext::new(limits);
        for dropped in [true, false, true] {
            let mut replay = logged_in(protocol, &login, context);
            for _ in 0..5 {
                replay.ingress(&request.repeat(15));
            }
            assert_eq!(replay.context.shared_pending().taken(), 65, "{protocol:?}");
            if !dropped {
                let now = crate::Timestamp(replay.now);
                replay.connection.close(now, &mut replay.context, &mut |_| {});
                assert_eq!(replay.context.shared_pending().taken(), 0, "{protocol:?}");
            }
            let Replay { context: left, connection, .. } = replay;
            drop(connection);
            assert_eq!(left.shared_pending().taken(), 0, "{protocol:?}");
            context = left;
        }
    }
}

#[test]
fn what_exceeds_the_shared_is_counted() {
    let limits = Limits { pending_per_connection: 10, pending_shared: 100, ..Limits::default() };
    for (protocol, login, request, response) in spoken() {
        let mut replay = logged_in(protocol, &login, ParserContext::new(limits));
        replay.ingress(&request.repeat(500));
        assert!(replay.context.shared_pending().taken() <= 100, "{protocol:?}");
        replay.egress(&response.repeat(500));
        let tally = replay.context.tally();
        assert!(tally.unparsed >= 390, "{protocol:?} {tally:?}");
        assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "{protocol:?}");
    }
}

#[test]
fn what_a_connection_has_of_the_shared_is_free_when_it_changes_its_protocol() {
    let limits = Limits { pending_per_connection: 10, pending_shared: 100, ..Limits::default() };
    let upgrade = |to: &str| format!("GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n");
    let upgraded = |to: &str| format!("HTTP/1.1 101 a\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n");
    for (request, response, verdict) in [
        // To a protocol that is known, to one that is ignored, and to one that is to be found.
        (upgrade("h2c"), upgraded("h2c"), Verdict::Known(Protocol::Http2)),
        (upgrade("websocket"), upgraded("websocket"), Verdict::Ignored),
        ("CONNECT a:1 HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 200 OK\r\n\r\n".to_owned(), Verdict::Detecting),
    ] {
        let mut replay = logged_in(Protocol::Http1, &[], ParserContext::new(limits));
        replay.ingress(request.as_bytes());
        replay.ingress(&b"GET /a HTTP/1.1\r\n\r\n".repeat(74));
        assert_eq!(replay.context.shared_pending().taken(), 65, "{verdict:?}");
        replay.egress(response.as_bytes());
        assert_eq!(replay.connection.verdict(), verdict);
        assert_eq!(replay.context.shared_pending().taken(), 0, "{verdict:?}");
    }
}

#[test]
fn what_a_connection_has_of_the_shared_is_free_when_the_kernel_follows_it() {
    let limits = Limits { pending_per_connection: 10, pending_shared: 100, ..Limits::default() };
    for (protocol, login, request, _) in spoken() {
        if protocol == Protocol::Memcached {
            continue;
        }
        let mut replay = logged_in(protocol, &login, ParserContext::new(limits));
        replay.ingress(&request.repeat(75));
        assert_eq!(replay.context.shared_pending().taken(), 65, "{protocol:?}");
        replay.connection.offload_accepted(&mut replay.context, &mut |_| {});
        if matches!(protocol, Protocol::Http1 | Protocol::Redis) {
            // Their parsers begin again when the kernel has stopped.
            let state = ConnectionState {
                protocol,
                side: Side::Server,
                offsets: [100_000; 2],
                requests: DirectionState::default(),
                responses: DirectionState::default(),
                pending: &[],
            };
            replay.connection.resume(ScopeId(0), &state, &mut replay.context);
        }
        assert_eq!(replay.context.shared_pending().taken(), 0, "{protocol:?}");
    }
}

/// Requests to NATS, each with an inbox of its own, to this subject.
fn nats(subject: &str, inboxes: std::ops::Range<usize>) -> Vec<u8> {
    inboxes.flat_map(|inbox| format!("PUB {subject} _INBOX.x.{inbox} 0\r\n\r\n").into_bytes()).collect()
}

#[test]
fn what_waited_for_too_long_is_free_of_the_shared() {
    let limits = Limits { pending_per_connection: 10, pending_shared: 100, ..Limits::default() };
    let mut replay = logged_in(Protocol::Nats, &[], ParserContext::new(limits));
    replay.ingress(&nats("a", 0..75));
    assert_eq!(replay.context.shared_pending().taken(), 65);
    replay.wait(61_000_000_000);
    assert_eq!(replay.exchanges.len(), 75);
    assert_eq!(replay.context.shared_pending().taken(), 0);
}

#[test]
fn what_may_wait_is_of_requests_and_pulls_together() {
    const PULL: &str = "$JS.API.CONSUMER.MSG.NEXT.a.b";
    let limits = Limits { pending_per_connection: 10, pending_shared: 100, ..Limits::default() };
    for (first, second) in [("a", PULL), (PULL, "a")] {
        let mut replay = logged_in(Protocol::Nats, &[], ParserContext::new(limits));
        replay.ingress(&nats(first, 0..40));
        replay.ingress(&nats(second, 40..75));
        assert_eq!(replay.context.shared_pending().taken(), 65, "{first}");
        replay.ingress(&nats(second, 75..275));
        assert_eq!(replay.context.shared_pending().taken(), 100, "{first}");
        replay.close();
        assert_eq!(replay.exchanges.len(), 110, "{first}");
        assert_eq!(replay.context.tally().unparsed, 165, "{first}");
    }
}
