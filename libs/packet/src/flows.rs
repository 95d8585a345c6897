//! The table of flows: IP packets to the connections of `l7`, and these to exchanges.
//!
//! ```text
//! packet ──► IP, fragments joined, tunnels ──► flow ──► TCP in order, or datagrams ──► l7 ──► Observer
//! ```
//!
//! Packets come from a link, where both directions pass and who opened the connection has to be found out; or from a
//! socket, where one end is local. A connection between two sockets of one kernel is then two flows: one end serves, the
//! other is the client.
//!
//! Flows that are over stay for a while, so that repeated packets are not taken for a new connection.

use std::collections::HashMap;

use porthole_l7::{
    Chunk, ClientId, Connection, Direction, Exchange, ParserContext, ScopeId, Timestamp, Verdict,
};

use crate::{
    conversation::{Conversation, Piece},
    datagrams::Datagrams,
    ip::{Reassembly, Transport},
    network::Network,
    route::Key,
};

pub use crate::route::{Ends, Vantage};

mod networks;
mod packets;

use networks::FlowNetworks;

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows at a time; those that were silent longest go first.
    pub flows: usize,
    /// How long a TCP connection may be silent that is open as far as is known, nanoseconds.
    pub tcp_idle_ns: u64,
    /// How long two ends of datagrams may be silent, nanoseconds.
    pub udp_idle_ns: u64,
    /// How long a flow may be silent that is over, or of no known protocol, nanoseconds.
    pub ignored_idle_ns: u64,
}

/// A captured IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Its captured head.
    pub bytes: &'a [u8],
    /// Its length, where that is known better than from its header; otherwise 0.
    pub length: usize,
    /// When, nanoseconds of a clock that does not go back.
    pub time_ns: u64,
    /// Where.
    pub vantage: Vantage,
    /// The network that its addresses are of, as far as the link has it.
    pub network: Network,
}

/// What is done with the flows and their exchanges.
pub trait Observer {
    /// What is kept with each flow.
    type Note;

    /// A flow begins: to which scope its names belong, and what to keep with it.
    fn opened(&mut self, ends: Ends) -> (ScopeId, Self::Note);

    /// An exchange is over.
    fn exchange(&mut self, exchange: &Exchange, ends: Ends, note: &Self::Note, context: &ParserContext);

    /// No known protocol was detected on a TCP connection.
    fn ignored(&mut self, note: &Self::Note) {
        let _ = note;
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets taken.
    pub packets: u64,
    /// Packets that carry neither TCP nor UDP over IP, or not enough of it.
    pub unreadable: u64,
    /// Fragments that came to nothing.
    pub fragments_dropped: u64,
    /// Flows.
    pub flows: u64,
    /// Flows of no known protocol.
    pub ignored: u64,
    /// Flows that had to go because there were too many.
    pub evicted: u64,
    /// Bytes of TCP streams that were not captured, of flows of a known protocol that are over.
    pub lost_bytes: u64,
    /// Bytes that were captured more than once, of the same flows.
    pub repeated_bytes: u64,
}

#[derive(Debug)]
struct Flow<N> {
    /// Number in the order of appearance.
    number: u64,
    ends: Ends,
    /// The networks that its packets were captured in besides that of its key.
    also: Vec<Network>,
    /// None when the flow is over.
    l7: Option<Connection>,
    bytes: Bytes,
    note: N,
    last_ns: u64,
    ignored: bool,
}

/// How bytes come. Direction 0 is the near end's.
#[derive(Debug)]
enum Bytes {
    Stream(Box<Conversation>),
    Datagrams(Datagrams),
}

impl Bytes {
    /// Whether it is a connection of which one direction alone has come.
    fn is_one_way(&self) -> bool {
        matches!(self, Self::Stream(conversation) if conversation.is_one_way())
    }
}

/// All flows, and what is understood of them.
#[derive(Debug)]
pub struct FlowTable<N> {
    context: ParserContext,
    limits: Limits,
    reassembly: Reassembly,
    table: HashMap<Key, Flow<N>>,
    networks: FlowNetworks,
    /// Those that are not over.
    open: usize,
    tally: Tally,
}

impl<N> FlowTable<N> {
    /// No flows yet.
    pub fn new(context: ParserContext, limits: Limits) -> Self {
        Self {
            context,
            limits,
            reassembly: Reassembly::default(),
            table: HashMap::new(),
            networks: FlowNetworks::default(),
            open: 0,
            tally: Tally::default(),
        }
    }

    /// The context, which knows the names of symbols.
    pub fn context(&self) -> &ParserContext {
        &self.context
    }

    /// The context, to set it up.
    pub fn context_mut(&mut self) -> &mut ParserContext {
        &mut self.context
    }

    /// What was seen so far.
    pub fn tally(&self) -> Tally {
        Tally { fragments_dropped: self.reassembly.dropped, ..self.tally }
    }

    /// Flows that are not over.
    pub fn open_flows(&self) -> usize {
        self.open
    }

    /// Begins a flow, which is seen from its beginning or was open before.
    fn insert(
        &mut self,
        key: Key,
        ends: Ends,
        from_beginning: bool,
        now_ns: u64,
        observer: &mut dyn Observer<Note = N>,
    ) {
        if self.table.len() >= self.limits.flows {
            self.make_room(now_ns, observer);
        }
        let (scope, note) = observer.opened(ends);
        let (l7, bytes) = match key.transport {
            Transport::Tcp if from_beginning => (Connection::new(scope), Bytes::Stream(Box::default())),
            Transport::Tcp => (Connection::new(scope).joined(), Bytes::Stream(Box::default())),
            Transport::Udp => (Connection::datagram(scope), Bytes::Datagrams(Datagrams::default())),
        };
        let l7 = l7.of_client(ClientId::of(ends.far.ip()));
        self.tally.flows += 1;
        self.open += 1;
        let number = self.tally.flows;
        let (also, l7, ignored) = (Vec::new(), Some(l7), false);
        self.networks.open(key);
        self.table.insert(key, Flow { number, ends, also, l7, bytes, note, last_ns: now_ns, ignored });
    }

