//! Recordings of real servers and clients (`captures/record.py`), and what must hold for all of them.

use std::collections::BTreeMap;

use crate::{
    Chunk, Connection, Direction, Engine, Exchange, Limits, Protocol, ScopeId, Side, Tally, Timestamp,
    Verdict,
    parser::{Guess, OPENING_BYTES_MAX, Opening, Sender, Transport},
    table, testing,
};

/// Every recording, and what is spoken in it.
const RECORDINGS: &[(Protocol, &str)] = &[
    (Protocol::Amqp, include_str!("../captures/amqp-rabbitmq.txt")),
    (Protocol::Dns, include_str!("../captures/dns-dnsmasq.txt")),
    (Protocol::Dns, include_str!("../captures/dns-libc.txt")),
    (Protocol::Kafka, include_str!("../captures/kafka-3.9.1-java.txt")),
    (Protocol::Kafka, include_str!("../captures/kafka-3.9.1-librdkafka.txt")),
    (Protocol::Kafka, include_str!("../captures/kafka-3.9.1-python.txt")),
    (Protocol::Kafka, include_str!("../captures/kafka-4.0.0-java.txt")),
    (Protocol::Kafka, include_str!("../captures/kafka-4.0.0-librdkafka.txt")),
    (Protocol::Kafka, include_str!("../captures/kafka-4.0.0-python.txt")),
    (Protocol::Mongodb, include_str!("../captures/mongodb-pymongo.txt")),
    (Protocol::Mysql, include_str!("../captures/mysql-mariadb-connector-python.txt")),
    (Protocol::Mysql, include_str!("../captures/mysql-mariadb-program.txt")),
    (Protocol::Mysql, include_str!("../captures/mysql-mariadb-pymysql.txt")),
    (Protocol::Postgresql, include_str!("../captures/postgresql-asyncpg.txt")),
    (Protocol::Postgresql, include_str!("../captures/postgresql-pg8000.txt")),
    (Protocol::Postgresql, include_str!("../captures/postgresql-programs.txt")),
    (Protocol::Postgresql, include_str!("../captures/postgresql-psycopg.txt")),
];

/// One piece of what was recorded.
struct Piece {
    connection: u32,
    transport: Transport,
    sender: Sender,
    bytes: Vec<u8>,
}

/// Reads a recording: lines of a connection's number, transport, way and bytes.
fn read(text: &str) -> Vec<Piece> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [number, transport, way, hex] = words.as_slice() else {
                panic!("a line of four words: {line}")
            };
            let bytes = hex.as_bytes().chunks(2).map(|pair| {
                let pair = std::str::from_utf8(pair).expect("hexadecimal");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            });
            Piece {
                connection: number.parse().expect("a number"),
                transport: if *transport == "udp" { Transport::Datagram } else { Transport::Stream },
                sender: if *way == ">" { Sender::Client } else { Sender::Server },
                bytes: bytes.collect(),
            }
        })
        .collect()
}

/// How a recording is played.
#[derive(Clone, Copy, Debug)]
struct How {
    side: Side,
    /// Streams are cut into pieces of so many bytes.
    cut: usize,
    /// Most bytes of a piece that are captured.
    captured: usize,
}

struct Followed {
    connection: Connection,
    offsets: [u64; 2],
}

