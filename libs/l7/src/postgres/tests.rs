//! Conversations as PostgreSQL has them, whole and cut, and bytes that are none.

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport, Verdict,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

mod losses;
mod recordings;

const C: Direction = Direction::Ingress;
const S: Direction = Direction::Egress;

const SYNC: &[u8] = b"S\0\0\0\x04";
const FLUSH: &[u8] = b"H\0\0\0\x04";
const READY: &[u8] = b"Z\0\0\0\x05I";
const PARSED: &[u8] = b"1\0\0\0\x04";
const BOUND: &[u8] = b"2\0\0\0\x04";
const NO_DATA: &[u8] = b"n\0\0\0\x04";

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).unwrap().to_be_bytes();
    [&[kind], &length[..], content].concat()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

fn bind(portal: &str, name: &str) -> Vec<u8> {
    let value = b"\0\0\0\x01\0\0\0\x06secret\0\0";
    message(b'B', &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0", value].concat())
}

fn execute(portal: &str) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0\0\0\0\0"].concat())
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &[tag.as_bytes(), b"\0"].concat())
}

fn error(state: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{state}\0Msecret\0\0").as_bytes())
}

fn columns() -> Vec<u8> {
    message(b'T', b"\0\x01id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")
}

fn row(value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    message(b'D', &[b"\0\x01", &length[..], value.as_bytes()].concat())
}

fn c(messages: &[&[u8]]) -> Step {
    (C, messages.concat())
}

fn s(messages: &[&[u8]]) -> Step {
    (S, messages.concat())
}

fn startup() -> Step {
    let content = b"\0\x03\0\0database\0shop\0user\0secret\0\0";
    (C, [&u32::try_from(content.len() + 4).unwrap().to_be_bytes()[..], content].concat())
}

fn login() -> Vec<Step> {
    vec![
        (C, b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec()),
        (S, b"N".to_vec()),
        startup(),
        s(&[&message(b'R', b"\0\0\0\x05salt")]),
        c(&[&message(b'p', b"md5secret\0")]),
        s(&[
            &message(b'R', b"\0\0\0\0"),
            &message(b'S', b"server_version\x0015.1\0"),
            &message(b'K', b"\0\0\0\x01\0\0\0\x02"),
            READY,
        ]),
    ]
}

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

fn expect(steps: &[Step], expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(play(connection(), steps), expected);
    assert_same_at_every_cut(connection, steps, &expected);
}

fn after_login(steps: &[Step], expected: &[&str]) {
    let mut all = login();
    all.extend_from_slice(steps);
    expect(&all, expected);
}

