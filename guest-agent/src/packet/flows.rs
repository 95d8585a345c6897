//! The connections, from the packets of their local ends.
//!
//! A connection between two sockets of this kernel has two local ends, and is two flows: one serves, the other calls, as
//! in the other modes.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use etherparse::{TcpSlice, UdpHeader, UdpHeaderSlice};
use porthole_bpf_types::{connection::direction, packet::Packet};
use porthole_l7::{Chunk, Connection, Direction, Engine, Exchange, Limits, ScopeId, Timestamp, Verdict};
use porthole_packet::{
    conversation::{Conversation, Segment},
    ip::{Datagram, Reassembly, Seen, Transport},
};

use super::cgroups::Tree;
use crate::{
    containers::{ContainerIndex, Containers},
    peer::Peer,
    series::{Details, Origin, SeriesTable},
};

/// Most flows at a time.
pub const FLOWS_MAX: usize = 4096;

/// How long a flow may be silent before it is forgotten: an open TCP connection, whose end is seen unless it is lost; one
/// whose packets the kernel side no longer sends; two ends of datagrams.
const IDLE_TCP_NS: u64 = 4 * 3600 * 1_000_000_000;
const IDLE_IGNORED_NS: u64 = 60 * 1_000_000_000;
const IDLE_UDP_NS: u64 = 60 * 1_000_000_000;

/// Counts of what went in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Packets read.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were no packet, or none that can be read.
    pub malformed: u64,
    /// Flows that were seen.
    pub flows: u64,
    /// Flows that nobody understood.
    pub ignored: u64,
    /// Flows for which there was no room any more.
    pub evicted: u64,
    /// Bytes of streams that were acknowledged and never seen.
    pub lost_bytes: u64,
}

/// The local end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    l7: Connection,
    bytes: Bytes,
    container: ContainerIndex,
    peer: Peer,
    last_ns: u64,
    ignored: bool,
}

/// How bytes come. Direction 0 is the local end's.
#[derive(Debug)]
enum Bytes {
    Stream(Box<Conversation>),
    /// Positions after the last datagram of each direction.
    Datagrams([u64; 2]),
}

/// All flows, and what is understood of them.
#[derive(Debug)]
pub struct Flows {
    engine: Engine,
    reassembly: Reassembly,
    table: HashMap<Key, Flow>,
    tree: Tree,
    containers: Containers,
    /// Cookies of sockets that are of no interest, which the kernel side is to be told.
    dull: Vec<u64>,
    counts: FlowCounts,
    /// Nanoseconds from the monotonic clock's zero to 1970.
    unix_offset_ns: u64,
}

impl Flows {
    /// No flows yet.
    pub fn new(tree: Tree, unix_offset_ns: u64) -> Self {
        Self {
            engine: Engine::new(Limits::default()),
            reassembly: Reassembly::default(),
            table: HashMap::new(),
            tree,
            containers: Containers::default(),
            dull: Vec::new(),
            counts: FlowCounts::default(),
            unix_offset_ns,
        }
    }

    /// Sets the route templates that win over what is found by looking at the traffic.
    pub fn set_route_templates(&mut self, templates: &[String]) -> Result<(), porthole_l7::TemplateError> {
        self.engine.set_route_templates(templates)
    }

    /// What the parsers saw.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Counts of what went in.
    pub fn counts(&self) -> FlowCounts {
        self.counts
    }

