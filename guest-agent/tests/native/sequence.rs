//! Requests with consecutive ids at full speed against real servers: what the agent has counted and what it reports as
//! lost add up to what was sent, on both sides.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use porthole_agent_api::{agent::Protocol, agent::Side};

use porthole_trials::{Outcome, Trial, trials};

use crate::{harness::Agent, running};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        every_http_request_is_counted_or_reported,
        every_pipelined_http_request_is_counted_or_reported,
        every_http_request_is_counted_or_reported_where_much_is_lost,
        every_redis_command_is_counted_or_reported,
        every_pipelined_redis_command_is_counted_or_reported,
        every_mysql_statement_is_counted_or_reported,
        every_postgresql_statement_is_counted_or_reported,
        every_dns_question_is_counted_or_reported,
        every_kafka_request_is_counted_or_reported,
    ]
}

/// Connections at the same time.
const CONNECTIONS: u32 = 4;

/// Requests of all connections together.
const REQUESTS: u32 = 100_000;

/// The requests, as the agent should name them.
struct Sequence {
    protocol: Protocol,
    operation: &'static str,
    resource: &'static str,
    /// Requests that are under way at a time on one connection.
    depth: u32,
}

impl Sequence {
    fn counted(&self, agent: &Agent, side: Side) -> u64 {
        let of_it = agent.series(side, self.resource).into_iter().filter(|series| {
            let key = &series.key;
            key.protocol.enum_value() == Ok(self.protocol) && key.operation == self.operation
        });
        of_it.map(|series| series.duration.count).sum()
    }

    /// Sends requests with the ids of a range on each connection; each call of a client has `depth` ids from this one
    /// on.
    fn run<C: FnMut(u32) + Send>(&self, agent: &mut Agent, connect: impl Fn() -> C + Sync) {
        let each = REQUESTS / CONNECTIONS / self.depth * self.depth;
        let all = u64::from(each * CONNECTIONS);
        agent.catch_up();
        let before = (agent.counters.events_lost, agent.counters.unparsed);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for connection in 0..CONNECTIONS {
                let connect = &connect;
                scope.spawn(move || {
                    let mut ask = connect();
                    let depth = usize::try_from(self.depth).expect("small");
                    (connection * each..(connection + 1) * each).step_by(depth).for_each(&mut ask);
                });
            }
        });
        let took = began.elapsed();
        agent.catch_up();
        let lost = agent.counters.events_lost - before.0;
        let unparsed = agent.counters.unparsed - before.1;
        let [served, asked] = [Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| self.counted(agent, side));
        let what = format!(
            "{:?} by {}: {all} in {took:.2?}, counted {served} and {asked}, {lost} records lost, {unparsed} \
             requests unparsed",
            self.protocol, self.depth
        );
        eprintln!("{what}");
        assert!(served <= all && asked <= all, "{what}");
        // Who lost a record has lost a call, which carries at most so many requests.
        let missing = 2 * all - served - asked;
        let reported = lost * u64::from(self.depth) + unparsed;
        assert!(missing <= reported, "{missing} are missing, {reported} reported: {what}");
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_nodelay(true).expect("set");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    stream
}

/// Reads until the bytes read so far are an answer.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>, whole: impl Fn(&[u8]) -> bool) {
    buffer.clear();
    let mut part = [0; 4096];
    while !whole(buffer) {
        let read = stream.read(&mut part).expect("an answer");
        assert!(read > 0, "the server closed the connection behind {:?}", String::from_utf8_lossy(buffer));
        buffer.extend_from_slice(&part[..read]);
    }
}

fn http(depth: u32, resource: &'static str, arguments: &[&str]) -> Outcome {
    let server = running::nginx("location / { return 200 ok; }")?;
    let mut agent = Agent::start(arguments)?;
    let sequence = Sequence { protocol: Protocol::PROTOCOL_HTTP1, operation: "GET", resource, depth };
    sequence.run(&mut agent, || {
        let (mut stream, mut buffer, mut requests) = (connect(server.port), Vec::new(), Vec::new());
        let path = resource.trim_end_matches("{}");
        move |first| {
            requests.clear();
            for id in first..first + depth {
                write!(requests, "GET {path}{id} HTTP/1.1\r\nHost: example\r\n\r\n").expect("grows");
            }
            stream.write_all(&requests).expect("sent");
            let ends = |bytes: &[u8]| bytes.windows(6).filter(|end| end == b"\r\n\r\nok").count();
            answer(&mut stream, &mut buffer, |bytes| ends(bytes) == usize::try_from(depth).expect("small"));
        }
    });
    Ok(())
}

