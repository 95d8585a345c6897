//! Conversations as PostgreSQL has them, whole and cut, and bytes that are none.

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport, Verdict, captured,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

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
            "Server UPDATE u - NoResponse 66/0",
            "Server UPDATE u - None 66/30",
            "Server COMMIT  - None 12/18",
        ],
    );
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
            "Server PREPARE nope 42P01 Client 28/35",
            "Server SELECT nope - NoResponse 39/0",
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
fn joined_in_the_middle() {
    let answer = s(&[&columns(), &row("7"), &complete("SELECT 1"), READY]);
    expect(
        &[
            s(&[&row("5"), &row("6"), &complete("SELECT 2"), READY]),
            c(&[&query("SELECT a FROM t")]),
            answer.clone(),
            c(&[&query("/* hint */ update t set a = 1")]),
            s(&[&complete("UPDATE 1"), READY]),
        ],
        &["Server SELECT t - None 21/60", "Server UPDATE t - None 35/20"],
    );
    // By a statement that was prepared before: the command tag names the operation.
    expect(
        &[
            c(&[&bind("", "s1"), &message(b'D', b"P\0"), &execute(""), SYNC]),
            s(&[BOUND, NO_DATA, &complete("UPDATE 1"), READY]),
            c(&[&bind("", "s1"), &execute(""), SYNC]),
            s(&[BOUND, &complete("DELETE 1"), READY]),
        ],
        &["Server UPDATE  - None 47/30", "Server DELETE  - None 40/25"],
    );
    // On the client's side.
    let turned: Vec<Step> =
        [c(&[&query("SELECT a FROM t")]), answer].map(|(way, bytes)| (way.reverse(), bytes)).to_vec();
    expect(&turned, &["Client SELECT t - None 21/60"]);
    // By the server's welcome.
    let mut welcomed = login();
    welcomed.drain(..5);
    welcomed.extend([c(&[&query("COMMIT")]), s(&[&complete("COMMIT"), READY])]);
    expect(&welcomed, &["Server COMMIT  - None 12/18"]);
}

/// Results of which the capture shows only the head.
#[test]
fn a_long_result_ends_by_its_tail_or_before_the_next_request() {
    let mut replay = logged_in();
    let head = [columns(), row("7"), row("8")].concat();
    replay.ingress(&query("SELECT a FROM t"));
    replay.part(S, &head, 8192);
    replay.part(S, b"D\0\0\0\x05looks like a start", 8192);
    replay.egress(&[b"rest".as_slice(), &complete("SELECT 900"), READY].concat());
    assert_eq!(replay.lines(), ["Server SELECT t - None 21/16410"]);
    replay.ingress(&query("SELECT b FROM t"));
    replay.part(S, &head, 8192);
    replay.egress(&[b"rest".as_slice(), &error("57014"), READY].concat());
    replay.ingress(&[parse("", "SELECT c FROM t"), bind("", ""), execute(""), SYNC.to_vec()].concat());
    replay.part(S, &[PARSED, BOUND, &head].concat(), 8192);
    replay.part(S, b"", 100);
    let end = replay.now;
    replay.ingress(&query("COMMIT"));
    replay.egress(&[complete("COMMIT").as_slice(), READY].concat());
    replay.close();
    assert_eq!(
        replay.lines()[1..],
        [
            "Server SELECT t 57014 Server 21/8237",
            "Server SELECT t - None 62/8292",
            "Server COMMIT  - None 12/18"
        ]
    );
    assert_eq!(replay.exchanges[2].end.0, end);
    assert_eq!(replay.context.tally().gaps, 3);
}

#[test]
fn a_copy_whose_data_were_not_captured_ends() {
    for waits in [true, false] {
        let mut replay = logged_in();
        replay.ingress(&query("COPY t FROM STDIN"));
        let ready = message(b'G', b"\0\0\x01\0\0");
        if waits {
            replay.egress(&ready);
        }
        for _ in 0..3 {
            replay.part(C, &message(b'd', b"1\tsecret\n"), 8192);
        }
        if !waits {
            replay.egress(&ready);
        }
        replay.egress(&[complete("COPY 900").as_slice(), READY].concat());
        replay.ingress(&query("COMMIT"));
        replay.egress(&[complete("COMMIT").as_slice(), READY].concat());
        replay.close();
        assert_eq!(replay.lines(), ["Server COPY t - None 37/30", "Server COMMIT  - None 12/18"]);
    }
}

