//! What leaves the guest: markers are planted in every position of a conversation that holds a value, in each protocol,
//! and no exchange, name or debug output may hold one.

use crate::{
    ClientId, Connection, ScopeId, Side,
    testing::{Replay, line},
    values::{Conversation, conversations},
};

/// Values as users have them: words, passwords, names, tokens, numbers, and text that ends literals of one dialect only.
const MARKERS: [&str; 9] = [
    "swordfish",
    "hunter2",
    "Bob.Smithers",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijkl",
    "aB3xY9",
    "4111111111111111",
    "x FROM swordfish y",
    "bob:s3cret",
];

/// Whether a text has a part of any marker.
fn holds_marker(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let parts = MARKERS.iter().flat_map(|marker| marker.split([' ', ':'])).filter(|part| part.len() > 4);
    parts.map(str::to_ascii_lowercase).any(|part| text.contains(&part))
}

#[test]
fn no_value_leaves_in_an_exchange_a_name_or_debug_output() {
    for marker in MARKERS {
        for Conversation { protocol, transport, steps } in conversations(marker, marker.as_bytes()) {
            for side in [Side::Server, Side::Client] {
                let connection =
                    Connection::known(ScopeId(1), transport, protocol, side).expect("in the table");
                let mut replay = Replay::new(connection.of_client(ClientId(1)));
                // A user comes again, and again.
                for _ in 0..3 {
                    for (direction, bytes) in &steps {
                        let direction = if side == Side::Server { *direction } else { direction.reverse() };
                        replay.part(direction, bytes, bytes.len() as u64);
                        let debug = format!("{:?}", replay.connection);
                        assert!(!holds_marker(&debug), "{protocol:?}: {debug}");
                    }
                }
                replay.close();
                assert!(!replay.exchanges.is_empty(), "{protocol:?}");
                let exchanges = replay.exchanges.iter().map(|exchange| line(&replay.context, exchange));
                let names = replay.context.names().map(str::to_owned);
                for text in exchanges.chain(names) {
                    assert!(!holds_marker(&text), "{protocol:?}, {side:?}: {text:?} of {marker:?}");
                }
            }
        }
    }
}

#[test]
fn every_conversation_is_understood() {
    for Conversation { protocol, transport, steps } in conversations("swordfish", b"swordfish") {
        let connection = match transport {
            crate::Transport::Stream => Connection::new(ScopeId(1)),
            crate::Transport::Datagram => Connection::datagram(ScopeId(1)),
        };
        let mut replay = Replay::new(connection);
        for (direction, bytes) in &steps {
            replay.part(*direction, bytes, bytes.len() as u64);
        }
        replay.close();
        let tally = replay.context.tally();
        assert_eq!((tally.unparsed, tally.gaps), (0, 0), "{protocol:?} {:#?}", replay.lines());
        // Requests that the server answers.
        let least = if protocol == crate::Protocol::Tls { 1 } else { 2 };
        let answered = replay.exchanges.iter().filter(|exchange| exchange.response_bytes > 0).count();
        assert!(answered >= least, "{protocol:?} {:#?}", replay.lines());
    }
}
