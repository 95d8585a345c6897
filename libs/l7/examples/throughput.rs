//! How fast the parsers are, and what they allocate, per exchange in the steady state.
//!
//! `cargo run --release -p porthole-l7 --example throughput [-- --json]`

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use porthole_l7::{
    Chunk, Connection,
    Direction::{self, Egress, Ingress},
    Limits, ParserContext, Protocol, ScopeId, Timestamp,
};

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What both ends send.
type Steps = Vec<(Direction, Vec<u8>)>;

/// A conversation that is repeated on one connection.
struct Scenario {
    name: &'static str,
    protocol: Protocol,
    /// Once, at the beginning.
    prefix: Steps,
    /// Again and again; the number of the round is given.
    round: Box<dyn Fn(u32) -> Steps>,
    exchanges_per_round: u64,
}

const REQUEST: &str = "GET /api/v1/products/48151623?currency=EUR HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: \
    Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: application/json\r\n\
    Accept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Connection: keep-alive\r\n\r\n";

fn response() -> String {
    format!(
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 21 Oct 2013 20:13:21 GMT\r\nContent-Type: application/json\r\n\
         Content-Length: 600\r\nConnection: keep-alive\r\n\r\n{}",
        "x".repeat(600)
    )
}

fn http1(name: &'static str, pipelined: usize) -> Scenario {
    let requests = REQUEST.repeat(pipelined).into_bytes();
    let responses = response().repeat(pipelined).into_bytes();
    Scenario {
        name,
        protocol: Protocol::Http1,
        prefix: Vec::new(),
        round: Box::new(move |_| vec![(Ingress, requests.clone()), (Egress, responses.clone())]),
        exchanges_per_round: pipelined as u64,
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x40];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap_or(0));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// Unary calls; after the first everything comes out of the dynamic tables.
fn grpc() -> Scenario {
    let first = [
        vec![0x83, 0x86],
        literal(":path", "/shop.Cart/Add"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ]
    .concat();
    let answer = [vec![0x88], literal("content-type", "application/grpc")].concat();
    let trailers = literal("grpc-status", "0");
    let call = |stream, block: &[u8]| [frame(1, 4, stream, block), frame(0, 1, stream, &[0; 64])].concat();
    let reply = |stream, block: &[u8], trailers: &[u8]| {
        [frame(1, 4, stream, block), frame(0, 0, stream, &[0; 64]), frame(1, 5, stream, trailers)].concat()
    };
    Scenario {
        name: "grpc unary",
        protocol: Protocol::Http2,
        prefix: vec![
            (Ingress, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()),
            (Egress, frame(4, 0, 0, &[])),
            (Ingress, call(1, &first)),
            (Egress, reply(1, &answer, &trailers)),
        ],
        round: Box::new(move |round| {
            let stream = 2 * round + 3;
            vec![
                (Ingress, call(stream, &[0x83, 0x86, 0xc0, 0xbf, 0xbe])),
                (Egress, reply(stream, &[0x88, 0xbf], &[0xbe])),
            ]
        }),
        exchanges_per_round: 1,
    }
}

const STATEMENT: &str =
    "SELECT id, name, price FROM shop.items WHERE category = 'books' AND price < 20 ORDER BY price";

/// Queries with ten rows, each read as a server does: the header of a packet, then the rest.
fn mysql() -> Scenario {
    let packet = |number: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_le_bytes();
        [&length[..3], &[number], payload].concat()
    };
    let request = packet(0, format!("\x03{STATEMENT}").as_bytes());
    let mut answer = packet(1, &[1]);
    answer.extend(packet(
        2,
        b"\x03def\x04shop\x05items\x05items\x02id\x02id\x0c\x3f\0\x0b\0\0\0\x03\x03\x42\0\0\0",
    ));
    answer.extend(packet(3, b"\xfe\0\0\x02\0"));
    for row in 4..14 {
        answer.extend(packet(row, b"\x0612345\x14a name of 20 letters\x05 9.99"));
    }
    answer.extend(packet(14, b"\xfe\0\0\x02\0"));
    let (header, rest) = request.split_at(4);
    let steps = vec![(Ingress, header.to_vec()), (Ingress, rest.to_vec()), (Egress, answer)];
    Scenario {
        name: "mysql query",
        protocol: Protocol::Mysql,
        prefix: Vec::new(),
        round: Box::new(move |_| steps.clone()),
        exchanges_per_round: 1,
    }
}

