//! Any bytes in tunnels: every message that was begun comes to one end.
#![no_main]

use porthole_l7::{Limits as ParserLimits, ParserContext};
use porthole_packet::{Limits, Link, Packet, Replay};

/// What carries the bytes: an IP protocol, and a datagram's port.
const OUTER: [(u8, Option<u16>); 11] = [
    (4, None),
    (41, None),
    (47, None),
    (97, None),
    (137, None),
    (17, Some(4789)),
    (17, Some(4790)),
    (17, Some(6081)),
    (17, Some(2152)),
    (17, Some(4754)),
    (17, Some(6635)),
];

fn within((protocol, port): (u8, Option<u16>), payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(0).to_be_bytes();
    let datagram = port.map_or(Vec::new(), |port| {
        [50_000_u16.to_be_bytes(), port.to_be_bytes(), length(8 + payload.len()), [0; 2]].concat()
    });
    let total = length(20 + datagram.len() + payload.len());
    let ip = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    [&ip[..], &datagram, payload].concat()
}

// Of each packet a byte for what carries it, a byte for its length, and its bytes.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let limits = Limits { flows: 8, ..Limits::default() };
    let mut flows = Replay::new(ParserContext::new(ParserLimits::default()), limits);
    let mut exchanges = 0_u64;
    let mut rest = data;
    while let [outer, length, bytes @ ..] = rest {
        let (payload, behind) = bytes.split_at(usize::from(*length).min(bytes.len()));
        let bytes = &within(OUTER[usize::from(*outer) % OUTER.len()], payload);
        flows.packet(&Packet { timestamp_ns: 0, link: Link::Raw, bytes }, &mut |_, _| exchanges += 1);
        rest = behind;
    }
    flows.finish(&mut |_, _| exchanges += 1);
    let tally = flows.context().tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed);
    assert_eq!(tally.exchanges, exchanges);
});
