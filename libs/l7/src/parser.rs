//! What a protocol's folder offers: one [`Entry`] for the table, and a [`Parser`] for each connection of it.
//!
//! ```text
//! Connection ──Prefix──► Entry::detect ──► Detection
//!            ──Segment──► Parser::segment ──► Flow, and through ConnectionContext: exchanges, names, tallies
//! ```
//!
//! The connection takes care of directions, offsets, duplicates and losses before a parser sees anything: a
//! [`Segment`] has who sent it, how much was lost before it and how much of it was not captured.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

pub use crate::exchange::Outcome;

use crate::{
    chunk::{Direction, Timestamp},
    context::{Limits, NameKind, ParserContext},
    exchange::{ErrorClass, Exchange, Protocol, Side, Status},
    names,
    offload::{ConnectionState, OffloadedExchange},
    routes::{RouteRef, learning::Sighting},
    symbol::{ClientId, ScopeId, Symbol},
    trace::TraceContext,
};

/// Which end of a connection sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The end that sends requests.
    Client,
    /// The end that sends responses.
    Server,
}

impl Sender {
    /// Who sent what moved this way through a process on this side.
    pub fn of(direction: Direction, side: Side) -> Self {
        match (direction, side) {
            (Direction::Ingress, Side::Server) | (Direction::Egress, Side::Client) => Self::Client,
            (Direction::Egress, Side::Server) | (Direction::Ingress, Side::Client) => Self::Server,
        }
    }

    /// The side of a process that saw this sender's bytes move this way.
    pub fn side(self, direction: Direction) -> Side {
        match (self, direction) {
            (Self::Client, Direction::Ingress) | (Self::Server, Direction::Egress) => Side::Server,
            (Self::Client, Direction::Egress) | (Self::Server, Direction::Ingress) => Side::Client,
        }
    }
}

/// Whether bytes are a stream or come in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, a unix stream socket.
    Stream,
    /// UDP: each chunk is one datagram.
    Datagram,
}

/// The first bytes of what may be a message, for identification.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one place, not states.
pub struct Prefix<'a> {
    /// Stream or datagrams.
    pub transport: Transport,
    /// The bytes from the start of a chunk, contiguous; never empty, at most [`PREFIX_BYTES_MAX`] when they had to
    /// be joined.
    pub bytes: &'a [u8],
    /// How many bytes moved in all, of which `bytes` is the head. When it is larger, nothing more of this message's
    /// head will come.
    pub total: u64,
    /// Whether these are the first bytes of this direction of the connection. Others may begin anywhere within a message.
    pub first: bool,
    /// Whether they may be the rest of a message that was not seen: of a connection that was joined or lost bytes, before the other
    /// end has sent something.
    pub is_rest: bool,
    /// Whether this end sent nothing else since the other end did.
    pub is_turn: bool,
    /// What the other end sent lately, from the start of a chunk; empty when it sent nothing yet.
    pub peer: &'a [u8],
    /// Whether the other end had sent nothing else before them since this end did.
    pub peer_is_turn: bool,
    /// The connection has ended: neither end will send more.
    pub last: bool,
}

impl Prefix<'_> {
    /// Whether waiting may bring more of these bytes.
    pub fn may_grow(&self) -> bool {
        self.transport == Transport::Stream && self.total <= self.bytes.len() as u64
    }
}

/// Most bytes of one direction that are kept during detection of the protocol.
pub const PREFIX_BYTES_MAX: usize = 4096;

/// The result of detection for a [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// Not this protocol, or not at the start of a message.
    No,
    /// Could be; more bytes, of this end or of the other, decide.
    More,
    /// This protocol, and the bytes were sent by this end.
    Yes(Sender),
}

/// One protocol in the table.
#[derive(Debug)]
pub struct Entry {
    /// The protocol.
    pub protocol: Protocol,
    /// Over what.
    pub transports: &'static [Transport],
    /// Looks at first bytes. Must be so strict that random bytes never pass, and cheap: it runs on every unknown
    /// connection.
    pub detect: fn(&Prefix<'_>) -> Detection,
    /// A parser for a connection.
    pub start: fn(Start) -> Box<dyn Parser>,
    /// How state passes between the parser and the kernel; absent when the kernel does not aggregate the protocol.
    pub offload: Option<Offload>,
}

/// Import of a protocol's state from the kernel, which aggregates exchanges of the protocol itself.
#[derive(Clone, Copy, Debug)]
pub struct Offload {
    /// Emits an exchange that the kernel paired; returns whether an equal one will always have the same names.
    pub name: fn(&OffloadedExchange<'_>, &mut ConnectionContext<'_>) -> bool,
    /// A parser that resumes where the kernel stopped; absent when only the parser that followed the connection before
    /// can resume ([`Offloadable::resume`]).
    pub restore: Option<Restore>,
}

/// Makes a parser out of the state in which the kernel left a connection.
pub type Restore = fn(&ConnectionState<'_>, &mut ConnectionContext<'_>) -> Box<dyn Parser>;

/// How a parser starts on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Stream or datagrams.
    pub transport: Transport,
    /// The request that made the connection switch to this protocol and is answered in it (HTTP/1's upgrade to h2c).
    pub handover: Option<Request>,
    /// What the client sent before, which fits no protocol: the server's first bytes answer it.
    pub unrecognised: Option<Unrecognised>,
    /// Of the client and the server: whether the first bytes begin a message for certain. Others come right behind bytes of the same
    /// end that fit no protocol, or after some were lost or moved before the connection was first seen.
    pub is_boundary: [bool; 2],
    /// Of the client and the server: whether the first bytes may be the rest of a message, as in [`Prefix::is_rest`].
    pub is_rest: [bool; 2],
}

