//! Recordings of real servers and clients (`tests/recordings`), and what must hold for all of them.

use std::collections::BTreeMap;

use crate::{
    Chunk, Connection, Direction, Exchange, Limits, ParserContext, Protocol, ScopeId, Side, Tally, Timestamp,
    Verdict,
    parser::{Detection, PREFIX_BYTES_MAX, Prefix, Sender, Transport},
    table, testing,
};

/// A recording: its protocol, its name in `tests/recordings`, and its text.
pub(crate) type Recording = (Protocol, &'static str, &'static str);

macro_rules! recording {
    ($protocol:ident, $name:literal) => {
        (Protocol::$protocol, $name, include_str!(concat!("../../../tests/recordings/", $name, ".txt")))
    };
}

/// Every recording by a relay.
pub(crate) const RECORDINGS: &[Recording] = &[
    recording!(Amqp, "amqp-rabbitmq"),
    recording!(Dns, "dns-dnsmasq"),
    recording!(Dns, "dns-libc"),
    recording!(Grpc, "grpc-core"),
    recording!(Grpc, "grpc-go"),
    recording!(Grpc, "grpc-java"),
    recording!(Grpc, "grpc-java-server"),
    recording!(Grpc, "grpc-js"),
    recording!(Grpc, "grpc-tonic"),
    recording!(Http2, "http2-nghttp2"),
    recording!(Http2, "http2-node"),
    recording!(Kafka, "kafka-3.9.1-java"),
    recording!(Kafka, "kafka-3.9.1-librdkafka"),
    recording!(Kafka, "kafka-3.9.1-python"),
    recording!(Kafka, "kafka-4.0.0-java"),
    recording!(Kafka, "kafka-4.0.0-librdkafka"),
    recording!(Kafka, "kafka-4.0.0-python"),
    recording!(Kafka, "kafka-4.0.0-transactions"),
    recording!(Mongodb, "mongodb-pymongo"),
    recording!(Mysql, "mysql-mariadb-connector-python"),
    recording!(Mysql, "mysql-mariadb-program"),
    recording!(Mysql, "mysql-mariadb-pymysql"),
    recording!(Postgresql, "postgresql-asyncpg"),
    recording!(Postgresql, "postgresql-pg8000"),
    recording!(Postgresql, "postgresql-programs"),
    recording!(Postgresql, "postgresql-psycopg"),
];

/// One piece of what was recorded.
pub(crate) struct Piece {
    pub(crate) connection: u32,
    pub(crate) transport: Transport,
    pub(crate) sender: Sender,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a recording: lines of a connection's number, transport, way and bytes.
pub(crate) fn read(text: &str) -> Vec<Piece> {
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
    /// So many of its bytes are captured.
    Cut(usize),
    /// Its bytes count, and nothing is known of them.
    Lost,
    /// It moved before anyone looked.
    Before,
}

/// As which protocol the connections of a recording are recognised.
fn detected(protocol: Protocol) -> Protocol {
    if protocol == Protocol::Grpc { Protocol::Http2 } else { protocol }
}

/// Plays a recording; every connection that is recognised must be recognised as this protocol, of this side.
fn play(pieces: &[Piece], protocol: Protocol, how: How) -> (Vec<String>, Tally) {
    let (lines, tally, recognised) = play_part(pieces, protocol, how, |_, _| Fate::Captured);
    assert!(recognised, "{how:?}");
    (lines, tally)
}

/// Plays a part of a recording, by the number and sender of its pieces; the last value is whether all connections were
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
            let captured = if let Fate::Cut(captured) = fate { captured } else { how.captured };
            let bytes = &part[..part.len().min(captured)];
            let chunk = Chunk { direction, timestamp: Timestamp(now), offset, bytes, total };
            offsets[direction as usize] += total;
            if fate == Fate::Lost {
                continue;
            }
            connection.chunk(&chunk, &mut context, &mut |exchange| exchanges.push(exchange));
        }
    }
    let mut recognised = true;
    for Followed { connection, offsets } in followed.values_mut() {
        connection.moved(*offsets, Timestamp(now), &mut context, &mut |exchange| exchanges.push(exchange));
        match connection.verdict() {
            Verdict::Known(of) => assert_eq!(of, detected(protocol), "{how:?}"),
            _ => recognised = false,
        }
        connection.close(Timestamp(now), &mut context, &mut |exchange| exchanges.push(exchange));
    }
    let tally = context.tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "{how:?}");
    assert!(exchanges.iter().all(|exchange| {
        // A stream of which the content type is unknown may be no call of gRPC.
        [protocol, detected(protocol)].contains(&exchange.protocol) && exchange.side == how.side
    }));
    let side = format!("{:?} ", how.side);
    let lines = exchanges
        .iter()
        .map(|exchange| testing::line(&context, exchange).strip_prefix(&side).expect("this side").to_owned());
    (lines.collect(), tally, recognised)
}

