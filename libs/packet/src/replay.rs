//! Captured frames of any link, to exchanges with both their ends.

use std::net::SocketAddr;

use porthole_l7::{Exchange, ParserContext, ScopeId, Side, Timestamp};

use crate::{
    capture::Packet,
    clock::Clock,
    flows::{Captured, Ends, FlowTable, Limits, Observer, Tally, Vantage},
    link,
    network::Carried,
};

/// Time between two looks for datagrams that never got an answer, nanoseconds.
const IDLE_INTERVAL_NS: u64 = 2_000_000_000;

impl Default for Limits {
    /// For captures, in which nothing is over because it is silent.
    fn default() -> Self {
        Self { flows: 65_536, tcp_idle_ns: u64::MAX, udp_idle_ns: u64::MAX, ignored_idle_ns: u64::MAX }
    }
}

/// The client's and the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Sent the request.
    pub client: SocketAddr,
    /// Received it.
    pub server: SocketAddr,
}

/// Takes exchanges with the names of their ends, their times those of the capture; the context is there to spell symbols
/// out.
pub type Sink<'a> = &'a mut dyn FnMut(&Exchange, Endpoints);

/// A capture, and what is understood of it.
#[derive(Debug)]
pub struct Replay {
    flows: FlowTable<()>,
    clock: Clock,
    /// Frames that carry no IP packet.
    not_ip: u64,
    idle_ns: u64,
}

impl Replay {
    /// Nothing yet.
    pub fn new(context: ParserContext, limits: Limits) -> Self {
        Self { flows: FlowTable::new(context, limits), clock: Clock::default(), not_ip: 0, idle_ns: 0 }
    }

    /// The context, which knows the names of symbols.
    pub fn context(&self) -> &ParserContext {
        self.flows.context()
    }

    /// What was seen so far. The streams' bytes are counted when their connection is over.
    pub fn tally(&self) -> Tally {
        let tally = self.flows.tally();
        Tally { packets: tally.packets + self.not_ip, unreadable: tally.unreadable + self.not_ip, ..tally }
    }

    /// Takes a packet.
    pub fn packet(&mut self, packet: &Packet<'_>, sink: Sink<'_>) {
        let time_ns = self.clock.time(packet.timestamp_ns);
        let mut ends = Named { clock: &self.clock, sink };
        // What had no response in time has none, also if this packet is the next one and brings it.
        let now_ns = self.clock.now_ns();
        if now_ns.saturating_sub(self.idle_ns) > IDLE_INTERVAL_NS {
            self.idle_ns = now_ns;
            self.flows.idle(now_ns, &mut ends);
        }
        match link::ip_packet(packet.link, packet.bytes) {
            Some(Carried { packet: bytes, network }) => {
                let captured = Captured { bytes, length: 0, time_ns, vantage: Vantage::Link, network };
                self.flows.packet(&captured, &mut ends);
            }
            None => self.not_ip += 1,
        }
    }

    /// No further packet comes: what is open is closed.
    pub fn finish(&mut self, sink: Sink<'_>) {
        self.flows.finish(self.clock.now_ns(), &mut Named { clock: &self.clock, sink });
    }
}

/// Names an exchange's ends.
struct Named<'a> {
    clock: &'a Clock,
    sink: Sink<'a>,
}

impl Observer for Named<'_> {
    type Note = ();

    fn opened(&mut self, _: Ends) -> (ScopeId, ()) {
        (ScopeId(1), ())
    }

    fn exchange(&mut self, exchange: &Exchange, ends: Ends, (): &(), _: &ParserContext) {
        let endpoints = match exchange.side {
            Side::Client => Endpoints { client: ends.near, server: ends.far },
            Side::Server => Endpoints { client: ends.far, server: ends.near },
        };
        let timestamp = |time: Timestamp| Timestamp(self.clock.timestamp(time.0));
        let (start, end) = (timestamp(exchange.start), timestamp(exchange.end));
        (self.sink)(&Exchange { start, end, ..*exchange }, endpoints);
    }
}
