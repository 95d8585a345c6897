//! Records of packets in, series out.

use super::*;

fn flows() -> (PacketFlows, Recorder) {
    let root = tempfile::tempdir().expect("directory");
    let context = ParserContext::new(porthole_l7::Limits::default());
    (PacketFlows::new(context, Tree::of(root.path()).expect("opened")), Recorder::default())
}

/// A record of a packet from 10.0.0.1 to 10.0.0.2, or the other way round.
struct Wire {
    now: u64,
}

impl Wire {
    fn record(&mut self, outwards: bool, transport: u8, payload: &[u8], length: usize) -> Vec<u8> {
        self.now += 1_000_000;
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, transport, 0, 0];
        let (from, to) = if outwards { (1, 2) } else { (2, 1) };
        ip.extend([10, 0, 0, from, 10, 0, 0, to]);
        ip[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
        ip.extend(payload);
        let direction = if outwards { direction::EGRESS } else { direction::INGRESS };
        let mut record = Vec::new();
        record.extend(7_u64.to_ne_bytes());
        record.extend(1_u64.to_ne_bytes());
        record.extend(self.now.to_ne_bytes());
        record.extend(((20 + length) as u32).to_ne_bytes());
        record.extend((ip.len() as u32).to_ne_bytes());
        record.extend(u32::from(direction).to_ne_bytes());
        record.extend([0; 4]);
        record.extend(ip);
        record
    }

    fn tcp(&mut self, outwards: bool, sequence: u32, acknowledged: u32, flags: u8, text: &[u8]) -> Vec<u8> {
        let (from, to) = if outwards { (40_000_u16, 80_u16) } else { (80, 40_000) };
        let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        segment.extend(text);
        let length = segment.len();
        self.record(outwards, 6, &segment, length)
    }
}

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;
const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn an_exchange_is_counted_once_also_when_its_packets_come_again() {
    let ((mut flows, mut recorder), mut wire) = (flows(), Wire { now: 0 });
    let request = wire.tcp(true, 101, 501, ACK, REQUEST);
    let response = wire.tcp(false, 501, 101 + REQUEST.len() as u32, ACK, RESPONSE);
    let mut records = vec![wire.tcp(true, 100, 0, SYN, b""), wire.tcp(false, 500, 101, SYN | ACK, b"")];
    records.extend([request.clone(), request, response.clone(), response]);
    for record in &records {
        flows.record(record, &mut recorder);
    }
    assert_eq!((recorder.series.recorded(), flows.table.open_flows()), (1, 1));
    let (changed, _) = recorder.series.changed_since(0, 0, 9);
    let key = changed[0].key.clone().unwrap_or_default();
    assert_eq!((key.resource.as_str(), key.peer.as_str()), ("/a", "10.0.0.2:80"));
    flows.record(&wire.tcp(false, 501 + RESPONSE.len() as u32, 0, RST, b""), &mut recorder);
    assert!(flows.table.open_flows() == 0);
    assert_eq!(flows.malformed(), 0);
}

#[test]
fn another_connection_between_the_same_ends_is_another() {
    let ((mut flows, mut recorder), mut wire) = (flows(), Wire { now: 0 });
    for start in [100, 7_000_000] {
        flows.record(&wire.tcp(true, start, 0, SYN, b""), &mut recorder);
        flows.record(&wire.tcp(false, 2 * start, start + 1, SYN | ACK, b""), &mut recorder);
        flows.record(&wire.tcp(true, start + 1, 2 * start + 1, ACK, REQUEST), &mut recorder);
        let acknowledged = start + 1 + REQUEST.len() as u32;
        flows.record(&wire.tcp(false, 2 * start + 1, acknowledged, ACK, RESPONSE), &mut recorder);
    }
    assert_eq!((recorder.series.recorded(), flows.table.tally().flows, flows.table.open_flows()), (2, 2, 1));
}

#[test]
fn no_bytes_make_it_panic_and_flows_are_bounded() {
    let ((mut flows, mut recorder), mut wire) = (flows(), Wire { now: 0 });
    let mut random = 1_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for number in 0..20_000 {
        let bytes: Vec<u8> = (0..next() % 80).map(|_| next() as u8).collect();
        let transport = if next() % 2 == 0 { 6 } else { 17 };
        let mut record = wire.record(next() % 2 == 0, transport, &bytes, (next() % 2000) as usize);
        if number % 3 == 0 {
            let at = next() as usize % record.len();
            record[at] ^= next() as u8;
            record.truncate(next() as usize % (record.len() + 1));
        }
        flows.record(&record, &mut recorder);
        assert!(flows.table.open_flows() <= LIMITS.flows);
    }
    flows.idle(u64::MAX, &mut recorder);
    assert!(flows.table.open_flows() == 0);
}

#[test]
fn the_socket_that_is_ignored_is_the_connections_and_not_the_listening_one() {
    let ((mut flows, mut recorder), mut wire) = (flows(), Wire { now: 0 });
    let with_cookie = |mut record: Vec<u8>, cookie: u64| {
        record[..8].copy_from_slice(&cookie.to_ne_bytes());
        record
    };
    flows.record(&with_cookie(wire.tcp(false, 100, 0, SYN, b""), 1), &mut recorder);
    flows.record(&with_cookie(wire.tcp(true, 500, 101, SYN | ACK, b""), 1), &mut recorder);
    let mut sequence = 101;
    while flows.ignored.is_empty() {
        let noise = wire.tcp(false, sequence, 501, ACK, &[0xfe; 1_000]);
        flows.record(&with_cookie(noise, 2), &mut recorder);
        sequence += 1_000;
        assert!(sequence < 1_000_000, "never ignored");
    }
    assert_eq!(flows.ignored, [2]);
}

#[test]
fn packets_that_are_captured_in_part_are_counted() {
    let ((mut flows, mut recorder), mut wire) = (flows(), Wire { now: 0 });
    for length in [8, 100] {
        let record = wire.record(true, 17, &[0; 8], length);
        flows.record(&record, &mut recorder);
    }
    assert_eq!(flows.shortened, 1);
}
