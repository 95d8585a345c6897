//! Conversations as memcached has them, whole and cut, and bytes that are none.

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

fn conversation(parts: &[(Direction, &[u8])]) -> Vec<Step> {
    parts.iter().map(|(direction, bytes)| (*direction, bytes.to_vec())).collect()
}

const C: Direction = Direction::Ingress;
const S: Direction = Direction::Egress;

fn expect(parts: &[(Direction, &[u8])], expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|line| format!("Server {line}")).collect();
    let steps = conversation(parts);
    assert_eq!(play(connection(), &steps), expected);
    assert_same_at_every_cut(connection, &steps, &expected);
}

#[test]
fn text_commands_pair_in_order_when_pipelined() {
    expect(
        &[
            (C, b"set user:1 0 60 5\r\nab\r\nc\r\nget user:1 user:2\r\nget nosuch\r\nincr n 1\r\n"),
            (S, b"STORED\r\nVALUE user:1 0 5\r\nEND\r\n\r\nEND\r\nEND\r\nNOT_FOUND\r\n"),
        ],
        &[
            "set user STORED None 26/8",
            "get user HIT None 19/30",
            "get  MISS None 12/5",
            "incr  NOT_FOUND None 10/11",
        ],
    );
}

#[test]
fn noreply_is_over_at_once_and_errors_have_their_class() {
    expect(
        &[
            (C, b"set a 0 0 1 noreply\r\nx\r\ndelete a\r\nnonsense\r\nset b 0 0 1\r\ny\r\n"),
            (S, b"DELETED\r\nERROR\r\nSERVER_ERROR out of memory storing object\r\n"),
        ],
        &[
            "set  - None 24/0",
            "delete  DELETED None 10/9",
            "other  ERROR Client 10/7",
            "set  SERVER_ERROR Server 16/43",
        ],
    );
}

#[test]
fn statistics_end_with_a_line_or_with_one_word() {
    expect(
        &[
            (C, b"stats\r\nstats reset\r\nstats detail on\r\nstats detail dump\r\nstats x\r\nget a\r\n"),
            (
                S,
                b"STAT pid 1\r\nSTAT x OK\r\nEND\r\nRESET\r\nOK\r\nPREFIX a get 1\r\nEND\r\nERROR\r\nEND\r\n",
            ),
        ],
        &[
            "stats  - None 7/28",
            "stats  - None 13/7",
            "stats  - None 17/4",
            "stats  - None 19/21",
            "stats  ERROR Client 9/7",
            "get  MISS None 7/5",
        ],
    );
}

#[test]
fn quiet_meta_commands_are_known_at_the_barrier() {
    expect(
        &[
            (C, b"set a 0 0 1\r\nx\r\n"),
            (S, b"STORED\r\n"),
            (C, b"mg miss v q\r\nmg a v q\r\nms b 1 q\r\nz\r\nmn\r\n"),
            (S, b"VA 1\r\nx\r\nMN\r\n"),
        ],
        &[
            "set  STORED None 16/8",
            "mg  HIT None 13/9",
            "mg  - None 10/0",
            "ms  - None 13/0",
            "mn  MN None 4/4",
        ],
    );
}