/// Plays a recording; every connection that is recognised must be recognised as this protocol, of this side.
fn play(pieces: &[Piece], protocol: Protocol, how: How) -> (Vec<String>, Tally) {
    let mut engine = Engine::new(Limits::default());
    let mut followed: BTreeMap<u32, Followed> = BTreeMap::new();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut now = 0;
    for Piece { connection: number, transport, sender, bytes } in pieces {
        let direction = match (sender, how.side) {
            (Sender::Client, Side::Client) | (Sender::Server, Side::Server) => Direction::Egress,
            _ => Direction::Ingress,
        };
        let Followed { connection, offsets } = followed.entry(*number).or_insert_with(|| Followed {
            connection: match transport {
                Transport::Stream => Connection::new(ScopeId(0)),
                Transport::Datagram => Connection::datagram(ScopeId(0)),
            },
            offsets: [0; 2],
        });
        let cut = if *transport == Transport::Datagram { bytes.len() } else { how.cut };
        for part in bytes.chunks(cut) {
            now += 1000;
            let offset = offsets[direction as usize];
            let total = part.len() as u64;
            let bytes = &part[..part.len().min(how.captured)];
            let chunk = Chunk { direction, timestamp: Timestamp(now), offset, bytes, total };
            offsets[direction as usize] += total;
            connection.chunk(&chunk, &mut engine, &mut |exchange| exchanges.push(exchange));
        }
    }
    for Followed { connection, .. } in followed.values_mut() {
        assert!(matches!(connection.verdict(), Verdict::Known(of) if of == protocol), "{how:?}");
        connection.close(Timestamp(now), &mut engine, &mut |exchange| exchanges.push(exchange));
    }
    let tally = engine.tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.not_understood, "{how:?}");
    assert!(exchanges.iter().all(|exchange| exchange.protocol == protocol && exchange.side == how.side));
    let side = format!("{:?} ", how.side);
    let lines = exchanges
        .iter()
        .map(|exchange| testing::line(&engine, exchange).strip_prefix(&side).expect("this side").to_owned());
    (lines.collect(), tally)
}

/// What is found in a recording, which must be the same on both sides and however streams are cut. Nothing is left
/// over that is not understood.
pub(crate) fn lines(text: &str, protocol: Protocol) -> Vec<String> {
    let pieces = read(text);
    let whole = How { side: Side::Client, cut: usize::MAX, captured: usize::MAX };
    let (found, tally) = play(&pieces, protocol, whole);
    assert_eq!((tally.not_understood, tally.gaps, tally.unidentified), (0, 0, 0));
    for side in [Side::Client, Side::Server] {
        for cut in [1, 2, 3, 5, 17, 100, 1000, usize::MAX] {
            let how = How { side, cut, ..whole };
            assert_eq!(play(&pieces, protocol, how).0, found, "{how:?}");
        }
    }
    // With less captured less may be known, but what was announced comes to its end.
    for captured in [200, 1000] {
        play(&pieces, protocol, How { captured, ..whole });
    }
    found
}

/// A recording's exchanges, each line with how often it came, in the order of the first.
pub(crate) fn counted(lines: &[String]) -> Vec<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for line in lines {
        // Without the sizes.
        let line = line.rsplit_once(' ').map_or(line.as_str(), |(line, _)| line);
        match counts.iter_mut().find(|(known, _)| *known == line) {
            Some((_, count)) => *count += 1,
            None => counts.push((line, 1)),
        }
    }
    counts.into_iter().map(|(line, count)| format!("{count} {line}")).collect()
}

#[test]
fn no_protocols_bytes_are_taken_for_anothers() {
    for (protocol, text) in RECORDINGS {
        // What either end of a connection said last, for the entries that want to hear both.
        let mut said: BTreeMap<u32, [Vec<u8>; 2]> = BTreeMap::new();
        for Piece { connection, transport, sender, bytes } in read(text) {
            let this = usize::from(sender == Sender::Server);
            let said = said.entry(connection).or_default();
            said[this] = bytes.get(..OPENING_BYTES_MAX).unwrap_or(&bytes).to_vec();
            for start in 0..bytes.len().min(64) {
                let opening = Opening {
                    transport,
                    bytes: &bytes[start..],
                    total: (bytes.len() - start) as u64,
                    first: start == 0,
                    peer: &said[1 - this],
                };
                for entry in table::TABLE {
                    if entry.transports.contains(&transport) && entry.protocol != *protocol {
                        let guess = (entry.identify)(&opening);
                        let taken = matches!(guess, Guess::Yes(_));
                        assert!(!taken, "{protocol:?} for {:?}: {:?}", entry.protocol, opening.bytes);
                    }
                }
            }
        }
    }
}