#[test]
fn the_unseen_end_of_a_lone_sync_is_no_exchange() {
    let mut replay = logged_in();
    replay.ingress(&[message(b'C', b"Ss1\0").as_slice(), SYNC].concat());
    replay.part(S, b"3\0\0\0\x04", 11);
    replay.ingress(&query("COMMIT"));
    replay.egress(&[complete("COMMIT").as_slice(), READY].concat());
    replay.close();
    assert_eq!(replay.lines(), ["Server COMMIT  - None 12/18"]);
}

#[test]
fn nothing_is_paired_across_a_loss() {
    let mut replay = logged_in();
    let done = [complete("UPDATE 1").as_slice(), READY].concat();
    replay.ingress(&query("SELECT a FROM lost"));
    replay.lose(S, 40);
    replay.ingress(&query("UPDATE a SET b = 1"));
    replay.egress(&done);
    replay.ingress(&query("SELECT b FROM u"));
    replay.lose(C, 40);
    replay.egress(&done);
    replay.ingress(&query("INSERT INTO u VALUES (1)"));
    replay.egress(&done);
    replay.egress(&done);
    // Behind a silence everything was answered.
    replay.now += 1_000_000_000;
    replay.ingress(&query("DELETE FROM u"));
    replay.egress(&done);
    replay.close();
    let lines = replay.lines();
    assert_eq!(lines, ["Server DELETE u - None 19/20"]);
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

fn recorded(text: &str, expected: &[&str]) {
    assert_eq!(captured::counted(&captured::lines(text, Protocol::Postgresql)), expected);
}

#[test]
fn the_recorded_programs() {
    recorded(
        include_str!("../../captures/postgresql-programs.txt"),
        &[
            "1 CREATE items - None",
            "1 INSERT items - None",
            "2 SELECT items - None",
            "2 COPY items - None",
            "1 OTHER  42601 Client",
            "1 SELECT missing 42P01 Client",
            "17 BEGIN  - None",
            "1 UPDATE items - None",
            "17 COMMIT  - None",
            "1 SELECT  - None",
            "1 SELECT  22012 Client",
            "1 OTHER  - None",
            "4 SELECT pg_catalog.pg_class - None",
            "1 VACUUM  - None",
            "1 DROP pgbench_accounts - None",
            "1 CREATE pgbench_history - None",
            "1 CREATE pgbench_tellers - None",
            "1 CREATE pgbench_accounts - None",
            "1 CREATE pgbench_branches - None",
            "1 TRUNCATE pgbench_accounts - None",
            "1 INSERT pgbench_branches - None",
            "1 INSERT pgbench_tellers - None",
            "1 INSERT pgbench_accounts - None",
            "1 ALTER pgbench_branches - None",
            "1 ALTER pgbench_tellers - None",
            "1 ALTER pgbench_accounts - None",
            "3 SELECT pgbench_branches - None",
            "15 UPDATE pgbench_accounts - None",
            "15 SELECT pgbench_accounts - None",
            "15 UPDATE pgbench_tellers - None",
            "15 UPDATE pgbench_branches - None",
            "15 INSERT pgbench_history - None",
            "2 PREPARE  - None",
            "2 PREPARE pgbench_accounts - None",
            "1 PREPARE pgbench_tellers - None",
            "1 PREPARE pgbench_branches - None",
            "1 PREPARE pgbench_history - None",
        ],
    );
}

#[test]
fn the_recorded_psycopg() {
    recorded(
        include_str!("../../captures/postgresql-psycopg.txt"),
        &[
            "7 BEGIN  - None",
            "10 SELECT items - None",
            "1 PREPARE items - None",
            "2 SELECT missing 42P01 Client",
            "3 ROLLBACK  - None",
            "2 DEALLOCATE  - None",
            "1 INSERT items 23505 Client",
            "8 UPDATE items - None",
            "3 COMMIT  - None",
            "2 DELETE items - NoResponse",
            "2 COPY items - None",
            "5 INSERT items - None",
            "1 DECLARE  - None",
            "1 FETCH  - None",
            "1 CLOSE  - None",
            "1 LISTEN  - None",
            "1 NOTIFY  - None",
        ],
    );
}

#[test]
fn the_recorded_asyncpg() {
    recorded(
        include_str!("../../captures/postgresql-asyncpg.txt"),
        &[
            "4 PREPARE items - None",
            "6 SELECT items - None",
            "5 INSERT items - None",
            "1 BEGIN  - None",
            "3 FETCH items - None",
            "1 COMMIT  - None",
            "1 PREPARE missing 42P01 Client",
            "1 COPY items - None",
        ],
    );
}

#[test]
fn the_recorded_pg8000() {
    recorded(
        include_str!("../../captures/postgresql-pg8000.txt"),
        &[
            "6 PREPARE items - None",
            "5 SELECT items - None",
            "5 UPDATE items - None",
            "1 SELECT missing 42P01 Client",
        ],
    );
}
