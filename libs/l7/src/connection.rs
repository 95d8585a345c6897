//! One connection: identified by its first bytes, then followed by its protocol's parser.
//!
//! What comes before identification is kept, within bounds, and given to the parser once it is known. A connection
//! may have been joined in the middle, so every chunk is taken for a possible start of a message until one is
//! recognised.

use std::net::SocketAddr;

use crate::{
    chunk::{Chunk, Direction, Timestamp},
    context::ParserContext,
    coverage::Framed,
    detection::{Detector, DetectorOutcome},
    exchange::{Exchange, Protocol, Side},
    offload::{ConnectionState, IdleConnection},
    parser::{ConnectionContext, Flow, Parser, Segment, Sender, Start, Transport},
    pending::PendingShare,
    symbol::{ClientId, ScopeId, Symbol},
    table,
};

/// What is known about a connection's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough was seen.
    Detecting,
    /// It has this protocol.
    Known(Protocol),
    /// Nothing known, or no longer worth following: no further bytes are needed.
    Ignored,
}

/// Times that a connection may change its protocol.
const CHANGES_MAX: u8 = 4;

/// Later looks at a connection on which nothing was recognised at first: at its 16th, 32nd, 64th, … chunk.
const SECOND_LOOKS_MAX: u8 = 6;

/// Datagrams to groups of hosts after which a socket on which nothing was recognised is given up.
const TO_GROUPS_MAX: u8 = 16;

/// One connection's parser state.
#[derive(Debug)]
pub struct Connection {
    scope: ScopeId,
    client: ClientId,
    transport: Transport,
    state: State,
    /// Where each direction's next byte is expected.
    next: [u64; 2],
    changes: u8,
    /// Datagrams to groups of hosts.
    to_groups: u8,
    /// Which directions something was seen of.
    seen: [bool; 2],
    /// It was open when it was first seen.
    is_joined: bool,
    /// When bytes of the server's moved last in which no message was found.
    unread_at: Option<Timestamp>,
    /// Of the requests that wait on all connections together.
    pending_share: Option<Box<PendingShare>>,
}

#[derive(Debug)]
enum State {
    Detecting(Box<Detector>),
    Known {
        protocol: Protocol,
        side: Side,
        parser: Box<dyn Parser>,
    },
    /// Nothing was recognised; may be looked at again.
    Unknown {
        chunks: u32,
        looks: u8,
        /// Not one byte was captured.
        uncaptured: bool,
    },
    /// Will not be looked at again.
    Done,
}

impl Connection {
    /// A connection of which nothing was seen yet.
    pub fn new(scope: ScopeId) -> Self {
        Self::with_transport(scope, Transport::Stream)
    }

    /// A socket of datagrams of which nothing was seen yet: each chunk is one datagram.
    pub fn datagram(scope: ScopeId) -> Self {
        Self::with_transport(scope, Transport::Datagram)
    }

    fn with_transport(scope: ScopeId, transport: Transport) -> Self {
        Self {
            scope,
            client: ClientId::default(),
            transport,
            state: State::Detecting(Box::default()),
            next: [0; 2],
            changes: 0,
            to_groups: 0,
            seen: [false; 2],
            is_joined: false,
            unread_at: None,
            pending_share: None,
        }
    }

    /// The same connection, whose other end is known. Where that is the client, its requests show what recurs across
    /// clients.
    #[must_use]
    pub fn of_client(self, client: ClientId) -> Self {
        Self { client, ..self }
    }

    /// The same connection, of which bytes had moved before it was first seen: the first ones may be within a message.
    #[must_use]
    pub fn joined(self) -> Self {
        Self { state: State::Detecting(Box::new(Detector::joined())), ..self }
    }

    /// Whose it is.
    pub(crate) fn client(&self) -> ClientId {
        self.client
    }

    /// A connection whose protocol is known otherwise; `None` when there is no parser for it.
    pub fn known(scope: ScopeId, transport: Transport, protocol: Protocol, side: Side) -> Option<Self> {
        let parser = (table::entry(protocol)?.start)(Start::at_boundary(transport));
        Some(Self::following(scope, transport, protocol, side, parser, [0; 2]))
    }

    /// A connection that this parser follows from these positions on.
    pub(crate) fn following(
        scope: ScopeId,
        transport: Transport,
        protocol: Protocol,
        side: Side,
        parser: Box<dyn Parser>,
        next: [u64; 2],
    ) -> Self {
        let state = State::Known { protocol, side, parser };
        Self { state, next, seen: [true; 2], ..Self::with_transport(scope, transport) }
    }

