//! Conversations of every protocol with a value in each position that can hold one: what users type, store and send.
//! `docs/protocols.md` lists what is a value and what is a name.

use crate::{Direction, Protocol, Transport};
use Direction::{Egress as S, Ingress as C};

/// A conversation; the observed process is the server.
pub struct Conversation {
    /// Its protocol.
    pub protocol: Protocol,
    /// What carries it.
    pub transport: Transport,
    /// Who sends what, in turn.
    pub steps: Vec<Step>,
}

/// A direction, and what is sent at once in it.
pub type Step = (Direction, Vec<u8>);

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("short").to_be_bytes()
}

fn be32(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("short").to_be_bytes()
}

fn le32(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("short").to_le_bytes()
}

/// One byte of length before a text.
fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

/// All protocols, with a short `value` and a `body` where contents of any length are sent.
pub fn conversations(value: &str, body: &[u8]) -> Vec<Conversation> {
    let stream = |protocol, steps| Conversation { protocol, transport: Transport::Stream, steps };
    vec![
        stream(Protocol::Http1, http1(value, body)),
        stream(Protocol::Http2, http2(value, body)),
        stream(Protocol::Redis, redis(value, body)),
        stream(Protocol::Memcached, memcached(value, body)),
        stream(Protocol::Memcached, memcached_binary(value, body)),
        stream(Protocol::Nats, nats(value, body)),
        stream(Protocol::Postgresql, postgresql(value, body)),
        stream(Protocol::Mysql, mysql(value, body)),
        stream(Protocol::Kafka, kafka(value, body)),
        stream(Protocol::Amqp, amqp(value, body)),
        stream(Protocol::Mongodb, mongodb(value, body)),
        stream(Protocol::Dns, dns(value, true)),
        Conversation { protocol: Protocol::Dns, transport: Transport::Datagram, steps: dns(value, false) },
        stream(Protocol::Tls, tls(value)),
    ]
}

/// Paths with the value in them.
fn paths(escaped: &str) -> Vec<String> {
    vec![
        format!("/search?q={escaped}&password={escaped}"),
        format!("/password/{escaped}"),
        format!("/reset/{escaped}"),
        format!("/login/{escaped}?next=/{escaped}"),
        format!("/users/{escaped}/orders"),
        format!("/api/token/{escaped}#{escaped}"),
        format!("/t/{escaped}"),
        format!("/wiki/{escaped}/edit"),
        format!("/{escaped}"),
    ]
}

/// A name, and behind it the value if it is a token: nothing should be called so.
fn named(name: &str, value: &str) -> String {
    let is_token = value.starts_with("AKIA") || value.starts_with("ghp_");
    if is_token { format!("{name}.{value}") } else { name.to_owned() }
}

/// The value as a word that no server knows.
fn unknown(value: &str) -> String {
    value.replace([' ', '.', ':'], "_")
}

