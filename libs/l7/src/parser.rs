//! What a protocol's folder offers: one [`Entry`] for the table, and a [`Parser`] for each connection that speaks it.
//!
//! ```text
//! Connection ──Opening──► Entry::identify ──► Guess
//!            ──Segment──► Parser::segment ──► Flow, and through Context: exchanges, names, tallies
//! ```
//!
//! The connection takes care of directions, offsets, duplicates and losses before a parser sees anything: a
//! [`Segment`] says who sent it, how much was lost before it and how much of it was not captured.

use std::fmt;

use crate::{
    Direction, Engine, ErrorClass, Exchange, Limits, Protocol, ScopeId, Side, Status, Symbol, Timestamp,
    elsewhere::Resumed, engine::NameKind, routes::RouteRef,
};

/// Which end of a connection sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The one that asks.
    Client,
    /// The one that answers.
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
pub struct Opening<'a> {
    /// Stream or datagrams.
    pub transport: Transport,
    /// The bytes from the start of a chunk, contiguous; never empty, at most [`OPENING_BYTES_MAX`] when they had to
    /// be joined.
    pub bytes: &'a [u8],
    /// How many bytes moved in all, of which `bytes` is the head. When it is larger, nothing more of this message's
    /// head will come.
    pub total: u64,
    /// Whether these are the first bytes of this direction since the connection was first seen. That does not mean
    /// the connection's first ones: it may have been joined in the middle.
    pub first: bool,
    /// What the other end sent lately, from the start of a chunk; empty when it said nothing yet.
    pub peer: &'a [u8],
}

impl Opening<'_> {
    /// Whether waiting may bring more of these bytes.
    pub fn may_grow(&self) -> bool {
        self.transport == Transport::Stream && self.total <= self.bytes.len() as u64
    }
}

/// Most bytes of one direction that are kept while the protocol is being guessed.
pub const OPENING_BYTES_MAX: usize = 512;

/// What identification says about an [`Opening`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
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
    /// What is spoken.
    pub protocol: Protocol,
    /// Over what.
    pub transports: &'static [Transport],
    /// Looks at first bytes. Must be so strict that random bytes never pass, and cheap: it runs on every unknown
    /// connection.
    pub identify: fn(&Opening<'_>) -> Guess,
    /// A parser for a connection.
    pub start: fn(Start) -> Box<dyn Parser>,
}

/// How a connection came to a parser.
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

/// What a request came to.
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
    /// No response came, and none will.
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
    pub lost: u64,
    /// The captured head.
    pub bytes: &'a [u8],
    /// Bytes that followed the head and were not captured.
    pub unseen: u64,
}

/// How a connection goes on after a segment.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// With this parser.
    Continue,
    /// Nobody needs to follow it further.
    Done,
    /// This was not the protocol after all: guess again.
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
/// - Every request start it recognises is announced once with [`Context::message`] and ends exactly once: in
///   [`Context::emit`], or in [`Context::not_understood`].
/// - After [`Segment::lost`] or [`Segment::unseen`] bytes that its framing cannot account for, it calls
///   [`Context::gap`] once, finds the next message start at the beginning of a segment, and pairs nothing across the
///   gap that it cannot be sure of.
/// - In the steady state an exchange allocates nothing.
pub trait Parser: fmt::Debug + Send {
    /// Takes the next bytes of one end.
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) -> Flow;

    /// The connection was closed: everything that waits comes to its end.
    fn close(&mut self, now: Timestamp, cx: &mut Context<'_>);

    /// Whether everything that was said is over and done with, so that someone who knows nothing about the connection but
    /// its protocol could go on with it.
    fn is_settled(&self) -> bool {
        false
    }

    /// Gives out the prepared statements of which someone else has not been told: the server's number, operation and
    /// table.
    fn tell_statements(&mut self, tell: &mut dyn FnMut(u32, Symbol, Symbol)) {
        let _ = tell;
    }

    /// Someone else goes on from here, where a request begins.
    fn taken(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// Goes on behind what someone else followed since everything [was over](Self::is_settled); false when it cannot.
    fn resume(&mut self, resumed: &Resumed<'_>, cx: &mut Context<'_>) -> bool {
        let _ = (resumed, cx);
        false
    }

    /// Nothing moved for a while: what can be said by the passing of time is said. Called now and then.
    fn idle(&mut self, now: Timestamp, cx: &mut Context<'_>) {
        let _ = (now, cx);
    }
}

/// What a parser reaches of its surroundings.
pub struct Context<'a> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) scope: ScopeId,
    pub(crate) side: Side,
    pub(crate) sink: &'a mut dyn FnMut(Exchange),
}

impl Context<'_> {
    /// The engine's bounds.
    pub fn limits(&self) -> &Limits {
        self.engine.limits()
    }

    /// Which end is observed.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The start of a request was seen.
    pub fn message(&mut self) {
        self.engine.tally_mut().messages_seen += 1;
    }

    /// A request that was announced will not become an exchange.
    pub fn not_understood(&mut self) {
        self.engine.tally_mut().not_understood += 1;
    }

    /// A response came whose request was never seen.
    pub fn orphan(&mut self) {
        self.message();
        self.not_understood();
    }

    /// Bytes were missing, and the parser has to look for the next message.
    pub fn gap(&mut self) {
        self.engine.tally_mut().gaps += 1;
    }

    /// The symbol of a name out of a bounded vocabulary of this application.
    pub fn name(&mut self, kind: NameKind, name: &str) -> Symbol {
        self.engine.name_of(self.scope, kind, name)
    }

    /// The symbol of one of a fixed set of words that the code itself names (`"SELECT"`, `"NXDOMAIN"`).
    pub fn word(&mut self, word: &'static str) -> Symbol {
        self.engine.intern(word)
    }

    /// Learns the name of what this application calls by an id, on whatever connection.
    pub fn learn_id(&mut self, id: [u8; 16], name: Symbol) {
        self.engine.learn_id(self.scope, id, name);
    }

    /// The name of what this application calls by an id, when it was learned.
    pub fn learned_id(&self, id: [u8; 16]) -> Option<Symbol> {
        self.engine.learned_id(self.scope, id)
    }

    /// Looks up the route of a request target (path and query, absolute or authority form).
    pub fn route(&mut self, target: &[u8]) -> RouteRef {
        self.engine.route(self.scope, target)
    }

    /// Gives out an exchange.
    pub fn emit(&mut self, protocol: Protocol, request: &Request, outcome: &Outcome) {
        let resource = match request.resource {
            Resource::Name(symbol) => symbol,
            Resource::Route(route) => self.engine.route_symbol(self.scope, route, outcome.status),
        };
        self.engine.tally_mut().exchanges += 1;
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

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("scope", &self.scope)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}