    /// Passes on what came of a packet, and learns whether the flow is worth following.
    fn observe(&mut self, key: &Key, done: &[Exchange], observer: &mut dyn Observer<Note = N>) {
        let Some(flow) = self.table.get_mut(key) else { return };
        for exchange in done {
            observer.exchange(exchange, flow.ends, &flow.note, &self.context);
        }
        let ignored = flow.l7.as_ref().is_some_and(|l7| l7.verdict() == Verdict::Ignored);
        if ignored && !std::mem::replace(&mut flow.ignored, true) {
            self.tally.ignored += 1;
            // A datagram socket may talk to many.
            if key.transport == Transport::Tcp {
                observer.ignored(&flow.note);
            }
        }
    }

    /// Ends a flow; it stays in the table.
    fn close(&mut self, key: &Key, mut now_ns: u64, observer: &mut dyn Observer<Note = N>) {
        let Some(flow) = self.table.get_mut(key) else { return };
        let Some(mut l7) = flow.l7.take() else { return };
        self.open -= 1;
        let (context, mut done) = (&mut self.context, Vec::new());
        if let Bytes::Stream(conversation) = &mut flow.bytes {
            now_ns = conversation.reset_ns().unwrap_or(now_ns);
            conversation.flush(&mut |piece| {
                l7.chunk(&chunk(piece), context, &mut |exchange| done.push(exchange));
            });
            if !flow.ignored {
                let (lost, repeated) = conversation.lost_and_repeated();
                self.tally.lost_bytes += lost;
                self.tally.repeated_bytes += repeated;
            }
            let [egress, ingress] = conversation.moved();
            l7.moved([ingress, egress], Timestamp(now_ns), context, &mut |exchange| done.push(exchange));
        }
        l7.close(Timestamp(now_ns), context, &mut |exchange| done.push(exchange));
        self.observe(key, &done, observer);
    }

    fn remove(&mut self, key: &Key, now_ns: u64, observer: &mut dyn Observer<Note = N>) {
        self.close(key, now_ns, observer);
        if let Some(flow) = self.table.remove(key) {
            self.networks.forget(*key, &flow.also);
        }
    }

    /// Ends what waits only for time to pass, and forgets flows that have been silent too long. Call it every few
    /// seconds.
    pub fn idle(&mut self, now_ns: u64, observer: &mut dyn Observer<Note = N>) {
        for key in self.keys() {
            let Some(flow) = self.table.get_mut(&key) else { continue };
            let (context, mut done) = (&mut self.context, Vec::new());
            let mut is_over = false;
            if let Some(l7) = &mut flow.l7 {
                if let Bytes::Stream(conversation) = &mut flow.bytes {
                    conversation.idle(now_ns, &mut |piece| {
                        l7.chunk(&chunk(piece), context, &mut |exchange| done.push(exchange));
                    });
                    is_over = conversation.is_over();
                }
                l7.tick(Timestamp(now_ns), context, &mut |exchange| done.push(exchange));
            }
            let limit = match key.transport {
                _ if flow.l7.is_none() || flow.ignored => self.limits.ignored_idle_ns,
                Transport::Udp => self.limits.udp_idle_ns,
                Transport::Tcp => self.limits.tcp_idle_ns,
            };
            let stale = now_ns.saturating_sub(flow.last_ns) > limit;
            self.observe(&key, &done, observer);
            if is_over {
                self.close(&key, now_ns, observer);
            }
            if stale {
                self.remove(&key, now_ns, observer);
            }
        }
    }

    /// No further packet comes: what is open is closed.
    pub fn finish(&mut self, now_ns: u64, observer: &mut dyn Observer<Note = N>) {
        for key in self.keys() {
            self.remove(&key, now_ns, observer);
        }
        debug_assert!(self.networks.is_empty(), "what was kept of flows goes with them");
    }

    /// In the order of the flows' appearance.
    fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<(u64, Key)> = self.table.iter().map(|(key, flow)| (flow.number, *key)).collect();
        keys.sort_unstable_by_key(|(number, _)| *number);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Forgets an eighth of the flows: those that are over, then those of no known protocol, then those that have been
    /// silent longest.
    fn make_room(&mut self, now_ns: u64, observer: &mut dyn Observer<Note = N>) {
        let of = |flow: &Flow<N>| (flow.l7.is_some(), !flow.ignored, flow.last_ns);
        let mut order: Vec<_> = self.table.iter().map(|(key, flow)| (of(flow), *key)).collect();
        // So many at a time, so that the search is rare.
        let count = (order.len() / 8).max(1).min(order.len());
        if count < order.len() {
            order.select_nth_unstable_by_key(count, |(order, _)| *order);
        }
        for ((open, followed, _), key) in &order[..count] {
            self.tally.evicted += u64::from(*open && *followed);
            self.remove(key, now_ns, observer);
        }
    }
}

/// What the near end sends goes out.
fn direction(from: usize) -> Direction {
    if from == 0 { Direction::Egress } else { Direction::Ingress }
}

fn chunk(piece: Piece<'_>) -> Chunk<'_> {
    let Piece { from, stream } = piece;
    Chunk {
        direction: direction(from),
        timestamp: Timestamp(stream.time_ns),
        offset: stream.offset,
        bytes: stream.bytes,
        total: stream.length,
    }
}
