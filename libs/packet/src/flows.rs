//! The connections of a capture: packets to the engine's connections, whose both ends are seen.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use etherparse::{TcpSlice, UdpHeader, UdpHeaderSlice};
use porthole_l7::{Chunk, Connection, Direction, Engine, Exchange, ScopeId, Side, Timestamp};

use crate::{
    capture::Packet,
    conversation::{self, Conversation, Segment},
    ip::{Datagram, Reassembly, Seen, Transport},
    link,
};

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time; those that were silent longest go first.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536 }
    }
}

/// Time between two looks for datagrams that never got an answer.
const IDLE_INTERVAL_NS: u64 = 2_000_000_000;

/// Who called whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Sent the request.
    pub client: SocketAddr,
    /// Received it.
    pub server: SocketAddr,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets taken.
    pub packets: u64,
    /// Packets that carry neither TCP nor UDP over IP, or not enough of it.
    pub ignored: u64,
    /// Fragments that came to nothing.
    pub fragments_dropped: u64,
    /// Connections and pairs of datagram ends.
    pub connections: u64,
    /// Connections that had to go because there were too many.
    pub evicted: u64,
    /// Bytes of TCP streams that were not in the capture.
    pub lost_bytes: u64,
    /// Bytes of TCP streams that were there more than once.
    pub repeated_bytes: u64,
}

/// Takes exchanges with the names of their ends; the engine is there to spell symbols out.
pub type Sink<'a> = &'a mut dyn FnMut(&Exchange, Endpoints);

/// Both ends, in the order of their addresses: the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    transport: Transport,
    ends: [SocketAddr; 2],
}

/// One connection.
#[derive(Debug)]
struct Flow {
    /// Number in the order of appearance.
    number: u64,
    /// The end that counts as the observed process: it opened the connection, as far as that is known.
    opener: SocketAddr,
    other: SocketAddr,
    connection: Connection,
    bytes: Bytes,
    last_ns: u64,
    closed: bool,
}

/// How bytes come.
#[derive(Debug)]
enum Bytes {
    /// In streams, from the opener and from the other end.
    Stream(Box<Conversation>),
    /// In datagrams; the positions after the last of each direction.
    Datagrams([u64; 2]),
}

/// All connections of a capture.
#[derive(Debug)]
pub struct Flows {
    engine: Engine,
    limits: Limits,
    reassembly: Reassembly,
    table: HashMap<Key, Flow>,
    tally: Tally,
    now_ns: u64,
    looked_ns: u64,
}

impl Flows {
    /// No connections yet.
    pub fn new(engine: Engine, limits: Limits) -> Self {
        Self {
            engine,
            limits,
            reassembly: Reassembly::default(),
            table: HashMap::new(),
            tally: Tally::default(),
            now_ns: 0,
            looked_ns: 0,
        }
    }

    /// The engine, which knows the names of symbols.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What was seen so far. The streams' bytes are counted when their connection has gone.
    pub fn tally(&self) -> Tally {
        Tally { fragments_dropped: self.reassembly.dropped, ..self.tally }
    }

    /// Takes a packet.
    pub fn packet(&mut self, packet: &Packet<'_>, sink: Sink<'_>) {
        self.tally.packets += 1;
        // Clocks of captures step back now and then; durations must not.
        self.now_ns = self.now_ns.max(packet.timestamp_ns);
        let ip = link::ip_packet(packet.link, packet.bytes);
        let taken = match ip.map_or(Seen::Other, |ip| self.reassembly.packet(ip)) {
            Seen::Whole(datagram) if datagram.transport == Transport::Tcp => self.tcp(&datagram, sink),
            Seen::Whole(datagram) => self.udp(&datagram, sink),
            Seen::Fragment => Some(()),
            Seen::Other => None,
        };
        self.tally.ignored += u64::from(taken.is_none());
        if self.now_ns.saturating_sub(self.looked_ns) > IDLE_INTERVAL_NS {
            self.looked_ns = self.now_ns;
            self.idle(sink);
        }
    }

