//! From bytes on a connection to exchanges: protocol identification, parsing, request/response pairing.
//!
//! ```text
//! Chunk → Connection: identify → parse → pair → Exchange
//! ```
//!
//! Invariants: no I/O, no async, no `unsafe`; every input is hostile, cut at any byte and may have gaps; memory is
//! bounded per connection and in all; nothing is counted that was not a request.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used)]

mod chunk;
mod connection;
mod engine;
mod exchange;
pub mod sql;

pub use chunk::{Chunk, Direction, Timestamp};
pub use connection::{Connection, Verdict};
pub use engine::{Engine, Limits, ScopeId, Symbol, Tally};
pub use exchange::{ErrorClass, Exchange, Protocol, Side, Status};
