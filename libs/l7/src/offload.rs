//! What passes between this library and the programs in the guest's kernel, which aggregate the exchanges of some
//! connections themselves. Data only: each protocol's folder converts it ([`Offload`](crate::parser::Offload)).
//!
//! ```text
//! kernel ──OffloadedExchange──► NamedExchange  (an exchange that the kernel paired: bytes and hashes, no names)
//! kernel ──ConnectionState────► parser         (fallback: the parser resumes where the kernel stopped)
//! parser ──IdleConnection─────► kernel         (offload offer: a connection without an exchange in flight)
//! ```

use crate::{
    chunk::Timestamp,
    exchange::{Exchange, Protocol, Side},
    symbol::{ClientId, ScopeId},
    trace::TraceContext,
};

/// An exchange that the kernel paired.
#[derive(Clone, Copy, Debug)]
pub struct OffloadedExchange<'a> {
    /// Request and outcome.
    pub detail: ExchangeDetail<'a>,
    /// The application.
    pub scope: ScopeId,
    /// The client.
    pub client: ClientId,
    /// Which end was observed.
    pub side: Side,
    /// When the request's first byte moved.
    pub start: Timestamp,
    /// When the response's last byte moved.
    pub end: Timestamp,
    /// Size of the request, bytes.
    pub request_bytes: u64,
    /// Size of the response, bytes.
    pub response_bytes: u64,
    /// The trace that the request names.
    pub trace: Option<TraceContext>,
}

/// Request and outcome of an [`OffloadedExchange`].
#[derive(Clone, Copy, Debug)]
pub enum ExchangeDetail<'a> {
    /// HTTP/1.
    Http1 {
        /// The request from its first byte, at least the request line; empty when it is unknown.
        request: &'a [u8],
        /// The response's status code.
        status: u16,
    },
    /// Redis.
    Redis {
        /// Index into [`redis_commands`](crate::redis_commands).
        command: usize,
        /// Text of an error reply, from behind its `-`.
        error: Option<&'a [u8]>,
    },
    /// MySQL.
    Mysql {
        /// A [`statement_name`](crate::sql::name::statement_name), or a command's number; empty when it is unknown.
        request: &'a [u8],
        /// Payload of an ERR packet, from its error code on.
        error: Option<&'a [u8]>,
    },
    /// A simple query of PostgreSQL.
    Postgresql {
        /// A [`statement_name`](crate::sql::name::statement_name); empty when it is unknown.
        request: &'a [u8],
        /// The server answered with an `ErrorResponse`.
        failed: bool,
        /// The fields of the `ErrorResponse`, or the tag of the `CommandComplete`.
        text: &'a [u8],
    },
}

impl ExchangeDetail<'_> {
    /// The protocol of the exchange.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Http1 { .. } => Protocol::Http1,
            Self::Redis { .. } => Protocol::Redis,
            Self::Mysql { .. } => Protocol::Mysql,
            Self::Postgresql { .. } => Protocol::Postgresql,
        }
    }
}

/// An [`OffloadedExchange`] with its names.
#[derive(Clone, Copy, Debug)]
pub struct NamedExchange {
    /// The exchange.
    pub exchange: Exchange,
    /// An equal exchange will always have the same names, so that the kernel may aggregate the next ones.
    pub is_stable: bool,
}

/// How far the framing of one direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FramingState {
    /// Between two messages.
    #[default]
    Start,
    /// HTTP: this first byte of a start line was read.
    FirstByte(u8),
    /// HTTP: this many bytes of a body remain.
    Body(u64),
    /// HTTP: this many bytes of a chunk's data and its line end remain.
    ChunkData(u64),
    /// HTTP: a chunk's size follows.
    ChunkSize,
    /// MySQL: a command's header was read, for a payload of this many bytes.
    CommandHeader(u64),
    /// MySQL, PostgreSQL: within a response.
    Result(ResultState),
    /// Redis: within nested values.
    Values {
        /// Bytes that remain of the current value and its line end.
        remaining: u64,
        /// Values that follow it.
        items: u32,
    },
}

/// How far the response of a database has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultState {
    /// The part of the response.
    pub phase: ResultPhase,
    /// Bytes that remain of the current message; of a MySQL packet at least one payload byte was read.
    pub remaining: u64,
    /// The first bytes of the next message.
    pub buffered: BufferedBytes,
}

/// A part of a database's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultPhase {
    /// Its beginning, or that of a further result.
    Start,
    /// MySQL: column definitions, of which this many have not begun.
    Columns(u32),
    /// MySQL: the last column definition has begun or has ended.
    BehindColumns,
    /// MySQL: rows. PostgreSQL: anything behind the first message.
    Rows,
}

/// Up to eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferedBytes {
    bytes: [u8; 8],
    count: u8,
}

impl BufferedBytes {
    /// The `count` lowest bytes of a word, the lowest first.
    pub fn of(word: u64, count: u64) -> Self {
        Self { bytes: word.to_le_bytes(), count: u8::try_from(count.min(8)).unwrap_or(8) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.count)).unwrap_or_default()
    }
}

/// One direction of a connection that the kernel followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectionState<'a> {
    /// How far its framing has come.
    pub framing: FramingState,
    /// Bytes of the current message so far.
    pub bytes: u64,
    /// When the current message began.
    pub start: Timestamp,
    /// Of an HTTP response: its status code.
    pub status: u16,
    /// Of a Redis command: its name.
    pub name: &'a [u8],
}

/// A request that has no response yet.
#[derive(Clone, Copy, Debug)]
pub struct PendingRequest<'a> {
    /// As in [`ExchangeDetail`]; of Redis the command's name.
    pub request: &'a [u8],
    /// When its first byte moved.
    pub start: Timestamp,
    /// Its size, bytes.
    pub bytes: u64,
    /// HTTP: it is a HEAD request.
    pub head: bool,
    /// HTTP: the trace that it names, where the kernel has kept it.
    pub trace: Option<TraceContext>,
}

/// A connection that the kernel followed and gives back.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionState<'a> {
    /// Its protocol.
    pub protocol: Protocol,
    /// Which end is observed.
    pub side: Side,
    /// Bytes that the kernel has processed: ingress, egress.
    pub offsets: [u64; 2],
    /// The direction of the requests.
    pub requests: DirectionState<'a>,
    /// The direction of the responses.
    pub responses: DirectionState<'a>,
    /// Requests without a response, the oldest first.
    pub pending: &'a [PendingRequest<'a>],
}

/// A connection without an exchange in flight, which can be offered to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleConnection {
    /// Its protocol: HTTP/1, Redis, MySQL or PostgreSQL.
    pub protocol: Protocol,
    /// Which end is observed.
    pub side: Side,
    /// Position of each direction's next byte: ingress, egress.
    pub offsets: [u64; 2],
}
