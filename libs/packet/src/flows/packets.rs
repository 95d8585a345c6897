//! From a packet to its flow: tunnels, fragments, and which connection a segment is of.

use std::borrow::Cow;

use etherparse::{TcpSlice, UdpHeader, UdpHeaderSlice};
use porthole_l7::{Chunk, Timestamp};

use super::{Bytes, Captured, Flow, FlowTable, Observer, Vantage, chunk, direction};
use crate::{
    conversation::{Belongs, Segment},
    ip::{Datagram, Protocol, Seen, Transport},
    network::Carried,
    route::{Key, Route},
    tunnel::{self, Content, DEPTH_MAX},
};

impl<N> FlowTable<N> {
    /// Takes a packet; false when it is none of TCP or UDP, or not enough of it.
    pub fn packet(&mut self, packet: &Captured<'_>, observer: &mut dyn Observer<Note = N>) -> bool {
        self.tally.packets += 1;
        let readable = self.within(packet, 0, observer);
        self.tally.unreadable += u64::from(!readable);
        readable
    }

    /// Takes a packet that is in so many tunnels.
    fn within(&mut self, packet: &Captured<'_>, depth: usize, observer: &mut dyn Observer<Note = N>) -> bool {
        // At a socket the inner packet is the one that its own socket sends or receives.
        let tunnels = packet.vantage == Vantage::Link;
        let mut datagram = match self.reassembly.packet(packet.network, packet.bytes, tunnels) {
            Seen::Whole(datagram) => datagram,
            Seen::Fragment => return true,
            Seen::Other => return false,
        };
        // A sender's segments are captured before hardware cuts them into packets: their header's length may be shorter.
        if let Cow::Borrowed(payload) = &datagram.payload {
            let headers = packet.bytes.len() - payload.len();
            datagram.length = datagram.length.max(packet.length.saturating_sub(headers));
        }
        let carried = match datagram.protocol {
            Protocol::Transport(Transport::Tcp) => return self.tcp(packet, &datagram, observer).is_some(),
            Protocol::Transport(Transport::Udp) => match tunnelled(packet, &datagram) {
                Some(Content::Packet(carried)) => Some(carried),
                Some(Content::Other) => None,
                None => return self.udp(packet, &datagram, observer).is_some(),
            },
            Protocol::Encapsulation(encapsulation) => {
                let ends = [datagram.source, datagram.destination];
                tunnel::in_ip(encapsulation, &datagram.payload, packet.network, ends)
            }
        };
        let Some(Carried { packet: bytes, network }) = carried else { return false };
        depth < DEPTH_MAX
            && self.within(&Captured { bytes, network, length: 0, ..*packet }, depth + 1, observer)
    }

    /// The key of the flow that a packet with this key belongs to: the flow between the same ends in another network if
    /// there is none in its own and the packet is proved to be of it. A flow of one direction alone may be half of another, which
    /// its first packets did not prove: then it ends.
    fn flow_key(
        &mut self,
        key: Key,
        now_ns: u64,
        is_of: impl Fn(&Flow<N>) -> bool,
        observer: &mut dyn Observer<Note = N>,
    ) -> Key {
        let known = self.networks.flow(key);
        if self.table.get(&known).is_some_and(|flow| known != key || !flow.bytes.is_one_way()) {
            return known;
        }
        let is_of = |other: &Key| *other != key && self.table.get(other).is_some_and(&is_of);
        let Some(other) = self.networks.others(key).into_iter().find(is_of) else { return key };
        let is_half = self.table.contains_key(&key);
        self.remove(&key, now_ns, observer);
        if let Some(flow) = self.table.get_mut(&other) {
            self.networks.join(key, other, &mut flow.also);
            if let Bytes::Stream(conversation) = &mut flow.bytes
                && is_half
            {
                conversation.join_other_half();
            }
        }
        other
    }

