//! Kinds of traffic that are easily counted wrongly.

use std::{
    io::{IoSlice, Read, Write},
    net::UdpSocket,
};

use porthole_agent_api::agent::Protocol;

use super::sent::{ANY, Sent, sent};
use crate::{http, lengths::question, long_calls::pass};

/// One kind of traffic between two ends that it is given.
pub struct Case {
    pub name: &'static str,
    /// A unix socket's ends too, where they are seen.
    pub by_unix_sockets: bool,
    pub traffic: fn(&mut dyn Ends),
    pub sent: &'static [Sent],
}

/// A connection.
pub trait Ends {
    /// One message of the client's in one call, taken whole by the server.
    fn ask(&mut self, bytes: &[u8]);
    /// One of the server's.
    fn answer(&mut self, bytes: &[u8]);
    /// Many buffers of the client's in one call.
    fn ask_vectored(&mut self, buffers: &[IoSlice<'_>]);
    /// One of the server's, of which the client reads the first bytes by themselves.
    fn answer_in_parts(&mut self, bytes: &[u8], first: usize);
    /// Another connection of the same kind.
    fn reconnect(&mut self);
}

/// The ends of a connection of one kind of socket.
pub struct Pair<S> {
    client: S,
    server: S,
    connect: fn() -> (S, S),
}

impl<S> Pair<S> {
    pub fn new(connect: fn() -> (S, S)) -> Self {
        let (client, server) = connect();
        Self { client, server, connect }
    }
}

impl<S: Read + Write + Send> Ends for Pair<S> {
    fn ask(&mut self, bytes: &[u8]) {
        pass(&mut self.client, &mut self.server, bytes, 1 << 16);
    }

    fn answer(&mut self, bytes: &[u8]) {
        pass(&mut self.server, &mut self.client, bytes, 1 << 16);
    }

    fn ask_vectored(&mut self, buffers: &[IoSlice<'_>]) {
        let length = buffers.iter().map(|buffer| buffer.len()).sum();
        assert_eq!(self.client.write_vectored(buffers).expect("sent"), length);
        self.server.read_exact(&mut vec![0; length]).expect("received");
    }

    fn answer_in_parts(&mut self, bytes: &[u8], first: usize) {
        self.server.write_all(bytes).expect("sent");
        for length in [first, bytes.len() - first] {
            self.client.read_exact(&mut vec![0; length]).expect("received");
        }
    }

    fn reconnect(&mut self) {
        (self.client, self.server) = (self.connect)();
    }
}

/// A command of Redis.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// node-redis writes each of the commands that wait together as a buffer of its own.
fn redis_in_many_buffers(ends: &mut dyn Ends) {
    for _ in 0..5 {
        let commands: Vec<Vec<u8>> =
            (0..50).map(|key| command(&[b"ZCOUNT", format!("k{key}").as_bytes(), b"0", b"9"])).collect();
        ends.ask_vectored(&commands.iter().map(|command| IoSlice::new(command)).collect::<Vec<_>>());
        ends.answer(&b":1\r\n".repeat(commands.len()));
    }
}

/// A value that is a word which has a meaning elsewhere.
fn redis_value_that_is_a_word(ends: &mut dyn Ends) {
    ends.ask(&command(&[b"PING"]));
    ends.answer(b"+PONG\r\n");
    ends.ask(&command(&[b"HGETALL", b"rights"]));
    ends.answer(b"*4\r\n$9\r\nsubscribe\r\n$3\r\nyes\r\n$7\r\npublish\r\n$2\r\nno\r\n");
    for _ in 0..10 {
        ends.ask(&command(&[b"GETDEL", b"x"]));
        ends.answer(b"$1\r\na\r\n");
        ends.ask(&command(&[b"INCR", b"y"]));
        ends.answer(b"-WRONGTYPE no number\r\n");
    }
}

/// Commands of very many arguments.
fn redis_of_many_arguments(ends: &mut dyn Ends) {
    for (name, keys) in [("MGET", 100), ("EXISTS", 300), ("DEL", 900), ("UNLINK", 1_100)] {
        let keys: Vec<Vec<u8>> = (0..keys).map(|key| format!("session:{key:08}").into_bytes()).collect();
        let mut words = vec![name.as_bytes()];
        words.extend(keys.iter().map(Vec::as_slice));
        for _ in 0..3 {
            ends.ask(&command(&words));
            ends.answer(b":1\r\n");
            ends.ask(&command(&[b"HLEN", b"x"]));
            ends.answer(b":1\r\n");
        }
        ends.reconnect();
    }
}

/// A pipeline that is longer than what is captured of a call's head.
fn redis_in_long_pipelines(ends: &mut dyn Ends) {
    let commands: Vec<u8> = (0..500)
        .flat_map(|key| {
            command(&[
                b"SETEX",
                format!("session:{key:06}").as_bytes(),
                b"60",
                format!("value-{key}").as_bytes(),
            ])
        })
        .collect();
    for _ in 0..5 {
        ends.ask(&commands);
        ends.answer(&b"+OK\r\n".repeat(500));
    }
    for _ in 0..10 {
        ends.ask(&command(&[b"STRLEN", b"x"]));
        ends.answer(b":1\r\n");
    }
}

/// A `get` of more keys than are captured of a call's head.
fn memcached_of_many_keys(ends: &mut dyn Ends) {
    ends.ask(b"version\r\n");
    ends.answer(b"VERSION 1.6\r\n");
    let keys: Vec<String> = (0..250).map(|key| format!("live:{key:016}")).collect();
    for _ in 0..3 {
        ends.ask(format!("get {}\r\n", keys.join(" ")).as_bytes());
        ends.answer(b"END\r\n");
        ends.ask(b"gets live:1\r\n");
        ends.answer(b"END\r\n");
    }
}

/// Publications that are buffered and written together.
fn nats_in_batches(ends: &mut dyn Ends) {
    nats_connect(ends);
    let publication = [b"PUB live.events 100\r\n", &[b'x'; 100][..], b"\r\n"].concat();
    for _ in 0..20 {
        ends.ask(&publication.repeat(100));
    }
}

fn nats_connect(ends: &mut dyn Ends) {
    ends.answer(b"INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\n");
    ends.ask(b"CONNECT {\"verbose\":false}\r\nPING\r\n");
    ends.answer(b"PONG\r\n");
}

/// Pulls of `JetStream`, which are answered by messages of other subjects, and a request that is never answered.
fn nats_that_waits(ends: &mut dyn Ends) {
    nats_connect(ends);
    ends.ask(b"SUB _INBOX.a.* 1\r\n");
    for pull in 0..10 {
        let inbox = format!("_INBOX.a.{pull}");
        ends.ask(
            format!("PUB $JS.API.CONSUMER.MSG.NEXT.LIVE.dur {inbox} 11\r\n{{\"batch\":1}}\r\n").as_bytes(),
        );
        let reply = format!("$JS.ACK.LIVE.dur.1.{pull}.{pull}.1.0");
        ends.answer(format!("MSG live.made 1 {reply} 2\r\nhi\r\n").as_bytes());
    }
    ends.ask(b"PUB live.mute _INBOX.a.99 1\r\nq\r\n");
    ends.reconnect();
}

/// RFC 9110, section 10.1.1: no body follows a final response in place of `100 Continue`.
fn http_upload_that_is_refused(ends: &mut dyn Ends) {
    for _ in 0..5 {
        ends.ask(
            b"POST /live-refused HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n",
        );
        ends.answer(b"HTTP/1.1 401 no\r\nContent-Length: 2\r\n\r\nno");
        for _ in 0..2 {
            ends.ask(&http::request("/live-next"));
            ends.answer(http::OK);
        }
        ends.reconnect();
    }
}

/// RFC 9112, section 9.3: behind a response that comes before the upload's end the client sends the rest, or it closes the
/// connection.
fn http_upload_that_is_answered_early(ends: &mut dyn Ends) {
    // What is uploaded looks like requests, which begin with each call.
    let upload = http::request("/live-inside").repeat(100);
    let head =
        format!("POST /live-early HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 2 * upload.len());
    for is_finished in [true, true, false] {
        ends.ask(&[head.as_bytes(), &upload].concat());
        ends.answer(b"HTTP/1.1 413 no\r\nContent-Length: 2\r\n\r\nno");
        if is_finished {
            ends.ask(&upload);
            for _ in 0..2 {
                ends.ask(&http::request("/live-behind"));
                ends.answer(http::OK);
            }
        }
        ends.reconnect();
    }
}

/// A packet of MySQL.
fn mysql(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

/// A change of the user that is refused behind a switch of the authentication, with packets that the client reads whole
/// and header by header.
fn mysql_user_that_is_refused(ends: &mut dyn Ends) {
    const LONG_PASSWORD_DATABASE_41_SECURE_PLUGIN: u32 = 0x1 | 0x8 | 0x200 | 0x8000 | 0x8_0000;
    let capabilities = LONG_PASSWORD_DATABASE_41_SECURE_PLUGIN.to_le_bytes();
    let plugin = b"mysql_native_password\0";
    for in_parts in [false, true] {
        for _ in 0..5 {
            let answer = |ends: &mut dyn Ends, sequence, payload: &[u8]| {
                let packet = mysql(sequence, payload);
                if in_parts { ends.answer_in_parts(&packet, 4) } else { ends.answer(&packet) }
            };
            let greeting = [
                b"\x0a5.7.44\0\x07\0\0\0aaaaaaaa\0",
                &capabilities[..2],
                b"\x21\x02\0",
                &capabilities[2..],
                b"\x15\0\0\0\0\0\0\0\0\0\0bbbbbbbbbbbb\0",
                plugin,
            ];
            answer(ends, 0, &greeting.concat());
            let login =
                [&capabilities[..], &[0, 0, 0, 1, 0x21], &[0; 23], b"u\0\x14hhhhhhhhhhhhhhhhhhhhd\0", plugin];
            ends.ask(&mysql(1, &login.concat()));
            answer(ends, 2, b"\0\0\0\x02\0\0\0");
            ends.ask(&mysql(0, b"\x11v\0\0d\0\x21\0mysql_native_password\0"));
            answer(ends, 1, &[b"\xfe", &plugin[..], &[b'c'; 20], b"\0"].concat());
            ends.ask(&mysql(2, &[b'r'; 20]));
            answer(ends, 3, b"\xff\x15\x04#28000Access denied");
            ends.reconnect();
        }
    }
}

/// A resolver that queries all its servers at once from one socket with one id.
fn dns_of_several_servers(_: &mut dyn Ends) {
    let servers = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").expect("bound"));
    for id in 0..10 {
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let message = question(500 + id, 0x0100, &["svc", "live", "example"]);
        for server in &servers {
            client.send_to(&message, server.local_addr().expect("an address")).expect("sent");
        }
        for server in &servers {
            let mut answer = [0; 512];
            let (length, from) = server.recv_from(&mut answer).expect("a question");
            (answer[2], answer[3]) = (0x81, 0x80);
            server.send_to(&answer[..length], from).expect("sent");
            client.recv_from(&mut [0; 512]).expect("an answer");
        }
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "commands of Redis, fifty buffers in a call",
        by_unix_sockets: true,
        traffic: redis_in_many_buffers,
        sent: &[sent(Protocol::PROTOCOL_REDIS, "ZCOUNT", "", "", 250)],
    },
    Case {
        name: "a value of Redis that begins with the word subscribe",
        by_unix_sockets: true,
        traffic: redis_value_that_is_a_word,
        sent: &[
            sent(Protocol::PROTOCOL_REDIS, "HGETALL", "", "", 1),
            sent(Protocol::PROTOCOL_REDIS, "GETDEL", "", "", 10),
            sent(Protocol::PROTOCOL_REDIS, "GETDEL", "", ANY, 10),
            sent(Protocol::PROTOCOL_REDIS, "INCR", "", "WRONGTYPE", 10),
            sent(Protocol::PROTOCOL_REDIS, "INCR", "", ANY, 10),
        ],
    },
    Case {
        name: "commands of Redis with a thousand arguments",
        by_unix_sockets: true,
        traffic: redis_of_many_arguments,
        sent: &[
            sent(Protocol::PROTOCOL_REDIS, "MGET", "", "", 3),
            sent(Protocol::PROTOCOL_REDIS, "EXISTS", "", "", 3),
            sent(Protocol::PROTOCOL_REDIS, "DEL", "", "", 3),
            sent(Protocol::PROTOCOL_REDIS, "UNLINK", "", "", 3),
            sent(Protocol::PROTOCOL_REDIS, "HLEN", "", "", 12),
        ],
    },
    Case {
        name: "pipelines of Redis, 29 KB in a call",
        by_unix_sockets: true,
        traffic: redis_in_long_pipelines,
        sent: &[
            sent(Protocol::PROTOCOL_REDIS, "SETEX", "", "", 2_500),
            sent(Protocol::PROTOCOL_REDIS, "STRLEN", "", "", 10),
        ],
    },
    Case {
        name: "Memcached, 250 keys in a command",
        by_unix_sockets: true,
        traffic: memcached_of_many_keys,
        sent: &[
            sent(Protocol::PROTOCOL_MEMCACHED, "get", "live", ANY, 3),
            sent(Protocol::PROTOCOL_MEMCACHED, "gets", "live", ANY, 3),
        ],
    },
    Case {
        name: "publications of NATS, 12 KB in a call",
        by_unix_sockets: false,
        traffic: nats_in_batches,
        sent: &[sent(Protocol::PROTOCOL_NATS, "PUB", "live.events", "", 2_000)],
    },
    Case {
        name: "pulls of NATS, and a request without an answer",
        by_unix_sockets: false,
        traffic: nats_that_waits,
        sent: &[
            sent(
                Protocol::PROTOCOL_NATS,
                "REQUEST (long poll)",
                "$JS.API.CONSUMER.MSG.NEXT.LIVE.dur",
                "",
                10,
            ),
            sent(Protocol::PROTOCOL_NATS, "REQUEST", "live.mute", "", 1),
            sent(Protocol::PROTOCOL_NATS, "MSG", "live.made", "", 10),
        ],
    },
    Case {
        name: "an upload over HTTP that is answered before its end",
        by_unix_sockets: true,
        traffic: http_upload_that_is_answered_early,
        sent: &[
            sent(Protocol::PROTOCOL_HTTP1, "POST", "/live-early", "413", 3),
            sent(Protocol::PROTOCOL_HTTP1, "GET", "/live-behind", "200", 4),
            sent(Protocol::PROTOCOL_HTTP1, "GET", "/live-inside", ANY, 0),
        ],
    },
    Case {
        name: "an upload over HTTP that is refused before it begins",
        by_unix_sockets: true,
        traffic: http_upload_that_is_refused,
        sent: &[
            sent(Protocol::PROTOCOL_HTTP1, "POST", "/live-refused", "401", 5),
            sent(Protocol::PROTOCOL_HTTP1, "GET", "/live-next", "200", 10),
        ],
    },
    Case {
        name: "a change of MySQL's user that is refused",
        by_unix_sockets: true,
        traffic: mysql_user_that_is_refused,
        sent: &[
            sent(Protocol::PROTOCOL_MYSQL, "CHANGE_USER", "", "1045", 10),
            sent(Protocol::PROTOCOL_MYSQL, "CHANGE_USER", "", ANY, 10),
        ],
    },
    Case {
        name: "lookups at three name servers at once",
        by_unix_sockets: false,
        traffic: dns_of_several_servers,
        sent: &[
            sent(Protocol::PROTOCOL_DNS, "A", "live.example", "NOERROR", 30),
            sent(Protocol::PROTOCOL_DNS, "A", "live.example", ANY, 30),
        ],
    },
];
