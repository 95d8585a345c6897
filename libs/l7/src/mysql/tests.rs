//! Conversations as MySQL and MariaDB have them, whole and cut, and bytes that are none.

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport, Verdict,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

mod losses;
mod recordings;

const C: Direction = Direction::Ingress;
const S: Direction = Direction::Egress;

const PROTOCOL_41: u32 = 1 << 9;
const DEPRECATE_EOF: u32 = 1 << 24;
const OK: &[u8] = b"\0\0\0\x02\0\0\0";
const OK_MORE: &[u8] = b"\0\0\0\x0a\0\0\0";
const EOF: &[u8] = b"\xfe\0\0\x02\0";
const EOF_MORE: &[u8] = b"\xfe\0\0\x0a\0";
const EOF_CURSOR: &[u8] = b"\xfe\0\0\x42\0";
const ROWS_OK: &[u8] = b"\xfe\0\0\x02\0\0\0";
const DEFINITION: &[u8] =
    b"\x03def\x04shop\x05items\x05items\x02id\x02id\x0c\x3f\0\x0b\0\0\0\x03\x03\x42\0\0\0";
const SYNTAX: &[u8] = b"\xff\x28\x04#42000You have an error in your SQL syntax";

/// Packets, numbered from `sequence` on.
fn packets(mut sequence: u8, payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for payload in payloads {
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes()[..3]);
        bytes.push(sequence);
        bytes.extend_from_slice(payload);
        sequence = sequence.wrapping_add(1);
    }
    bytes
}

fn c(payload: &[u8]) -> Step {
    (C, packets(0, &[payload]))
}

fn query(text: &str) -> Step {
    c(&[b"\x03", text.as_bytes()].concat())
}

fn prepare(text: &str) -> Step {
    c(&[b"\x16", text.as_bytes()].concat())
}

fn execute(id: u32) -> Step {
    c(&[b"\x17", &id.to_le_bytes()[..], b"\0\x01\0\0\0"].concat())
}

fn s(payloads: &[&[u8]]) -> Step {
    (S, packets(1, payloads))
}

fn greeting(capabilities: u32) -> Step {
    let [a, b, d, e] = (PROTOCOL_41 | capabilities).to_le_bytes();
    let payload = [
        b"\x0a8.0.36\0\x2a\0\0\0saltsalt\0".as_slice(),
        &[a, b, 0x21, 2, 0, d, e, 21],
        &[0; 10],
        b"saltsaltsalt\0mysql_native_password\0",
    ]
    .concat();
    (S, packets(0, &[&payload]))
}

fn hello(capabilities: u32) -> Step {
    let payload = [
        (PROTOCOL_41 | capabilities).to_le_bytes().as_slice(),
        &[0, 0, 0, 1, 0x21],
        &[0; 23],
        b"root\0\x14aaaaaaaaaaaaaaaaaaaamysql_native_password\0",
    ]
    .concat();
    (C, packets(1, &[&payload]))
}

/// A login with what both ends can do.
fn login(capabilities: u32) -> Vec<Step> {
    vec![greeting(capabilities), hello(capabilities), (S, packets(2, &[OK]))]
}

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

fn expect(steps: &[Step], expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(play(connection(), steps), expected);
    assert_same_at_every_cut(connection, steps, &expected);
}

fn after_login(capabilities: u32, steps: &[Step], expected: &[&str]) {
    let mut all = login(capabilities);
    all.extend_from_slice(steps);
    expect(&all, expected);
}

#[test]
fn statements_carry_operation_table_and_error() {
    after_login(
        0,
        &[
            query("SELECT id FROM shop.items WHERE name = 'secret FROM x'"),
            s(&[b"\x01", DEFINITION, EOF, b"\x017", b"\x018", EOF]),
            query("INSERT INTO items VALUES (1, 'secret')"),
            s(&[OK]),
            query("SELEC 1"),
            s(&[SYNTAX]),
            c(b"\x0e"),
            s(&[OK]),
            c(b"\x02shop"),
            s(&[OK]),
            c(b"\x01"),
        ],
        &[
            "Server SELECT shop.items - None 59/79",
            "Server INSERT items - None 43/11",
            "Server OTHER  1064 Client 12/49",
            "Server PING  - None 5/11",
            "Server USE  - None 9/11",
        ],
    );
}