fn binary(magic: u8, opcode: u8, status: u16, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = extras.len() + key.len() + value.len();
    let mut bytes = vec![magic, opcode];
    bytes.extend_from_slice(&u16::try_from(key.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[u8::try_from(extras.len()).unwrap(), 0]);
    bytes.extend_from_slice(&status.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(body).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(extras);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

#[test]
fn binary_commands_pair_and_quiet_ones_may_stay_silent() {
    let mut requests = binary(0x80, 0x01, 0, &[0; 8], b"user:1", b"value");
    requests.extend(binary(0x80, 0x09, 0, &[], b"user:2", b""));
    requests.extend(binary(0x80, 0x00, 0, &[], b"user:1", b""));
    requests.extend(binary(0x80, 0x00, 0, &[], b"nosuch", b""));
    let mut answers = binary(0x81, 0x01, 0, &[], b"", b"");
    answers.extend(binary(0x81, 0x00, 0, &[0; 4], b"", b"value"));
    answers.extend(binary(0x81, 0x00, 1, &[], b"", b"Not found"));
    expect(
        &[(C, &requests), (S, &answers)],
        &["set user - None 43/24", "get user - None 30/0", "get user HIT None 30/33", "get  MISS None 30/33"],
    );
}

#[test]
fn commands_alone_are_not_believed_without_their_answer() {
    for parts in [
        &[(C, b"get out of here\r\n".as_slice()), (S, b"why?\r\n".as_slice())][..],
        &[(C, b"quit\r\n"), (S, b"221 bye\r\n")],
        &[(C, b"version\r\n"), (S, b"1.0\r\n")],
    ] {
        assert!(play(connection(), &conversation(parts)).is_empty());
    }
}

#[test]
fn large_values_are_gone_past_by_length() {
    let mut replay = Replay::new(connection());
    for _ in 0..3 {
        replay.part(C, b"set k 0 0 1000000\r\nxxx", 19 + 1_000_002);
        replay.egress(b"STORED\r\n");
        replay.ingress(b"get k\r\n");
        replay.part(S, b"VALUE k 0 1000000\r\nxxxx", 19 + 1_000_002);
        replay.egress(b"END\r\n");
    }
    replay.close();
    assert_eq!(replay.exchanges.len(), 6);
}

#[test]
fn an_answer_whose_end_was_not_captured_ends_with_the_next_command() {
    for (ask, answer, expected) in [
        ("get k\r\n", "VALUE k 0 3000\r\nxxxx", "Server get  HIT None 7/"),
        ("mg k v\r\n", "VA 3000\r\nxxxx", "Server mg  HIT None 8/"),
    ] {
        let mut replay = Replay::new(connection());
        for _ in 0..3 {
            replay.ingress(ask.as_bytes());
            // Two segments, of each the head; the line that ends the answer is not captured.
            replay.part(S, answer.as_bytes(), 1400);
            replay.part(S, b"xxxx", 1700);
            replay.ingress(b"incr n 1\r\n");
            replay.egress(b"5\r\n");
        }
        replay.close();
        let lines = replay.lines();
        assert_eq!(lines.iter().filter(|line| line.starts_with(expected)).count(), 3, "{lines:?}");
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("Server incr  - None")).count(),
            3,
            "{lines:?}"
        );
    }
}

#[test]
fn a_connection_may_begin_with_a_line_of_many_keys() {
    let keys: Vec<String> = (0..300).map(|number| format!("user:{number:016}")).collect();
    let line = format!("get {}\r\n", keys.join(" "));
    for captured in [1400, 100] {
        let mut replay = Replay::new(connection());
        for piece in line.as_bytes().chunks(1400) {
            replay.part(C, piece.get(..captured).unwrap_or(piece), piece.len() as u64);
        }
        replay.egress(b"END\r\n");
        replay.ingress(b"get a\r\n");
        replay.egress(b"END\r\n");
        replay.close();
        let lines = replay.lines();
        assert!(lines[0].starts_with("Server get user MISS None ") && lines.len() == 2, "{lines:?}");
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let steps = [
        (C, b"set user:1 0 60 5\r\nab\r\nc\r\nget user:1 user:2\r\nmg a v q\r\nmn\r\nstats\r\n".to_vec()),
        (
            S,
            b"STORED\r\nVALUE user:1 0 5\r\nab\r\nc\r\nEND\r\nVA 1\r\nx\r\nMN\r\nSTAT a 1\r\nEND\r\n"
                .to_vec(),
        ),
    ];
    assert_no_harm(Protocol::Memcached, Transport::Stream, &steps);
}

#[test]
fn binary_files_full_of_small_numbers_are_not_taken_for_it() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let mut replay = Replay::new(connection());
        for _ in 0..4 {
            // Mostly zeros, and the numbers that the header's fields have.
            let mut bytes: Vec<u8> =
                (0..64).map(|_| [0, 0, 0, 0, 0, 0, 1, 4, 8, 0x0a, 20, 0x80][random.below(12)]).collect();
            bytes[0] = [0x80, 0x81][random.below(2)];
            let way = if random.below(2) == 0 { C } else { S };
            replay.part(way, &bytes, bytes.len() as u64);
        }
        assert!(!matches!(replay.connection.verdict(), crate::Verdict::Known(crate::Protocol::Memcached)));
    }
}