    /// No further packet comes: what is open is closed.
    pub fn finish(&mut self, sink: Sink<'_>) {
        let mut flows: Vec<Flow> = self.table.drain().map(|(_, flow)| flow).collect();
        flows.sort_unstable_by_key(|flow| flow.number);
        for flow in flows {
            self.end(flow, sink);
        }
    }

    fn idle(&mut self, sink: Sink<'_>) {
        let now = Timestamp(self.now_ns);
        let mut waiting: Vec<&mut Flow> = self.table.values_mut().filter(|flow| !flow.closed).collect();
        waiting.sort_unstable_by_key(|flow| flow.number);
        for flow in waiting {
            let (opener, other) = (flow.opener, flow.other);
            flow.connection
                .idle(now, &mut self.engine, &mut |exchange| named(&exchange, opener, other, sink));
        }
    }

    /// Makes room for one more.
    fn make_room(&mut self, sink: Sink<'_>) {
        if self.table.len() < self.limits.connections {
            return;
        }
        let mut ages: Vec<(u64, Key)> = self.table.iter().map(|(key, flow)| (flow.last_ns, *key)).collect();
        // An eighth at a time, so that the search is rare.
        let count = (ages.len() / 8).max(1);
        ages.select_nth_unstable_by_key(count - 1, |(last, _)| *last);
        for (_, key) in &ages[..count] {
            if let Some(flow) = self.table.remove(key) {
                self.tally.evicted += u64::from(!flow.closed);
                self.end(flow, sink);
            }
        }
    }

    fn end(&mut self, mut flow: Flow, sink: Sink<'_>) {
        flow.close(self.now_ns, &mut self.engine, sink);
        if let Bytes::Stream(conversation) = &flow.bytes {
            let (lost, repeated) = conversation.lost_and_repeated();
            self.tally.lost_bytes += lost;
            self.tally.repeated_bytes += repeated;
        }
    }

    fn open(&mut self, key: Key, opener: SocketAddr, other: SocketAddr, sink: Sink<'_>) {
        self.make_room(sink);
        let scope = ScopeId(1);
        let (connection, bytes) = match key.transport {
            Transport::Tcp => (Connection::new(scope), Bytes::Stream(Box::default())),
            Transport::Udp => (Connection::datagram(scope), Bytes::Datagrams([0; 2])),
        };
        self.tally.connections += 1;
        let number = self.tally.connections;
        let flow = Flow { number, opener, other, connection, bytes, last_ns: self.now_ns, closed: false };
        self.table.insert(key, flow);
    }

    /// Takes a TCP segment; none when it is none.
    fn tcp(&mut self, datagram: &Datagram<'_>, sink: Sink<'_>) -> Option<()> {
        let segment = TcpSlice::from_slice(&datagram.payload).ok()?;
        let (source, destination) = ends(datagram, segment.source_port(), segment.destination_port());
        let length = u64::try_from(datagram.length.checked_sub(segment.header_slice().len())?).ok()?;
        let key = key(Transport::Tcp, source, destination);
        let opens = segment.syn() && !segment.ack();
        let sequence = segment.sequence_number().wrapping_add(u32::from(segment.syn()));
        if opens
            && self.table.get(&key).is_some_and(|flow| flow.is_another(source, &segment))
            && let Some(flow) = self.table.remove(&key)
        {
            self.end(flow, sink);
        }
        if !self.table.contains_key(&key) {
            if opens {
                self.open(key, source, destination, sink);
            } else if length > 0 || segment.syn() {
                // Joined in the middle. Clients' ports are the higher ones as a rule, and an answered SYN says it.
                let from_server = segment.syn() || source.port() < destination.port();
                let (opener, other) = if from_server { (destination, source) } else { (source, destination) };
                self.open(key, opener, other, sink);
            } else {
                return Some(());
            }
        }
        let now_ns = self.now_ns;
        let flow = self.table.get_mut(&key)?;
        flow.last_ns = now_ns;
        if flow.closed {
            return Some(());
        }
        let segment_of_stream = Segment {
            from: usize::from(source != flow.opener),
            sequence,
            acknowledged: segment.ack().then(|| segment.acknowledgment_number()),
            bytes: segment.payload(),
            length,
            fin: segment.fin(),
            timestamp_ns: now_ns,
        };
        flow.stream(&mut self.engine, sink, |conversation, deliver| {
            conversation.segment(&segment_of_stream, deliver);
        });
        if segment.rst() || flow.is_finished() {
            flow.close(now_ns, &mut self.engine, sink);
        }
        Some(())
    }

