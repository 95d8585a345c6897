//! Recordings of real servers and clients (`captures/record.py`), and what must hold for all of them.

use std::collections::BTreeMap;

use crate::{
    Chunk, Connection, Direction, Exchange, Limits, ParserContext, Protocol, ScopeId, Side, Tally, Timestamp,
    Verdict,
    parser::{Detection, PREFIX_BYTES_MAX, Prefix, Sender, Transport},
    table, testing,
};

/// Every recording, and its protocol.
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

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Captured,
    /// Its bytes count, and nothing is known of them.
    Lost,
    /// It moved before anyone looked.
    Before,
}

/// Plays a recording; every connection that is recognised must be recognised as this protocol, of this side.
fn play(pieces: &[Piece], protocol: Protocol, how: How) -> (Vec<String>, Tally) {
    let (lines, tally, recognised) = play_part(pieces, protocol, how, |_, _| Fate::Captured);
    assert!(recognised, "{how:?}");
    (lines, tally)
}

/// Plays a part of a recording, by the number and sender of its pieces; the last value says that all connections were
/// recognised.
fn play_part(
    pieces: &[Piece],
    protocol: Protocol,
    how: How,
    fate: impl Fn(usize, Sender) -> Fate,
) -> (Vec<String>, Tally, bool) {
    let mut context = ParserContext::new(Limits::default());
    let mut followed: BTreeMap<u32, Followed> = BTreeMap::new();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut now = 0;
    for (index, Piece { connection: number, transport, sender, bytes }) in pieces.iter().enumerate() {
        let fate = fate(index, *sender);
        if fate == Fate::Before {
            continue;
        }
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
            if fate == Fate::Lost {
                continue;
            }
            connection.chunk(&chunk, &mut context, &mut |exchange| exchanges.push(exchange));
        }
    }
    let mut recognised = true;
    for Followed { connection, .. } in followed.values_mut() {
        match connection.verdict() {
            Verdict::Known(of) => assert_eq!(of, protocol, "{how:?}"),
            _ => recognised = false,
        }
        connection.close(Timestamp(now), &mut context, &mut |exchange| exchanges.push(exchange));
    }
    let tally = context.tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "{how:?}");
    assert!(exchanges.iter().all(|exchange| exchange.protocol == protocol && exchange.side == how.side));
    let side = format!("{:?} ", how.side);
    let lines = exchanges
        .iter()
        .map(|exchange| testing::line(&context, exchange).strip_prefix(&side).expect("this side").to_owned());
    (lines.collect(), tally, recognised)
}