impl Start {
    /// Of a connection that is seen from its first bytes in this protocol on.
    pub(crate) fn at_boundary(transport: Transport) -> Self {
        Self { transport, handover: None, unrecognised: None, is_boundary: [true; 2], is_rest: [false; 2] }
    }
}

/// Bytes of one end that are of no protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrecognised {
    /// When the first of them moved.
    pub start: Timestamp,
    /// How many.
    pub bytes: u64,
}

/// A request of which a response is awaited.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Method, command, SQL operation, …
    pub operation: Symbol,
    /// What it was about.
    pub resource: Resource,
    /// When its first byte was seen.
    pub start: Timestamp,
    /// Its size so far, bytes.
    pub bytes: u64,
}

/// What a request is about, before its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A name.
    Name(Symbol),
    /// A route, whose name may depend on the outcome.
    Route(RouteRef),
}

/// Bytes that one end sent: a chunk, put in order.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Who sent them.
    pub from: Sender,
    /// When they moved.
    pub at: Timestamp,
    /// Bytes of this direction that were lost between the segment before and this one.
    pub gap: u64,
    /// The captured head.
    pub bytes: &'a [u8],
    /// Bytes that followed the head and were not captured.
    pub truncated: u64,
}

impl Segment<'_> {
    /// Whether not one byte of the call could be read: the kernel moved them itself (sendfile(2), splice(2)).
    pub fn is_unreadable(&self) -> bool {
        self.gap == 0 && self.bytes.is_empty() && self.truncated > 0
    }
}

/// How a connection continues after a segment.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// With this parser.
    Continue,
    /// It need not be followed further.
    Done,
    /// This was not the protocol after all: detection starts again.
    Unrecognised,
    /// With another protocol.
    Switch {
        /// Which.
        to: Protocol,
        /// How many captured bytes at the end of this segment are already the other protocol's.
        rest: usize,
        /// The request that is answered in the other protocol.
        handover: Option<Request>,
        /// What is answered in the other protocol, and is no request of it.
        unrecognised: Option<Unrecognised>,
    },
}

/// Where the bytes of one end stand between its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It is not known where the next message starts: what moves belongs to none.
    Lost,
    /// So many bytes have come since the last message that are too few for the head of another. If the connection ends here,
    /// they belong to no message.
    Head(u64),
}

impl Framing {
    pub(crate) fn is_lost(self) -> bool {
        self == Self::Lost
    }

    /// Bytes that belong to no message if the connection ends here.
    pub(crate) fn unfinished(self) -> u64 {
        match self {
            Self::Lost => 0,
            Self::Head(bytes) => bytes,
        }
    }
}

/// Follows one connection of one protocol.
///
/// # Invariants that every implementation keeps
/// - It never panics and never allocates without a bound, whatever the bytes, wherever they are cut.
/// - Cutting the same bytes into other segments gives the same exchanges (timestamps aside).
/// - Every request start it recognises is announced once with [`ConnectionContext::message`] and ends exactly once: in
///   [`ConnectionContext::emit`], or in [`ConnectionContext::unparsed`].
/// - After [`Segment::gap`] or [`Segment::truncated`] bytes that its framing cannot account for, it calls
///   [`ConnectionContext::count_gap`] once, finds the next message start at the beginning of a segment, and pairs nothing
///   across the gap that it cannot be sure of.
/// - In the steady state an exchange allocates nothing.
pub trait Parser: fmt::Debug + Send {
    /// Takes the next bytes of one end.
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow;

    /// Where this end's bytes stand.
    fn framing(&self, from: Sender) -> Framing;

    /// How many requests wait, of a protocol with [`ConnectionContext::pending_max`].
    fn pending(&self) -> usize {
        0
    }