    /// Number of flows that are followed.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is followed.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Cookies of sockets that turned out to be of no interest since the last call.
    pub fn take_dull(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.dull)
    }

    /// Takes one record as it comes from the ring buffer.
    pub fn record(&mut self, bytes: &[u8], series: &mut SeriesTable) {
        self.counts.packets += 1;
        self.counts.bytes += bytes.len() as u64;
        let Some((packet, head)) = Packet::record(bytes) else {
            self.counts.malformed += 1;
            return;
        };
        let Seen::Whole(mut datagram) = self.reassembly.packet(head) else { return };
        // The kernel sends in one what hardware cuts into packets, and then the header's length may not say it all.
        if let Cow::Borrowed(payload) = &datagram.payload {
            let headers = head.len() - payload.len();
            datagram.length = datagram.length.max((packet.length as usize).saturating_sub(headers));
        }
        let taken = match datagram.transport {
            Transport::Tcp => self.tcp(&packet, &datagram, series),
            Transport::Udp => self.udp(&packet, &datagram, series),
        };
        self.counts.malformed += u64::from(taken.is_none());
    }

    fn tcp(&mut self, packet: &Packet, datagram: &Datagram<'_>, series: &mut SeriesTable) -> Option<()> {
        let segment = TcpSlice::from_slice(&datagram.payload).ok()?;
        let length = u64::try_from(datagram.length.checked_sub(segment.header_slice().len())?).ok()?;
        let key = key(packet, datagram, segment.source_port(), segment.destination_port());
        let from = usize::from(packet.direction == u32::from(direction::INGRESS));
        let sequence = segment.sequence_number().wrapping_add(u32::from(segment.syn()));
        if segment.syn() && self.table.get(&key).is_some_and(|flow| flow.is_another(from, sequence)) {
            self.end(&key, packet.timestamp, series);
        }
        if !self.table.contains_key(&key) {
            // The rest of one that is over.
            if length == 0 && !segment.syn() {
                return Some(());
            }
            self.open(key, packet);
        }
        let flow = self.table.get_mut(&key)?;
        flow.last_ns = packet.timestamp;
        let segment_of_stream = Segment {
            from,
            sequence,
            acknowledged: segment.ack().then(|| segment.acknowledgment_number()),
            bytes: segment.payload(),
            length,
            fin: segment.fin(),
            timestamp_ns: packet.timestamp,
        };
        let Flow { l7, bytes: Bytes::Stream(conversation), .. } = flow else { return None };
        let (engine, mut done) = (&mut self.engine, Vec::new());
        conversation.segment(&segment_of_stream, &mut |from, at, offset, bytes, total| {
            let chunk = chunk(from, at, offset, bytes, total);
            l7.chunk(&chunk, engine, &mut |exchange| done.push(exchange));
        });
        let over = segment.rst() || conversation.is_finished();
        self.settle(&key, packet.cookie, &done, series);
        if over {
            self.end(&key, packet.timestamp, series);
        }
        Some(())
    }

    fn udp(&mut self, packet: &Packet, datagram: &Datagram<'_>, series: &mut SeriesTable) -> Option<()> {
        let header = UdpHeaderSlice::from_slice(&datagram.payload).ok()?;
        let bytes = datagram.payload.get(UdpHeader::LEN..)?;
        let total = u64::try_from(datagram.length.checked_sub(UdpHeader::LEN)?).ok()?;
        let key = key(packet, datagram, header.source_port(), header.destination_port());
        if !self.table.contains_key(&key) {
            self.open(key, packet);
        }
        let flow = self.table.get_mut(&key)?;
        flow.last_ns = packet.timestamp;
        let from = usize::from(packet.direction == u32::from(direction::INGRESS));
        let Flow { l7, bytes: Bytes::Datagrams(offsets), .. } = flow else { return None };
        let mut done = Vec::new();
        let chunk = chunk(from, packet.timestamp, offsets[from], bytes, total);
        offsets[from] += total;
        l7.chunk(&chunk, &mut self.engine, &mut |exchange| done.push(exchange));
        self.settle(&key, packet.cookie, &done, series);
        Some(())
    }

    fn open(&mut self, key: Key, packet: &Packet) {
        if self.table.len() >= FLOWS_MAX {
            self.make_room();
        }
        let container = self.tree.container(packet.cgroup, &mut self.containers);
        let scope = ScopeId(container.0);
        let (l7, bytes) = match key.transport {
            Transport::Tcp => (Connection::new(scope), Bytes::Stream(Box::default())),
            Transport::Udp => (Connection::datagram(scope), Bytes::Datagrams([0; 2])),
        };
        let peer = Peer::Internet(key.remote);
        self.counts.flows += 1;
        self.table
            .insert(key, Flow { l7, bytes, container, peer, last_ns: packet.timestamp, ignored: false });
    }

    /// Sums up what came of a packet, and learns whether the flow is worth following.
    fn settle(&mut self, key: &Key, cookie: u64, done: &[Exchange], series: &mut SeriesTable) {
        let Some(flow) = self.table.get_mut(key) else { return };
        let local = Peer::Internet(key.local);
        let origin = Origin {
            container: flow.container,
            container_id: self.containers.id(flow.container),
            peer: &flow.peer,
            details: Details { local: Some(&local), ..Details::default() },
        };
        for exchange in done {
            let now = self.unix_offset_ns.saturating_add(exchange.end.0);
            series.record(exchange, origin, &self.engine, now);
        }
        if !flow.ignored && flow.l7.verdict() == Verdict::Ignored {
            flow.ignored = true;
            self.counts.ignored += 1;
            // A datagram socket may talk to many.
            if key.transport == Transport::Tcp {
                self.dull.push(cookie);
            }
        }
    }

    /// Ends a flow.
    fn end(&mut self, key: &Key, now_ns: u64, series: &mut SeriesTable) {
        let Some(flow) = self.table.get_mut(key) else { return };
        let (engine, l7, mut done) = (&mut self.engine, &mut flow.l7, Vec::new());
        if let Bytes::Stream(conversation) = &mut flow.bytes {
            conversation.flush(now_ns, &mut |from, at, offset, bytes, total| {
                let chunk = chunk(from, at, offset, bytes, total);
                l7.chunk(&chunk, engine, &mut |exchange| done.push(exchange));
            });
            if !flow.ignored {
                self.counts.lost_bytes += conversation.lost_and_repeated().0;
            }
        }
        l7.close(Timestamp(now_ns), engine, &mut |exchange| done.push(exchange));
        // What is closed is of no interest, which the kernel side need not be told.
        flow.ignored = true;
        self.settle(key, 0, &done, series);
        self.table.remove(key);
    }

    /// Ends what waits only for time to pass, and forgets flows that have been silent too long. Call it every few
    /// seconds.
    pub fn idle(&mut self, now_ns: u64, series: &mut SeriesTable) {
        let keys: Vec<Key> = self.table.keys().copied().collect();
        for key in keys {
            let Some(flow) = self.table.get_mut(&key) else { continue };
            let mut done = Vec::new();
            flow.l7.idle(Timestamp(now_ns), &mut self.engine, &mut |exchange| done.push(exchange));
            let patience = match key.transport {
                Transport::Udp => IDLE_UDP_NS,
                Transport::Tcp if flow.ignored => IDLE_IGNORED_NS,
                Transport::Tcp => IDLE_TCP_NS,
            };
            let stale = now_ns.saturating_sub(flow.last_ns) > patience;
            self.settle(&key, 0, &done, series);
            if stale {
                self.end(&key, now_ns, series);
            }
        }
    }

    /// Forgets the eighth of the flows that has been silent longest.
    fn make_room(&mut self) {
        let mut by_age: Vec<(u64, Key)> = self.table.iter().map(|(key, flow)| (flow.last_ns, *key)).collect();
        let count = by_age.len() / 8;
        by_age.select_nth_unstable_by_key(count, |(last, _)| *last);
        for (_, key) in &by_age[..=count] {
            if self.table.remove(key).is_some_and(|flow| !flow.ignored) {
                self.counts.evicted += 1;
            }
        }
    }
}

