//! Recordings of real servers and clients, of which only what the walk wants is captured: a parser must find the same in
//! that as in everything.

use porthole_framing::{
    Framing, Piece, Walk,
    layout::LAYOUTS,
    walk::{CONFIRMATIONS, Extent, Step},
};
use porthole_l7::{Chunk, Connection, Direction, Exchange, Limits, ParserContext, ScopeId, Timestamp};
use porthole_protocol::Protocol;

const RECORDINGS: [(Protocol, &str); 23] = [
    (Protocol::Amqp, include_str!("../../../tests/recordings/amqp-rabbitmq.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/grpc-core.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/grpc-go.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/grpc-java.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/grpc-java-server.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/grpc-js.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/grpc-tonic.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/http2-nghttp2.txt")),
    (Protocol::Http2, include_str!("../../../tests/recordings/http2-node.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-3.9.1-java.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-3.9.1-librdkafka.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-3.9.1-python.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-4.0.0-java.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-4.0.0-librdkafka.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-4.0.0-python.txt")),
    (Protocol::Kafka, include_str!("../../../tests/recordings/kafka-4.0.0-transactions.txt")),
    (Protocol::Mongodb, include_str!("../../../tests/recordings/mongodb-pymongo.txt")),
    (Protocol::Mysql, include_str!("../../../tests/recordings/mysql-mariadb-connector-python.txt")),
    (Protocol::Mysql, include_str!("../../../tests/recordings/mysql-mariadb-program.txt")),
    (Protocol::Mysql, include_str!("../../../tests/recordings/mysql-mariadb-pymysql.txt")),
    (Protocol::Postgresql, include_str!("../../../tests/recordings/postgresql-asyncpg.txt")),
    (Protocol::Postgresql, include_str!("../../../tests/recordings/postgresql-pg8000.txt")),
    (Protocol::Postgresql, include_str!("../../../tests/recordings/postgresql-psycopg.txt")),
];

/// One call of a connection: its number, whether the client sent it, and its bytes.
type Call = (u32, bool, Vec<u8>);

fn read(text: &str) -> Vec<Call> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let digit =
        |digit: u8| u8::try_from(char::from(digit).to_digit(16).expect("hexadecimal")).expect("a digit");
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let bytes = words[3].as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1]));
            (words[0].parse().expect("a number"), words[2] == ">", bytes.collect())
        })
        .collect()
}

/// The pieces of a call, as the programs make them, with windows of this length.
fn pieces(walk: &mut Walk, framing: Framing, position: u64, call: &[u8], window: usize) -> Vec<Piece> {
    let layout = &LAYOUTS[usize::from(framing.number())];
    let mut pieces = Vec::new();
    let mut at = 0;
    walk.begin(position);
    let mut passed = *walk;
    if passed.buffered_len == 0 {
        while !passed.pass(layout, call, position, call.len() as u64) {}
    }
    let by_steps = walk.buffered_len > 0;
    while at < call.len() {
        let left = (call.len() - at) as u64;
        let unwanted = walk.unwanted(position + at as u64);
        let piece = if unwanted > 0 {
            Piece { head: 0, total: unwanted.min(left) }
        } else {
            let bytes = &call[at..call.len().min(at + window)];
            let extent = Extent { position: position + at as u64, len: bytes.len() as u64, left };
            let mut index = 0;
            loop {
                match walk.step(layout, bytes, extent, index) {
                    Step::Message(next) => index = next,
                    Step::Piece(piece) => break piece,
                }
            }
        };
        assert!(piece.total > 0 && piece.head <= piece.total && piece.total <= left, "{piece:?} of {left}");
        at += usize::try_from(piece.total).expect("fits");
        pieces.push(piece);
    }
    assert!(by_steps || passed == *walk, "{framing:?}: {passed:?}, {walk:?} of {call:?} at {position}");
    pieces
}

/// Joins pieces that follow one another without a gap.
fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut all: Vec<Piece> = Vec::new();
    for piece in pieces {
        match all.last_mut().filter(|last| last.head == last.total) {
            Some(last) => {
                last.head += piece.head;
                last.total += piece.total;
            }
            None => all.push(*piece),
        }
    }
    all
}

/// What is captured of each call.
#[derive(Clone, Copy, Debug)]
struct How {
    /// Longest call.
    cut: usize,
    /// Length of windows; `None` where all is captured.
    window: Option<usize>,
}

struct Followed {
    connection: Connection,
    walks: [Walk; 2],
    offsets: [u64; 2],
}