#[test]
fn lists_of_fields_end_with_eof_of_one_byte_too() {
    after_login(
        0,
        &[
            c(b"\x04items\0"),
            s(&[DEFINITION, DEFINITION, EOF]),
            c(b"\x04items\0"),
            s(&[DEFINITION, DEFINITION, b"\xfe"]),
            query("SELEC 1"),
            s(&[SYNTAX]),
        ],
        &[
            "Server FIELD_LIST  - None 11/97",
            "Server FIELD_LIST  - None 11/93",
            "Server OTHER  1064 Client 12/49",
        ],
    );
}

#[test]
fn result_sets_end_with_ok_where_eof_is_deprecated() {
    after_login(
        DEPRECATE_EOF,
        &[
            query("SELECT 1 FROM a"),
            s(&[b"\x01", DEFINITION, b"\x017", b"\xfb", ROWS_OK]),
            query("SELECT 1 FROM b"),
            s(&[b"\x01", DEFINITION, ROWS_OK]),
            query("SELECT 1 FROM c"),
            s(&[b"\x01", DEFINITION, b"\x017", SYNTAX]),
        ],
        &[
            "Server SELECT a - None 20/71",
            "Server SELECT b - None 20/60",
            "Server SELECT other 1064 Client 20/104",
        ],
    );
}

#[test]
fn executions_resolve_to_what_was_prepared() {
    for (capabilities, prepared, rows) in [
        (
            0,
            s(&[b"\0\x07\0\0\0\x02\0\x01\0\0\0\0", DEFINITION, EOF, DEFINITION, DEFINITION, EOF]),
            s(&[b"\x01", DEFINITION, EOF, b"\0\0\x01\0\0\0", EOF]),
        ),
        (
            DEPRECATE_EOF,
            s(&[b"\0\x07\0\0\0\x02\0\x01\0\0\0\0", DEFINITION, DEFINITION, DEFINITION]),
            s(&[b"\x01", DEFINITION, b"\0\0\x01\0\0\0", ROWS_OK]),
        ),
    ] {
        let (first, second) = (prepared.1.len(), rows.1.len());
        after_login(
            capabilities,
            &[
                prepare("SELECT a, b FROM items WHERE id = ?"),
                prepared,
                execute(7),
                rows,
                c(b"\x18\x07\0\0\0\0\0long"),
                c(b"\x1a\x07\0\0\0"),
                s(&[OK]),
                c(b"\x19\x07\0\0\0"),
                execute(7),
                s(&[b"\xff\xdb\x04#HY000Unknown prepared statement handler"]),
            ],
            &[
                &format!("Server PREPARE items - None 40/{first}"),
                &format!("Server SELECT items - None 14/{second}"),
                "Server RESET items - None 9/11",
                "Server EXECUTE  1243 Client 14/47",
            ],
        );
    }
}

#[test]
fn preparing_without_parameters_or_columns() {
    for (capabilities, one) in [(0, [DEFINITION, EOF].as_slice()), (DEPRECATE_EOF, &[DEFINITION])] {
        let answer = |head: &'static [u8]| s(&[&[head], one].concat());
        let (columns, parameters) =
            (answer(b"\0\x01\0\0\0\x01\0\0\0\0\0\0"), answer(b"\0\x02\0\0\0\0\0\x01\0\0\0\0"));
        let length = columns.1.len();
        let steps = [
            prepare("SELECT 1 FROM t"),
            columns,
            prepare("DELETE FROM t WHERE a = ?"),
            parameters,
            prepare("COMMIT"),
            s(&[b"\0\x03\0\0\0\0\0\0\0\0\0\0"]),
            execute(3),
            s(&[OK]),
            execute(2),
            s(&[OK]),
        ];
        let expected = [
            &format!("Server PREPARE t - None 20/{length}"),
            &format!("Server PREPARE t - None 30/{length}"),
            "Server PREPARE  - None 11/16",
            "Server COMMIT  - None 14/11",
            "Server DELETE t - None 14/11",
        ];
        after_login(capabilities, &steps, &expected);
        // Joined in the middle it is unknown whether an EOF follows the definitions; it is not the exchange's then.
        let mut lines = play(connection(), &steps);
        for line in &mut lines {
            line.truncate(line.find('/').unwrap());
        }
        assert_eq!(lines, expected.map(|line| line.split('/').next().unwrap().to_owned()));
    }
}

#[test]
fn cursors_fetch_what_they_execute() {
    after_login(
        0,
        &[
            prepare("SELECT a FROM t"),
            s(&[b"\0\x01\0\0\0\x01\0\0\0\0\0\0", DEFINITION, EOF]),
            c(b"\x17\x01\0\0\0\x01\x01\0\0\0"),
            s(&[b"\x01", DEFINITION, EOF_CURSOR]),
            c(b"\x1c\x01\0\0\0\x02\0\0\0"),
            s(&[b"\0\0\x01\0\0\0", b"\0\0\x02\0\0\0", EOF]),
        ],
        &["Server PREPARE t - None 20/69", "Server SELECT t - None 14/58", "Server FETCH t - None 13/29"],
    );
}

