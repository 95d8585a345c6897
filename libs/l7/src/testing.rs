//! What the parsers' tests share: a connection with its context, random numbers, and ways to cut bytes.

use std::net::SocketAddr;

use crate::{
    Chunk, Connection, Direction, Exchange, Limits, ParserContext, Protocol, ScopeId, Side, Tally, Timestamp,
    Transport, parser::Prefix,
};

/// The first bytes of an end, of which all were captured.
pub(crate) fn first_bytes<'a>(transport: Transport, bytes: &'a [u8], peer: &'a [u8]) -> Prefix<'a> {
    Prefix {
        transport,
        bytes,
        total: bytes.len() as u64,
        first: true,
        is_rest: false,
        is_turn: true,
        peer,
        peer_is_turn: true,
        last: false,
    }
}

/// A connection under test, fed by hand. Time passes by one microsecond for each chunk.
pub(crate) struct Replay {
    pub(crate) context: ParserContext,
    pub(crate) connection: Connection,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) now: u64,
    offsets: [u64; 2],
}

impl Replay {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            context: ParserContext::new(Limits::default()),
            connection,
            exchanges: Vec::new(),
            now: 0,
            offsets: [0; 2],
        }
    }

    pub(crate) fn ingress(&mut self, bytes: &[u8]) {
        self.part(Direction::Ingress, bytes, bytes.len() as u64);
    }

    pub(crate) fn egress(&mut self, bytes: &[u8]) {
        self.part(Direction::Egress, bytes, bytes.len() as u64);
    }

    /// Of `total` bytes only the head was captured.
    pub(crate) fn part(&mut self, direction: Direction, bytes: &[u8], total: u64) {
        self.datagram(None, direction, bytes, total);
    }

    /// The same of a socket that has several peers.
    pub(crate) fn datagram(
        &mut self,
        peer: Option<SocketAddr>,
        direction: Direction,
        bytes: &[u8],
        total: u64,
    ) {
        self.now += 1000;
        let offset = self.offsets[direction as usize];
        self.offsets[direction as usize] += total;
        let chunk = Chunk { direction, timestamp: Timestamp(self.now), offset, bytes, total };
        let exchanges = &mut self.exchanges;
        self.connection
            .datagram_of(peer, &chunk, &mut self.context, &mut |exchange| exchanges.push(exchange));
    }

    /// Bytes moved and nothing is known of them.
    pub(crate) fn lose(&mut self, direction: Direction, bytes: u64) {
        self.offsets[direction as usize] += bytes;
    }

    /// So much time passes, nanoseconds, and the connection is looked at.
    pub(crate) fn wait(&mut self, ns: u64) {
        self.now += ns;
        let exchanges = &mut self.exchanges;
        self.connection
            .tick(Timestamp(self.now), &mut self.context, &mut |exchange| exchanges.push(exchange));
    }

    pub(crate) fn close(&mut self) {
        self.now += 1000;
        let exchanges = &mut self.exchanges;
        self.connection.moved(self.offsets, Timestamp(self.now), &mut self.context, &mut |exchange| {
            exchanges.push(exchange);
        });
        self.connection
            .close(Timestamp(self.now), &mut self.context, &mut |exchange| exchanges.push(exchange));
        let Tally { messages_seen, exchanges, unparsed, .. } = self.context.tally();
        assert_eq!(messages_seen, exchanges + unparsed, "every message must come to one end");
        assert_eq!(exchanges, self.exchanges.len() as u64);
    }

    /// The exchanges as text, without times: `operation resource status error request_bytes/response_bytes`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.exchanges.iter().map(|exchange| line(&self.context, exchange)).collect()
    }
}

pub(crate) fn line(context: &ParserContext, exchange: &Exchange) -> String {
    let status = match exchange.status {
        crate::Status::None => "-".to_owned(),
        crate::Status::Code(code) => code.to_string(),
        crate::Status::Word(word) => context.name(word).to_owned(),
    };
    format!(
        "{:?} {} {} {status} {:?} {}/{}",
        exchange.side,
        context.name(exchange.operation),
        context.name(exchange.resource),
        exchange.error,
        exchange.request_bytes,
        exchange.response_bytes
    )
}

