//! Connections that are offloaded: the programs pair requests with responses by themselves. Of the bytes only names of requests,
//! texts of outcomes and trace contexts are copied to user space.
//!
//! ```text
//! request  ──► PendingRequest (key, start) ─┐
//!                                           ├─► Slot of the key and the status: a histogram that the agent reads
//! response ──► end, status ─────────────────┘   or, while they have none: Completed, and the agent assigns a kernel key
//! ```
//!
//! A connection is offloaded from its first byte when that begins a request of a protocol that the programs can parse.
//! A database's connection is offloaded when user space has seen the login and offers it. At the first bytes that the
//! programs cannot parse they send the connection's whole state to user space ([`OffloadedConnection`] itself is the
//! fallback record), which parses the connection from there. So every exchange is counted by exactly one of the two.
//!
//! User space offers connections that it parses when no exchange is in progress on them ([`OFFERED`]). The programs accept
//! an offer with the next call if nothing moved since, and report it.

use crate::kernel_key::CONTEXT_MAX;

/// Protocols that the programs parse.
pub mod protocol {
    use porthole_protocol::Offload;

    /// HTTP/1.0 and HTTP/1.1.
    pub const HTTP1: u16 = Offload::Http1.number();
    /// Redis.
    pub const REDIS: u16 = Offload::Redis.number();
    /// MySQL and MariaDB.
    pub const MYSQL: u16 = Offload::Mysql.number();
    /// PostgreSQL.
    pub const POSTGRESQL: u16 = Offload::Postgresql.number();
}

/// On which side of its connection the observed process is.
pub mod side {
    /// It is the server.
    pub const SERVER: u16 = 0;
    /// It is the client.
    pub const CLIENT: u16 = 1;
}

/// What comes next in one direction of an offloaded connection.
pub mod framing_state {
    /// A message's first byte.
    pub const START: u8 = 0;
    /// [`super::ParseState::left`] bytes of a body.
    pub const BODY: u8 = 1;
    /// [`super::ParseState::left`] bytes: the data of a chunk and its line end.
    pub const CHUNK_DATA: u8 = 2;
    /// The line with a chunk's size.
    pub const CHUNK_SIZE: u8 = 3;
    /// Redis: [`super::ParseState::left`] bytes of a bulk string with its line end, then [`super::ParseState::items`] more
    /// values.
    pub const VALUES: u8 = 4;
    /// HTTP: the rest of a request whose first byte was read by a call of its own and is [`super::ParseState::buffered`].
    pub const FIRST_BYTE_READ: u8 = 5;
    /// MySQL: [`super::ParseState::left`] bytes of a command whose header was read by a call of its own.
    pub const HEADER_READ: u8 = 6;
    /// MySQL: [`super::ParseState::items`] column definitions.
    pub const COLUMNS: u8 = 7;
    /// MySQL: the packet that follows the column definitions.
    pub const AFTER_COLUMNS: u8 = 8;
    /// MySQL: rows. PostgreSQL: any further message of a response.
    pub const ROWS: u8 = 9;
    /// PostgreSQL: the messages behind the one with a response's outcome, which is [`super::ParseState::status`]. The
    /// programs leave this state before the call ends, or the connection falls back.
    pub const OUTCOME_READ: u8 = 10;
}

/// How far one direction was parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ParseState {
    /// Bytes of the message until the next decision: at most 2^31 + 2, the largest chunk of HTTP with its line end.
    pub left: u32,
    /// The beginning of a message's header that was at the end of a call, the first byte lowest; 0 when there is none.
    pub buffered: u32,
    /// Bytes of the current message so far.
    pub bytes: u64,
    /// When the current message's first byte moved, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// Of a request: the request, as in [`PendingRequest::request`].
    pub request: u64,
    /// Redis: values that are still to come. MySQL: column definitions that are still to come.
    pub items: u32,
    /// Of a response: HTTP's status code; Redis and PostgreSQL: 1 for an error, else 0.
    pub status: u16,
    /// Number of bytes in [`Self::buffered`].
    pub buffered_len: u8,
    /// One of [`framing_state`].
    pub framing: u8,
}

const _: () = assert!(size_of::<ParseState>() == 40);