#[test]
fn all_results_of_a_statement_are_one_exchange() {
    after_login(
        0,
        &[
            query("CALL report(1)"),
            s(&[
                b"\x01", DEFINITION, EOF, b"\x017", EOF_MORE, b"\x01", DEFINITION, EOF, EOF_MORE, OK_MORE, OK,
            ]),
            query("SELECT 1 FROM t; DROP TABLE x"),
            s(&[b"\x01", DEFINITION, EOF, EOF_MORE, SYNTAX]),
        ],
        &["Server CALL report - None 19/162", "Server SELECT other 1064 Client 34/116"],
    );
}

#[test]
fn local_files_belong_to_their_statement() {
    let mut end = packets(2, &[b"1,a\n2,b\n", b"3,c\n", b""]);
    end.extend_from_slice(&packets(0, &[b"\x0e"]));
    after_login(
        0,
        &[
            query("LOAD DATA LOCAL INFILE 'secret' INTO TABLE t"),
            s(&[b"\xfbsecret"]),
            (C, end),
            (S, packets(5, &[OK])),
            s(&[OK]),
        ],
        &["Server LOAD t - None 73/22", "Server PING  - None 5/11"],
    );
}

#[test]
fn pipelined_commands_pair_in_order() {
    let commands = [prepare("INSERT INTO t VALUES (?)").1, execute(u32::MAX).1, query("COMMIT").1].concat();
    let answers = [
        s(&[b"\0\x09\0\0\0\0\0\x01\0\0\0\0", DEFINITION]).1,
        s(&[b"\xff\x26\x04#23000Duplicate entry 'secret'"]).1,
        s(&[OK]).1,
    ]
    .concat();
    after_login(
        DEPRECATE_EOF,
        &[(C, commands), (S, answers)],
        &[
            "Server PREPARE t - None 29/60",
            "Server INSERT t 1062 Client 14/37",
            "Server COMMIT  - None 11/11",
        ],
    );
}

#[test]
fn query_attributes_metadata_flags_and_progress_reports() {
    after_login(
        DEPRECATE_EOF,
        &[
            c(b"\x03\x00\x01SELECT 1 FROM t"),
            s(&[b"\x01\x00", b"\x017", ROWS_OK]),
            c(b"\x03\x00\x01SELECT 1 FROM t"),
            s(&[b"\x01\x02", DEFINITION, DEFINITION, b"\x017", ROWS_OK]),
            query("ALTER TABLE t ADD x int"),
            s(&[
                b"\xff\xff\xff\x01\x02\x02\x10\x27\0\x05stage",
                b"\xff\xff\xff\x01\x02\x02\x20\x27\0\x05stage",
                OK,
            ]),
        ],
        &["Server SELECT t - None 22/23", "Server SELECT t - None 22/111", "Server ALTER t - None 28/49"],
    );
}