    /// Takes a UDP datagram; none when it is none.
    fn udp(&mut self, datagram: &Datagram<'_>, sink: Sink<'_>) -> Option<()> {
        let header = UdpHeaderSlice::from_slice(&datagram.payload).ok()?;
        let (source, destination) = ends(datagram, header.source_port(), header.destination_port());
        let bytes = datagram.payload.get(UdpHeader::LEN..)?;
        let total = u64::try_from(datagram.length.checked_sub(UdpHeader::LEN)?).ok()?;
        let key = key(Transport::Udp, source, destination);
        if !self.table.contains_key(&key) {
            self.open(key, source, destination, sink);
        }
        let flow = self.table.get_mut(&key)?;
        flow.last_ns = self.now_ns;
        let Bytes::Datagrams(positions) = &mut flow.bytes else { return None };
        let from = usize::from(source != flow.opener);
        let chunk = Chunk {
            direction: direction(from),
            timestamp: Timestamp(self.now_ns),
            offset: positions[from],
            bytes,
            total,
        };
        positions[from] += total;
        let (opener, other) = (flow.opener, flow.other);
        flow.connection
            .chunk(&chunk, &mut self.engine, &mut |exchange| named(&exchange, opener, other, sink));
        Some(())
    }
}

impl Flow {
    /// Whether a SYN is that of another connection between the same ports.
    fn is_another(&self, source: SocketAddr, segment: &TcpSlice<'_>) -> bool {
        let Bytes::Stream(conversation) = &self.bytes else { return false };
        source != self.opener || conversation.begins_anew(0, segment.sequence_number())
    }

    fn is_finished(&self) -> bool {
        matches!(&self.bytes, Bytes::Stream(conversation) if conversation.is_finished())
    }

    /// Works on the streams; what comes out of them in order goes to the engine.
    fn stream(
        &mut self,
        engine: &mut Engine,
        sink: Sink<'_>,
        work: impl FnOnce(&mut Conversation, conversation::Deliver<'_>),
    ) {
        let Self { connection, bytes, opener, other, .. } = self;
        let Bytes::Stream(conversation) = bytes else { return };
        work(conversation, &mut |from, timestamp_ns, offset, bytes, total| {
            let timestamp = Timestamp(timestamp_ns);
            let chunk = Chunk { direction: direction(from), timestamp, offset, bytes, total };
            connection.chunk(&chunk, engine, &mut |exchange| named(&exchange, *opener, *other, sink));
        });
    }

    fn close(&mut self, now_ns: u64, engine: &mut Engine, sink: Sink<'_>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.stream(engine, sink, |conversation, deliver| conversation.flush(now_ns, deliver));
        let (opener, other) = (self.opener, self.other);
        self.connection
            .close(Timestamp(now_ns), engine, &mut |exchange| named(&exchange, opener, other, sink));
    }
}

/// The opener is the process under observation: what it sends goes out.
fn direction(from: usize) -> Direction {
    if from == 0 { Direction::Egress } else { Direction::Ingress }
}

fn named(exchange: &Exchange, opener: SocketAddr, other: SocketAddr, sink: Sink<'_>) {
    let endpoints = match exchange.side {
        Side::Client => Endpoints { client: opener, server: other },
        Side::Server => Endpoints { client: other, server: opener },
    };
    sink(exchange, endpoints);
}

fn ends(datagram: &Datagram<'_>, source: u16, destination: u16) -> (SocketAddr, SocketAddr) {
    let address = |ip: IpAddr, port| SocketAddr::new(ip, port);
    (address(datagram.source, source), address(datagram.destination, destination))
}

fn key(transport: Transport, source: SocketAddr, destination: SocketAddr) -> Key {
    let ends = if source <= destination { [source, destination] } else { [destination, source] };
    Key { transport, ends }
}
