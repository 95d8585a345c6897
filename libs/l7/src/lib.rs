//! From bytes on a connection to exchanges: protocol identification, parsing, request/response pairing.
//!
//! ```text
//! Chunk → Connection: identify → parse → pair → Exchange
//! ```
//!
//! Invariants: no I/O, no async, no `unsafe`; every input is hostile, cut at any byte and may have gaps; memory is
//! bounded per connection and in all; nothing is counted that was not a request.
//!
//! # Adding a protocol
//!
//! A protocol is a folder beside `http1/` that offers one [`parser::Entry`], and a line in `table.rs`. Nothing else
//! changes (a new [`Protocol`] variant and [`NameKind`] aside).
//!
//! 1. **Identification**, `fn detect(&Prefix) -> Detection`. It sees the bytes from the start of a chunk, of one end, and
//!    what the other end sent lately (`prefix.peer`). It returns [`Yes`](parser::Detection::Yes) with who sent them,
//!    [`More`](parser::Detection::More) while the bytes are a prefix of something it would know (turn it into `No` when
//!    `!prefix.may_grow()`, unless it waits for the other end), [`No`](parser::Detection::No) otherwise. Both the client's
//!    and the server's messages should be recognised, for connections joined in the middle; a server that sends first
//!    is simply recognised by its greeting. Random bytes must never pass: check every length, version and reserved bit;
//!    where one end's bytes are not distinctive enough, require the other end's as well. Detection goes through the
//!    table in its order, and the first `Yes` wins.
//! 2. **The parser**, [`parser::Parser`]: gets [`parser::Segment`]s (who sent it, when, what was lost before it, the
//!    captured head, how much followed and was not captured). It announces each request start with
//!    [`message`](parser::ConnectionContext::message) and ends it exactly once, with [`emit`](parser::ConnectionContext::emit) or
//!    [`unparsed`](parser::ConnectionContext::unparsed); `testing::Replay::close` asserts that the sum is right. A
//!    response without a request is an [`orphan`](parser::ConnectionContext::orphan). Push messages and heartbeats are neither.
//!    [`parser::Flow`] is how the connection continues: another protocol ([`Switch`](parser::Flow::Switch): STARTTLS,
//!    h2c), ignored ([`Done`](parser::Flow::Done)), or not this protocol after all
//!    ([`Unrecognised`](parser::Flow::Unrecognised)).
//! 3. **Building blocks**, the one way to do it: [`stream::Framer`] for length-prefixed messages (one for each
//!    direction; it joins, skips and finds gaps), [`pending::Fifo`] for protocols that answer in order,
//!    [`pending::ById`] for correlation ids, stream ids and datagrams' ids, [`domain::converge`] for host names,
//!    `sql::shape` for statements, [`ConnectionContext::name`](parser::ConnectionContext::name) for names that the application brings
//!    (bounded by [`NameKind`]), [`ConnectionContext::word`](parser::ConnectionContext::word) for words of the protocol itself.
//! 4. **Datagrams**: with [`Transport::Datagram`] each segment is a whole datagram, and the connection is one socket, with as
//!    many other ends as [`peer`](parser::ConnectionContext::peer) names;
//!    expire what waits in [`tick`](parser::Parser::tick).
//! 5. **Tests** beside the parser: tables of conversations through `testing::assert_same_at_every_cut`, mutations and
//!    random bytes through `testing::Random`, truncated and lost bytes through `testing::Replay`; a fuzz target in
//!    `fuzz/`.
#![forbid(unsafe_code)]

mod amqp;
#[cfg(test)]
mod captured;
mod chunk;
mod connection;
mod context;
mod coverage;
mod detection;
mod dns;
pub mod domain;
#[cfg(test)]
mod error_rules;
mod exchange;
mod http1;
mod http2;
mod import;
#[cfg(test)]
mod joined;
mod kafka;
pub mod lines;
#[cfg(test)]
mod lookalikes;
mod lookups;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod many;
mod memcached;
mod mongodb;
mod mysql;
mod names;
mod nats;
pub mod offload;
#[cfg(test)]
mod omitted;
pub mod parser;
#[cfg(test)]
mod partial;
pub mod pending;
mod postgres;
#[cfg(test)]
mod privacy;
mod proxy;
mod redis;
pub mod resync;
mod routes;
pub mod sql;
pub mod stream;
mod symbol;
mod table;
#[cfg(test)]
mod testing;
mod tls;
mod trace;
#[cfg(test)]
mod unread;
#[cfg(any(test, feature = "values"))]
pub mod values;

pub use chunk::{Chunk, Direction, Timestamp};
pub use connection::{Connection, Verdict};
pub use context::{Limits, NAME_BYTES_MAX, NameKind, ParserContext, Tally};
pub use coverage::UnaccountedBytes;
pub use exchange::{ErrorClass, Exchange, Protocol, Side, Status};
pub use parser::Transport;
pub use redis::redis_commands;
pub use routes::own::TemplateError;
pub use symbol::{ClientId, ScopeId, Symbol};
pub use trace::TraceContext;