fn logged_in() -> Replay {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login() {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    replay
}

#[test]
fn simple_queries_carry_operation_table_and_state() {
    after_login(
        &[
            c(&[&query("SELECT id FROM shop.items WHERE name = 'secret FROM x'")]),
            s(&[&columns(), &row("7"), &row("8"), &complete("SELECT 2"), READY]),
            c(&[&query("INSERT INTO items VALUES ('secret')")]),
            s(&[&message(b'N', b"SNOTICE\0C00000\0\0"), &complete("INSERT 0 1"), READY]),
            s(&[&message(b'A', b"\0\0\0\x01channel\0secret\0")]),
            c(&[&query("SELEC 1")]),
            s(&[&error("42601"), READY]),
            c(&[&query("")]),
            s(&[b"I\0\0\0\x04", &message(b'S', b"TimeZone\0UTC\0"), READY]),
            c(&[b"X\0\0\0\x04"]),
        ],
        &[
            "Server SELECT shop.items - None 60/72",
            "Server INSERT items - None 41/22",
            "Server OTHER  42601 Client 13/41",
            "Server OTHER  - None 6/11",
        ],
    );
}

#[test]
fn each_statement_of_a_simple_query_is_an_exchange() {
    after_login(
        &[
            c(&[&query("BEGIN; UPDATE a SET x = 'y;z' ;; SELECT 1 FROM b; DELETE FROM c;")]),
            s(&[
                &complete("BEGIN"),
                &complete("UPDATE 1"),
                &columns(),
                &row("1"),
                &complete("SELECT 1"),
                &error("40001"),
                READY,
            ]),
            c(&[&query("SELECT 1 FROM a; COMMIT")]),
            s(&[&columns(), &complete("SELECT 1"), &error("23503"), READY]),
            c(&[&query("DELETE FROM d")]),
            s(&[&complete("DELETE 1"), &error("23503"), READY]),
        ],
        &[
            "Server BEGIN  - None 70/11",
            "Server UPDATE a - None 0/14",
            "Server SELECT b - None 0/54",
            "Server DELETE c 40001 Server 0/41",
            "Server SELECT a - None 29/42",
            "Server COMMIT  23503 Client 0/41",
            "Server DELETE d 23503 Client 19/55",
        ],
    );
}

#[test]
fn the_extended_protocol_resolves_statements_and_portals() {
    let describe = message(b'D', b"P\0");
    after_login(
        &[
            c(&[&parse("", "SELECT id FROM a WHERE x = $1"), &bind("", ""), &describe, &execute(""), SYNC]),
            s(&[PARSED, BOUND, &columns(), &row("1"), &complete("SELECT 1"), READY]),
            c(&[&parse("s1", "UPDATE b SET x = $1"), &message(b'D', b"Ss1\0"), SYNC]),
            s(&[PARSED, &message(b't', b"\0\x01\0\0\0\x17"), NO_DATA, READY]),
            c(&[&bind("", "s1"), &execute(""), SYNC]),
            s(&[BOUND, &complete("UPDATE 1"), READY]),
            c(&[&bind("p1", "s1"), &execute("p1"), SYNC]),
            s(&[BOUND, b"s\0\0\0\x04", READY]),
            c(&[&execute("p1"), SYNC]),
            s(&[&complete("UPDATE 1"), READY]),
            c(&[&message(b'C', b"Ss1\0"), SYNC]),
            s(&[b"3\0\0\0\x04", READY]),
            c(&[&bind("", "s1"), &execute(""), SYNC]),
            s(&[&error("26000"), READY]),
        ],
        &[
            "Server SELECT a - None 83/70",
            "Server PREPARE b - None 44/27",
            "Server UPDATE b - None 40/25",
            "Server UPDATE b - None 44/16",
            "Server FETCH b - None 17/20",
            "Server OTHER  26000 Client 40/41",
        ],
    );
}

#[test]
fn pipelined_statements_pair_in_order() {
    let insert = [parse("", "INSERT INTO t VALUES ($1)"), bind("", ""), execute("")].concat();
    let update = [parse("", "UPDATE u SET a = $1"), bind("", ""), execute("")].concat();
    let done = [PARSED, BOUND, &complete("INSERT 0 1")].concat();
    // One batch; then two batches, the first of which fails.
    after_login(
        &[
            c(&[&insert, &insert, &update, SYNC]),
            s(&[&done, &done, PARSED, BOUND, &complete("UPDATE 3"), READY]),
            c(&[&insert, &update, &update, SYNC, &update, SYNC, &query("COMMIT")]),
            s(&[&done, &error("23505"), READY]),
            s(&[PARSED, BOUND, &complete("UPDATE 3"), READY, &complete("COMMIT"), READY]),
        ],
        &[
            "Server INSERT t - None 67/26",
            "Server INSERT t - None 67/26",
            "Server UPDATE u - None 66/30",
            "Server INSERT t - None 67/26",
            "Server UPDATE u 23505 Client 61/35",
            "Server UPDATE u PIPELINE_ABORTED Client 66/0",
            "Server UPDATE u - None 66/30",
            "Server COMMIT  - None 12/18",
        ],
    );
}

#[test]
fn statements_that_are_passed_over_have_the_class_of_the_error_and_confirm_no_name() {
    let passed_over = [parse("", "DELETE FROM passed"), bind("", ""), execute("")].concat();
    for (state, class) in [("22012", "Client"), ("57P01", "Server")] {
        let failed = [parse("", "SELECT 1/0"), bind("", ""), execute("")].concat();
        after_login(
            &[c(&[&failed, &passed_over, &passed_over, SYNC]), s(&[&error(state), READY])],
            &[
                &format!("Server SELECT  {state} {class} {}/35", failed.len()),
                &format!("Server DELETE other PIPELINE_ABORTED {class} {}/0", passed_over.len()),
                &format!("Server DELETE other PIPELINE_ABORTED {class} {}/0", passed_over.len() + 5),
            ],
        );
    }
}

#[test]
fn flushed_answers_end_their_statement() {
    after_login(
        &[
            c(&[&parse("a", "SELECT 1 FROM t"), &message(b'D', b"Sa\0"), FLUSH]),
            s(&[PARSED, &message(b't', b"\0\0"), &columns()]),
            c(&[&bind("", "a"), &execute(""), FLUSH]),
            s(&[BOUND, &row("1"), &complete("SELECT 1")]),
            c(&[SYNC]),
            s(&[READY]),
            c(&[&parse("b", "SELECT 1 FROM nope"), FLUSH]),
            s(&[&error("42P01")]),
            c(&[&bind("", "b"), &execute(""), SYNC]),
            s(&[READY]),
        ],
        &[
            "Server PREPARE t - None 33/5",
            "Server SELECT t - None 34/66",
            "Server PREPARE other 42P01 Client 28/35",
            "Server SELECT other PIPELINE_ABORTED Client 39/0",
        ],
    );
}

#[test]
fn copies_are_one_exchange() {
    let data = message(b'd', b"1\tsecret\n");
    let copy_in = message(b'G', b"\0\0\x01\0\0");
    let copy_done = b"c\0\0\0\x04".as_slice();
    after_login(
        &[
            c(&[&query("COPY t FROM STDIN")]),
            s(&[&copy_in]),
            c(&[&data, &data, copy_done]),
            s(&[&complete("COPY 2"), READY]),
            c(&[&query("COPY t TO STDOUT")]),
            s(&[&message(b'H', b"\0\0\x01\0\0"), &data, copy_done, &complete("COPY 1"), READY]),
            // Extended: the first Sync is passed over.
            c(&[&parse("", "COPY u FROM STDIN"), &bind("", ""), &execute(""), SYNC]),
            s(&[PARSED, BOUND, &copy_in]),
            c(&[&data, copy_done, SYNC]),
            s(&[&complete("COPY 1"), READY]),
            c(&[&query("COPY t FROM STDIN")]),
            s(&[&copy_in]),
            c(&[&data, &message(b'f', b"secret\0")]),
            s(&[&error("57014"), READY]),
            c(&[&query("COMMIT")]),
            s(&[&complete("COMMIT"), READY]),
        ],
        &[
            "Server COPY t - None 56/28",
            "Server COPY t - None 22/47",
            "Server COPY u - None 88/38",
            "Server COPY t 57014 Server 49/51",
            "Server COMMIT  - None 12/18",
        ],
    );
}

#[test]
fn refused_logins_are_exchanges() {
    let mut steps = login();
    steps.truncate(5);
    steps.push(s(&[&error("28P01")]));
    expect(&steps, &["Server CONNECT  28P01 Client 35/49"]);
    expect(&[startup(), s(&[&error("53300")])], &["Server CONNECT  53300 Server 35/35"]);
}

#[test]
fn encryption_and_cancellation_are_set_aside() {
    let mut replay = Replay::new(connection());
    replay.ingress(b"\0\0\0\x08\x04\xd2\x16\x2f");
    assert_eq!(replay.connection.verdict(), Verdict::Known(Protocol::Postgresql));
    replay.egress(b"S");
    assert_eq!(replay.connection.verdict(), Verdict::Known(Protocol::Tls));
    for steps in [
        vec![(C, b"\0\0\0\x08\x04\xd2\x16\x30".to_vec()), (S, b"G".to_vec())],
        vec![(C, b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02".to_vec())],
    ] {
        let mut replay = Replay::new(connection());
        for (way, bytes) in steps {
            replay.part(way, &bytes, bytes.len() as u64);
        }
        assert_eq!(replay.connection.verdict(), Verdict::Ignored);
        replay.close();
        assert!(replay.exchanges.is_empty());
    }
}

#[test]
fn replication_is_left_alone() {
    let mut replay = logged_in();
    replay.ingress(&query("START_REPLICATION SLOT \"s\" LOGICAL 0/0"));
    replay.egress(&message(b'W', b"\0\0\0"));
    assert_eq!(replay.connection.verdict(), Verdict::Ignored);
    replay.close();
    assert_eq!(replay.lines(), ["Server OTHER  - None 44/8"]);
}

#[test]
fn prepared_statements_are_bounded() {
    let mut replay = logged_in();
    for number in 0..2_000 {
        replay.ingress(&[parse(&format!("s{number}"), "UPDATE t SET a = 1").as_slice(), SYNC].concat());
        replay.egress(&[PARSED, READY].concat());
    }
    for name in ["s0", "s1999"] {
        replay.ingress(&[bind("", name), execute(""), SYNC.to_vec()].concat());
        replay.egress(&[BOUND, &complete("UPDATE 1"), READY].concat());
    }
    replay.close();
    assert_eq!(replay.lines()[2_000..], ["Server UPDATE  - None 40/25", "Server UPDATE t - None 43/25"]);
}

#[test]
fn an_unanswered_statement_ends_with_the_connection() {
    let fatal = error("57P01");
    after_login(&[c(&[&query("SELECT 1")])], &["Server SELECT  - NoResponse 14/0"]);
    after_login(&[c(&[&query("SELECT 1")]), s(&[&fatal])], &["Server SELECT  57P01 Server 14/35"]);
    after_login(&[s(&[&fatal])], &[]);
}

#[test]
fn other_bytes_are_not_taken_for_it() {
    let mut random = Random(13);
    for _ in 0..20_000 {
        let mut replay = Replay::new(connection());
        for round in 0..4 {
            let length = 6 + random.below(80);
            let mut bytes = random.bytes(length);
            // Half of them with a header that fits.
            if random.below(2) == 0 {
                let kind = b"QPBEDCRSXZT1"[random.below(12)];
                bytes[..5].copy_from_slice(&[kind, 0, 0, 0, u8::try_from(length - 1).unwrap()]);
            }
            replay.part([C, S][round % 2], &bytes, length as u64);
        }
        assert_ne!(replay.connection.verdict(), Verdict::Known(Protocol::Postgresql));
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let mut conversation = login();
    let done = [PARSED, BOUND, &complete("UPDATE 1")].concat();
    let update = [parse("", "UPDATE u SET a = $1"), bind("", ""), execute("")].concat();
    conversation.extend([
        c(&[&query("BEGIN; SELECT id FROM shop.items")]),
        s(&[&complete("BEGIN"), &columns(), &row("7"), &complete("SELECT 1"), READY]),
        c(&[&update, &update, SYNC, &update, SYNC]),
        s(&[&done, &error("23505"), READY, &done, READY]),
        c(&[&parse("a", "SELECT 1 FROM t"), &message(b'D', b"Sa\0"), FLUSH]),
        s(&[PARSED, &message(b't', b"\0\0"), &columns()]),
        c(&[&bind("p", "a"), &execute("p"), SYNC]),
        s(&[BOUND, &row("1"), b"s\0\0\0\x04", READY]),
        c(&[&query("COPY t FROM STDIN")]),
        s(&[&message(b'G', b"\0\0\x01\0\0")]),
        c(&[&message(b'd', b"1\n"), b"c\0\0\0\x04"]),
        s(&[&complete("COPY 1"), READY]),
        c(&[&query("COMMIT")]),
        s(&[&complete("COMMIT"), READY]),
    ]);
    assert_no_harm(Protocol::Postgresql, Transport::Stream, &conversation);
}