    /// The connection was closed: everything that waits comes to its end.
    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>);

    /// Ends what only waits for time to pass. Called every few seconds.
    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let _ = (now, cx);
    }

    /// Requests that have begun and whose exchanges have not ended; `None` where that is not known.
    fn open_requests(&self) -> Option<usize> {
        None
    }

    /// This parser, if the kernel can follow connections of its protocol.
    fn offloadable(&mut self) -> Option<&mut dyn Offloadable> {
        None
    }
}

/// A parser whose connections the kernel can follow for a while.
pub trait Offloadable: Parser {
    /// Whether no exchange is in flight and the connection may be offered to the kernel, which knows only its protocol.
    fn is_idle(&self) -> bool;

    /// Exports the prepared statements that the kernel does not know yet: the server's number, operation and table.
    fn export_statements(&mut self, export: &mut dyn FnMut(u32, Symbol, Symbol)) {
        let _ = export;
    }

    /// The kernel has accepted the connection, from the start of a request on.
    fn offload_accepted(&mut self, cx: &mut ConnectionContext<'_>) {
        let _ = cx;
    }

    /// Resumes where the kernel stopped, which followed the connection since it [was idle](Self::is_idle); false when this
    /// parser cannot.
    fn resume(&mut self, state: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> bool {
        let _ = (state, cx);
        false
    }

    /// Parses bytes that the kernel has consumed, of a message whose rest follows.
    fn replay(
        &mut self,
        from: Sender,
        bytes: &[u8],
        state: &ConnectionState<'_>,
        cx: &mut ConnectionContext<'_>,
    ) {
        let at = if from == Sender::Client { state.requests.start } else { state.responses.start };
        if !bytes.is_empty() {
            self.segment(&Segment { from, at, gap: 0, bytes, truncated: 0 }, cx);
        }
    }
}

/// What a parser reaches of its surroundings.
pub struct ConnectionContext<'a> {
    pub(crate) context: &'a mut ParserContext,
    pub(crate) scope: ScopeId,
    pub(crate) client: ClientId,
    pub(crate) side: Side,
    /// Of a socket of datagrams that has several peers: the one with which the exchange is, or the datagram came.
    pub(crate) peer: Option<SocketAddr>,
    /// The trace of the exchange that is emitted next.
    trace: Option<TraceContext>,
    /// When bytes of the server's moved last in which no message was found.
    unread_at: Option<Timestamp>,
    /// Most requests that may wait on the connection.
    pending_max: usize,
    pub(crate) sink: &'a mut dyn FnMut(Exchange),
}

impl<'a> ConnectionContext<'a> {
    /// What a connection of that scope and client is parsed with, of which that side is observed.
    pub(crate) fn new(
        context: &'a mut ParserContext,
        (scope, client, side): (ScopeId, ClientId, Side),
        sink: &'a mut dyn FnMut(Exchange),
    ) -> Self {
        let pending_max = context.limits().pending_per_connection;
        Self { context, scope, client, side, peer: None, trace: None, unread_at: None, pending_max, sink }
    }
}

