//! Conversations as drivers and servers have them, whole, cut and mutated, and bytes that are none.

use crate::{
    Connection, Direction, Limits, Protocol, ScopeId, Transport, captured,
    parser::{Detection, Sender},
    testing::{Random, Replay, Step, assert_client_exchanges, assert_no_harm, first_bytes},
};

const C: Direction = Direction::Egress;
const S: Direction = Direction::Ingress;

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

/// A document out of elements.
fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let body = elements.concat();
    let length = u32::try_from(body.len() + 5).expect("short").to_le_bytes();
    [&length[..], &body, &[0]].concat()
}

fn text(name: &str, value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len() + 1).expect("short").to_le_bytes();
    [b"\x02", name.as_bytes(), b"\0", &length, value.as_bytes(), b"\0"].concat()
}

fn number(name: &str, value: i32) -> Vec<u8> {
    [b"\x10", name.as_bytes(), b"\0", &value.to_le_bytes()].concat()
}

fn double(name: &str, value: f64) -> Vec<u8> {
    [b"\x01", name.as_bytes(), b"\0", &value.to_le_bytes()].concat()
}

fn inner(kind: u8, name: &str, elements: &[Vec<u8>]) -> Vec<u8> {
    [&[kind], name.as_bytes(), b"\0", &document(elements)].concat()
}

fn message(id: u32, answers: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 16).expect("short");
    [&[length, id, answers, opcode].map(u32::to_le_bytes).concat(), body].concat()
}

fn msg(id: u32, answers: u32, flags: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    message(id, answers, 2013, &[&flags.to_le_bytes()[..], &[0], &document(elements)].concat())
}

fn command(id: u32, name: &str, collection: &str) -> Vec<u8> {
    msg(id, 0, 0, &[text(name, collection), text("$db", "shop")])
}

fn fine(id: u32, answers: u32) -> Vec<u8> {
    msg(id, answers, 0, &[number("n", 1), double("ok", 1.0)])
}

fn conversation() -> (Vec<Step>, Vec<&'static str>) {
    let documents = [&[1][..], &79_u32.to_le_bytes(), b"documents\0", &[b'x'; 65]].concat();
    let kind_one_first = [&[0; 4][..], &documents, &[0], &document(&[text("insert", "orders")])].concat();
    let legacy =
        [&[0; 4][..], b"admin.$cmd\0", &[0; 4], &[0xff; 4], &document(&[number("isMaster", 1)])].concat();
    let reply = [&[8, 0, 0, 0][..], &[0; 12], &[1, 0, 0, 0], &document(&[double("ok", 1.0)])].concat();
    let write_error = [number("index", 0), number("code", 11000), text("errmsg", "E11000")];
    let many: Vec<Vec<u8>> = (0..80).map(|at| text(&at.to_string(), "a document of some length")).collect();
    let steps = vec![
        (C, message(1, 0, 2004, &legacy)),
        (S, message(9, 1, 1, &reply)),
        (C, command(2, "find", "orders")),
        (S, msg(10, 2, 0, &[inner(3, "cursor", &[inner(4, "firstBatch", &many)]), double("ok", 1.0)])),
        (C, msg(3, 0, 0, &[[b"\x12getMore\0".as_slice(), &[7; 8]].concat(), text("collection", "orders")])),
        (S, msg(11, 3, 0, &[double("ok", 0.0), text("errmsg", "gone"), number("code", 43)])),
        (C, message(4, 0, 2013, &kind_one_first)),
        (
            S,
            msg(
                12,
                4,
                0,
                &[number("n", 0), inner(4, "writeErrors", &[inner(3, "0", &write_error)]), double("ok", 1.0)],
            ),
        ),
        // No answer is wanted; a message that is compressed; an exhaust cursor.
        (C, msg(5, 0, 2, &[text("update", "orders")])),
        (C, message(6, 0, 2012, &[0xdd, 7, 0, 0, 30, 0, 0, 0, 2, 1, 2, 3])),
        (S, message(13, 6, 2012, &[0xdd, 7, 0, 0, 30, 0, 0, 0, 2, 1, 2, 3])),
        (C, msg(7, 0, 1 << 16, &[number("hello", 1)])),
        (S, [msg(14, 7, 2, &[double("ok", 1.0)]), msg(15, 14, 2, &[double("ok", 1.0)])].concat()),
        (S, msg(16, 15, 0, &[double("ok", 1.0)])),
        (C, msg(8, 0, 0, &[number("frobnicate", 1)])),
        (S, msg(17, 8, 0, &[double("ok", 0.0), number("code", 189)])),
        (C, command(9, "drop", "orders")),
    ];
    let expected = vec![
        "isMaster  - None 58/53",
        "find orders - None 57/2778",
        "getMore orders 43 Client 66/65",
        "insert orders 11000 Client 125/111",
        "update orders - None 45/0",
        "(compressed)  other None 28/28",
        "hello  - None 37/38",
        "frobnicate  189 Server 42/48",
        "drop orders - NoResponse 57/0",
    ];
    (steps, expected)
}

