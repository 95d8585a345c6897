//! Responses of which not one byte can be read, because the kernel moves them itself (sendfile(2), splice(2), `io_uring`), in
//! protocols that answer in order.

use crate::{
    Connection, Direction, ErrorClass, Protocol, ScopeId, Side, Status, Transport,
    testing::{Random, Replay},
};
use Direction::{Egress, Ingress};

/// A protocol whose client sends the same request again and again, each with the same response.
struct Spoken {
    protocol: Protocol,
    login: Vec<(Direction, Vec<u8>)>,
    request: &'static [u8],
    response: &'static [u8],
    /// The status of what is read.
    status: &'static str,
}

fn spoken() -> [Spoken; 5] {
    let ready = b"Z\0\0\0\x05I".to_vec();
    let no_login = Vec::new;
    [
        Spoken {
            protocol: Protocol::Http1,
            login: no_login(),
            request: b"GET /a HTTP/1.1\r\n\r\n",
            response: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            status: "200",
        },
        Spoken {
            protocol: Protocol::Redis,
            login: no_login(),
            request: b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
            response: b"$2\r\nok\r\n",
            status: "-",
        },
        Spoken {
            protocol: Protocol::Memcached,
            login: no_login(),
            request: b"get a\r\n",
            response: b"VALUE a 0 2\r\nok\r\nEND\r\n",
            status: "HIT",
        },
        Spoken {
            protocol: Protocol::Postgresql,
            login: vec![
                (Ingress, b"\0\0\0\x08\0\x03\0\0".to_vec()),
                (Egress, [b"R\0\0\0\x08\0\0\0\0".to_vec(), ready].concat()),
            ],
            request: b"Q\0\0\0\x0dSELECT 1\0",
            response: b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
            status: "-",
        },
        Spoken {
            protocol: Protocol::Mysql,
            // Aligned by a first command and its answer.
            login: vec![
                (Ingress, b"\x01\0\0\0\x0e".to_vec()),
                (Egress, b"\x07\0\0\x01\0\0\0\x02\0\0\0".to_vec()),
            ],
            request: b"\x09\0\0\0\x03SELECT 1",
            response: b"\x07\0\0\x01\0\0\0\x02\0\0\0",
            status: "-",
        },
    ]
}

fn logged_in(spoken: &Spoken) -> Replay {
    let known = Connection::known(ScopeId(0), Transport::Stream, spoken.protocol, Side::Server);
    let mut replay = Replay::new(known.expect("in the table"));
    for (direction, bytes) in &spoken.login {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    replay.exchanges.clear();
    replay
}

/// What became of the exchanges behind the log-in: status, how long it took in steps, bytes of the response.
fn outcomes(replay: &Replay) -> Vec<(String, u64, u64)> {
    let statuses = replay.lines();
    let word = |line: &String| line.split(' ').nth(3).expect("a status").to_owned();
    let all = replay.exchanges.iter().zip(&statuses);
    all.map(|(exchange, line)| (word(line), exchange.duration_ns() / 1000, exchange.response_bytes)).collect()
}

/// Ends the connection; the log-in's exchange is not among those that are left.
fn close(replay: &mut Replay) {
    let now = crate::Timestamp(replay.now + 1000);
    let exchanges = &mut replay.exchanges;
    replay.connection.close(now, &mut replay.context, &mut |exchange| exchanges.push(exchange));
}

#[test]
fn a_response_that_cannot_be_read_counts_and_what_follows_is_right() {
    for spoken in &spoken() {
        let (request, response) = (spoken.request, spoken.response);
        let read = (spoken.status.to_owned(), 1, response.len() as u64);
        let unread = |calls| ("other".to_owned(), calls, 700 * calls);
        for seed in 0..64 {
            let mut random = Random(seed);
            let mut replay = logged_in(spoken);
            let mut expected = Vec::new();
            for _ in 0..20 {
                replay.ingress(request);
                match random.below(3) {
                    0 => {
                        replay.egress(response);
                        expected.push(read.clone());
                    }
                    calls => {
                        for _ in 0..calls {
                            replay.part(Egress, b"", 700);
                        }
                        expected.push(unread(calls as u64));
                    }
                }
            }
            close(&mut replay);
            assert_eq!(outcomes(&replay), expected, "{:?} {seed}", spoken.protocol);
            let errors = replay.exchanges.iter().filter(|exchange| exchange.error != ErrorClass::None);
            assert_eq!(errors.count(), 0, "{:?}", spoken.protocol);
            let unread = replay.exchanges.iter().filter(|exchange| exchange.status == Status::UNKNOWN);
            assert_eq!(replay.context.tally().incomplete, unread.count() as u64, "{:?}", spoken.protocol);
        }
    }
}

#[test]
fn a_response_that_cannot_be_read_has_ended_when_the_connection_is_quiet() {
    for spoken in &spoken() {
        let mut replay = logged_in(spoken);
        replay.ingress(spoken.request);
        replay.part(Egress, b"", 700);
        replay.part(Egress, b"", 700);
        replay.wait(6_000_000_000);
        assert_eq!(outcomes(&replay), [("other".to_owned(), 2, 1400)], "{:?}", spoken.protocol);
        replay.ingress(spoken.request);
        replay.egress(spoken.response);
        close(&mut replay);
        let status = outcomes(&replay).remove(1).0;
        assert_eq!((status.as_str(), replay.exchanges.len()), (spoken.status, 2), "{:?}", spoken.protocol);
    }
}

#[test]
fn several_requests_that_wait_for_what_cannot_be_read_are_no_exchanges() {
    for spoken in &spoken() {
        let mut replay = logged_in(spoken);
        for _ in 0..5 {
            replay.ingress(spoken.request);
        }
        replay.part(Egress, b"", 5 * 700);
        close(&mut replay);
        let tally = replay.context.tally();
        assert_eq!((replay.exchanges.len(), tally.unparsed), (0, 5), "{:?}", spoken.protocol);
    }
}

#[test]
fn a_response_that_cannot_be_read_ends_before_the_next_request_that_cannot_be_read() {
    for spoken in &spoken() {
        let mut replay = logged_in(spoken);
        replay.ingress(spoken.request);
        replay.part(Egress, b"", 700);
        for _ in 0..5 {
            replay.part(Ingress, b"", spoken.request.len() as u64);
            replay.part(Egress, b"", 700);
        }
        close(&mut replay);
        assert_eq!(outcomes(&replay), [("other".to_owned(), 1, 700)], "{:?}", spoken.protocol);
        assert!(replay.context.unaccounted().sum() >= 6 * 700, "{:?}", spoken.protocol);
    }
}