/// Of the lines behind this one the agent's programs keep the beginning.
const TRACE_CONTEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn http1(value: &str, body: &[u8]) -> Vec<Step> {
    let escaped = value.replace(' ', "%20");
    let mut steps = Vec::new();
    let mut targets = paths(&escaped);
    targets.push(format!("http://{escaped}@a.example/{escaped};{escaped}"));
    for target in targets {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nCookie: id={value}\r\nAuthorization: Bearer {value}\r\n\
             traceparent: {TRACE_CONTEXT}\r\nX-{value}: {value}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        steps.push((C, [head.as_bytes(), body].concat()));
        let head = format!(
            "HTTP/1.1 200 {value}\r\nSet-Cookie: {value}\r\nTransfer-Encoding: chunked\r\n\r\n{:x};{value}\r\n",
            body.len()
        );
        let trailer = format!("\r\n0\r\nX-A: {value}\r\n\r\n");
        steps.push((S, [head.as_bytes(), body, trailer.as_bytes()].concat()));
    }
    steps.push((C, format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", unknown(value)).into_bytes()));
    steps.push((S, format!("HTTP/1.1 501 {value}\r\nContent-Length: 0\r\n\r\n").into_bytes()));
    steps
}

fn http2(value: &str, body: &[u8]) -> Vec<Step> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = be32(payload.len())[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let field = |name: &str, value: &str| [&[0x40][..], &short(name), &short(value)].concat();
    let escaped = value.replace(' ', "%20");
    let largest = [0, 5, 0, 0xff, 0xff, 0xff];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut steps = vec![(C, [preface, frame(4, 0, 0, &largest)].concat()), (S, frame(4, 0, 0, &largest))];
    let paths = paths(&escaped).into_iter().map(|path| (path, "text/plain", None));
    let calls = [("/shop.Cart/Add".to_owned(), "5"), (format!("/shop.Cart/{escaped}"), "12")];
    let calls = calls.into_iter().map(|(path, status)| (path, "application/grpc", Some(status)));
    for (number, (path, content_type, status)) in paths.chain(calls).enumerate() {
        let stream = u32::try_from(number * 2 + 1).expect("small");
        let block = [
            vec![0x83, 0x86],
            field(":path", &path),
            field("content-type", content_type),
            field("authorization", value),
            field("x-a", value),
        ]
        .concat();
        let message = [&[0][..], &be32(body.len()), body].concat();
        steps.push((C, [frame(1, 4, stream, &block), frame(0, 1, stream, &message)].concat()));
        let block = [vec![0x88], field("set-cookie", value), field("content-type", content_type)].concat();
        let trailers = match status {
            Some(status) => [field("grpc-status", status), field("grpc-message", value)].concat(),
            None => field("x-b", value),
        };
        let answer =
            [frame(1, 4, stream, &block), frame(0, 0, stream, &message), frame(1, 5, stream, &trailers)];
        steps.push((S, answer.concat()));
    }
    let block = [&[0x86][..], &field(":method", &unknown(value)), &field(":path", "/")].concat();
    steps.push((C, frame(1, 5, 99, &block)));
    steps.push((S, frame(1, 5, 99, &field(":status", "405"))));
    steps.push((C, frame(7, 0, 0, &[&[0; 8], value.as_bytes()].concat())));
    steps
}

fn redis(value: &str, body: &[u8]) -> Vec<Step> {
    let command = |words: &[&[u8]]| {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend(*word);
            bytes.extend(b"\r\n");
        }
        bytes
    };
    let bulk = [format!("${}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat();
    let value = value.as_bytes();
    let failure = [b"-ERR unknown command '", value, b"'\r\n"].concat();
    vec![
        (C, command(&[b"AUTH", b"default", value])),
        (S, b"+OK\r\n".to_vec()),
        (C, command(&[b"SET", value, body])),
        (S, b"+OK\r\n".to_vec()),
        (C, [command(&[b"GET", value]), command(&[b"MSET", value, body, value, body])].concat()),
        (S, [bulk.as_slice(), b"+OK\r\n"].concat()),
        (C, command(&[b"LRANGE", value, b"0", b"9"])),
        (S, [b"*2\r\n".as_slice(), &bulk, &bulk].concat()),
        (C, command(&[value, value])),
        (S, failure.clone()),
        (C, [value, b"\r\n"].concat()),
        (S, failure),
        (C, command(&[b"SUBSCRIBE", value])),
        (S, [b"*3\r\n$9\r\nsubscribe\r\n".as_slice(), &bulk, b":1\r\n"].concat()),
        (S, [b"*3\r\n$7\r\nmessage\r\n".as_slice(), &bulk, &bulk].concat()),
    ]
}

fn memcached(value: &str, body: &[u8]) -> Vec<Step> {
    let key = value.replace(' ', "_");
    let set = format!("set {key} 0 0 {}\r\n", body.len());
    let found = format!("VALUE {key} 0 {}\r\n", body.len());
    vec![
        (C, [set.as_bytes(), body, b"\r\n"].concat()),
        (S, b"STORED\r\n".to_vec()),
        (C, format!("get {key}\r\n").into_bytes()),
        (S, [found.as_bytes(), body, b"\r\nEND\r\n"].concat()),
        (C, format!("{key}\r\n").into_bytes()),
        (S, b"ERROR\r\n".to_vec()),
        (C, format!("mg {key} v\r\n").into_bytes()),
        (S, [format!("VA {} k{key}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()),
        (C, format!("incr {key} 1\r\n").into_bytes()),
        (S, format!("CLIENT_ERROR {value}\r\n").into_bytes()),
    ]
}

fn memcached_binary(value: &str, body: &[u8]) -> Vec<Step> {
    let message = |magic: u8, opcode: u8, status: usize, extras: &[u8], key: &[u8], value: &[u8]| {
        let mut bytes = vec![magic, opcode];
        bytes.extend(be16(key.len()));
        bytes.extend([u8::try_from(extras.len()).expect("short"), 0]);
        bytes.extend(be16(status));
        bytes.extend(be32(extras.len() + key.len() + value.len()));
        bytes.extend([0; 12]);
        [&bytes, extras, key, value].concat()
    };
    let key = value.as_bytes();
    vec![
        (C, message(0x80, 1, 0, &[0; 8], key, body)),
        (S, message(0x81, 1, 0, &[], &[], &[])),
        (C, message(0x80, 0, 0, &[], key, &[])),
        (S, message(0x81, 0, 0, &[0; 4], &[], body)),
        (C, message(0x80, 0, 0, &[], key, &[])),
        (S, message(0x81, 0, 1, &[], &[], body)),
        (C, message(0x80, 0x21, 0, &[], b"PLAIN", &[b"\0", key, b"\0", key].concat())),
        (S, message(0x81, 0x21, 0x20, &[], &[], key)),
    ]
}

fn nats(value: &str, body: &[u8]) -> Vec<Step> {
    let message = |line: String| [line.as_bytes(), body, b"\r\n"].concat();
    let length = body.len();
    let headers = format!("NATS/1.0\r\nX: {value}\r\n\r\n");
    let whole = headers.len() + length;
    vec![
        (S, format!("INFO {{\"server_id\":\"x\",\"nonce\":\"{value}\"}}\r\n").into_bytes()),
        (
            C,
            format!("CONNECT {{\"verbose\":false,\"pass\":\"{value}\"}}\r\nSUB _INBOX.x.* 1\r\n")
                .into_bytes(),
        ),
        (C, message(format!("PUB orders.created {length}\r\n"))),
        (C, message(format!("PUB orders.a _INBOX.x.1 {length}\r\n"))),
        (S, message(format!("MSG _INBOX.x.1 1 {length}\r\n"))),
        (C, message(format!("HPUB orders.b _INBOX.x.2 {} {whole}\r\n{headers}", headers.len()))),
        (S, message(format!("HMSG _INBOX.x.2 1 {} {whole}\r\n{headers}", headers.len()))),
        (S, message(format!("MSG orders.done 1 {length}\r\n"))),
        (S, format!("-ERR '{value}'\r\n").into_bytes()),
    ]
}

/// Statements with the value in each kind of literal and comment.
fn statements(value: &str, mysql: bool) -> Vec<String> {
    let mut statements = vec![
        format!("SELECT '{value}' FROM t"),
        format!("SELECT * FROM t WHERE a = '{value}' AND b IN ('{value}')"),
        format!("INSERT INTO t VALUES ('{value}', '{value}')"),
        format!("/* {value} */ UPDATE t SET a = '{value}' -- {value}\n"),
        format!("CALL f('{value}')"),
        format!("SET PASSWORD = '{value}'"),
        format!("SELECT * FROM f('{value}') g"),
    ];
    if mysql {
        statements.extend([
            format!(r#"SELECT "\"", "{value}" FROM t"#),
            format!(r"SELECT '\'', '{value}' FROM t"),
            format!("SELECT * FROM \"{value}\""),
            format!("INSERT INTO \"{value}\" VALUES (1) # {value}\n"),
            format!("SELECT _utf8\"{value}\" FROM t"),
        ]);
    } else {
        statements.extend([
            format!(r"SELECT '\', '{value}' FROM t"),
            format!(r"SELECT E'\'', E'{value}' FROM t"),
            format!("SELECT $q1${value}$q1$ FROM t"),
            format!("SELECT /* /* */ {value} */ 1 FROM t"),
            format!("SELECT U&'{value}' FROM t"),
        ]);
    }
    statements
}

/// Statements whose tables no server has.
fn unknown_tables(value: &str) -> [String; 3] {
    let table = unknown(value);
    [
        format!("SELECT * FROM {table}"),
        format!("INSERT INTO t_{table} VALUES (1)"),
        format!("DROP TABLE shop.{table}"),
    ]
}

fn postgresql(value: &str, body: &[u8]) -> Vec<Step> {
    let message = |kind: u8, content: &[u8]| [&[kind][..], &be32(content.len() + 4), content].concat();
    let startup =
        [b"\0\x03\0\0user\0", value.as_bytes(), b"\0database\0", value.as_bytes(), b"\0\0"].concat();
    let mut steps = vec![
        (C, [be32(startup.len() + 4).as_slice(), &startup].concat()),
        (S, message(b'R', b"\0\0\0\x03")),
        (C, message(b'p', &[value.as_bytes(), b"\0"].concat())),
        (S, [message(b'R', b"\0\0\0\0"), message(b'S', b"TimeZone\0UTC\0"), message(b'Z', b"I")].concat()),
    ];
    let column = [&be16(1)[..], value.as_bytes(), b"\0", &[0; 18]].concat();
    let row = [&be16(1)[..], &be32(body.len()), body].concat();
    let rows = [message(b'T', &column), message(b'D', &row), message(b'D', &row)].concat();
    let failed = format!("SERROR\0C42601\0Mnear {value}\0\0");
    let failed = [message(b'E', failed.as_bytes()), message(b'Z', b"I")].concat();
    let sync = message(b'S', &[]);
    for statement in statements(value, false) {
        let query = message(b'Q', format!("{statement}\0").as_bytes());
        let verbs = ["INSERT", "UPDATE", "CALL", "SET", "SELECT"];
        let verb = verbs.iter().find(|verb| statement.contains(*verb)).expect("a verb");
        let done = [message(b'C', format!("{verb} 2\0").as_bytes()), message(b'Z', b"I")].concat();
        steps.extend([
            (C, query.clone()),
            (S, [rows.as_slice(), &done].concat()),
            (C, query),
            (S, failed.clone()),
        ]);
        let parse = message(b'P', format!("{value}\0{statement}\0\0\0").as_bytes());
        let names = format!("{value}\0{value}\0\0\0");
        let bind = [names.as_bytes(), &be16(1), &be32(body.len()), body, &[0, 0]];
        let execute = message(b'E', &[value.as_bytes(), b"\0\0\0\0\0"].concat());
        steps.push((C, [parse, message(b'B', &bind.concat()), execute, sync.clone()].concat()));
        let answer = [message(b'1', &[]), message(b'2', &[]), message(b'D', &row)].concat();
        steps.push((S, [answer.as_slice(), &done].concat()));
    }
    for statement in unknown_tables(value) {
        let failed = format!("SERROR\0C42P01\0Mno {value}\0\0");
        steps.push((C, message(b'Q', format!("{statement}\0").as_bytes())));
        steps.push((S, [message(b'E', failed.as_bytes()), message(b'Z', b"I")].concat()));
    }
    steps.push((C, message(b'Q', b"COPY t FROM STDIN\0")));
    steps.push((S, message(b'G', &[0, 0, 0])));
    steps.push((C, [message(b'd', body), message(b'd', value.as_bytes()), message(b'c', &[])].concat()));
    steps.push((S, [message(b'C', b"COPY 2\0"), message(b'Z', b"I")].concat()));
    let notice = [&[0, 0, 0, 1], value.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat();
    steps.push((S, message(b'A', &notice)));
    steps
}

fn mysql(value: &str, body: &[u8]) -> Vec<Step> {
    let packet = |sequence: u8, content: &[u8]| [&le32(content.len())[..3], &[sequence], content].concat();
    let text = |text: &[u8]| [&[0xfd][..], &le32(text.len())[..3], text].concat();
    let failed = packet(1, &[b"\xff\x28\x04#42000near ", value.as_bytes()].concat());
    let column = [text(b"def"), text(b""), text(b""), text(b""), text(value.as_bytes()), text(b"")].concat();
    let column = [&column[..], b"\x0c\x21\0\0\0\0\0\xfd\0\0\0\0\0"].concat();
    let eof = |sequence: u8| packet(sequence, &[0xfe, 0, 0, 2, 0]);
    let rows =
        [packet(1, &[1]), packet(2, &column), eof(3), packet(4, &text(body)), packet(5, &text(body)), eof(6)];
    let rows = rows.concat();
    let done = packet(1, b"\0\0\0\x02\0\0\0");
    let mut steps = Vec::new();
    for statement in statements(value, true) {
        let query = packet(0, format!("\x03{statement}").as_bytes());
        steps.extend([(C, query.clone()), (S, done.clone()), (C, query.clone()), (S, rows.clone())]);
        steps.extend([(C, query), (S, failed.clone())]);
    }
    for statement in unknown_tables(value) {
        let failed = packet(1, &[b"\xff\x7a\x04#42S02no ", value.as_bytes()].concat());
        steps.extend([(C, packet(0, format!("\x03{statement}").as_bytes())), (S, failed)]);
    }
    let long = [format!("\x03INSERT INTO t VALUES ('{value}', '").as_bytes(), body, b"')"].concat();
    steps.extend([(C, packet(0, &long)), (S, done.clone())]);
    let statement = format!("\x16SELECT * FROM t WHERE a = '{value}' OR b = ?");
    steps.push((C, packet(0, statement.as_bytes())));
    let prepared = [
        packet(1, &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]),
        packet(2, &column),
        eof(3),
        packet(4, &column),
        eof(5),
    ];
    steps.push((S, prepared.concat()));
    let execute = [b"\x17\x01\0\0\0\0\x01\0\0\0\0\x01\xfd\0".as_slice(), &text(body)].concat();
    steps.extend([(C, packet(0, &execute)), (S, rows)]);
    steps.push((C, packet(0, &[b"\x02", value.as_bytes()].concat())));
    steps.push((S, failed));
    steps
}

fn kafka(value: &str, body: &[u8]) -> Vec<Step> {
    let text = |text: &str| [&be16(text.len())[..], text.as_bytes()].concat();
    let topic = named("orders", value);
    let denied = unknown(value);
    let framed = |bytes: Vec<u8>| [&be32(bytes.len())[..], &bytes].concat();
    let request = |key: usize, version: usize, correlation: usize, body: &[u8]| {
        framed([&be16(key)[..], &be16(version), &be32(correlation), &text(value), body].concat())
    };
    let bytes = |bytes: &[u8]| [&be32(bytes.len())[..], bytes].concat();
    let produce = [
        &be16(1)[..],
        &[0, 0, 0x75, 0x30, 0, 0, 0, 1],
        &text(&topic),
        &[0, 0, 0, 1, 0, 0, 0, 0],
        &bytes(body),
    ];
    let produced = [&be32(2)[..], &[0, 0, 0, 1], &text(&topic), &[0, 0, 0, 1, 0, 0, 0, 0], &[0; 22]].concat();
    let fetch = [
        &[0xff; 4][..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 1],
        &text(&topic),
        &[0, 0, 0, 1],
        &[0; 16],
    ];
    let fetched = [
        &be32(3)[..],
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &text(&topic),
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        &[0; 16],
        &[0xff; 4],
        &bytes(body),
    ];
    // Group, session, rebalance, member, protocol type, protocols with their metadata.
    let join = [
        &text(value)[..],
        &be32(30_000),
        &be32(60_000),
        &text(value),
        &text("consumer"),
        &be32(1),
        &text("range"),
        &bytes(body),
    ];
    let joined =
        [&be32(4)[..], &be16(0), &be32(1), &text("range"), &text(value), &text(value), &be32(0)].concat();
    let refused = [&be32(5)[..], &be16(58), &text(value), &be32(0)].concat();
    vec![
        (C, request(3, 0, 1, &[&be32(1)[..], &text(&topic)].concat())),
        (S, framed([&be32(1)[..], &be32(1), &be32(1), &text(value), &be32(9092), &be32(0)].concat())),
        (C, request(0, 2, 2, &produce.concat())),
        (S, framed(produced)),
        (C, request(1, 4, 3, &fetch.concat())),
        (S, framed(fetched.concat())),
        (C, request(11, 1, 4, &join.concat())),
        (S, framed(joined)),
        (C, request(3, 0, 6, &[&be32(1)[..], &text(&denied)].concat())),
        (S, framed([&be32(6)[..], &be32(0), &be32(1), &be16(3), &text(&denied), &be32(0)].concat())),
        (C, request(36, 0, 5, &bytes(format!("\0{value}\0{value}").as_bytes()))),
        (S, framed(refused)),
    ]
}

fn amqp(value: &str, body: &[u8]) -> Vec<Step> {
    let frame = |kind: u8, channel: usize, payload: &[u8]| {
        [&[kind][..], &be16(channel), &be32(payload.len()), payload, &[0xce]].concat()
    };
    let method = |channel: usize, class: usize, number: usize, arguments: &[u8]| {
        frame(1, channel, &[&be16(class)[..], &be16(number), arguments].concat())
    };
    let (queue, key) = (named("orders", value), named("order.new", value));
    let table = [&short(value)[..], b"S", &be32(value.len()), value.as_bytes()].concat();
    let table = [&be32(table.len())[..], &table].concat();
    let response =
        [&be32(value.len() * 2 + 2)[..], b"\0", value.as_bytes(), b"\0", value.as_bytes()].concat();
    let start_ok = [&table[..], &short("PLAIN"), &response, &short("en_US")].concat();
    let content = || {
        // Content type and headers are set.
        let properties = [&[0xa0, 0][..], &short(value), &table].concat();
        let header = [&be16(60)[..], &[0, 0], &(body.len() as u64).to_be_bytes(), &properties].concat();
        [frame(2, 1, &header), body.chunks(4096).flat_map(|part| frame(3, 1, part)).collect()].concat()
    };
    let publish = method(1, 60, 40, &[&[0, 0][..], &short("shop"), &short(&key), &[0]].concat());
    let tag = [&short(value)[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0], &short("shop"), &short(&key)].concat();
    let start = [&[0, 9][..], &table, &be32(5), b"PLAIN", &be32(5), b"en_US"].concat();
    vec![
        (C, b"AMQP\0\0\x09\x01".to_vec()),
        (S, method(0, 10, 10, &start)),
        (C, method(0, 10, 11, &start_ok)),
        (S, method(0, 10, 30, &[0; 8])),
        (C, [method(0, 10, 31, &[0; 8]), method(0, 10, 40, &[&short(value)[..], &[0, 0]].concat())].concat()),
        (S, method(0, 10, 41, &[0])),
        (C, method(1, 20, 10, &[0])),
        (S, method(1, 20, 11, &[0; 4])),
        (C, method(1, 60, 20, &[&[0, 0][..], &short(&queue), &short(value), &[0], &table].concat())),
        (S, method(1, 60, 21, &short(value))),
        (C, [publish, content()].concat()),
        (S, [method(1, 60, 60, &tag), content()].concat()),
        (C, method(1, 60, 80, &[0, 0, 0, 0, 0, 0, 0, 1, 0])),
        (C, method(1, 20, 40, &[&[0, 200][..], &short(value), &[0; 4]].concat())),
        (S, method(1, 20, 41, &[])),
        (S, method(0, 10, 50, &[&[1, 0x94][..], &short(value), &[0; 4]].concat())),
    ]
}

fn mongodb(value: &str, body: &[u8]) -> Vec<Step> {
    let document = |elements: &[Vec<u8>]| {
        let inner = elements.concat();
        [&le32(inner.len() + 5)[..], &inner, &[0]].concat()
    };
    let text = |name: &str, value: &[u8]| {
        [b"\x02", name.as_bytes(), b"\0", &le32(value.len() + 1), value, b"\0"].concat()
    };
    let inner = |kind: u8, name: &str, elements: &[Vec<u8>]| {
        [&[kind], name.as_bytes(), b"\0", &document(elements)].concat()
    };
    let number = |name: &str, value: u32| [b"\x10", name.as_bytes(), b"\0", &value.to_le_bytes()].concat();
    let ok = |value: f64| [b"\x01ok\0".as_slice(), &value.to_le_bytes()].concat();
    let message = |id: usize, answers: usize, elements: &[Vec<u8>]| {
        let content = [&[0; 5][..], &document(elements)].concat();
        [&le32(content.len() + 16)[..], &le32(id), &le32(answers), &le32(2013), &content].concat()
    };
    let orders = named("orders", value);
    let values = [text("name", value.as_bytes()), text(value, body)];
    vec![
        (C, message(1, 0, &[text("saslStart", value.as_bytes()), text("payload", value.as_bytes())])),
        (S, message(11, 1, &[text("payload", value.as_bytes()), ok(1.0)])),
        (
            C,
            message(
                2,
                0,
                &[
                    text("find", orders.as_bytes()),
                    inner(3, "filter", &values),
                    text("$db", value.as_bytes()),
                ],
            ),
        ),
        (
            S,
            message(
                12,
                2,
                &[inner(3, "cursor", &[inner(4, "firstBatch", &[inner(3, "0", &values)])]), ok(1.0)],
            ),
        ),
        (
            C,
            message(
                3,
                0,
                &[text("insert", orders.as_bytes()), inner(4, "documents", &[inner(3, "0", &values)])],
            ),
        ),
        (S, message(13, 3, &[ok(0.0), text("errmsg", value.as_bytes()), number("code", 43)])),
        (C, message(4, 0, &[number("hello", 1), text("client", value.as_bytes()), text("x", body)])),
        (S, message(14, 4, &[ok(1.0), text("me", body)])),
        (C, message(5, 0, &[number(&unknown(value), 1), text("$db", b"shop")])),
        (S, message(15, 5, &[ok(0.0), text("errmsg", value.as_bytes()), number("code", 59)])),
    ]
}

fn dns(value: &str, stream: bool) -> Vec<Step> {
    let message = |id: usize, flags: usize, kind: usize, records: usize, rest: &[u8]| {
        let mut bytes = [id, flags, 1, records, 0, 0].map(be16).concat();
        bytes.extend(b"\x03api\x07example\0");
        bytes.extend([be16(kind), be16(1)].concat());
        bytes.extend(rest);
        if stream { [&be16(bytes.len())[..], &bytes].concat() } else { bytes }
    };
    let data = [short(value), short(value)].concat();
    let text = [&[0xc0, 12][..], &be16(16), &be16(1), &be32(60), &be16(data.len()), &data].concat();
    let many = text.repeat(if stream { 200 } else { 1 });
    let count = if stream { 200 } else { 1 };
    let name = [&short(value)[..], b"\0"].concat();
    let alias = [&[0xc0, 12][..], &be16(5), &be16(1), &be32(60), &be16(name.len()), &name].concat();
    vec![
        (C, message(1, 0x0100, 16, 0, &[])),
        (S, message(1, 0x8180, 16, count, &many)),
        (C, message(2, 0x0100, 1, 0, &[])),
        (S, message(2, 0x8180, 1, 1, &alias)),
    ]
}

fn tls(value: &str) -> Vec<Step> {
    let extension = |kind: usize, data: &[u8]| [&be16(kind)[..], &be16(data.len()), data].concat();
    let name = b"api.example";
    let names = [&be16(name.len() + 3)[..], &[0], &be16(name.len()), name].concat();
    let protocols = [&be16(value.len() + 1)[..], &short(value)].concat();
    let extensions =
        [extension(0, &names), extension(16, &protocols), extension(35, value.as_bytes())].concat();
    let mut session = value.as_bytes().to_vec();
    session.resize(32, b'.');
    let mut hello = [&[3, 3][..], &session, &[32], &session, &[0, 2, 0x13, 1, 1, 0]].concat();
    hello.extend([&be16(extensions.len())[..], &extensions].concat());
    let message = [&[1][..], &be32(hello.len())[1..], &hello].concat();
    let record = [&[22, 3, 1][..], &be16(message.len()), &message].concat();
    vec![(C, record), (S, vec![22, 3, 3, 0, 80, 2, 0, 0, 76, 3, 3])]
}