#[test]
fn commands_are_paired_by_their_id() {
    let (steps, expected) = conversation();
    assert_client_exchanges(connection, &steps, &expected);
}

#[test]
fn what_pymongo_says_is_understood() {
    let expected = [
        "ismaster  - None 312/194",
        "ismaster  - None 330/194",
        "ping  - None 51/38",
        "insert orders - None 112/45",
        "insert orders - None 9576/45",
        "find orders - None 99/3520",
        "getMore orders - None 95/3519",
        "getMore orders - None 95/2835",
        "find orders - None 104/131",
        "update orders - None 157/60",
        "findAndModify orders - None 137/123",
        "aggregate orders - None 159/124",
        "distinct orders - None 75/76",
        "createIndexes orders - None 125/81",
        "listIndexes orders - None 77/211",
        "delete orders - None 115/45",
        "insert orders 11000 Client 98/214",
        "other  59 Client 59/162",
        "update orders 2 Client 153/195",
        // Gets no answer. The server closes the connection over it, while the driver requests something else.
        "insert orders - None 124/0",
        "ismaster  - None 312/194",
        "ismaster  - None 330/194",
        "listCollections  - None 85/251",
        "drop orders - None 57/75",
        "listCollections  - NoResponse 85/0",
    ];
    captured::assert_exchanges("mongodb-pymongo", &expected);
}

#[test]
fn large_messages_need_not_be_captured_whole() {
    let insert =
        [&[0, 0, 0, 0, 0][..], &document(&[text("insert", "orders"), text("x", &"y".repeat(9000))])].concat();
    let insert = message(1, 0, 2013, &insert);
    let found = msg(2, 1, 0, &[inner(3, "cursor", &[text("x", &"y".repeat(9000))]), double("ok", 1.0)]);
    let mut replay = Replay::new(connection());
    replay.part(C, &insert[..60], insert.len() as u64);
    replay.part(S, &found[..2000], found.len() as u64);
    replay.egress(&command(2, "count", "orders"));
    replay.ingress(&fine(3, 2));
    replay.close();
    assert_eq!(replay.lines(), ["Client insert orders - None 9053/9059", "Client count orders - None 58/45"]);
}

#[test]
fn after_a_loss_nothing_is_paired_that_is_not_sure() {
    let mut replay = Replay::new(connection());
    replay.egress(&[command(1, "find", "a"), command(2, "find", "b")].concat());
    replay.ingress(&fine(10, 1));
    replay.lose(S, 45);
    replay.ingress(b"the rest of a document");
    replay.egress(&command(3, "find", "c"));
    replay.ingress(&fine(11, 3));
    replay.lose(C, 45);
    replay.egress(b"the rest of a document");
    replay.egress(&command(4, "find", "d"));
    replay.ingress(&fine(12, 4));
    replay.close();
    let names = ["a", "c", "d"].map(|name| format!("Client find {name} - None 52/45"));
    assert_eq!(replay.lines(), names);
    assert_eq!(replay.context.tally().unparsed, 1);
}