/// What is found in a recording, which must be the same on both sides and however streams are cut. Nothing is left
/// over that cannot be parsed.
pub(crate) fn lines(text: &str, protocol: Protocol) -> Vec<String> {
    let pieces = read(text);
    let whole = How { side: Side::Client, cut: usize::MAX, captured: usize::MAX };
    let (found, tally) = play(&pieces, protocol, whole);
    assert_eq!((tally.unparsed, tally.gaps, tally.unidentified), (0, 0, 0));
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

/// A recording's exchanges, each line with its number, in the order of the first.
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

/// Operation, which may have spaces, resource, status and error of a line.
fn words(line: &str) -> [&str; 4] {
    let mut words: Vec<&str> = line.rsplitn(5, ' ').skip(1).collect();
    words.reverse();
    words.try_into().expect("five words")
}

/// Whether an exchange of a part can be this one of the whole: what the part does not say may be unknown, and so may the
/// response. The sizes may differ.
fn can_be(part: &str, whole: &str) -> bool {
    let (part, whole) = (words(part), words(whole));
    let answer = part[3] == "NoResponse" || part[2..] == whole[2..] || (part[2] == "-" && whole[2] != "-");
    // What was prepared was said before.
    let operation = part[0] == whole[0] || ["EXECUTE", "OTHER", "other"].contains(&part[0]);
    let resource = part[1] == whole[1] || ["", "other"].contains(&part[1]);
    answer && operation && resource
}

/// Everything that was found in a part must be one of the whole, each once.
fn assert_part(part: &[String], whole: &[String], how: &str) {
    let mut left: Vec<&String> = whole.iter().collect();
    // Those that say more have less to choose from.
    let mut part: Vec<&String> = part.iter().collect();
    part.sort_by_key(|line| {
        line.split(' ').filter(|word| ["", "other", "-", "NoResponse"].contains(word)).count()
    });
    for line in part {
        let [operation, _, status, error] = words(line);
        // AMQP's failures end a channel: where the request is unknown, the end itself is an exchange.
        if ["channel.close", "connection.close"].contains(&operation) && status != "-" {
            assert!(whole.iter().any(|whole| words(whole)[2..] == [status, error]), "{how}: {line}");
            continue;
        }
        let found = left.iter().position(|whole| *whole == line);
        let found = found.or_else(|| left.iter().position(|whole| can_be(line, whole)));
        let Some(found) = found else { panic!("{how}: {line:?} is none of {left:#?}") };
        left.remove(found);
    }
}

/// Goes through the recordings from either side: gives the pieces, and a way to play a part of them, whose exchanges are
/// compared with the whole's.
fn each_recording(
    mut look: impl FnMut(Protocol, &[Piece], &dyn Fn(&dyn Fn(usize, Sender) -> Fate) -> Vec<String>),
) {
    for (protocol, text) in RECORDINGS {
        let pieces = read(text);
        for side in [Side::Client, Side::Server] {
            let how = How { side, cut: usize::MAX, captured: usize::MAX };
            let (whole, _) = play(&pieces, *protocol, how);
            look(*protocol, &pieces, &|fate| {
                let (part, ..) = play_part(&pieces, *protocol, how, fate);
                assert_part(&part, &whole, &format!("{protocol:?}, {side:?}"));
                part
            });
        }
    }
}

#[test]
fn joined_anywhere_nothing_is_said_that_was_not() {
    // Requests since the connection was joined, and exchanges found of those.
    let mut shares: BTreeMap<Protocol, (usize, usize)> = BTreeMap::new();
    each_recording(|protocol, pieces, play| {
        let (sent, found) = shares.entry(protocol).or_default();
        let whole = play(&|_, _| Fate::Captured).len();
        for joined in 0..pieces.len() {
            let from = |before| move |index, _| if index < joined { before } else { Fate::Captured };
            play(&from(Fate::Lost));
            let part = play(&from(Fate::Before));
            let first = play(&|index, _| if index < joined { Fate::Captured } else { Fate::Before });
            *sent += whole - first.len();
            *found += part.iter().filter(|line| words(line)[3] != "NoResponse").count();
        }
    });
    for (protocol, (sent, found)) in shares {
        assert!(found * 100 >= sent * 90, "{protocol:?}: {found} of {sent} sent after joining");
    }
}

#[test]
fn whatever_piece_is_missing_nothing_is_said_that_was_not() {
    each_recording(|_, pieces, play| {
        for missing in 0..pieces.len() {
            play(&|index, _| if index == missing { Fate::Lost } else { Fate::Captured });
        }
    });
}

#[test]
fn of_one_way_alone_nothing_is_said_that_was_not() {
    each_recording(|_, _, play| {
        for heard in [Sender::Client, Sender::Server] {
            play(&|_, sender| if sender == heard { Fate::Captured } else { Fate::Before });
        }
    });
}

#[test]
fn no_protocols_bytes_are_taken_for_anothers() {
    for (protocol, text) in RECORDINGS {
        // What either end of a connection said last, for the entries that want to hear both.
        let mut said: BTreeMap<u32, [Vec<u8>; 2]> = BTreeMap::new();
        for Piece { connection, transport, sender, bytes } in read(text) {
            let this = usize::from(sender == Sender::Server);
            let said = said.entry(connection).or_default();
            said[this] = bytes.get(..PREFIX_BYTES_MAX).unwrap_or(&bytes).to_vec();
            for start in 0..bytes.len().min(64) {
                let prefix = Prefix {
                    transport,
                    bytes: &bytes[start..],
                    total: (bytes.len() - start) as u64,
                    first: start == 0,
                    peer: &said[1 - this],
                };
                for entry in table::TABLE {
                    if entry.transports.contains(&transport) && entry.protocol != *protocol {
                        let detection = (entry.detect)(&prefix);
                        let taken = matches!(detection, Detection::Yes(_));
                        assert!(!taken, "{protocol:?} for {:?}: {:?}", entry.protocol, prefix.bytes);
                    }
                }
            }
        }
    }
}