fn every_http_request_is_counted_or_reported() -> Outcome {
    http(1, "/sequence/{}", &[])
}

fn every_pipelined_http_request_is_counted_or_reported() -> Outcome {
    http(16, "/pipelined-sequence/{}", &[])
}

fn every_http_request_is_counted_or_reported_where_much_is_lost() -> Outcome {
    // Everything goes through a ring buffer that is too small for it.
    let small = ["--no-offload", "--ring-kib", "128"];
    http(1, "/lossy-sequence/{}", &small)?;
    http(16, "/lossy-pipelined-sequence/{}", &small)
}

fn redis(depth: u32) -> Outcome {
    let server = running::redis()?;
    let mut agent = Agent::start(&[])?;
    let sequence = Sequence { protocol: Protocol::PROTOCOL_REDIS, operation: "ECHO", resource: "", depth };
    sequence.run(&mut agent, || {
        let (mut stream, mut buffer) = (connect(server.port), Vec::new());
        let (mut commands, mut replies) = (Vec::new(), Vec::new());
        move |first| {
            commands.clear();
            replies.clear();
            for id in first..first + depth {
                let id = id.to_string();
                write!(commands, "*2\r\n$4\r\nECHO\r\n${}\r\n{id}\r\n", id.len()).expect("grows");
                write!(replies, "${}\r\n{id}\r\n", id.len()).expect("grows");
            }
            stream.write_all(&commands).expect("sent");
            answer(&mut stream, &mut buffer, |bytes| bytes.len() >= replies.len());
            assert_eq!(buffer, replies);
        }
    });
    Ok(())
}

fn every_redis_command_is_counted_or_reported() -> Outcome {
    redis(1)
}

fn every_pipelined_redis_command_is_counted_or_reported() -> Outcome {
    redis(16)
}

/// One packet of MySQL's protocol behind its header; gives its content.
fn mysql_packet(stream: &mut impl Read, content: &mut Vec<u8>) {
    let mut header = [0; 4];
    stream.read_exact(&mut header).expect("a header");
    let [a, b, c, _] = header;
    content.resize(usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16, 0);
    stream.read_exact(content).expect("a packet");
}

/// Logs root in, without a password (MySQL: `Protocol::HandshakeResponse41`).
fn mysql(port: u16) -> TcpStream {
    const LONG_PASSWORD: u32 = 1;
    const PROTOCOL_41: u32 = 0x200;
    const SECURE_CONNECTION: u32 = 0x8000;
    const PLUGIN_AUTH: u32 = 0x8_0000;
    let mut stream = connect(port);
    let mut packet = Vec::new();
    mysql_packet(&mut stream, &mut packet);
    let mut response = Vec::new();
    response.extend((LONG_PASSWORD | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH).to_le_bytes());
    response.extend((1_u32 << 24).to_le_bytes());
    response.push(45);
    response.extend([0; 23]);
    response.extend(b"root\0\0mysql_native_password\0");
    let length = u8::try_from(response.len()).expect("short");
    stream.write_all(&[&[length, 0, 0, 1], &response[..]].concat()).expect("sent");
    mysql_packet(&mut stream, &mut packet);
    assert_eq!(packet.first(), Some(&0), "logged in: {}", String::from_utf8_lossy(&packet));
    stream
}

fn every_mysql_statement_is_counted_or_reported() -> Outcome {
    let server = running::mariadb()?;
    let create = "CREATE DATABASE d; CREATE TABLE d.sequence (id int PRIMARY KEY)";
    assert!(running::quiet("mariadb", &["--no-defaults", "-uroot", "-S", &server.path("s"), "-e", create]));
    let mut agent = Agent::start(&[])?;
    let sequence = Sequence {
        protocol: Protocol::PROTOCOL_MYSQL,
        operation: "SELECT",
        resource: "d.sequence",
        depth: 1,
    };
    sequence.run(&mut agent, || {
        let mut stream = std::io::BufReader::new(mysql(server.port));
        let mut packet = Vec::new();
        move |id| {
            let statement = format!("\u{3}SELECT * FROM d.sequence WHERE id = {id}");
            let length = u8::try_from(statement.len()).expect("short");
            let command = [&[length, 0, 0, 0], statement.as_bytes()].concat();
            stream.get_mut().write_all(&command).expect("sent");
            // One behind the columns, one behind the rows.
            let mut ends = 0;
            while ends < 2 {
                mysql_packet(&mut stream, &mut packet);
                assert_ne!(packet.first(), Some(&0xff), "{}", String::from_utf8_lossy(&packet));
                ends += u32::from(packet.first() == Some(&0xfe) && packet.len() < 9);
            }
        }
    });
    Ok(())
}

