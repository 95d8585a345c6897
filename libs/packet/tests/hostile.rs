//! Captures with bytes changed, cut off and repeated: whatever comes, reading ends, and no number is out of bounds.

use std::{io::Cursor, path::PathBuf};

use porthole_l7::{Limits as ParserLimits, ParserContext};
use porthole_packet::{Capture, Limits, Replay, Tally};

/// Deterministic random numbers (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }
}

fn play(bytes: Vec<u8>, limits: Limits) -> Tally {
    let Ok(mut capture) = Capture::open(Cursor::new(bytes)) else { return Tally::default() };
    let mut flows = Replay::new(ParserContext::new(ParserLimits::default()), limits);
    let mut exchanges = 0_u64;
    while let Ok(true) = capture.next(&mut |packet| flows.packet(&packet, &mut |_, _| exchanges += 1)) {}
    flows.finish(&mut |_, _| exchanges += 1);
    let tally = flows.context().tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "every message comes to one end");
    assert_eq!(tally.exchanges, exchanges);
    flows.tally()
}

fn captures() -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/recordings");
    let names = ["http1", "redis", "dns", "mysql", "postgresql"];
    names.map(|name| std::fs::read(directory.join(format!("{name}.pcap"))).expect("a capture")).into()
}

#[test]
fn changed_bytes_do_no_harm() {
    for (number, capture) in captures().into_iter().enumerate() {
        let mut random = Random(number as u64);
        for _ in 0..80 {
            let mut changed = capture.clone();
            for _ in 0..=random.below(20) {
                let at = random.below(changed.len());
                changed[at] = random.next().to_le_bytes()[0];
            }
            changed.truncate(changed.len() - random.below(changed.len() / 4));
            play(changed, Limits::default());
        }
    }
}

#[test]
fn a_full_table_forgets_the_oldest_and_says_so() {
    let capture = captures().swap_remove(0);
    let all = play(capture.clone(), Limits::default());
    assert_eq!((all.flows, all.evicted), (6, 0));
    let few = play(capture, Limits { flows: 2, ..Limits::default() });
    assert_eq!(few.flows, 6);
    assert_eq!(few.packets, all.packets);
}
