//! Captures of packets that are made by hand.
#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{collections::VecDeque, net::Ipv4Addr};

use porthole_l7::{ErrorClass, Exchange, Limits as ParserLimits, ParserContext};
use porthole_packet::{Limits, Link, Packet, Replay};

pub const MS: u64 = 1_000_000;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 1;

/// An end of a connection: port and next sequence number.
#[derive(Clone, Copy)]
pub struct End {
    pub host: u8,
    pub port: u16,
    pub next: u32,
}

/// Packets with their times, nanoseconds.
#[derive(Default)]
pub struct Capture {
    pub packets: VecDeque<(u64, Vec<u8>)>,
    pub now_ns: u64,
}

impl Capture {
    pub fn ip(&mut self, from: End, to: End, transport: u8, payload: &[u8]) {
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
    pub fn tcp(&mut self, from: End, to: End, flags: u8, text: &[u8]) {
        let mut segment = [from.port.to_be_bytes(), to.port.to_be_bytes()].concat();
        segment.extend(from.next.to_be_bytes());
        segment.extend(if flags & ACK == 0 { 0 } else { to.next }.to_be_bytes());
        segment.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        segment.extend(text);
        self.ip(from, to, 6, &segment);
    }

    pub fn send(&mut self, from: &mut End, to: End, text: &[u8]) {
        self.tcp(*from, to, ACK, text);
        from.next += u32::try_from(text.len()).expect("small");
    }

    pub fn open(&mut self, client: &mut End, server: &mut End) {
        self.tcp(*client, *server, SYN, b"");
        client.next += 1;
        self.tcp(*server, *client, SYN | ACK, b"");
        server.next += 1;
        self.tcp(*client, *server, ACK, b"");
    }

    pub fn close(&mut self, client: &mut End, server: &mut End) {
        self.tcp(*client, *server, FIN | ACK, b"");
        client.next += 1;
        self.tcp(*server, *client, FIN | ACK, b"");
        server.next += 1;
        self.tcp(*client, *server, ACK, b"");
    }

    /// An exchange that takes 20 ms.
    pub fn exchange(&mut self, client: &mut End, server: &mut End) {
        self.send(client, *server, b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n");
        self.now_ns += 20 * MS;
        self.send(server, *client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }

    /// A datagram to port 53 of that address.
    pub fn question(&mut self, host: [u8; 4], message: &[u8]) {
        let from = End { host: 1, port: 5_300, next: 0 };
        let length = u16::try_from(8 + message.len()).expect("short");
        let ports = [from.port, 53, length, 0].map(u16::to_be_bytes).concat();
        self.ip(from, from, 17, &[&ports, message].concat());
        let (_, packet) = self.packets.back_mut().expect("a packet");
        packet[16..20].copy_from_slice(&host);
    }

    /// A question, or its answer.
    pub fn dns(&mut self, asker: End, response: bool) {
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
    pub fn replay(self) -> Vec<(bool, u64)> {
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

pub fn ends() -> (End, End) {
    (End { host: 1, port: 40_000, next: 1_000 }, End { host: 2, port: 80, next: 36_337 })
}
