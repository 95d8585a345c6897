//! What the parsers give out: a request with its response.

pub use porthole_protocol::{ErrorClass, Protocol, Side};

use crate::{chunk::Timestamp, symbol::Symbol};

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
}

impl Exchange {
    /// Nanoseconds from the request's first byte to the response's last.
    pub fn duration_ns(&self) -> u64 {
        self.end.since(self.start)
    }
}