/// What is found in a recording, which must be the same on both sides and however streams are cut. Nothing is left
/// over that cannot be parsed.
fn lines(recording: &str) -> Vec<String> {
    let named = RECORDINGS.iter().find(|(_, name, _)| *name == recording);
    let &(protocol, _, text) = named.unwrap_or_else(|| panic!("no recording {recording}"));
    let pieces = read(text);
    let whole = How { side: Side::Client, cut: usize::MAX, captured: usize::MAX };
    let (found, tally) = play(&pieces, protocol, whole);
    assert_eq!((tally.unparsed, tally.gaps, tally.unidentified, tally.incomplete), (0, 0, 0, 0));
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

/// Asserts the exchanges of a recording: operation, resource, status, error, and the bytes of request and response.
pub(crate) fn assert_exchanges(recording: &str, expected: &[&str]) {
    assert_eq!(lines(recording), expected, "{recording}");
}

/// Asserts how many exchanges of which operation, resource, status and error a recording has.
pub(crate) fn assert_counts(recording: &str, expected: &[&str]) {
    assert_eq!(counted(&lines(recording)), expected, "{recording}");
}

/// Lines without their sizes, each with its number, in the order of the first.
fn counted(lines: &[String]) -> Vec<String> {
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

/// Whether an exchange of a part can be this one of the whole: what is not in the part may be unknown, and so may the
/// response. A status that is unknown is no success. The sizes may differ.
fn can_be(part: &str, whole: &str) -> bool {
    let (part, whole) = (words(part), words(whole));
    let answer = part[3] == "NoResponse"
        || part[2..] == whole[2..]
        || part[2] == "other" && (part[3] == "None" || whole[3] != "None")
        // A server that refuses a publication does so later.
        || part[0] == "basic.publish" && part[2..] == ["-", "None"];
    // The statement was prepared before the part; a portal's executions are of the command that the server names.
    let operation = part[0] == whole[0]
        || ["EXECUTE", "OTHER", "other"].contains(&part[0])
        || [part[0], whole[0]] == ["SELECT", "FETCH"];
    // Of a name that is not confirmed, the part may have another number of sightings. Which queue a consumer reads
    // is in an earlier request.
    let resource = part[1] == whole[1]
        || ["", "other"].contains(&part[1])
        || whole[1] == "other"
        || part[0] == "basic.deliver";
    answer && operation && resource
}

/// An exchange of a part that is none of the whole's, each of which can be one of the part's, and those that are left.
pub(crate) fn invented<'a>(part: &'a [String], whole: &'a [String]) -> Option<(&'a String, Vec<&'a String>)> {
    let mut left: Vec<&String> = whole.iter().collect();
    let mut part: Vec<&String> = part.iter().collect();
    part.retain(|line| match left.iter().position(|whole| whole == line) {
        Some(found) => {
            left.remove(found);
            false
        }
        None => true,
    });
    // Those with more fields match fewer others, so they choose first.
    part.sort_by_key(|line| {
        line.split(' ').filter(|word| ["", "other", "-", "NoResponse"].contains(word)).count()
    });
    for line in part {
        let [operation, resource, status, error] = words(line);
        // Of a reply whose request is missing, nothing shows that it is one.
        if [operation, resource, status] == ["MSG", "_INBOX", "-"] {
            continue;
        }
        // AMQP's failures end a channel: where the request is unknown, the end itself is an exchange.
        let is_end = ["channel.close", "connection.close"].contains(&operation) && status != "-";
        if is_end && whole.iter().any(|whole| words(whole)[2..] == [status, error]) {
            continue;
        }
        let Some(found) = left.iter().position(|whole| can_be(line, whole)) else {
            return Some((line, left));
        };
        left.remove(found);
    }
    None
}

/// Everything that was found in a part must be one of the whole, each once.
fn assert_part(part: &[String], whole: &[String], how: &str) {
    if let Some((line, left)) = invented(part, whole) {
        panic!("{how}: {line:?} is none of {left:#?}");
    }
}

/// Goes through the recordings from either side: gives the pieces, and a way to play a part of them, whose exchanges are
/// compared with the whole's.
fn each_recording(
    mut look: impl FnMut(Protocol, &[Piece], &dyn Fn(&dyn Fn(usize, Sender) -> Fate) -> Vec<String>),
) {
    for (protocol, _, text) in RECORDINGS {
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
        // Those that are never answered are found without an answer.
        let unanswered =
            |lines: &[String]| lines.iter().filter(|line| words(line)[3] == "NoResponse").count();
        let whole = play(&|_, _| Fate::Captured);
        for joined in 0..pieces.len() {
            let from = |before| move |index, _| if index < joined { before } else { Fate::Captured };
            play(&from(Fate::Lost));
            let part = play(&from(Fate::Before));
            let first = play(&|index, _| if index < joined { Fate::Captured } else { Fate::Before });
            *sent += whole.len() - first.len();
            let answered = part.len() - unanswered(&part).saturating_sub(unanswered(&whole));
            *found += answered.min(whole.len() - first.len());
        }
    });
    for (protocol, (sent, found)) in shares {
        assert!(found * 1000 >= sent * 999, "{protocol:?}: {found} of {sent} sent after joining");
    }
}

