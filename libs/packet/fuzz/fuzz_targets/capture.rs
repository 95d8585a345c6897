//! Any bytes as a capture file: reading ends, and every message that was begun comes to one end.
#![no_main]

use std::io::Cursor;

use porthole_l7::{Limits as ParserLimits, ParserContext};
use porthole_packet::{Capture, Limits, Replay};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(mut capture) = Capture::open(Cursor::new(data.to_vec())) else { return };
    // Few connections at a time, so that the table's bound is reached.
    let mut flows =
        Replay::new(ParserContext::new(ParserLimits::default()), Limits { flows: 8, ..Limits::default() });
    let mut exchanges = 0_u64;
    while let Ok(true) = capture.next(&mut |packet| flows.packet(&packet, &mut |_, _| exchanges += 1)) {}
    flows.finish(&mut |_, _| exchanges += 1);
    let tally = flows.context().tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed);
    assert_eq!(tally.exchanges, exchanges);
});