/// Deterministic random numbers (`SplitMix64`).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// A step of a conversation: which way, and the bytes.
pub(crate) use crate::values::Step;

/// Plays a conversation and gives the exchanges as text.
pub(crate) fn play(connection: Connection, steps: &[Step]) -> Vec<String> {
    let mut replay = Replay::new(connection);
    for (direction, bytes) in steps {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    replay.close();
    replay.lines()
}

/// Asserts what a client's conversation gives, also when its bytes are cut anywhere.
pub(crate) fn assert_client_exchanges(start: fn() -> Connection, steps: &[Step], expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|line| format!("Client {line}")).collect();
    assert_eq!(play(start(), steps), expected);
    assert_same_at_every_cut(start, steps, &expected);
}

/// Asserts that a conversation gives the same exchanges with every step cut in two at every byte, cut into single
/// bytes, and cut at random.
pub(crate) fn assert_same_at_every_cut(
    connection: impl Fn() -> Connection,
    steps: &[Step],
    expected: &[String],
) {
    for (at, (direction, bytes)) in steps.iter().enumerate() {
        for cut in 1..bytes.len() {
            let mut cut_steps = steps[..at].to_vec();
            cut_steps.push((*direction, bytes[..cut].to_vec()));
            cut_steps.push((*direction, bytes[cut..].to_vec()));
            cut_steps.extend_from_slice(&steps[at + 1..]);
            assert_eq!(play(connection(), &cut_steps), expected, "step {at} cut at {cut}");
        }
    }
    let bytewise: Vec<Step> =
        steps.iter().flat_map(|(way, bytes)| bytes.iter().map(|byte| (*way, vec![*byte]))).collect();
    assert_eq!(play(connection(), &bytewise), expected, "byte by byte");
    for seed in 0..50 {
        let mut random = Random(seed);
        let mut cut_steps = Vec::new();
        for (direction, bytes) in steps {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(1 + random.below(rest.len().min(40)));
                cut_steps.push((*direction, head.to_vec()));
                rest = tail;
            }
        }
        assert_eq!(play(connection(), &cut_steps), expected, "seed {seed}");
    }
}

/// Plays a conversation thousands of times with bytes changed, messages left out, lost, or captured in part, on connections
/// whose protocol is known or is not: nothing panics, and every message comes to one end ([`Replay::close`]).
pub(crate) fn assert_no_harm(protocol: Protocol, transport: Transport, steps: &[Step]) {
    for seed in 0..4_000 {
        let mut random = Random(seed);
        let side = if random.below(2) == 0 { Side::Client } else { Side::Server };
        let mut replay = Replay::new(match (random.below(2), transport) {
            (0, Transport::Stream) => Connection::new(ScopeId(0)),
            (0, Transport::Datagram) => Connection::datagram(ScopeId(0)),
            _ => Connection::known(ScopeId(0), transport, protocol, side).expect("in the table"),
        });
        for (way, bytes) in steps.iter().chain(steps) {
            if random.below(10) == 0 {
                continue;
            }
            let mut bytes = bytes.clone();
            // Mostly in messages' headers.
            let within = [bytes.len(), bytes.len().min(80)][random.below(2)];
            for _ in 0..random.below(4) {
                bytes[random.below(within)] = random.bytes(1)[0];
            }
            if random.below(10) == 0 {
                replay.lose(*way, random.next() % 100);
            }
            let from = if random.below(10) == 0 { random.below(bytes.len()) } else { 0 };
            let to = if random.below(4) == 0 { from + random.below(bytes.len() - from) } else { bytes.len() };
            let total = match random.below(4) {
                0 => to - from + random.below(100),
                _ => bytes.len() - from,
            };
            replay.part(*way, &bytes[from..to], total as u64);
        }
        replay.close();
    }
}
