//! One connection: identified by its first bytes, then followed by its protocol's parser.
//!
//! What comes before identification is kept, within bounds, and given to the parser once it is known. A connection
//! may have been joined in the middle, so every chunk is taken for a possible start of a message until one is
//! recognised.

use crate::{
    chunk::{Chunk, Direction, Timestamp},
    context::ParserContext,
    detection::{Detector, DetectorOutcome},
    exchange::{Exchange, Protocol, Side},
    offload::{ConnectionState, IdleConnection},
    parser::{ConnectionContext, Flow, Parser, Request, Segment, Sender, Start, Transport},
    symbol::{ScopeId, Symbol},
    table,
};

/// What is known about a connection's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough was seen.
    Detecting,
    /// It speaks this.
    Known(Protocol),
    /// Nothing known, or no longer worth following: no further bytes are needed.
    Ignored,
}

/// Times that a connection may change its protocol.
const CHANGES_MAX: u8 = 4;

/// Later looks at a connection on which nothing was recognised at first: at its 16th, 32nd, 64th, … chunk.
const SECOND_LOOKS_MAX: u8 = 6;

/// One connection's parser state.
#[derive(Debug)]
pub struct Connection {
    scope: ScopeId,
    transport: Transport,
    state: State,
    /// Where each direction's next byte is expected.
    next: [u64; 2],
    changes: u8,
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
    },
    /// Will not be looked at again.
    Done,
}

impl Connection {
    /// A connection of which nothing was seen yet.
    pub fn new(scope: ScopeId) -> Self {
        Self::with_transport(scope, Transport::Stream)
    }

    /// A pair of datagram ends of which nothing was seen yet: each chunk is one datagram.
    pub fn datagram(scope: ScopeId) -> Self {
        Self::with_transport(scope, Transport::Datagram)
    }

    fn with_transport(scope: ScopeId, transport: Transport) -> Self {
        Self { scope, transport, state: State::Detecting(Box::default()), next: [0; 2], changes: 0 }
    }

    /// A connection whose protocol is known otherwise; `None` when there is no parser for it.
    pub fn known(scope: ScopeId, transport: Transport, protocol: Protocol, side: Side) -> Option<Self> {
        let parser = (table::entry(protocol)?.start)(Start { transport, handover: None });
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
        Self { state, next, ..Self::with_transport(scope, transport) }
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

    /// The positions of a connection without an exchange in flight, if the kernel can aggregate its protocol from here on.
    pub fn idle_state(&self) -> Option<IdleConnection> {
        match &self.state {
            State::Known { protocol, side, parser }
                if self.transport == Transport::Stream && parser.is_idle() =>
            {
                Some(IdleConnection { protocol: *protocol, side: *side, offsets: self.next })
            }
            _ => None,
        }
    }

    /// Exports prepared statements, which the kernel has to know before it aggregates the connection: the server's number,
    /// operation and table, each once until the connection comes back.
    pub fn export_statements(&mut self, mut export: impl FnMut(u32, Symbol, Symbol)) {
        if let State::Known { parser, .. } = &mut self.state {
            parser.export_statements(&mut export);
        }
    }

    /// The kernel has accepted the connection, from the start of a request on: every exchange before it has ended.
    pub fn offload_accepted(&mut self, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        if let State::Known { side, parser, .. } = &mut self.state {
            parser.offload_accepted(&mut ConnectionContext { context, scope: self.scope, side: *side, sink });
        }
    }

    /// Resumes with the parser that followed the connection before the kernel did; false when there is none.
    pub(crate) fn resume_here(&mut self, state: &ConnectionState<'_>, context: &mut ParserContext) -> bool {
        let State::Known { protocol, side, parser } = &mut self.state else { return false };
        if *protocol != state.protocol || *side != state.side {
            return false;
        }
        let mut cx = ConnectionContext { context, scope: self.scope, side: *side, sink: &mut |_| {} };
        let resumed = parser.resume(state, &mut cx);
        if resumed {
            self.next = state.offsets;
        }
        resumed
    }

    /// Takes the next bytes, in the order of each direction's offsets; gives out every exchange that they end.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        let Some((chunk, lost)) = self.in_order(chunk) else { return };
        match &mut self.state {
            State::Done => {}
            State::Known { .. } => self.follow(&chunk, lost, context, sink),
            State::Detecting(detector) => match detector.chunk(&chunk, lost, self.transport) {
                DetectorOutcome::Pending => {}
                DetectorOutcome::GaveUp => {
                    context.tally_mut().unidentified += 1;
                    self.state = State::Unknown { chunks: 0, looks: 0 };
                }
                DetectorOutcome::Detected(protocol, side) => {
                    let detector = std::mem::take(detector);
                    self.enter(protocol, side, None);
                    detector.replay(|chunk, lost| self.follow(chunk, lost, context, sink));
                }
            },
            State::Unknown { chunks, looks } => {
                *chunks = chunks.saturating_add(1);
                if *looks < SECOND_LOOKS_MAX && *chunks >= 16 << *looks {
                    *looks += 1;
                    let found = Detector::default().chunk(&chunk, lost, self.transport);
                    if let DetectorOutcome::Detected(protocol, side) = found {
                        self.enter(protocol, side, None);
                        self.follow(&chunk, lost, context, sink);
                    }
                }
            }
        }
    }

