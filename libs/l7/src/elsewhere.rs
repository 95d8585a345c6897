//! Exchanges and connections that someone else followed so far: the programs in the guest's kernel, which know bytes
//! and hashes but no names.

use crate::{
    Connection, Engine, ErrorClass, Exchange, Protocol, ScopeId, Side, Symbol, Timestamp, Transport, http1,
    mysql,
    parser::{Context, Parser},
    postgres, redis, sql,
};

/// An exchange that was found elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// What was asked for.
    pub what: What<'a>,
    /// The application.
    pub scope: ScopeId,
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
}

/// What an exchange found elsewhere was about.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// HTTP/1.
    Http1 {
        /// The request from its first byte, at least the request line; empty when it is not known.
        request: &'a [u8],
        /// The response's status.
        status: u16,
    },
    /// Redis.
    Redis {
        /// Place in [`redis_commands`].
        command: usize,
        /// An error's text.
        error: Option<&'a [u8]>,
    },
    /// MySQL.
    Mysql {
        /// As [`statement_name`] gives it, or a command's number; empty when it is not known.
        request: &'a [u8],
        /// An error's packet from its number on.
        error: Option<&'a [u8]>,
    },
    /// A simple query of PostgreSQL.
    Postgresql {
        /// As [`statement_name`] gives it; empty when it is not known.
        request: &'a [u8],
        /// It failed.
        failed: bool,
        /// The error's fields, or the command's tag.
        text: &'a [u8],
    },
}

/// How an exchange found elsewhere is called.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// The exchange.
    pub exchange: Exchange,
    /// Whether an equal one will always be called the same.
    pub lasting: bool,
}

/// Where one direction stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stand {
    /// Between two messages.
    #[default]
    Start,
    /// HTTP: this byte of a start line was there.
    First(u8),
    /// So many bytes of a body are still to come.
    Body(u64),
    /// So many bytes of a chunk's data and its line end are still to come.
    ChunkData(u64),
    /// A chunk's size comes next.
    ChunkSize,
    /// MySQL: a command's header was there, for a payload of so many bytes.
    Header(u64),
    /// MySQL, PostgreSQL: in an answer.
    Answer(AnswerStand),
    /// So many bytes of a value and its line end, then so many values.
    Values {
        /// Bytes.
        left: u64,
        /// Values behind them.
        items: u32,
    },
}

/// Where an answer of a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerStand {
    /// In which part of it.
    pub part: Part,
    /// Bytes of the current message that are still to come; at least one of a MySQL packet's is behind.
    pub left: u64,
    /// The beginning of the next message.
    pub held: HeldBytes,
}

/// A part of a database's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its beginning, or that of a further result.
    Start,
    /// MySQL: definitions of columns, of which so many begin still.
    Columns(u32),
    /// MySQL: the last of them was, or is going by.
    BehindColumns,
    /// MySQL: rows. PostgreSQL: anything behind the start.
    Rows,
}

/// A few bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBytes {
    bytes: [u8; 8],
    count: u8,
}

impl HeldBytes {
    /// The `count` lowest bytes of a word, the lowest first.
    pub fn of(word: u64, count: u64) -> Self {
        Self { bytes: word.to_le_bytes(), count: u8::try_from(count.min(8)).unwrap_or(8) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.count)).unwrap_or_default()
    }
}

/// One direction, as it was followed so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResumedEnd<'a> {
    /// Where it stands.
    pub stand: Stand,
    /// Bytes of the current message so far.
    pub bytes: u64,
    /// When the current message began.
    pub start: Timestamp,
    /// Of a response: its status.
    pub status: u16,
    /// Of a Redis command: its name.
    pub name: &'a [u8],
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub struct ResumedRequest<'a> {
    /// As in [`What`]; of Redis the command's name.
    pub request: &'a [u8],
    /// When its first byte moved.
    pub start: Timestamp,
    /// Its size, bytes.
    pub bytes: u64,
    /// HTTP: it is a HEAD request.
    pub head: bool,
}