#[test]
fn whatever_piece_is_missing_nothing_is_said_that_was_not() {
    each_recording(|_, pieces, play| {
        for (missing, Piece { bytes, .. }) in pieces.iter().enumerate() {
            let cut = [0, bytes.len() / 2, bytes.len() - 1].map(Fate::Cut);
            for fate in [Fate::Lost].iter().chain(&cut) {
                play(&|index, _| if index == missing { *fate } else { Fate::Captured });
            }
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
    for (protocol, _, text) in RECORDINGS {
        // The last bytes of either end, for the entries that need both.
        let mut said: BTreeMap<u32, [Vec<u8>; 2]> = BTreeMap::new();
        for Piece { connection, transport, sender, bytes } in read(text) {
            let this = usize::from(sender == Sender::Server);
            let said = said.entry(connection).or_default();
            said[this] = bytes.get(..PREFIX_BYTES_MAX).unwrap_or(&bytes).to_vec();
            for start in 0..bytes.len().min(64) {
                let of_start = testing::first_bytes(transport, &bytes[start..], &said[1 - this]);
                let prefix = Prefix { first: start == 0, ..of_start };
                for entry in table::TABLE {
                    if entry.transports.contains(&transport) && entry.protocol != detected(*protocol) {
                        let detection = (entry.detect)(&prefix);
                        let taken = matches!(detection, Detection::Yes(_));
                        assert!(!taken, "{protocol:?} for {:?}: {:?}", entry.protocol, prefix.bytes);
                    }
                }
            }
        }
    }
}