#[test]
fn what_waits_by_design_is_called_so_and_is_no_failure() {
    let cursor = [b"\x12getMore\0".as_slice(), &[7; 8]].concat();
    let polls = [
        msg(1, 0, 0, &[number("hello", 1), number("maxAwaitTimeMS", 10_000)]),
        msg(2, 0, 0, &[cursor.clone(), text("collection", "orders"), number("maxTimeMS", 1000)]),
    ];
    let mut replay = Replay::new(connection());
    replay.egress(&polls.concat());
    replay.ingress(&[fine(9, 1), fine(10, 2)].concat());
    replay.egress(
        &[msg(3, 0, 0, &[number("hello", 1)]), msg(4, 0, 0, &[cursor, text("collection", "orders")])]
            .concat(),
    );
    replay.ingress(&[fine(11, 3), fine(12, 4)].concat());
    replay.egress(&polls.concat());
    replay.close();
    let found: Vec<String> =
        replay.lines().iter().map(|line| line.rsplit_once(' ').expect("sizes").0.to_owned()).collect();
    assert_eq!(
        found,
        [
            "Client hello (long poll)  - None",
            "Client getMore (long poll) orders - None",
            "Client hello  - None",
            "Client getMore orders - None",
            "Client hello (long poll)  - None",
            "Client getMore (long poll) orders - None",
        ]
    );
}

#[test]
fn a_command_without_an_answer_ends_and_the_answer_that_comes_after_all_is_dropped() {
    const MINUTE: u64 = 60_000_000_000;
    let mut replay = Replay::new(connection());
    replay.egress(&[command(1, "find", "orders"), command(2, "find", "orders")].concat());
    replay.ingress(&fine(9, 2));
    replay.wait(9 * MINUTE);
    assert_eq!(replay.exchanges.len(), 1);
    replay.wait(2 * MINUTE);
    assert_eq!(replay.lines()[1], "Client find orders - NoResponse 57/0");
    assert_eq!(replay.exchanges[1].duration_ns(), 10 * MINUTE);
    replay.ingress(&fine(10, 1));
    replay.close();
    assert_eq!((replay.exchanges.len(), replay.context.tally().unparsed), (2, 0));
}

#[test]
fn what_waits_and_its_names_are_bounded() {
    let mut replay = Replay::new(connection());
    for id in 0..5_000 {
        replay.egress(&command(id, "find", &format!("collection{id}")));
    }
    replay.close();
    let limits = Limits::default();
    assert_eq!(replay.exchanges.len(), limits.pending_per_connection);
    // No collection was confirmed; of some, others took the place before the end.
    let overflowed = replay.context.tally().overflowed_names;
    assert!((1..limits.pending_per_connection as u64).contains(&overflowed));
    assert!(replay.exchanges.iter().all(|exchange| exchange.resource == crate::Symbol::OTHER));
}

fn detect(bytes: &[u8]) -> Detection {
    super::message::detect(&first_bytes(Transport::Stream, bytes, &[]))
}

#[test]
fn both_ends_are_recognised() {
    for (bytes, sender) in [(command(7, "find", "orders"), Sender::Client), (fine(8, 7), Sender::Server)] {
        assert_eq!(detect(&bytes), Detection::Yes(sender));
        for cut in 1..bytes.len() {
            // The first element decides.
            let detection = detect(&bytes[..cut]);
            assert!(
                detection == Detection::More || cut > 26 && detection == Detection::Yes(sender),
                "{cut}: {detection:?}"
            );
        }
        // Opcode, flags, section, the document's length and its first element's kind.
        for (at, byte) in [(12, 0xdc), (18, 2), (20, 9), (22, 9), (25, 0x30)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert_ne!(detect(&bad), Detection::Yes(sender), "{at}");
        }
    }
}

#[test]
fn random_bytes_are_never_mongodb() {
    let mut random = Random(9);
    for round in 0..300_000_u32 {
        let length = 1 + random.below(80);
        let mut bytes = random.bytes(length);
        if round % 2 == 0 && length > 20 {
            bytes[..4].copy_from_slice(&u32::try_from(length).expect("small").to_le_bytes());
            bytes[12..16].copy_from_slice(&2013_u32.to_le_bytes());
        }
        assert!(!matches!(detect(&bytes), Detection::Yes(_)), "{bytes:?}");
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    assert_no_harm(Protocol::Mongodb, Transport::Stream, &conversation().0);
}