/// A connection, as it was followed so far.
#[derive(Clone, Copy, Debug)]
pub struct Resumed<'a> {
    /// What is spoken.
    pub protocol: Protocol,
    /// Which end is observed.
    pub side: Side,
    /// Bytes that were followed: ingress, egress.
    pub offsets: [u64; 2],
    /// The direction of the requests.
    pub requests: ResumedEnd<'a>,
    /// The direction of the responses.
    pub responses: ResumedEnd<'a>,
    /// The requests that wait, the oldest first.
    pub waiting: &'a [ResumedRequest<'a>],
}

/// A connection on which nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What is spoken: HTTP/1, Redis, MySQL or PostgreSQL.
    pub protocol: Protocol,
    /// Which end is observed.
    pub side: Side,
    /// Where each direction's next byte is expected: ingress, egress.
    pub offsets: [u64; 2],
}

/// The Redis commands that can be followed without knowing what they mean for the connection, and whether that depends
/// on their first argument (`CLIENT REPLY`, `CLIENT TRACKING`).
pub fn redis_commands() -> impl Iterator<Item = (usize, &'static str, bool)> {
    redis::plain_commands()
}

/// What is kept of a statement in order to name exchanges later.
pub fn statement_name(statement: &[u8]) -> Box<[u8]> {
    sql::name::encode(statement)
}

/// The same of one whose operation and table are known.
pub fn prepared_name(operation: &str, table: &str) -> Box<[u8]> {
    sql::name::of(operation, table)
}

/// Whether a text is several statements.
pub fn is_several(text: &[u8]) -> bool {
    sql::following(text).is_some()
}

impl Engine {
    /// Names an exchange that was found elsewhere.
    pub fn name_found(&mut self, found: &Found<'_>) -> Named {
        let mut exchange = Exchange {
            protocol: Protocol::Http1,
            side: found.side,
            operation: Symbol::OTHER,
            resource: Symbol::OTHER,
            status: crate::Status::None,
            error: ErrorClass::None,
            start: found.start,
            end: found.end,
            request_bytes: found.request_bytes,
            response_bytes: found.response_bytes,
        };
        let mut sink = |given| exchange = given;
        let mut cx = Context { engine: self, scope: found.scope, side: found.side, sink: &mut sink };
        cx.message();
        let lasting = match found.what {
            What::Http1 { request, status } => http1::name_found(request, status, found, &mut cx),
            What::Redis { command, error } => redis::name_found(command, error, found, &mut cx),
            What::Mysql { request, error } => mysql::name_found(request, error, found, &mut cx),
            What::Postgresql { request, failed, text } => {
                postgres::name_found(request, failed, text, found, &mut cx)
            }
        };
        Named { exchange, lasting }
    }

    /// Counts exchanges that were found elsewhere and are called as one before.
    pub fn count_found(&mut self, exchanges: u64) {
        let tally = self.tally_mut();
        tally.messages_seen += exchanges;
        tally.exchanges += exchanges;
    }
}

impl Connection {
    /// Goes on where someone else stopped, who followed it from its beginning or since it was [settled](Self::settled).
    pub fn go_on(&mut self, scope: ScopeId, resumed: &Resumed<'_>, engine: &mut Engine) {
        if self.resume_here(resumed, engine) {
            return;
        }
        if let Some(resumed) = Self::resume(scope, resumed, engine) {
            *self = resumed;
            return;
        }
        // Nobody knows it any more: it is joined in the middle.
        let tally = engine.tally_mut();
        tally.messages_seen += resumed.waiting.len() as u64;
        tally.not_understood += resumed.waiting.len() as u64;
    }

    fn resume(scope: ScopeId, resumed: &Resumed<'_>, engine: &mut Engine) -> Option<Self> {
        let mut cx = Context { engine, scope, side: resumed.side, sink: &mut |_| {} };
        let parser: Box<dyn Parser> = match resumed.protocol {
            Protocol::Http1 => http1::resume(resumed, &mut cx),
            Protocol::Redis => redis::resume(resumed, &mut cx),
            _ => return None,
        };
        Some(Self::following(
            scope,
            Transport::Stream,
            resumed.protocol,
            resumed.side,
            parser,
            resumed.offsets,
        ))
    }
}

#[cfg(test)]
mod databases;
#[cfg(test)]
mod tests;
