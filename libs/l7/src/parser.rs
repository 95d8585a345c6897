//! What a protocol's folder offers: one [`Entry`] for the table, and a [`Parser`] for each connection that speaks it.
//!
//! ```text
//! Connection ──Prefix──► Entry::detect ──► Detection
//!            ──Segment──► Parser::segment ──► Flow, and through ConnectionContext: exchanges, names, tallies
//! ```
//!
//! The connection takes care of directions, offsets, duplicates and losses before a parser sees anything: a
//! [`Segment`] says who sent it, how much was lost before it and how much of it was not captured.

use std::fmt;

use crate::{
    chunk::{Direction, Timestamp},
    context::{Limits, NameKind, ParserContext},
    exchange::{ErrorClass, Exchange, Protocol, Side, Status},
    offload::{ConnectionState, OffloadedExchange},
    routes::RouteRef,
    symbol::{ScopeId, Symbol},
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
pub struct Prefix<'a> {
    /// Stream or datagrams.
    pub transport: Transport,
    /// The bytes from the start of a chunk, contiguous; never empty, at most [`PREFIX_BYTES_MAX`] when they had to
    /// be joined.
    pub bytes: &'a [u8],
    /// How many bytes moved in all, of which `bytes` is the head. When it is larger, nothing more of this message's
    /// head will come.
    pub total: u64,
    /// Whether these are the first bytes of this direction since the connection was first seen. That does not mean
    /// the connection's first ones: it may have been joined in the middle.
    pub first: bool,
    /// What the other end sent lately, from the start of a chunk; empty when it sent nothing yet.
    pub peer: &'a [u8],
}

impl Prefix<'_> {
    /// Whether waiting may bring more of these bytes.
    pub fn may_grow(&self) -> bool {
        self.transport == Transport::Stream && self.total <= self.bytes.len() as u64
    }
}

/// Most bytes of one direction that are kept during detection of the protocol.
pub const PREFIX_BYTES_MAX: usize = 4096;

/// What detection says about a [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// Not this protocol, or not at the start of a message.
    No,
    /// Could be; with more bytes, of this end or of the other, it can be said.
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
    /// Emits an exchange that the kernel paired; says whether an equal one will always have the same names.
    pub name: fn(&OffloadedExchange<'_>, &mut ConnectionContext<'_>) -> bool,
    /// A parser that resumes where the kernel stopped; absent when only the parser that followed the connection before
    /// can resume ([`Parser::resume`]).
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

/// The result of a request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Exact status.
    pub status: Status,
    /// Whose fault a failure was.
    pub error: ErrorClass,
    /// When the response's last byte was seen.
    pub end: Timestamp,
    /// Size of the response, bytes.
    pub bytes: u64,
}

impl Outcome {
    /// There was no response, and there will be none.
    pub fn none(end: Timestamp) -> Self {
        Self { status: Status::None, error: ErrorClass::NoResponse, end, bytes: 0 }
    }
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

/// How a connection continues after a segment.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// With this parser.
    Continue,
    /// Nobody needs to follow it further.
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
    },
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

    /// The connection was closed: everything that waits comes to its end.
    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>);

    /// Whether no exchange is in flight and the connection may be offered to the kernel, which knows only its protocol.
    fn is_idle(&self) -> bool {
        false
    }

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

    /// Ends what only waits for time to pass. Called every few seconds.
    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let _ = (now, cx);
    }
}

/// What a parser reaches of its surroundings.
pub struct ConnectionContext<'a> {
    pub(crate) context: &'a mut ParserContext,
    pub(crate) scope: ScopeId,
    pub(crate) side: Side,
    pub(crate) sink: &'a mut dyn FnMut(Exchange),
}

impl ConnectionContext<'_> {
    /// The context's bounds.
    pub fn limits(&self) -> &Limits {
        self.context.limits()
    }

    /// Which end is observed.
    pub fn side(&self) -> Side {
        self.side
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

    /// The symbol of a name out of a bounded vocabulary of this application.
    pub fn name(&mut self, kind: NameKind, name: &str) -> Symbol {
        self.context.name_of(self.scope, kind, name)
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
    pub fn learned_id(&self, id: [u8; 16]) -> Option<Symbol> {
        self.context.learned_id(self.scope, id)
    }

    /// Looks up the route of a request target (path and query, absolute or authority form).
    pub fn route(&mut self, target: &[u8]) -> RouteRef {
        self.context.route(self.scope, target)
    }

    /// Gives out an exchange.
    pub fn emit(&mut self, protocol: Protocol, request: &Request, outcome: &Outcome) {
        let resource = match request.resource {
            Resource::Name(symbol) => symbol,
            Resource::Route(route) => self.context.route_symbol(self.scope, route, outcome.status),
        };
        self.context.tally_mut().exchanges += 1;
        (self.sink)(Exchange {
            protocol,
            side: self.side,
            operation: request.operation,
            resource,
            status: outcome.status,
            error: outcome.error,
            start: request.start,
            end: outcome.end,
            request_bytes: request.bytes,
            response_bytes: outcome.bytes,
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
