//! Recordings of real servers and clients (`captures/record.py`), and what must hold for all of them.

use std::collections::BTreeMap;

use crate::{
    Connection, Direction, Protocol, ScopeId, Side, Verdict,
    parser::{Guess, OPENING_BYTES_MAX, Opening, Sender, Transport},
    table,
    testing::{self, Replay},
};

/// Every recording, and what is spoken in it.
const RECORDINGS: &[(Protocol, &str)] = &[(Protocol::Dns, include_str!("../captures/dns-dnsmasq.txt"))];

/// One recorded connection.
pub(crate) struct Recorded {
    pub(crate) transport: Transport,
    pub(crate) pieces: Vec<(Sender, Vec<u8>)>,
}

/// Reads a recording: lines of a connection's number, transport, way and bytes.
pub(crate) fn read(text: &str) -> Vec<Recorded> {
    let mut connections: BTreeMap<u32, Recorded> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [number, transport, way, hex] = words.as_slice() else { panic!("a line of four words: {line}") };
        let transport = if *transport == "udp" { Transport::Datagram } else { Transport::Stream };
        let sender = if *way == ">" { Sender::Client } else { Sender::Server };
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).expect("hexadecimal");
            u8::from_str_radix(pair, 16).expect("hexadecimal")
        });
        connections
            .entry(number.parse().expect("a number"))
            .or_insert_with(|| Recorded { transport, pieces: Vec::new() })
            .pieces
            .push((sender, bytes.collect()));
    }
    connections.into_values().collect()
}

/// How a recording is played.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) side: Side,
    /// Streams are cut into pieces of so many bytes; 0 leaves them as they are.
    pub(crate) cut: usize,
    /// Most bytes of a piece that are captured.
    pub(crate) captured: usize,
}

/// What is found in a connection. It must be recognised as this protocol, of this side.
pub(crate) fn play(recorded: &Recorded, protocol: Protocol, how: How) -> Vec<String> {
    let connection = match recorded.transport {
        Transport::Stream => Connection::new(ScopeId(0)),
        Transport::Datagram => Connection::datagram(ScopeId(0)),
    };
    let mut replay = Replay::new(connection);
    for (sender, bytes) in &recorded.pieces {
        let direction = match (sender, how.side) {
            (Sender::Client, Side::Client) | (Sender::Server, Side::Server) => Direction::Egress,
            _ => Direction::Ingress,
        };
        let cut =
            if how.cut == 0 || recorded.transport == Transport::Datagram { bytes.len() } else { how.cut };
        for piece in bytes.chunks(cut) {
            replay.part(direction, &piece[..piece.len().min(how.captured)], piece.len() as u64);
        }
    }
    assert_eq!(replay.connection.verdict(), Verdict::Known(protocol));
    replay.close();
    assert!(replay.exchanges.iter().all(|exchange| exchange.protocol == protocol));
    let side = format!("{:?} ", how.side);
    let lines = replay.exchanges.iter().map(|exchange| testing::line(&replay.engine, exchange));
    lines.map(|line| line.strip_prefix(&side).expect("this side").to_owned()).collect()
}

/// What is found in all connections of a recording, the same on both sides and however streams are cut.
pub(crate) fn lines(text: &str, protocol: Protocol) -> Vec<String> {
    let whole = How { side: Side::Client, cut: 0, captured: usize::MAX };
    let mut all = Vec::new();
    for (number, recorded) in read(text).iter().enumerate() {
        let found = play(recorded, protocol, whole);
        for side in [Side::Client, Side::Server] {
            for cut in [0, 1, 2, 3, 5, 17, 100, 1000] {
                let cut_so = play(recorded, protocol, How { side, cut, ..whole });
                assert_eq!(cut_so, found, "connection {number}, {side:?}, cut {cut}");
            }
        }
        all.extend(found);
    }
    all
}

#[test]
fn no_protocols_bytes_are_taken_for_anothers() {
    for (protocol, text) in RECORDINGS {
        for recorded in read(text) {
            // What either end said last, for the entries that want to hear both.
            let mut said: [&[u8]; 2] = [&[], &[]];
            for (sender, bytes) in &recorded.pieces {
                let this = usize::from(*sender == Sender::Server);
                said[this] = bytes.get(..OPENING_BYTES_MAX).unwrap_or(bytes);
                for start in 0..bytes.len().min(64) {
                    let opening = Opening {
                        transport: recorded.transport,
                        bytes: &bytes[start..],
                        total: (bytes.len() - start) as u64,
                        first: start == 0,
                        peer: said[1 - this],
                    };
                    for entry in table::TABLE {
                        let guess = (entry.identify)(&opening);
                        if entry.transports.contains(&recorded.transport) && entry.protocol != *protocol {
                            assert!(
                                !matches!(guess, Guess::Yes(_)),
                                "{protocol:?} is taken for {:?}: {:?}",
                                entry.protocol,
                                &bytes[start..]
                            );
                        }
                    }
                }
            }
        }
    }
}
