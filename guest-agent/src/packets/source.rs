//! Capture of packets: the programs' records through the table of flows.

use porthole_bpf_types::{connection::direction, packet::Packet};
use porthole_l7::{Exchange, ParserContext, ScopeId};
use porthole_packet::{
    Limits,
    flows::{Captured, Ends, FlowTable, Observer, Vantage},
};

use super::cgroups::Tree;
use crate::{
    capture::event_source::EventSource,
    containers::{ContainerIndex, Containers},
    peer::Peer,
    probes::{ProbeError, packets::PacketProbes},
    series::{Details, Origin, SeriesTable},
    state::State,
};

const SECOND_NS: u64 = 1_000_000_000;

/// Bounds of the table. The end of a TCP connection is seen unless its packet is lost; of a connection that is ignored the
/// programs send no more packets.
const LIMITS: Limits = Limits {
    flows: 4096,
    tcp_idle_ns: 4 * 3600 * SECOND_NS,
    udp_idle_ns: 60 * SECOND_NS,
    ignored_idle_ns: 60 * SECOND_NS,
};

/// The programs on packets, and the flows of their records.
#[allow(missing_debug_implementations)]
pub struct PacketSource {
    probes: PacketProbes,
    flows: PacketFlows,
    /// Packets that the kernel had no room for, when it was last asked.
    lost: u64,
}

impl PacketSource {
    /// A source of these programs' records.
    pub fn new(probes: PacketProbes, flows: PacketFlows) -> Self {
        Self { probes, flows, lost: 0 }
    }
}

impl EventSource for PacketSource {
    fn record(&mut self, record: &[u8], state: &mut State) {
        self.flows.record(record, &mut state.series);
    }

    fn end_batch(&mut self, _: bool, state: &mut State) {
        let (packets, engine) = (self.flows.table.tally(), self.flows.table.engine().tally());
        state.connections = self.flows.table.open_flows() as u64;
        let counters = &mut state.counters;
        counters.events_captured = packets.packets;
        counters.bytes_copied = self.flows.bytes;
        counters.connections_seen = packets.flows;
        counters.connections_ignored = packets.ignored;
        counters.messages_seen = engine.messages_seen;
        counters.not_understood = engine.unparsed;
        counters.folded = engine.overflowed_names;
    }

    fn apply_commands(&mut self, _: bool) {
        for cookie in self.flows.ignored.drain(..) {
            if let Err(error) = self.probes.ignore(cookie) {
                tracing::debug!(%error, "telling the probes of an ignored socket");
            }
        }
    }

    fn poll(&mut self, state: &mut State) -> Result<(), ProbeError> {
        self.lost = self.probes.lost()?;
        state.counters.events_lost = self.lost + self.flows.malformed();
        Ok(())
    }

    fn idle(&mut self, now_ns: u64, state: &mut State) {
        let (lost, packets) = (self.lost, self.flows.table.tally());
        tracing::debug!(lost, ?packets, exchanges = state.counters.exchanges, "so far");
        self.flows.idle(now_ns, &mut state.series);
    }

    fn observed_limitations(&self) -> Vec<(u64, &'static str)> {
        let packets = self.flows.table.tally();
        vec![
            (packets.lost_bytes, "bytes of streams were not seen"),
            (packets.evicted, "connections made room for newer ones"),
        ]
    }

    fn pause(&mut self, paused: bool) -> Result<(), ProbeError> {
        self.probes.pause(paused)
    }
}

/// The flows of this kernel's sockets.
#[derive(Debug)]
pub struct PacketFlows {
    table: FlowTable<Socket>,
    tree: Tree,
    containers: Containers,
    /// Cookies of ignored sockets, of which the programs are to be told.
    ignored: Vec<u64>,
    bytes: u64,
    /// Records that are no packet.
    malformed: u64,
    /// Nanoseconds from the monotonic clock's zero to 1970.
    unix_offset_ns: u64,
}

/// The local socket of a flow.
#[derive(Debug)]
struct Socket {
    cookie: u64,
    container: ContainerIndex,
}

impl PacketFlows {
    /// No flows yet.
    pub fn new(engine: ParserContext, tree: Tree, unix_offset_ns: u64) -> Self {
        Self {
            table: FlowTable::new(engine, LIMITS),
            tree,
            containers: Containers::default(),
            ignored: Vec::new(),
            bytes: 0,
            malformed: 0,
            unix_offset_ns,
        }
    }

    fn malformed(&self) -> u64 {
        self.malformed + self.table.tally().unreadable
    }

    fn record(&mut self, record: &[u8], series: &mut SeriesTable) {
        self.bytes += record.len() as u64;
        let Some((packet, bytes)) = Packet::record(record) else {
            self.malformed += 1;
            return;
        };
        let sent = packet.direction == u32::from(direction::EGRESS);
        let captured = Captured {
            bytes,
            length: packet.length as usize,
            time_ns: packet.timestamp,
            vantage: if sent { Vantage::Sender } else { Vantage::Receiver },
        };
        let (table, mut recording) = self.recording(Some(packet), series);
        table.packet(&captured, &mut recording);
    }

    fn idle(&mut self, now_ns: u64, series: &mut SeriesTable) {
        let (table, mut recording) = self.recording(None, series);
        table.idle(now_ns, &mut recording);
    }

    fn recording<'a>(
        &'a mut self,
        packet: Option<Packet>,
        series: &'a mut SeriesTable,
    ) -> (&'a mut FlowTable<Socket>, Recording<'a>) {
        let Self { table, tree, containers, ignored, unix_offset_ns, .. } = self;
        let unix_offset_ns = *unix_offset_ns;
        (table, Recording { packet, tree, containers, ignored, unix_offset_ns, series })
    }
}

/// Adds the flows' exchanges to series.
struct Recording<'a> {
    /// What is taken, if anything is.
    packet: Option<Packet>,
    tree: &'a Tree,
    containers: &'a mut Containers,
    ignored: &'a mut Vec<u64>,
    unix_offset_ns: u64,
    series: &'a mut SeriesTable,
}

impl Observer for Recording<'_> {
    type Note = Socket;

    fn opened(&mut self, _: Ends) -> (ScopeId, Socket) {
        let socket = match self.packet {
            Some(packet) => {
                let container = self.tree.container(packet.cgroup, self.containers);
                Socket { cookie: packet.cookie, container }
            }
            None => Socket { cookie: 0, container: ContainerIndex::default() },
        };
        (ScopeId(socket.container.0), socket)
    }

    fn exchange(&mut self, exchange: &Exchange, ends: Ends, socket: &Socket, engine: &ParserContext) {
        let (local, peer) = (Peer::Internet(ends.near), Peer::Internet(ends.far));
        let origin = Origin {
            container: socket.container,
            container_id: self.containers.id(socket.container),
            peer: &peer,
            details: Details { local: Some(&local), ..Details::default() },
        };
        let now = self.unix_offset_ns.saturating_add(exchange.end.0);
        self.series.record(exchange, origin, engine, now);
    }

    fn ignored(&mut self, socket: &Socket) {
        self.ignored.push(socket.cookie);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
#[path = "source_tests.rs"]
mod tests;
