//! Conversations as NATS has them, whole and cut, and bytes that are none.

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport,
    testing::{Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

const C: Direction = Direction::Egress;
const S: Direction = Direction::Ingress;
const INFO: &[u8] = b"INFO {\"server_id\":\"NA\",\"version\":\"2.9\",\"max_payload\":1048576}\r\n";

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

#[test]
fn publications_requests_and_deliveries_are_told_apart() {
    let steps: Vec<Step> = [
        (S, INFO),
        (C, b"CONNECT {\"verbose\":false}\r\nPING\r\nSUB _INBOX.x.* 1\r\nSUB work.* 2\r\n".as_slice()),
        (S, b"PONG\r\n"),
        (C, b"PUB orders.17.new 2\r\n\r\n\r\nPUB svc.get _INBOX.x.1 3\r\nabc\r\n"),
        (S, b"MSG work.a 2 4\r\nPUB \r\nMSG _INBOX.x.1 1 5\r\nhello\r\n"),
        (C, b"HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"),
    ]
    .map(|(way, bytes)| (way, bytes.to_vec()))
    .to_vec();
    let expected = [
        "Client PUB orders.{}.new - None 25/0",
        "Client MSG work.a - None 22/0",
        "Client REQUEST svc.get - None 31/27",
        "Client PUB a - None 30/0",
    ]
    .map(String::from);
    assert_eq!(play(connection(), &steps), expected);
    assert_same_at_every_cut(connection, &steps, &expected);
}

#[test]
fn an_unanswered_request_ends_with_the_connection() {
    let mut replay = Replay::new(connection());
    replay.ingress(INFO);
    replay.egress(b"CONNECT {\"verbose\":false}\r\nSUB _INBOX.x.* 1\r\nPUB svc _INBOX.x.1 0\r\n\r\n");
    replay.close();
    assert_eq!(replay.lines(), ["Client REQUEST svc - NoResponse 24/0"]);
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let steps = [
        (S, INFO.to_vec()),
        (C, b"PUB orders.17.new 2\r\n\r\n\r\nPUB svc.get _INBOX.x.1 3\r\nabc\r\n".to_vec()),
        (S, b"MSG work.a 2 4\r\nPUB \r\nMSG _INBOX.x.1 1 5\r\nhello\r\nPING\r\n-ERR 'x'\r\n".to_vec()),
    ];
    assert_no_harm(Protocol::Nats, Transport::Stream, &steps);
}

fn lines(steps: &[(Direction, &str)], pause_ns: u64) -> Vec<String> {
    let connection = Connection::known(ScopeId(1), Transport::Stream, Protocol::Nats, crate::Side::Client)
        .expect("in the table");
    let mut replay = crate::testing::Replay::new(connection);
    for (direction, text) in steps {
        replay.part(*direction, text.as_bytes(), text.len() as u64);
    }
    replay.now += pause_ns;
    let now = crate::Timestamp(replay.now);
    let exchanges = &mut replay.exchanges;
    replay.connection.tick(now, &mut replay.context, &mut |exchange| exchanges.push(exchange));
    let before = replay.lines();
    replay.close();
    before
}

#[test]
fn a_request_without_responders_is_a_failure_of_the_server() {
    let found = lines(
        &[
            (Direction::Egress, "PUB a.b _INBOX.x 2\r\nhi\r\n"),
            (Direction::Ingress, "HMSG _INBOX.x 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
        ],
        0,
    );
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("Client REQUEST a.b 503 Server"), "{found:?}");
}

#[test]
fn a_request_that_nobody_answers_ends_and_a_pull_waits() {
    let steps = [
        (Direction::Egress, "PUB a.b _INBOX.x 2\r\nhi\r\n"),
        (Direction::Egress, "PUB $JS.API.CONSUMER.MSG.NEXT.s.c _INBOX.y 2\r\nhi\r\n"),
    ];
    assert_eq!(lines(&steps, 1_000_000_000), [] as [&str; 0]);
    let found = lines(&steps, 3_600_000_000_000);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("Client REQUEST a.b - NoResponse"), "{found:?}");
}

#[test]
fn an_answer_that_comes_after_all_is_no_delivery() {
    let mut replay = crate::testing::Replay::new(
        Connection::known(ScopeId(0), Transport::Stream, Protocol::Nats, crate::Side::Client)
            .expect("in the table"),
    );
    replay.egress(b"PUB a.b _INBOX.x 2\r\nhi\r\n");
    replay.wait(61_000_000_000);
    replay.ingress(b"MSG _INBOX.x 1 2\r\nhi\r\nMSG a.c 1 2\r\nhi\r\n");
    replay.close();
    let lines = replay.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("Client REQUEST a.b - NoResponse") && lines[1].starts_with("Client MSG a.c")
    );
}

#[test]
fn a_connection_that_was_open_before_is_recognised_by_a_message() {
    let steps: Vec<Step> = (0..4)
        .flat_map(|number| {
            let ask = format!("PUB svc.get _INBOX.x.{number} 3\r\nabc\r\n");
            [(C, ask.into_bytes()), (S, format!("MSG _INBOX.x.{number} 1 2\r\nok\r\n").into_bytes())]
        })
        .collect();
    for joined in 0..steps.len() {
        let lines = play(connection(), &steps[joined..]);
        let requests = lines.iter().filter(|line| line.starts_with("Client REQUEST svc.get - None")).count();
        assert_eq!(requests, (steps.len() - joined) / 2, "{joined}: {lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("Client ")), "{joined}: {lines:?}");
    }
    for none in ["PUB topic\nabc", "PUB a 3\r\nabcd\r\n", "MSG a 1 3\nabc\n", "PUB  3\r\nabc\r\n"] {
        assert!(play(connection(), &[(C, none.as_bytes().to_vec())]).is_empty(), "{none:?}");
    }
}
