//! The one thing that leaves: a request and what became of it.

use crate::{Symbol, Timestamp};

/// An application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 (RFC 9113).
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL's frontend/backend protocol 3.
    Postgresql,
    /// RESP2 and RESP3.
    Redis,
    /// Apache Kafka.
    Kafka,
    /// DNS over UDP and TCP (RFC 1035).
    Dns,
    /// MongoDB's `OP_MSG`.
    Mongodb,
    /// Memcached's text, meta and binary protocols.
    Memcached,
    /// AMQP 0-9-1.
    Amqp,
    /// NATS.
    Nats,
    /// TLS records (RFC 8446): recognised, never looked into.
    Tls,
}

/// Which end of the exchange the observed process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It received the request.
    Server,
    /// It sent the request.
    Client,
}

/// Whose fault a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// No failure.
    None,
    /// The request was at fault (HTTP 4xx, SQL syntax error, `WRONGTYPE`).
    Client,
    /// The server was at fault (HTTP 5xx, SERVFAIL).
    Server,
    /// The connection ended before a response came.
    NoResponse,
}

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
    /// What was spoken.
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
