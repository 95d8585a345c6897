//! What the parsers give out: a request with its response.

use std::net::SocketAddr;

pub use porthole_protocol::{ErrorClass, Protocol, Side};

use crate::{chunk::Timestamp, symbol::Symbol, trace::TraceContext};

/// Exact status, as the protocol has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// None was seen, or the protocol has none for success.
    None,
    /// A number: an HTTP status, a MySQL error.
    Code(u32),
    /// A word: an SQLSTATE, a Redis error prefix, a DNS rcode.
    Word(Symbol),
}

impl Status {
    /// A response was seen, but not its status: neither a success nor a failure.
    pub const UNKNOWN: Self = Self::Word(Symbol::OTHER);
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

/// A request and its response, or a request that never got one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The protocol.
    pub protocol: Protocol,
    /// Which end was observed.
    pub side: Side,
    /// Method, command, SQL operation, API, query type.
    pub operation: Symbol,
    /// Templated route, table, topic, question name; [`Symbol::NONE`] without one.
    pub resource: Symbol,
    /// Exact status.
    pub status: Status,
    /// Whose fault a failure was.
    pub error: ErrorClass,
    /// When the request's first byte was seen.
    pub start: Timestamp,
    /// When the response's last byte was seen; for a request without response, when that became certain.
    pub end: Timestamp,
    /// Size of the request on the wire, in bytes.
    pub request_bytes: u64,
    /// Size of the response on the wire, in bytes.
    pub response_bytes: u64,
    /// The other end, where one socket has several: see [`crate::Connection::datagram_of`].
    pub peer: Option<SocketAddr>,
    /// The trace that the request's head names, in protocols whose heads do.
    pub trace: Option<TraceContext>,
    /// One of its names is `other` because there was no room for another name.
    pub overflowed: bool,
}

impl Exchange {
    /// Nanoseconds from the request's first byte to the response's last.
    pub fn duration_ns(&self) -> u64 {
        self.end.since(self.start)
    }
}