impl ParseState {
    /// Before a direction's first byte.
    pub const AT_START: Self = Self {
        left: 0,
        buffered: 0,
        bytes: 0,
        start: 0,
        request: 0,
        items: 0,
        status: 0,
        buffered_len: 0,
        framing: framing_state::START,
    };
}

/// A request that has no response yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingRequest {
    /// The request: see [`crate::kernel_key::RequestKey::request`].
    pub request: u64,
    /// When its first byte moved, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// Its size, bytes.
    pub bytes: u32,
    /// Bits of [`request_flag`].
    pub flags: u32,
    /// Index of its kernel key, plus one; 0 when it has none.
    pub kernel_key: u32,
    /// That entry's [`crate::kernel_key::KernelKey::generation`] at that time.
    pub generation: u32,
}

/// Flags of a request.
pub mod request_flag {
    /// HTTP `HEAD`: the response has no body.
    pub const HEAD: u32 = 1;
    /// MySQL: a prepared statement is executed, whose name user space knows from its preparation.
    pub const PREPARED: u32 = 2;
}

/// Most requests that wait for a response on one offloaded connection. With one more, the connection falls back to user
/// space.
pub const PENDING_MAX: usize = 64;

/// [`OffloadedConnection::kind`] of a connection that user space parses and offers: only protocol, side and positions are
/// set.
pub const OFFERED: u32 = 0;

/// A connection that the programs parse. As a record, [`Self::kind`] comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OffloadedConnection {
    /// [`crate::record::kind::FALLBACK`], or [`OFFERED`].
    pub kind: u32,
    /// One of [`protocol`].
    pub protocol: u16,
    /// One of [`side`].
    pub side: u16,
    /// The connection.
    pub connection: u64,
    /// Number of the fallback record among the connection's records.
    pub sequence: u64,
    /// Bytes of each direction that were parsed.
    pub offset: [u64; 2],
    /// Not zero while a CPU works on it.
    pub lock: u64,
    /// The remote end, for [`crate::kernel_key::RequestKey::remote`].
    pub remote: u64,
    /// The control group, for [`crate::kernel_key::RequestKey::cgroup`].
    pub cgroup: u64,
    /// The connection's key in the table of connections.
    pub socket: u64,
    /// What moved the newest request: as [`crate::thread::ServingThread::thread`], perhaps with [`crate::thread::UNCOUNTED`].
    pub thread: u64,
    /// One bit for each index of [`Self::pending`]: whether [`request_flag::HEAD`] is set.
    pub head_requests: u64,
    /// Requests pushed so far; the next one's index is this modulo [`PENDING_MAX`].
    pub pushed: u32,
    /// Requests answered so far.
    pub popped: u32,
    /// The direction of the requests.
    pub requests: ParseState,
    /// The direction of the responses.
    pub responses: ParseState,
    /// Number of the request whose context [`Self::context`] is, as [`Self::pushed`] was before it, plus one; 0 when there is none.
    pub context_of: u64,
    /// HTTP: the lines of a request's head with a trace context, and what follows them.
    pub context: [u64; CONTEXT_MAX / 8],
    /// The requests that have no response yet.
    pub pending: [PendingRequest; PENDING_MAX],
}

impl OffloadedConnection {
    /// An offer: see [`OFFERED`].
    pub const fn offered(connection: u64, protocol: u16, side: u16, offset: [u64; 2]) -> Self {
        const NO_REQUEST: PendingRequest =
            PendingRequest { request: 0, start: 0, bytes: 0, flags: 0, kernel_key: 0, generation: 0 };
        Self {
            kind: OFFERED,
            protocol,
            side,
            connection,
            sequence: 0,
            offset,
            lock: 0,
            remote: 0,
            cgroup: 0,
            socket: 0,
            thread: 0,
            head_requests: 0,
            pushed: 0,
            popped: 0,
            requests: ParseState::AT_START,
            responses: ParseState::AT_START,
            context_of: 0,
            context: [0; CONTEXT_MAX / 8],
            pending: [NO_REQUEST; PENDING_MAX],
        }
    }
}

/// A prepared statement of MySQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct StatementKey {
    /// The connection.
    pub connection: u64,
    /// The server's number of the statement.
    pub id: u64,
}
