//! Capture of packets: the programs' records through the table of flows.

use porthole_bpf_types::{connection::direction, packet::Packet};
use porthole_l7::{Exchange, ParserContext, ScopeId};
use porthole_packet::{
    Limits,
    flows::{Captured, Ends, FlowTable, Observer, Vantage},
    network::Network,
};

use crate::{
    capture::{event_source::EventSource, parsed},
    cgroups::Tree,
    kernel::{ProbeError, packet_probes::PacketProbes},
    recorder::{
        Details, Origin, Recorder,
        containers::{ContainerIndex, Containers},
        peer::Peer,
    },
    report::state::State,
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
    /// Packets that the kernel had no room for, at the last reading.
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
        self.flows.record(record, &mut state.recorder);
    }

    fn end_batch(&mut self, _: bool, state: &mut State) {
        let packets = self.flows.table.tally();
        state.connections = self.flows.table.open_flows() as u64;
        let counters = &mut state.counters;
        counters.events_captured = packets.packets;
        counters.bytes_copied = self.flows.bytes;
        counters.connections_seen = packets.flows;
        counters.connections_ignored = packets.ignored;
        parsed::fill(counters, self.flows.table.context());
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
        self.flows.idle(now_ns, &mut state.recorder);
    }

    fn observed_limitations(&self) -> Vec<(u64, &'static str)> {
        let packets = self.flows.table.tally();
        vec![
            (packets.lost_bytes, "bytes of streams were not seen"),
            (self.flows.shortened, "packets were captured in part: the ring buffer had no room for more"),
            (packets.evicted, "connections made room for newer ones"),
            (self.flows.containers.displaced(), "containers made room for newer ones"),
        ]
    }

    fn pause(&mut self, paused: bool) -> Result<(), ProbeError> {
        self.probes.pause(paused)
    }
}

/// The flows of this kernel's sockets.
#[derive(Debug)]
pub struct PacketFlows {
    table: FlowTable<ContainerIndex>,
    tree: Tree,
    containers: Containers,
    /// Cookies of ignored sockets that are still to be reported to the programs.
    ignored: Vec<u64>,
    bytes: u64,
    /// Records that are no packet.
    malformed: u64,
    /// Packets of which not all bytes were captured.
    shortened: u64,
}

impl PacketFlows {
    /// No flows yet.
    pub fn new(context: ParserContext, tree: Tree) -> Self {
        Self {
            table: FlowTable::new(context, LIMITS),
            tree,
            containers: Containers::default(),
            ignored: Vec::new(),
            bytes: 0,
            malformed: 0,
            shortened: 0,
        }
    }

    fn malformed(&self) -> u64 {
        self.malformed + self.table.tally().unreadable
    }

    fn record(&mut self, record: &[u8], recorder: &mut Recorder) {
        self.bytes += record.len() as u64;
        let Some((packet, bytes)) = Packet::record(record) else {
            self.malformed += 1;
            return;
        };
        self.shortened += u64::from(bytes.len() < packet.length as usize);
        let sent = packet.direction == u32::from(direction::EGRESS);
        let captured = Captured {
            bytes,
            length: packet.length as usize,
            time_ns: packet.timestamp,
            vantage: if sent { Vantage::Sender } else { Vantage::Receiver },
            network: Network::default(),
        };
        let (table, mut recording) = self.recording(Some(packet), recorder);
        table.packet(&captured, &mut recording);
    }

    fn idle(&mut self, now_ns: u64, recorder: &mut Recorder) {
        let (table, mut recording) = self.recording(None, recorder);
        table.idle(now_ns, &mut recording);
    }

    fn recording<'a>(
        &'a mut self,
        packet: Option<Packet>,
        recorder: &'a mut Recorder,
    ) -> (&'a mut FlowTable<ContainerIndex>, Recording<'a>) {
        let Self { table, tree, containers, ignored, .. } = self;
        (table, Recording { packet, tree, containers, ignored, recorder })
    }
}

/// Records the flows' exchanges.
struct Recording<'a> {
    /// What is taken, if anything is.
    packet: Option<Packet>,
    tree: &'a Tree,
    containers: &'a mut Containers,
    ignored: &'a mut Vec<u64>,
    recorder: &'a mut Recorder,
}

impl Observer for Recording<'_> {
    /// The container of the local end.
    type Note = ContainerIndex;

    fn opened(&mut self, _: Ends) -> (ScopeId, ContainerIndex) {
        let cgroup = self.packet.map(|packet| packet.cgroup);
        let container = cgroup.map(|cgroup| self.tree.container(cgroup, self.containers)).unwrap_or_default();
        (ScopeId(container.0), container)
    }

    fn exchange(
        &mut self,
        exchange: &Exchange,
        ends: Ends,
        container: &ContainerIndex,
        context: &ParserContext,
    ) {
        let (local, peer) = (Peer::Internet(ends.near), Peer::Internet(ends.far));
        let origin = Origin {
            container: *container,
            container_id: self.containers.id(*container),
            peer: &peer,
            details: Details { local: Some(&local), ..Details::default() },
        };
        self.recorder.record(exchange, origin, context);
    }

    fn ignored(&mut self, _: &ContainerIndex) {
        // The socket that is there now: a connection's first packet came to the listening one.
        self.ignored.extend(self.packet.map(|packet| packet.cookie));
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
#[path = "source_tests.rs"]
mod tests;