    /// The connection was closed: requests still waiting end without a response.
    pub fn close(&mut self, now: Timestamp, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        if let State::Known { side, parser, .. } = &mut self.state {
            parser.close(now, &mut ConnectionContext { context, scope: self.scope, side: *side, sink });
        }
        self.state = State::Done;
    }

    /// Nothing moved on the connection for a while (call it every few seconds): ends what only waits for time to pass.
    pub fn tick(&mut self, now: Timestamp, context: &mut ParserContext, sink: &mut dyn FnMut(Exchange)) {
        if let State::Known { side, parser, .. } = &mut self.state {
            parser.tick(now, &mut ConnectionContext { context, scope: self.scope, side: *side, sink });
        }
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

    fn enter(&mut self, protocol: Protocol, side: Side, handover: Option<Request>) {
        self.state = match table::entry(protocol) {
            Some(entry) => {
                let parser = (entry.start)(Start { transport: self.transport, handover });
                State::Known { protocol, side, parser }
            }
            None => State::Done,
        };
    }

    /// Gives bytes to the parser, and does what it says.
    fn follow(
        &mut self,
        chunk: &Chunk<'_>,
        lost: u64,
        context: &mut ParserContext,
        sink: &mut dyn FnMut(Exchange),
    ) {
        let mut bytes = chunk.bytes;
        let mut lost = lost;
        loop {
            let State::Known { side, parser, .. } = &mut self.state else { return };
            let side = *side;
            let segment = Segment {
                from: Sender::of(chunk.direction, side),
                at: chunk.timestamp,
                gap: lost,
                bytes,
                truncated: chunk.total.saturating_sub(chunk.bytes.len() as u64),
            };
            let mut cx = ConnectionContext { context, scope: self.scope, side, sink };
            match parser.segment(&segment, &mut cx) {
                Flow::Continue => return,
                Flow::Done => {
                    self.state = State::Done;
                    return;
                }
                Flow::Unrecognised => {
                    parser.close(chunk.timestamp, &mut cx);
                    self.changes = self.changes.saturating_add(1);
                    self.state = if self.changes > CHANGES_MAX {
                        State::Done
                    } else {
                        State::Detecting(Box::default())
                    };
                    return;
                }
                Flow::Switch { to, rest, handover } => {
                    self.changes = self.changes.saturating_add(1);
                    if self.changes > CHANGES_MAX {
                        self.state = State::Done;
                        return;
                    }
                    self.enter(to, side, handover);
                    bytes = bytes.get(bytes.len().saturating_sub(rest)..).unwrap_or_default();
                    lost = 0;
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