/// Queries with ten rows, in the simple or the extended protocol.
fn postgresql(name: &'static str, extended: bool) -> Scenario {
    let message = |kind: u8, content: &[u8]| {
        let length = u32::try_from(content.len() + 4).unwrap_or(0).to_be_bytes();
        [&[kind], &length[..], content].concat()
    };
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    if extended {
        request.extend(message(b'P', format!("\0{STATEMENT}\0\0\0").as_bytes()));
        request.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
        request.extend(message(b'D', b"P\0"));
        request.extend(message(b'E', b"\0\0\0\0\0"));
        request.extend(message(b'S', b""));
        answer.extend([message(b'1', b""), message(b'2', b"")].concat());
    } else {
        request.extend(message(b'Q', format!("{STATEMENT}\0").as_bytes()));
    }
    answer.extend(message(b'T', b"\0\x01id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"));
    for _ in 0..10 {
        answer.extend(message(b'D', b"\0\x01\0\0\0\x14a name of 20 letters"));
    }
    answer.extend([message(b'C', b"SELECT 10\0"), message(b'Z', b"I")].concat());
    let steps = vec![(Ingress, request), (Egress, answer)];
    Scenario {
        name,
        protocol: Protocol::Postgresql,
        prefix: Vec::new(),
        round: Box::new(move |_| steps.clone()),
        exchanges_per_round: 1,
    }
}

struct Feed {
    connection: Connection,
    context: ParserContext,
    offsets: [u64; 2],
    now: u64,
    exchanges: u64,
    bytes: u64,
}

impl Feed {
    fn give(&mut self, steps: &[(Direction, Vec<u8>)]) {
        for (direction, bytes) in steps {
            self.now += 1000;
            let offset = &mut self.offsets[usize::from(*direction == Egress)];
            let total = bytes.len() as u64;
            let chunk = Chunk {
                direction: *direction,
                timestamp: Timestamp(self.now),
                offset: *offset,
                bytes,
                total,
            };
            *offset += total;
            self.bytes += total;
            let exchanges = &mut self.exchanges;
            self.connection.chunk(&chunk, &mut self.context, &mut |_| *exchanges += 1);
        }
    }
}

#[allow(clippy::cast_precision_loss)] // For printing.
fn run(scenario: &Scenario, json: bool) {
    const WARM_UP: u32 = 2_000;
    const ROUNDS: u32 = 20_000;
    let mut feed = Feed {
        connection: Connection::new(ScopeId(1)),
        context: ParserContext::new(Limits::default()),
        offsets: [0; 2],
        now: 0,
        exchanges: 0,
        bytes: 0,
    };
    feed.give(&scenario.prefix);
    for round in 0..WARM_UP {
        feed.give(&(scenario.round)(round));
    }
    let rounds: Vec<_> = (WARM_UP..WARM_UP + ROUNDS).map(|round| (scenario.round)(round)).collect();
    (feed.exchanges, feed.bytes) = (0, 0);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let start = Instant::now();
    for round in &rounds {
        feed.give(round);
    }
    let seconds = start.elapsed().as_secs_f64();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    assert_eq!(feed.exchanges, u64::from(ROUNDS) * scenario.exchanges_per_round, "{}", scenario.name);
    let per_second = feed.exchanges as f64 / seconds;
    let megabytes = feed.bytes as f64 / seconds / 1e6;
    let nanoseconds = 1e9 / per_second;
    let allocations = allocations as f64 / feed.exchanges as f64;
    let Scenario { name, protocol, .. } = scenario;
    if json {
        println!(
            "{{\"name\":\"{name}\",\"protocol\":\"{protocol:?}\",\"exchanges_per_second\":{per_second:.0},\
             \"megabytes_per_second\":{megabytes:.0},\"allocations_per_exchange\":{allocations:.4}}}"
        );
    } else {
        println!(
            "{name:24} {nanoseconds:7.0} ns/exchange {megabytes:7.0} MB/s {allocations:8.4} allocations/exchange"
        );
    }
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    for scenario in [
        http1("http/1.1 keep-alive", 1),
        http1("http/1.1 pipelined by 16", 16),
        grpc(),
        mysql(),
        postgresql("postgresql simple", false),
        postgresql("postgresql extended", true),
    ] {
        run(&scenario, json);
    }
}