    /// Takes a TCP segment; none when it is none.
    fn tcp(
        &mut self,
        packet: &Captured<'_>,
        datagram: &Datagram<'_>,
        observer: &mut dyn Observer<Note = N>,
    ) -> Option<()> {
        let tcp = TcpSlice::from_slice(&datagram.payload).ok()?;
        let length = u64::try_from(datagram.length.checked_sub(tcp.header_slice().len())?).ok()?;
        let vantage = (packet.vantage, packet.network);
        let route = Route::new(vantage, datagram, tcp.source_port(), tcp.destination_port());
        let opens = tcp.syn() && !tcp.ack();
        let segment = |from| Segment {
            from,
            // A SYN has a number too, before that of the first byte.
            sequence: tcp.sequence_number().wrapping_add(u32::from(tcp.syn())),
            acknowledged: tcp.ack().then(|| tcp.acknowledgment_number()),
            bytes: tcp.payload(),
            length,
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            time_ns: packet.time_ns,
        };
        let is_of = |flow: &Flow<N>| {
            let segment = segment(route.from(flow.ends));
            matches!(&flow.bytes, Bytes::Stream(conversation) if conversation.has_numbers_of(&segment))
        };
        let key = self.flow_key(route.key(Transport::Tcp), packet.time_ns, is_of, observer);
        let mut successor = None;
        if let Some(flow) = self.table.get_mut(&key)
            && let Bytes::Stream(conversation) = &mut flow.bytes
        {
            let segment = segment(route.from(flow.ends));
            let reversed = packet.vantage == Vantage::Link && opens && segment.from == 1;
            match conversation.belongs(&segment) {
                Belongs::ToOlder => return Some(()),
                Belongs::ToUnproved => {
                    conversation.keep_unproved(&segment);
                    return Some(());
                }
                Belongs::Here if reversed && conversation.is_empty() => {
                    self.remove(&key, packet.time_ns, observer);
                }
                Belongs::Here => {}
                Belongs::ToNext => {
                    successor = conversation.take_successor(&segment).map(|next| (next, flow.ends));
                    self.remove(&key, packet.time_ns, observer);
                }
            }
        }
        if let Some((next, ends)) = successor {
            let opener = if next.opener() == 0 { ends.near } else { ends.far };
            self.insert(key, route.ends(opener), true, packet.time_ns, observer);
            let is_turned = self.table.get(&key)?.ends != ends;
            for kept in next.segments() {
                self.stream(&key, &Segment { from: kept.from ^ usize::from(is_turned), ..kept }, observer);
            }
        }
        if !self.table.contains_key(&key) {
            // The rest of a connection that is over.
            if (length == 0 && !tcp.syn()) || tcp.rst() {
                return Some(());
            }
            let ends = route.ends(if opens { route.source } else { route.client(tcp.syn()) });
            self.insert(key, ends, tcp.syn(), packet.time_ns, observer);
        }
        let from = route.from(self.table.get(&key)?.ends);
        self.stream(&key, &segment(from), observer);
        Some(())
    }

    /// Gives a connection a segment of its own.
    fn stream(&mut self, key: &Key, segment: &Segment<'_>, observer: &mut dyn Observer<Note = N>) {
        let Some(flow) = self.table.get_mut(key) else { return };
        flow.last_ns = segment.time_ns;
        let Flow { l7: Some(l7), bytes: Bytes::Stream(conversation), .. } = flow else { return };
        let (context, mut done) = (&mut self.context, Vec::new());
        conversation.segment(segment, &mut |piece| {
            l7.chunk(&chunk(piece), context, &mut |exchange| done.push(exchange));
        });
        let is_over = conversation.is_over();
        self.observe(key, &done, observer);
        if is_over {
            self.close(key, segment.time_ns, observer);
        }
    }

    /// Takes a UDP datagram; none when it is none.
    fn udp(
        &mut self,
        packet: &Captured<'_>,
        datagram: &Datagram<'_>,
        observer: &mut dyn Observer<Note = N>,
    ) -> Option<()> {
        let header = UdpHeaderSlice::from_slice(&datagram.payload).ok()?;
        let ports = (header.source_port(), header.destination_port());
        let route = Route::new((packet.vantage, packet.network), datagram, ports.0, ports.1);
        let bytes = datagram.payload.get(UdpHeader::LEN..)?;
        let total = u64::try_from(datagram.length.checked_sub(UdpHeader::LEN)?).ok()?;
        // A group of hosts: no peer, as in `Connection::datagram_of`.
        if route.destination.ip().is_multicast() {
            return Some(());
        }
        let is_of = |flow: &Flow<N>| {
            let from = route.from(flow.ends);
            matches!(&flow.bytes, Bytes::Datagrams(known) if known.has_place_for(from, bytes, total, packet.time_ns))
        };
        let key = self.flow_key(route.key(Transport::Udp), packet.time_ns, is_of, observer);
        if !self.table.contains_key(&key) {
            self.insert(key, route.ends(route.source), true, packet.time_ns, observer);
        }
        let flow = self.table.get_mut(&key)?;
        flow.last_ns = packet.time_ns;
        let from = route.from(flow.ends);
        let Flow { l7: Some(l7), bytes: Bytes::Datagrams(datagrams), .. } = flow else { return None };
        let mut done = Vec::new();
        let Some(offset) = datagrams.take(from, bytes, total, packet.time_ns) else {
            self.tally.repeated_bytes += total;
            return Some(());
        };
        let timestamp = Timestamp(packet.time_ns);
        let chunk = Chunk { direction: direction(from), timestamp, offset, bytes, total };
        l7.chunk(&chunk, &mut self.context, &mut |exchange| done.push(exchange));
        self.observe(&key, &done, observer);
        Some(())
    }
}

/// What a datagram carries if it is a tunnel's.
fn tunnelled<'a>(packet: &Captured<'_>, datagram: &'a Datagram<'_>) -> Option<Content<'a>> {
    if packet.vantage != Vantage::Link {
        return None;
    }
    let (header, payload) = datagram.payload.split_at_checked(UdpHeader::LEN)?;
    let port = UdpHeaderSlice::from_slice(header).ok()?.destination_port();
    let ends = [datagram.source, datagram.destination];
    tunnel::in_udp(port, payload, datagram.length - UdpHeader::LEN, packet.network, ends)
}