#[test]
fn packets_of_the_largest_length_go_on() {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login(0) {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    let most = 0xff_ffff_u64;
    replay.part(C, b"\xff\xff\xff\0\x03INSERT INTO t VALUES ('", 4 + most);
    replay.part(C, b"\x02\0\0\x01')", 6);
    replay.egress(&packets(2, &[OK]));
    replay.part(C, &query("SELECT x FROM t").1, 20);
    replay.egress(&packets(1, &[b"\x01", DEFINITION, EOF]));
    replay.part(S, b"\xff\xff\xff\x04\xfe\0\0\0\x01\0\0\0\0", 4 + most);
    replay.part(S, b"\x04\0\0\x05tail", 8);
    replay.egress(&packets(6, &[EOF]));
    replay.close();
    assert_eq!(replay.lines(), ["Server INSERT t - None 16777225/11", "Server SELECT t - None 20/16777294"]);
}

#[test]
fn refused_logins_are_exchanges() {
    let denied = b"\xff\x15\x04#28000Access denied for user 'secret'@'localhost'";
    expect(
        &[
            greeting(0),
            hello(0),
            (S, packets(2, &[b"\xfemysql_native_password\0salt"])),
            (C, packets(3, &[b"x"])),
            (S, packets(4, &[denied])),
        ],
        &["Server CONNECT  1045 Client 84/165"],
    );
    expect(&[(S, packets(0, &[b"\xff\x10\x04Too many connections"]))], &["Server CONNECT  1040 Server 0/27"]);
}

#[test]
fn tls_and_compression_are_set_aside() {
    let mut tls =
        packets(1, &[&[&(PROTOCOL_41 | 1 << 11).to_le_bytes()[..], &[0, 0, 0, 1, 0x21], &[0; 23]].concat()]);
    assert_eq!(tls.len(), 36);
    tls.extend_from_slice(b"\x16\x03\x01\x00\x60\x01\x00\x00\x5c\x03\x03");
    for cut in [tls.len(), 36, 20] {
        let mut replay = Replay::new(connection());
        replay.egress(&greeting(1 << 11).1);
        replay.ingress(&tls[..cut]);
        replay.ingress(&tls[cut..]);
        assert_eq!(replay.connection.verdict(), Verdict::Known(Protocol::Tls), "{cut}");
    }
    for compression in [1 << 5, 1 << 26] {
        let mut replay = Replay::new(connection());
        for (way, bytes) in login(compression) {
            replay.part(way, &bytes, bytes.len() as u64);
        }
        replay.ingress(b"\x0d\0\0\0\0\0\0\x09\0\0\0\x03SELECT 1");
        assert_eq!(replay.connection.verdict(), Verdict::Ignored);
        replay.close();
        assert_eq!(replay.lines(), [""; 0]);
    }
}

#[test]
fn replication_streams_are_left_alone() {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login(0) {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    replay.ingress(&c(b"\x12\x04\0\0\0\0\0\x01\0\0\0binlog.1").1);
    replay.egress(&s(&[b"\0event"]).1);
    assert_eq!(replay.connection.verdict(), Verdict::Ignored);
    replay.close();
    assert_eq!(replay.lines(), ["Server BINLOG_DUMP  - None 23/10"]);
}

#[test]
fn prepared_statements_are_bounded() {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login(0) {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    for id in 1..=2_000_u32 {
        replay.ingress(&prepare("SELECT 1").1);
        replay.egress(&s(&[&[b"\0", &id.to_le_bytes()[..], &[0; 7]].concat()]).1);
        // One that is used is not forgotten.
        replay.ingress(&execute(1).1);
        replay.egress(&s(&[OK]).1);
    }
    for id in [2, 2_000] {
        replay.ingress(&execute(id).1);
        replay.egress(&s(&[OK]).1);
    }
    replay.close();
    let lines = replay.lines();
    assert!(lines[..4_000].iter().all(|line| !line.contains("EXECUTE")));
    assert_eq!(lines[4_000..], ["Server EXECUTE  - None 14/11", "Server SELECT  - None 14/11"]);
}

#[test]
fn an_unanswered_command_ends_with_the_connection() {
    after_login(0, &[query("SELECT 1")], &["Server SELECT  - NoResponse 13/0"]);
}

#[test]
fn other_bytes_are_not_taken_for_it() {
    let mut random = Random(11);
    for _ in 0..20_000 {
        let mut replay = Replay::new(connection());
        for round in 0..4 {
            let length = 1 + random.below(80);
            let mut bytes = random.bytes(length);
            // Half of them with a header that fits.
            if random.below(2) == 0 && length > 5 {
                bytes[..4].copy_from_slice(&[u8::try_from(length - 4).unwrap(), 0, 0, 0]);
                bytes[4] = [3, 0x16, 0x17, 10][random.below(4)];
            }
            replay.part([C, S][round % 2], &bytes, length as u64);
        }
        assert_ne!(replay.connection.verdict(), Verdict::Known(Protocol::Mysql));
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let mut conversation = login(0);
    conversation.extend([
        query("SELECT id FROM shop.items"),
        s(&[b"\x01", DEFINITION, EOF, b"\x017", b"\x018", EOF]),
        prepare("SELECT a, b FROM items WHERE id = ?"),
        s(&[b"\0\x07\0\0\0\x02\0\x01\0\0\0\0", DEFINITION, EOF, DEFINITION, DEFINITION, EOF]),
        execute(7),
        s(&[b"\x01", DEFINITION, EOF, b"\0\0\x01\0\0\0", EOF]),
        query("LOAD DATA LOCAL INFILE 'f' INTO TABLE t"),
        s(&[b"\xfbf"]),
        (C, packets(2, &[b"1,a\n2,b\n", b""])),
        (S, packets(4, &[OK])),
        query("COMMIT"),
        s(&[OK]),
    ]);
    assert_no_harm(Protocol::Mysql, Transport::Stream, &conversation);
}