/// One message of PostgreSQL's protocol; gives its type.
fn postgres_message(stream: &mut impl Read, content: &mut Vec<u8>) -> u8 {
    let mut header = [0; 5];
    stream.read_exact(&mut header).expect("a header");
    let [kind, length @ ..] = header;
    content.resize(usize::try_from(u32::from_be_bytes(length)).expect("fits") - 4, 0);
    stream.read_exact(content).expect("a message");
    kind
}

fn every_postgresql_statement_is_counted_or_reported() -> Outcome {
    let server = running::postgres()?;
    let (port, psql) = (server.port.to_string(), running::postgres_program("psql"));
    let create = "CREATE TABLE public.sequence (id int PRIMARY KEY)";
    assert!(running::quiet(&psql, &["-h", "127.0.0.1", "-p", &port, "-c", create]));
    let mut agent = Agent::start(&[])?;
    let sequence = Sequence {
        protocol: Protocol::PROTOCOL_POSTGRESQL,
        operation: "SELECT",
        resource: "public.sequence",
        depth: 1,
    };
    sequence.run(&mut agent, || {
        let mut stream = std::io::BufReader::new(connect(server.port));
        let mut content = Vec::new();
        let startup = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(startup.len()).expect("short") + 4;
        stream.get_mut().write_all(&[&length.to_be_bytes()[..], startup].concat()).expect("sent");
        while postgres_message(&mut stream, &mut content) != b'Z' {}
        move |id| {
            let statement = format!("SELECT * FROM public.sequence WHERE id = {id}\0");
            let length = u32::try_from(statement.len()).expect("short") + 4;
            let query = [b"Q", &length.to_be_bytes()[..], statement.as_bytes()].concat();
            stream.get_mut().write_all(&query).expect("sent");
            loop {
                match postgres_message(&mut stream, &mut content) {
                    b'Z' => break,
                    b'E' => panic!("{}", String::from_utf8_lossy(&content)),
                    _ => {}
                }
            }
        }
    });
    Ok(())
}

fn every_dns_question_is_counted_or_reported() -> Outcome {
    let server = running::dnsmasq("sequence.example")?;
    let mut agent = Agent::start(&[])?;
    let sequence =
        Sequence { protocol: Protocol::PROTOCOL_DNS, operation: "A", resource: "sequence.example", depth: 1 };
    sequence.run(&mut agent, || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.connect(("127.0.0.1", server.port)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        move |id| {
            let [.., high, low] = id.to_be_bytes();
            // One question, recursion desired (RFC 1035 section 4.1).
            let header = [high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            let question = b"\x05known\x08sequence\x07example\0\0\x01\0\x01";
            socket.send(&[&header[..], question].concat()).expect("sent");
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).expect("an answer");
            assert!(length > 12 && answer[..2] == [high, low]);
        }
    });
    Ok(())
}

fn every_kafka_request_is_counted_or_reported() -> Outcome {
    let server = running::kafka()?;
    let mut agent = Agent::start(&[])?;
    let sequence =
        Sequence { protocol: Protocol::PROTOCOL_KAFKA, operation: "ApiVersions", resource: "", depth: 1 };
    sequence.run(&mut agent, || {
        let mut stream = connect(server.port);
        let mut response = Vec::new();
        move |id| {
            // Key 18, version 0, correlation id, client id (Kafka protocol: request header v1).
            let id = id.to_be_bytes();
            let request = [&[0, 0, 0, 18, 0, 18, 0, 0][..], &id, b"\0\x08sequence"].concat();
            stream.write_all(&request).expect("sent");
            let mut size = [0; 4];
            stream.read_exact(&mut size).expect("a size");
            response.resize(usize::try_from(u32::from_be_bytes(size)).expect("fits"), 0);
            stream.read_exact(&mut response).expect("a response");
            assert_eq!(response[..4], id);
        }
    });
    Ok(())
}