    /// What is known about its protocol.
    pub fn verdict(&self) -> Verdict {
        match &self.state {
            State::Detecting(_) => Verdict::Detecting,
            State::Known { protocol, .. } => Verdict::Known(*protocol),
            State::Unknown { .. } | State::Done => Verdict::Ignored,
        }
    }

    /// Which side the observed process is on, once the protocol is known.
    pub fn side(&self) -> Option<Side> {
        match &self.state {
            State::Known { side, .. } => Some(*side),
            _ => None,
        }
    }

    /// Requests that have begun and whose exchanges have not ended; `None` where that is not known. One, until the protocol is detected.
    pub fn open_requests(&self) -> Option<usize> {
        match &self.state {
            State::Detecting(_) => Some(1),
            State::Known { parser, .. } => parser.open_requests(),
            State::Unknown { .. } | State::Done => None,
        }
    }

    /// The positions of a connection without an exchange in flight, if the kernel can aggregate its protocol from here on.
    pub fn idle_state(&mut self) -> Option<IdleConnection> {
        let State::Known { protocol, side, parser } = &mut self.state else { return None };
        let is_idle = self.transport == Transport::Stream && parser.offloadable()?.is_idle();
        is_idle.then_some(IdleConnection { protocol: *protocol, side: *side, offsets: self.next })
    }

    /// Exports prepared statements, which the kernel has to know before it aggregates the connection: the server's number,
    /// operation and table, each once until the connection comes back.
    pub fn export_statements(&mut self, mut export: impl FnMut(u32, Symbol, Symbol)) {
        if let State::Known { parser, .. } = &mut self.state
            && let Some(parser) = parser.offloadable()
        {
            let mut given_out = |number, operation: Symbol, table: Symbol| {
                export(number, operation.given_out(), table.given_out());
            };
            parser.export_statements(&mut given_out);
        }
    }

    /// The kernel has accepted the connection, from the start of a request on: every exchange before it has ended.
    pub fn offload_accepted(&mut self, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        if let State::Known { side, parser, .. } = &mut self.state
            && let Some(parser) = parser.offloadable()
        {
            let of = (self.scope, self.client, *side);
            parser.offload_accepted(&mut ConnectionContext::new(context, of, sink));
        }
        self.share_pending(context);
    }

    /// Resumes with the parser that followed the connection before the kernel did; false when there is none.
    pub(crate) fn resume_here(&mut self, state: &ConnectionState<'_>, context: &mut ParserContext) -> bool {
        let State::Known { protocol, side, parser } = &mut self.state else { return false };
        if *protocol != state.protocol || *side != state.side {
            return false;
        }
        let mut sink = |_| {};
        let mut cx = ConnectionContext::new(context, (self.scope, self.client, *side), &mut sink);
        let resumed = parser.offloadable().is_some_and(|parser| parser.resume(state, &mut cx));
        if resumed {
            self.next = state.offsets;
        }
        self.share_pending(context);
        resumed
    }