impl Flow {
    /// Whether a SYN with that sequence number begins another connection between the same ends.
    fn is_another(&self, from: usize, sequence: u32) -> bool {
        matches!(&self.bytes, Bytes::Stream(conversation) if conversation.begins_anew(from, sequence.wrapping_sub(1)))
    }
}

fn chunk(from: usize, at: u64, offset: u64, bytes: &[u8], total: u64) -> Chunk<'_> {
    let direction = if from == 0 { Direction::Egress } else { Direction::Ingress };
    Chunk { direction, timestamp: Timestamp(at), offset, bytes, total }
}

fn key(packet: &Packet, datagram: &Datagram<'_>, source: u16, destination: u16) -> Key {
    let end = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    let (source, destination) = (end(datagram.source, source), end(datagram.destination, destination));
    let outwards = packet.direction == u32::from(direction::EGRESS);
    let (local, remote) = if outwards { (source, destination) } else { (destination, source) };
    Key { transport: datagram.transport, local, remote }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    fn flows() -> (Flows, SeriesTable) {
        let root = tempfile::tempdir().expect("directory");
        (Flows::new(Tree::of(root.path()).expect("opened"), 0), SeriesTable::default())
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

        fn tcp(
            &mut self,
            outwards: bool,
            sequence: u32,
            acknowledged: u32,
            flags: u8,
            text: &[u8],
        ) -> Vec<u8> {
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
        let ((mut flows, mut series), mut wire) = (flows(), Wire { now: 0 });
        let request = wire.tcp(true, 101, 501, ACK, REQUEST);
        let response = wire.tcp(false, 501, 101 + REQUEST.len() as u32, ACK, RESPONSE);
        let mut records = vec![wire.tcp(true, 100, 0, SYN, b""), wire.tcp(false, 500, 101, SYN | ACK, b"")];
        records.extend([request.clone(), request, response.clone(), response]);
        for record in &records {
            flows.record(record, &mut series);
        }
        assert_eq!((series.recorded(), flows.len()), (1, 1));
        let (changed, _) = series.changed_since(0, 0, 9);
        let key = changed[0].key.clone().unwrap_or_default();
        assert_eq!((key.resource.as_str(), key.peer.as_str()), ("/a", "10.0.0.2:80"));
        flows.record(&wire.tcp(false, 501 + RESPONSE.len() as u32, 0, RST, b""), &mut series);
        assert!(flows.is_empty());
        assert_eq!(flows.counts().malformed, 0);
    }

    #[test]
    fn another_connection_between_the_same_ends_is_another() {
        let ((mut flows, mut series), mut wire) = (flows(), Wire { now: 0 });
        for start in [100, 7_000_000] {
            flows.record(&wire.tcp(true, start, 0, SYN, b""), &mut series);
            flows.record(&wire.tcp(false, 2 * start, start + 1, SYN | ACK, b""), &mut series);
            flows.record(&wire.tcp(true, start + 1, 2 * start + 1, ACK, REQUEST), &mut series);
            let acknowledged = start + 1 + REQUEST.len() as u32;
            flows.record(&wire.tcp(false, 2 * start + 1, acknowledged, ACK, RESPONSE), &mut series);
        }
        assert_eq!((series.recorded(), flows.counts().flows, flows.len()), (2, 2, 1));
    }

    #[test]
    fn no_bytes_make_it_panic_and_flows_are_bounded() {
        let ((mut flows, mut series), mut wire) = (flows(), Wire { now: 0 });
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
            flows.record(&record, &mut series);
            assert!(flows.len() <= FLOWS_MAX);
        }
        flows.idle(u64::MAX, &mut series);
        assert!(flows.is_empty());
    }
}
