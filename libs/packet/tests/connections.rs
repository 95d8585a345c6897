//! Packets of connections that are not as they should be: each request counts once, with its own time.

use std::{collections::VecDeque, net::Ipv4Addr};

use porthole_l7::{ErrorClass, Exchange, Limits as ParserLimits, ParserContext};
use porthole_packet::{Limits, Link, Packet, Replay};

const MS: u64 = 1_000_000;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;
const FIN: u8 = 1;

/// An end of a connection: port and next sequence number.
#[derive(Clone, Copy)]
struct End {
    host: u8,
    port: u16,
    next: u32,
}

/// Packets with their times, nanoseconds.
#[derive(Default)]
struct Capture {
    packets: VecDeque<(u64, Vec<u8>)>,
    now_ns: u64,
}

impl Capture {
    fn ip(&mut self, from: End, to: End, transport: u8, payload: &[u8]) {
        let length = u16::try_from(20 + payload.len()).expect("a packet");
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, transport, 0, 0];
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        for host in [from.host, to.host] {
            ip.extend(Ipv4Addr::new(10, 0, 0, host).octets());
        }
        ip.extend(payload);
        self.packets.push_back((self.now_ns, ip));
        self.now_ns += MS / 100;
    }

    /// A segment, without `from` going on.
    fn tcp(&mut self, from: End, to: End, flags: u8, text: &[u8]) {
        let mut segment = [from.port.to_be_bytes(), to.port.to_be_bytes()].concat();
        segment.extend(from.next.to_be_bytes());
        segment.extend(if flags & ACK == 0 { 0 } else { to.next }.to_be_bytes());
        segment.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        segment.extend(text);
        self.ip(from, to, 6, &segment);
    }

    fn send(&mut self, from: &mut End, to: End, text: &[u8]) {
        self.tcp(*from, to, ACK, text);
        from.next += u32::try_from(text.len()).expect("small");
    }

    fn open(&mut self, client: &mut End, server: &mut End) {
        self.tcp(*client, *server, SYN, b"");
        client.next += 1;
        self.tcp(*server, *client, SYN | ACK, b"");
        server.next += 1;
        self.tcp(*client, *server, ACK, b"");
    }

    fn close(&mut self, client: &mut End, server: &mut End) {
        self.tcp(*client, *server, FIN | ACK, b"");
        client.next += 1;
        self.tcp(*server, *client, FIN | ACK, b"");
        server.next += 1;
        self.tcp(*client, *server, ACK, b"");
    }

    /// An exchange that takes 20 ms.
    fn exchange(&mut self, client: &mut End, server: &mut End) {
        self.send(client, *server, b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n");
        self.now_ns += 20 * MS;
        self.send(server, *client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }

    /// A datagram to port 53 of that address.
    fn question(&mut self, host: [u8; 4], message: &[u8]) {
        let from = End { host: 1, port: 5_300, next: 0 };
        let length = u16::try_from(8 + message.len()).expect("short");
        let ports = [from.port, 53, length, 0].map(u16::to_be_bytes).concat();
        self.ip(from, from, 17, &[&ports, message].concat());
        let (_, packet) = self.packets.back_mut().expect("a packet");
        packet[16..20].copy_from_slice(&host);
    }

    /// A question, or its answer.
    fn dns(&mut self, asker: End, response: bool) {
        let resolver = End { host: 3, port: 53, next: 0 };
        let (from, to) = if response { (resolver, asker) } else { (asker, resolver) };
        let flags = if response { [0x81, 0x80] } else { [1, 0] };
        let mut message = vec![0, 7, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x01a\x07example\0\0\x01\0\x01");
        let mut datagram = [from.port.to_be_bytes(), to.port.to_be_bytes()].concat();
        datagram.extend(u16::try_from(8 + message.len()).expect("small").to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(message);
        self.ip(from, to, 17, &datagram);
    }

    /// Whether each exchange has a response and its duration, milliseconds.
    fn replay(self) -> Vec<(bool, u64)> {
        let mut replay = Replay::new(ParserContext::new(ParserLimits::default()), Limits::default());
        let mut found = Vec::new();
        let mut take = |exchange: &Exchange| {
            found.push((exchange.error != ErrorClass::NoResponse, exchange.duration_ns() / MS));
        };
        for (timestamp_ns, bytes) in &self.packets {
            let packet = Packet { timestamp_ns: *timestamp_ns, link: Link::Raw, bytes };
            replay.packet(&packet, &mut |exchange, _| take(exchange));
        }
        replay.finish(&mut |exchange, _| take(exchange));
        found
    }
}

fn ends() -> (End, End) {
    (End { host: 1, port: 40_000, next: 1_000 }, End { host: 2, port: 80, next: 36_337 })
}

#[test]
fn a_connection_is_counted_whatever_an_older_one_between_the_same_ends_still_says() {
    let older = |next| (End { next, ..ends().0 }, End { next: 5_000, ..ends().1 });
    for number in [777_000, 1_500, 0x9000_0000] {
        for reset in [false, true] {
            let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
            capture.tcp(client, server, SYN, b"");
            let (old_client, old_server) = older(number);
            capture.tcp(old_server, old_client, ACK, b"");
            if reset {
                capture.tcp(old_client, old_server, RST, b"");
            }
            capture.now_ns += 1_000 * MS;
            capture.open(&mut client, &mut server);
            for _ in 0..3 {
                capture.exchange(&mut client, &mut server);
            }
            assert_eq!(capture.replay(), [(true, 20); 3], "{number}, reset {reset}");
        }
    }
}

#[test]
fn a_connection_that_comes_back_with_its_numbers_after_its_end_is_counted() {
    for reset in [false, true] {
        let mut capture = Capture::default();
        for _ in 0..3 {
            let (mut client, mut server) = ends();
            capture.open(&mut client, &mut server);
            capture.exchange(&mut client, &mut server);
            if reset {
                capture.tcp(client, server, RST, b"");
            } else {
                capture.close(&mut client, &mut server);
            }
        }
        assert_eq!(capture.replay(), [(true, 20); 3], "reset {reset}");
    }
}

#[test]
fn a_second_answer_to_a_syn_with_another_number_takes_the_place_of_the_first() {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.tcp(client, server, SYN, b"");
    let first = End { next: 9_000_000, ..server };
    let opened = End { next: client.next + 1, ..client };
    capture.tcp(first, opened, SYN | ACK, b"");
    capture.open(&mut client, &mut server);
    capture.exchange(&mut client, &mut server);
    assert_eq!(capture.replay(), [(true, 20)]);
}

/// What ends and strangers send on a connection that goes on: each is answered with an acknowledgement at most.
#[test]
fn a_connection_goes_on_whatever_is_sent_that_is_not_of_it() {
    type Stray = fn(&mut Capture, End, End);
    let strays: [(&str, Stray); 9] = [
        ("SYN", |capture, client, server| capture.tcp(End { next: 7_000_000, ..client }, server, SYN, b"")),
        ("SYN of the other end", |capture, client, server| {
            capture.tcp(End { next: 7_000_000, ..server }, client, SYN, b"");
        }),
        ("SYN with bytes", |capture, client, server| {
            capture.tcp(End { next: 7_000_000, ..client }, server, SYN, b"GET /b HTTP/1.1\r\n\r\n");
        }),
        ("SYN and bytes", |capture, client, server| {
            let mut stray = End { next: 7_000_000, ..client };
            capture.tcp(stray, server, SYN, b"");
            stray.next += 1;
            capture.tcp(stray, server, ACK, b"GET /b HTTP/1.1\r\n\r\n");
        }),
        ("SYN-ACK", |capture, client, server| {
            let (stray, of) = (End { next: 7_000_000, ..server }, End { next: 8_000_000, ..client });
            capture.tcp(stray, of, SYN | ACK, b"");
        }),
        ("SYN-ACK for the client's number", |capture, client, server| {
            capture.tcp(End { next: 7_000_000, ..server }, End { next: 1_001, ..client }, SYN | ACK, b"");
        }),
        ("RST", |capture, client, server| {
            capture.tcp(End { next: client.next + 90, ..client }, server, RST, b"");
        }),
        ("RST of the server", |capture, client, server| {
            capture.tcp(End { next: server.next - 1, ..server }, client, RST | ACK, b"");
        }),
        ("FIN", |capture, client, server| {
            for (from, to) in [(client, server), (server, client)] {
                capture.tcp(End { next: from.next + 8, ..from }, to, FIN | ACK, b"");
                capture.tcp(End { next: from.next - 9, ..from }, to, FIN | ACK, b"");
            }
        }),
    ];
    for (name, stray) in strays {
        for at_exchange in [0, 2] {
            let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
            capture.open(&mut client, &mut server);
            for number in 0..4 {
                if number == at_exchange {
                    stray(&mut capture, client, server);
                    capture.tcp(server, client, ACK, b"");
                }
                capture.exchange(&mut client, &mut server);
            }
            capture.close(&mut client, &mut server);
            assert_eq!(capture.replay(), [(true, 20); 4], "{name} before {at_exchange}");
        }
    }
}

#[test]
fn a_connection_that_takes_the_place_of_one_that_is_open_is_counted() {
    for (syn, answer) in [(true, true), (true, false), (false, true)] {
        let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
        capture.open(&mut client, &mut server);
        capture.exchange(&mut client, &mut server);
        let (mut client, mut server) = (End { next: 7_000_000, ..client }, End { next: 9_000_000, ..server });
        capture.open(&mut client, &mut server);
        // SYN, its answer, acknowledgement.
        let opening = capture.packets.len() - 3;
        if !answer {
            capture.packets.remove(opening + 1);
        }
        if !syn {
            capture.packets.remove(opening);
        }
        for _ in 0..3 {
            capture.exchange(&mut client, &mut server);
        }
        assert_eq!(capture.replay(), [(true, 20); 4], "SYN {syn}, answer {answer}");
    }
}

#[test]
fn a_request_in_the_first_segment_is_counted_once() {
    const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (taken, older) in [(true, false), (false, false), (true, true), (false, true)] {
        let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
        let mut expected = vec![(true, 20)];
        if older {
            let (mut client, mut server) =
                (End { next: 7_000_000, ..client }, End { next: 9_000_000, ..server });
            capture.open(&mut client, &mut server);
            capture.exchange(&mut client, &mut server);
            expected.push((true, 20));
        }
        capture.tcp(client, server, SYN, REQUEST);
        client.next += 1;
        let after = End { next: client.next + u32::try_from(REQUEST.len()).expect("short"), ..client };
        capture.tcp(server, if taken { after } else { client }, SYN | ACK, b"");
        server.next += 1;
        capture.tcp(if taken { after } else { client }, server, ACK, if taken { b"" } else { REQUEST });
        client = after;
        capture.now_ns += 20 * MS;
        capture.send(&mut server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        capture.close(&mut client, &mut server);
        assert_eq!(capture.replay(), expected, "taken {taken}, older {older}");
    }
}

#[test]
fn bytes_behind_a_gap_have_their_own_time() {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.open(&mut client, &mut server);
    for _ in 0..2 {
        capture.send(&mut client, server, b"GET /big HTTP/1.1\r\nHost: a.example\r\n\r\n");
        capture.now_ns += 100 * MS;
        capture.send(&mut server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n");
        for number in 0..10 {
            capture.send(&mut server, client, &[b'x'; 1_000]);
            if number == 3 {
                capture.packets.pop_back();
            }
        }
        capture.now_ns += 5_000 * MS;
    }
    capture.exchange(&mut client, &mut server);
    assert_eq!(capture.replay(), [(true, 100), (true, 100), (true, 20)]);
}

#[test]
fn a_clock_that_is_set_back_leaves_durations_right() {
    for back_ns in [50 * MS, 700 * MS, 3_600_000 * MS] {
        let mut capture = Capture { now_ns: 2 * 3_600_000 * MS, ..Capture::default() };
        for port in 0..12 {
            let (mut client, mut server) = ends();
            client.port += port;
            capture.open(&mut client, &mut server);
            capture.exchange(&mut client, &mut server);
            capture.close(&mut client, &mut server);
            if port == 4 {
                capture.now_ns -= back_ns;
            }
        }
        assert_eq!(capture.replay(), [(true, 20); 12], "{back_ns}");
    }
}

#[test]
fn everything_that_is_captured_twice_counts_once() {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.open(&mut client, &mut server);
    capture.exchange(&mut client, &mut server);
    capture.close(&mut client, &mut server);
    for response in [false, true] {
        capture.dns(client, response);
        capture.now_ns += 20 * MS;
    }
    let twice =
        capture.packets.iter().flat_map(|(at, bytes)| [(*at, bytes.clone()), (at + 1_000, bytes.clone())]);
    let twice = Capture { packets: twice.collect(), now_ns: 0 };
    assert_eq!(twice.replay(), [(true, 20), (true, 20)]);
}

#[test]
fn questions_to_a_group_of_hosts_are_no_exchanges() {
    const QUESTION: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
    for (host, exchanges) in [([10, 0, 0, 2], 1), ([224, 0, 0, 252], 0)] {
        let mut capture = Capture::default();
        capture.question(host, QUESTION);
        assert_eq!(capture.replay().len(), exchanges, "{host:?}");
    }
}

#[test]
fn a_response_that_comes_too_late_is_none_although_nothing_else_was_captured_before_it() {
    let (mut capture, (client, _)) = (Capture::default(), ends());
    capture.dns(client, false);
    capture.now_ns += 20_000 * MS;
    capture.dns(client, true);
    assert_eq!(capture.replay(), [(false, 15_000)]);
}