    /// Takes the next bytes, in the order of each direction's offsets; gives out every exchange that they end.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        self.take(chunk, None, context, sink);
    }

    fn take(
        &mut self,
        chunk: &Chunk<'_>,
        peer: Option<SocketAddr>,
        context: &mut ParserContext,
        sink: &mut dyn FnMut(Exchange),
    ) {
        let Some((chunk, lost)) = self.in_order(chunk) else { return };
        context.observe(chunk.timestamp);
        let counted = if self.is_loss(&chunk) { lost } else { 0 };
        match &mut self.state {
            State::Done => {}
            State::Known { .. } => self.follow(&chunk, [lost, counted], peer, context, sink),
            State::Detecting(detector) => {
                let moved = counted.saturating_add(chunk.total);
                detector.count_moved(chunk.direction, moved, !chunk.bytes.is_empty());
                match detector.chunk(&chunk, [lost, counted], self.transport) {
                    DetectorOutcome::Pending => {}
                    DetectorOutcome::GaveUp => {
                        context.tally_mut().unidentified += 1;
                        let uncaptured = detector.uncaptured();
                        context.unaccounted_mut().add_uncaptured(uncaptured.unwrap_or(0));
                        self.state = State::Unknown { chunks: 0, looks: 0, uncaptured: uncaptured.is_some() };
                    }
                    DetectorOutcome::Detected(protocol, side) => {
                        let detector = std::mem::take(detector);
                        let unrecognised = match Sender::of(chunk.direction, side) {
                            Sender::Client => None,
                            Sender::Server => detector.unrecognised(chunk.direction.reverse()),
                        };
                        let given = unrecognised.map_or(0, |unrecognised| unrecognised.bytes);
                        context.unaccounted_mut().add(protocol, detector.not_kept().saturating_sub(given));
                        self.enter(
                            protocol,
                            side,
                            Start { unrecognised, ..detector.start(self.transport, side) },
                        );
                        detector.replay(|chunk, lost| self.follow(chunk, [lost, 0], peer, context, sink));
                    }
                }
            }
            State::Unknown { chunks, looks, uncaptured } => {
                *uncaptured &= chunk.bytes.is_empty();
                if *uncaptured {
                    context.unaccounted_mut().add_uncaptured(counted.saturating_add(chunk.total));
                }
                *chunks = chunks.saturating_add(1);
                if *looks < SECOND_LOOKS_MAX && *chunks >= 16 << *looks {
                    *looks += 1;
                    let mut detector = Detector::joined();
                    let found = detector.chunk(&chunk, [lost, 0], self.transport);
                    if let DetectorOutcome::Detected(protocol, side) = found {
                        self.enter(protocol, side, detector.start(self.transport, side));
                        self.follow(&chunk, [lost, 0], peer, context, sink);
                    }
                }
            }
        }
    }

    /// Takes a datagram of a socket that has several peers, like [`Self::chunk`]; none where this one's is not known.
    /// What goes to a group of hosts is no exchange with any of them; a socket that sends nothing else is given up.
    pub fn datagram_of(
        &mut self,
        peer: Option<SocketAddr>,
        datagram: &Chunk<'_>,
        context: &mut ParserContext,
        sink: &mut dyn FnMut(Exchange),
    ) {
        if peer.is_some_and(|peer| peer.ip().to_canonical().is_multicast()) {
            self.to_groups = self.to_groups.saturating_add(1);
            if self.to_groups >= TO_GROUPS_MAX && matches!(self.state, State::Detecting(_)) {
                self.state = State::Unknown { chunks: 0, looks: 0, uncaptured: false };
            }
            return;
        }
        self.take(datagram, peer, context, sink);
    }

    /// So many bytes have moved in all each way, ingress and egress, before the connection ends: of those that did not come nothing
    /// else shows that they were lost.
    pub fn moved(
        &mut self,
        bytes: [u64; 2],
        now: Timestamp,
        context: &mut ParserContext,
        sink: &mut dyn FnMut(Exchange),
    ) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let (this, end) = (direction as usize, bytes[direction as usize]);
            if self.transport == Transport::Datagram || end <= self.next[this] {
                continue;
            }
            let nothing = Chunk { direction, timestamp: now, offset: end, bytes: &[], total: 0 };
            if let State::Detecting(detector) = &mut self.state {
                detector.count_moved(direction, end - self.next[this], false);
                self.next[this] = end;
            } else {
                self.take(&nothing, None, context, sink);
            }
        }
    }

    /// The connection was closed: requests still waiting end without a response.
    pub fn close(&mut self, now: Timestamp, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        if let State::Detecting(detector) = &self.state {
            context.unaccounted_mut().add_uncaptured(detector.uncaptured().unwrap_or(0));
        }
        if let State::Detecting(detector) = &mut self.state
            && let Some((protocol, side)) = detector.conclude(self.transport)
        {
            let detector = std::mem::take(detector);
            context.unaccounted_mut().add(protocol, detector.not_kept());
            self.enter(protocol, side, detector.start(self.transport, side));
            detector.replay(|chunk, lost| self.follow(chunk, [lost, 0], None, context, sink));
        }
        if let State::Known { protocol, side, parser } = &mut self.state {
            let of = (self.scope, self.client, *side);
            let unfinished = [Sender::Client, Sender::Server].map(|from| parser.framing(from).unfinished());
            let mut cx = ConnectionContext::new(context, of, sink);
            cx.unaccounted(*protocol, unfinished.into_iter().fold(0, u64::saturating_add));
            cx.set_unread_at(self.unread_at);
            parser.close(now, &mut cx);
        }
        self.pending_share = None;
        self.state = State::Done;
    }

    /// Nothing moved on the connection for a while (call it every few seconds): ends what only waits for time to pass.
    pub fn tick(&mut self, now: Timestamp, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        if let State::Known { side, parser, .. } = &mut self.state {
            let of = (self.scope, self.client, *side);
            let mut cx = ConnectionContext::new(context, of, sink);
            cx.set_unread_at(self.unread_at);
            parser.tick(now, &mut cx);
        }
        self.share_pending(context);
    }

    /// Has as many of what all connections share as wait now.
    fn share_pending(&mut self, context: &ParserContext) {
        let State::Known { parser, .. } = &self.state else { return };
        let beyond = parser.pending().saturating_sub(context.limits().pending_per_connection);
        PendingShare::set(&mut self.pending_share, beyond, context.shared_pending());
    }

    /// Drops what was already seen of a chunk; finds how much was lost before it.
    fn in_order<'a>(&mut self, chunk: &Chunk<'a>) -> Option<(Chunk<'a>, u64)> {
        let mut chunk = *chunk;
        chunk.total = chunk.total.max(chunk.bytes.len() as u64);
        if self.transport == Transport::Datagram {
            return Some((chunk, 0));
        }
        let next = &mut self.next[chunk.direction as usize];
        let expected = *next;
        let seen = expected.saturating_sub(chunk.offset);
        if seen > 0 {
            if seen >= chunk.total {
                return None;
            }
            let seen_bytes = usize::try_from(seen).unwrap_or(usize::MAX).min(chunk.bytes.len());
            chunk.bytes = chunk.bytes.get(seen_bytes..).unwrap_or_default();
            chunk.offset += seen;
            chunk.total -= seen;
        }
        *next = chunk.offset.saturating_add(chunk.total);
        Some((chunk, chunk.offset - expected))
    }

    /// Whether bytes that are missing before a chunk were lost: those before a connection was first seen were not.
    fn is_loss(&mut self, chunk: &Chunk<'_>) -> bool {
        let this = chunk.direction as usize;
        let first = !std::mem::replace(&mut self.seen[this], true);
        if first && !self.seen[1 - this] {
            self.is_joined = chunk.offset > 0;
        }
        !(first && self.is_joined)
    }

    fn enter(&mut self, protocol: Protocol, side: Side, start: Start) {
        self.state = match table::entry(protocol) {
            Some(entry) => State::Known { protocol, side, parser: (entry.start)(start) },
            None => State::Done,
        };
    }

    /// Gives bytes to the parser, and applies its result. Before them some were lost, and some of these count.
    fn follow(
        &mut self,
        chunk: &Chunk<'_>,
        [mut lost, mut counted]: [u64; 2],
        peer: Option<SocketAddr>,
        context: &mut ParserContext,
        sink: &mut dyn FnMut(Exchange),
    ) {
        let mut bytes = chunk.bytes;
        loop {
            let State::Known { protocol, side, parser } = &mut self.state else { return };
            let (protocol, side) = (*protocol, *side);
            let segment = Segment {
                from: Sender::of(chunk.direction, side),
                at: chunk.timestamp,
                gap: lost,
                bytes,
                truncated: chunk.total.saturating_sub(chunk.bytes.len() as u64),
            };
            let mut cx = ConnectionContext::new(context, (self.scope, self.client, side), sink);
            cx.set_peer(peer);
            cx.set_unread_at(self.unread_at);
            cx.add_pending_share(PendingShare::taken(self.pending_share.as_deref()));
            let (was_lost, gaps) = (parser.framing(segment.from).is_lost(), cx.gaps());
            let flow = parser.segment(&segment, &mut cx);
            let framed = Framed {
                was_lost,
                is_lost: parser.framing(segment.from).is_lost(),
                has_gap: cx.gaps() > gaps,
                is_cut: segment.gap > 0 || segment.truncated > 0,
            };
            let unaccounted = framed.unaccounted(counted, segment.truncated, bytes.len() as u64);
            cx.unaccounted(protocol, unaccounted);
            let is_unread_datagram = self.transport == Transport::Datagram && segment.is_unreadable();
            if segment.from == Sender::Server && (unaccounted > 0 || is_unread_datagram) {
                self.unread_at = Some(segment.at);
            }
            match flow {
                Flow::Continue => {
                    self.share_pending(context);
                    return;
                }
                Flow::Done => {
                    self.pending_share = None;
                    self.state = State::Done;
                    return;
                }
                Flow::Unrecognised => {
                    parser.close(chunk.timestamp, &mut cx);
                    self.pending_share = None;
                    self.changes = self.changes.saturating_add(1);
                    self.state = if self.changes > CHANGES_MAX {
                        State::Done
                    } else {
                        State::Detecting(Box::default())
                    };
                    return;
                }
                Flow::Switch { to, rest, handover, unrecognised } => {
                    self.pending_share = None;
                    self.changes = self.changes.saturating_add(1);
                    if self.changes > CHANGES_MAX {
                        self.state = State::Done;
                        return;
                    }
                    let start = Start { handover, unrecognised, ..Start::at_boundary(self.transport) };
                    self.enter(to, side, start);
                    bytes = bytes.get(bytes.len().saturating_sub(rest)..).unwrap_or_default();
                    (lost, counted) = (0, 0);
                    if bytes.is_empty() && segment.truncated == 0 {
                        return;
                    }
                }
            }
        }
    }
}

/// A direction as an index.
const _: () = assert!(Direction::Ingress as usize == 0 && Direction::Egress as usize == 1);