impl ConnectionContext<'_> {
    /// The context's bounds.
    pub fn limits(&self) -> &Limits {
        self.context.limits()
    }

    /// Most requests that may wait on the connection, of a protocol whose clients send many at once.
    pub fn pending_max(&self) -> usize {
        self.pending_max
    }

    /// The connection has so many of those that all connections share.
    pub(crate) fn add_pending_share(&mut self, share: usize) {
        let free = self.limits().pending_shared.saturating_sub(self.context.shared_pending().taken());
        self.pending_max = self.limits().pending_per_connection.saturating_add(free.saturating_add(share));
    }

    /// Which end is observed.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The other end of the datagram that is taken, where its socket has several and it is known.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The exchanges that are emitted next are with this other end.
    pub fn set_peer(&mut self, peer: Option<SocketAddr>) {
        self.peer = peer;
    }

    /// Bytes of the server's in which no message was found moved last at this time: what was requested before may have been
    /// answered there.
    pub(crate) fn set_unread_at(&mut self, at: Option<Timestamp>) {
        self.unread_at = at;
    }

    /// The exchange that is emitted next belongs to this trace.
    pub(crate) fn set_trace(&mut self, trace: Option<TraceContext>) {
        self.trace = trace;
    }

    /// The start of a request was seen.
    pub fn message(&mut self) {
        self.context.tally_mut().messages_seen += 1;
    }

    /// A request that was announced will not become an exchange.
    pub fn unparsed(&mut self) {
        self.context.tally_mut().unparsed += 1;
    }

    /// A response whose request was never seen.
    pub fn orphan(&mut self) {
        self.message();
        self.unparsed();
    }

    /// Bytes were missing, and the parser has to look for the next message.
    pub fn count_gap(&mut self) {
        self.context.tally_mut().gaps += 1;
    }

    /// Gaps so far.
    pub(crate) fn gaps(&self) -> u64 {
        self.context.tally().gaps
    }

    /// So many bytes of a protocol belong to no message.
    pub(crate) fn unaccounted(&mut self, protocol: Protocol, bytes: u64) {
        self.context.unaccounted_mut().add(protocol, bytes);
    }

    /// An exchange is emitted whose status or name is among bytes that are missing.
    pub fn incomplete(&mut self) {
        self.context.tally_mut().incomplete += 1;
    }

    /// What a response comes to whose status is among bytes that are missing: it counts as incomplete, and is no success.
    pub fn unknown_status(&mut self) -> (Status, ErrorClass) {
        self.incomplete();
        (Status::UNKNOWN, ErrorClass::None)
    }

    /// The symbol of a name out of a bounded vocabulary of this application.
    pub fn name(&mut self, kind: NameKind, name: &str) -> Symbol {
        self.context.name_of(self.scope, kind, name)
    }

    /// The symbol of a name that the server has yet to confirm: it stands for `other` until an exchange with it was
    /// [emitted](Self::emit).
    pub fn candidate(&mut self, kind: NameKind, name: &str) -> Symbol {
        self.context.candidate(self.scope, kind, name)
    }

    /// The symbol of a name, which may be a [candidate](Self::candidate), that the server has confirmed.
    pub fn confirmed(&mut self, symbol: Symbol, at: Timestamp) -> Symbol {
        self.context.settle(self.scope, symbol, true, at)
    }

    /// The symbol of a name that is in the application's vocabulary already.
    pub fn known_name(&mut self, kind: NameKind, name: &str) -> Option<Symbol> {
        self.context.known_name(self.scope, kind, name)
    }

    /// The symbol of one of a fixed set of words that the code itself names (`"SELECT"`, `"NXDOMAIN"`).
    pub fn word(&mut self, word: &'static str) -> Symbol {
        self.context.intern(word)
    }

    /// Stores the name that belongs to an id of this application; all its connections share it.
    pub fn learn_id(&mut self, id: [u8; 16], name: Symbol) {
        self.context.learn_id(self.scope, id, name);
    }

    /// The name that belongs to an id of this application, once it is known.
    pub fn learned_id(&mut self, id: [u8; 16]) -> Option<Symbol> {
        self.context.learned_id(self.scope, id)
    }

    /// This application looked up a name and got an address.
    pub fn look_up(&mut self, address: IpAddr, name: Symbol) {
        self.context.look_up(self.scope, address, name);
    }

    /// Looks up the route of a request target (path and query, absolute or authority form).
    pub fn route(&mut self, target: &[u8]) -> RouteRef {
        self.context.route(self.scope, target)
    }

    /// Gives out an exchange. A request without a response that may have been answered in bytes that could not be read is none:
    /// it counts as unparsed.
    pub fn emit(&mut self, protocol: Protocol, request: &Request, outcome: &Outcome) {
        if outcome.error == ErrorClass::NoResponse && self.unread_at.is_some_and(|at| at >= request.start) {
            self.trace = None;
            return self.unparsed();
        }
        let resource = match request.resource {
            Resource::Name(symbol) => symbol,
            Resource::Route(route) => {
                // A process that sends requests is one client, whichever server responds.
                let client = if self.side == Side::Server { self.client } else { ClientId::default() };
                let sighting = Sighting { client: client.0, at: outcome.end };
                self.context.route_symbol(self.scope, route, outcome.status, sighting)
            }
        };
        let [operation, resource] = if request.operation.is_candidate() || resource.is_candidate() {
            let is_confirmed = names::confirms(protocol, outcome, |word| self.context.name(word));
            [request.operation, resource]
                .map(|symbol| self.context.settle(self.scope, symbol, is_confirmed, outcome.end))
        } else {
            [request.operation, resource]
        };
        let status_name = if let Status::Word(word) = outcome.status { word } else { Symbol::NONE };
        let overflowed = [operation, resource, status_name].contains(&Symbol::OVERFLOWED);
        let [operation, resource] = [operation, resource].map(Symbol::given_out);
        self.context.used([operation, resource]);
        self.context.tally_mut().exchanges += 1;
        (self.sink)(Exchange {
            protocol,
            side: self.side,
            operation,
            resource,
            status: if status_name.is_other() { Status::UNKNOWN } else { outcome.status },
            error: outcome.error,
            start: request.start,
            end: outcome.end,
            request_bytes: request.bytes,
            response_bytes: outcome.bytes,
            peer: self.peer,
            trace: self.trace.take(),
            overflowed,
        });
    }
}

impl fmt::Debug for ConnectionContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionContext")
            .field("scope", &self.scope)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}
