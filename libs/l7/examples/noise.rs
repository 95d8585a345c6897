//! How many exchanges are found where there are none: in random bytes, or in files.
//!
//! `cargo run --release -p porthole-l7 --example noise [-- MEBIBYTES | FILE…]`

use std::{collections::BTreeMap, process::ExitCode};

use porthole_l7::{Chunk, Connection, Direction, Limits, ParserContext, ScopeId, Timestamp, Verdict};

/// Chunks that each connection gets, some of both directions.
const CHUNKS: usize = 9;

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

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

#[derive(Default)]
struct Tally {
    bytes: u64,
    connections: u64,
    /// By protocol: connections taken for it, exchanges.
    false_by_protocol: BTreeMap<String, (u64, u64)>,
}

/// Plays bytes as connections, cut into chunks of random length and direction.
fn play(mut source: impl FnMut(&mut [u8]) -> usize, random: &mut Random, tally: &mut Tally) {
    let mut buffer = vec![0; 4096];
    let mut context = ParserContext::new(Limits::default());
    loop {
        let mut connection =
            if random.below(8) == 0 { Connection::datagram(ScopeId(1)) } else { Connection::new(ScopeId(1)) };
        let mut offsets = [0; 2];
        let mut exchanges = Vec::new();
        tally.connections += 1;
        let mut known = None;
        for now in 1..=CHUNKS {
            let most = if random.below(4) == 0 { 4096 } else { 200 };
            let length = 1 + random.below(most - 1);
            let read = source(&mut buffer[..length]);
            if read == 0 {
                return;
            }
            let way = random.below(2);
            let direction = if way == 0 { Direction::Ingress } else { Direction::Egress };
            let timestamp = Timestamp(now as u64 * 1000);
            let total = read as u64;
            let chunk = Chunk { direction, timestamp, offset: offsets[way], bytes: &buffer[..read], total };
            offsets[way] += total;
            tally.bytes += total;
            connection.chunk(&chunk, &mut context, &mut |exchange| exchanges.push(exchange));
            if let Verdict::Known(protocol) = connection.verdict() {
                known = Some(protocol);
            }
        }
        connection.close(Timestamp(1_000_000), &mut context, &mut |exchange| exchanges.push(exchange));
        if let Some(protocol) = known {
            tally.false_by_protocol.entry(format!("{protocol:?}")).or_default().0 += 1;
        }
        for exchange in exchanges {
            tally.false_by_protocol.entry(format!("{:?}", exchange.protocol)).or_default().1 += 1;
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut random = Random(42);
    let mut tally = Tally::default();
    let mebibytes = arguments.first().map_or(Some(64), |argument| argument.parse::<u64>().ok());
    if let Some(mebibytes) = mebibytes {
        let mut left = mebibytes << 20;
        let mut bytes = Random(7);
        let fill = |buffer: &mut [u8]| {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= wanted as u64;
            for part in buffer[..wanted].chunks_mut(8) {
                let number = bytes.next().to_le_bytes();
                part.copy_from_slice(&number[..part.len()]);
            }
            wanted
        };
        play(fill, &mut random, &mut tally);
    } else {
        for path in &arguments {
            let Ok(content) = std::fs::read(path) else {
                eprintln!("{path}: cannot be read");
                return ExitCode::FAILURE;
            };
            let mut rest = content.as_slice();
            let fill = |buffer: &mut [u8]| {
                let (head, tail) = rest.split_at(buffer.len().min(rest.len()));
                buffer[..head.len()].copy_from_slice(head);
                rest = tail;
                head.len()
            };
            play(fill, &mut random, &mut tally);
        }
    }
    println!("{} bytes on {} connections", tally.bytes, tally.connections);
    for (protocol, (connections, exchanges)) in &tally.false_by_protocol {
        println!("{protocol}: {connections} connections taken for it, {exchanges} exchanges");
    }
    if tally.false_by_protocol.values().all(|(_, exchanges)| *exchanges == 0) {
        println!("no exchange was found");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