/// Plays a recording; gives what is found, and the share of bytes that was captured.
fn play(protocol: Protocol, calls: &[Call], how: How) -> (Vec<String>, f64) {
    let mut context = ParserContext::new(Limits::default());
    let mut followed = std::collections::BTreeMap::<u32, Followed>::new();
    let (mut found, mut now, mut captured, mut moved) = (Vec::<Exchange>::new(), 0, 0, 0);
    for (number, asks, bytes) in calls {
        let direction = if *asks { Direction::Egress } else { Direction::Ingress };
        let Followed { connection, walks, offsets } = followed.entry(*number).or_insert_with(|| Followed {
            connection: Connection::new(ScopeId(0)),
            walks: [Walk::default(); 2],
            offsets: [0; 2],
        });
        let this = direction as usize;
        for call in bytes.chunks(how.cut) {
            now += 1000;
            let whole = [Piece { head: call.len() as u64, total: call.len() as u64 }];
            let pieces = match how.window {
                Some(window) => {
                    joined(&pieces(&mut walks[this], Framing::of(protocol), offsets[this], call, window))
                }
                None => whole.to_vec(),
            };
            let mut at = 0;
            for piece in pieces {
                let head = usize::try_from(piece.head).expect("fits");
                let chunk = Chunk {
                    direction,
                    timestamp: Timestamp(now),
                    offset: offsets[this],
                    bytes: &call[at..at + head],
                    total: piece.total,
                };
                connection.chunk(&chunk, &mut context, &mut |exchange| found.push(exchange));
                captured += piece.head;
                moved += piece.total;
                offsets[this] += piece.total;
                at += usize::try_from(piece.total).expect("fits");
            }
        }
    }
    for Followed { connection, .. } in followed.values_mut() {
        connection.close(Timestamp(now), &mut context, &mut |exchange| found.push(exchange));
    }
    let line = |exchange: &Exchange| {
        let names = [exchange.operation, exchange.resource].map(|name| context.name(name).to_owned());
        format!("{names:?} {exchange:?}")
    };
    #[allow(clippy::cast_precision_loss)]
    let share = captured as f64 / moved as f64;
    (found.iter().map(line).collect(), share)
}

#[test]
fn what_is_wanted_is_enough_however_calls_are_cut() {
    let mut least: f64 = 1.0;
    for (protocol, text) in RECORDINGS {
        let calls = read(text);
        for cut in [1, 2, 3, 5, 7, 17, 100, 1000, 5000, usize::MAX] {
            let (whole, _) = play(protocol, &calls, How { cut, window: None });
            assert!(!whole.is_empty());
            for window in [8, 16, 31, 100, 4096] {
                let how = How { cut, window: Some(window) };
                let (found, share) = play(protocol, &calls, how);
                assert_eq!(found, whole, "{protocol:?} {how:?}");
                least = least.min(share);
            }
        }
    }
    assert!(least < 0.6, "something is left out: {least}");
}

/// A message of Kafka's with a body of this length.
fn message(body: u32) -> Vec<u8> {
    let mut message = body.to_be_bytes().to_vec();
    message.resize(4 + body as usize, 0xee);
    message
}

#[test]
fn bodies_are_left_out_once_messages_are_confirmed() {
    let mut walk = Walk::default();
    let (mut position, mut heads) = (0, Vec::new());
    for _ in 0..=CONFIRMATIONS {
        let call = message(1_000_000);
        let pieces = pieces(&mut walk, Framing::Kafka, position, &call, 4096);
        heads.push(pieces.iter().map(|piece| piece.head).sum::<u64>());
        position += call.len() as u64;
    }
    assert_eq!(heads, [1_000_004, 1_000_004, 1_000_004, 8192, 8192]);
}

#[test]
fn after_bytes_that_were_not_seen_messages_are_confirmed_anew() {
    let mut walk = Walk::default();
    let mut position = 0;
    let call = |walk: &mut Walk, position: &mut u64| {
        let call = message(100_000);
        let pieces = pieces(walk, Framing::Kafka, *position, &call, 4096);
        *position += call.len() as u64;
        pieces.iter().map(|piece| piece.head).sum::<u64>()
    };
    for _ in 0..CONFIRMATIONS {
        call(&mut walk, &mut position);
    }
    assert_eq!(call(&mut walk, &mut position), 8192);
    position += 5;
    assert_eq!(call(&mut walk, &mut position), 100_004, "everything");
    assert_eq!(walk.confirmed, 1);
}

#[test]
fn what_is_no_message_is_captured_whole() {
    let mut walk = Walk::default();
    for position in [0, 10_000, 20_000] {
        let pieces = pieces(&mut walk, Framing::Http2, position, &[b'x'; 10_000], 4096);
        assert!(pieces.iter().all(|piece| piece.head == piece.total), "{pieces:?}");
    }
}

#[test]
fn no_bytes_make_a_walk_stand_still_or_pass_the_end() {
    let mut state = 1_u64;
    let mut random = move || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for framing in
        [Framing::Http2, Framing::Amqp, Framing::Kafka, Framing::Mongodb, Framing::Postgresql, Framing::Mysql]
    {
        let mut walk = Walk::default();
        let mut position = 0;
        for _ in 0..2000 {
            // Mostly small numbers, so that many headers are possible ones.
            let length = random() % 300;
            let call: Vec<u8> =
                (0..length).map(|_| (random() & random() & random()).to_le_bytes()[0]).collect();
            let window = 8 + usize::try_from(random() % 64).expect("small");
            // What is asserted is in there.
            pieces(&mut walk, framing, position, &call, window);
            position += call.len() as u64 + u64::from(random() % 10 == 0);
        }
    }
}
