//! Connections that the programs parse without user space.
//!
//! ```text
//! call ─► steps of the protocol (http, redis, mysql, postgres) over windows of the bytes ─► messages
//!      ─► requests are pending, responses complete them: exchange ─► its slot, or a record
//! ```
//!
//! A call is parsed as a whole or not at all: the steps write to this CPU's [`crate::maps::WORK`] only, and when one of
//! them meets what it cannot parse, the connection falls back to user space as it was before the call.
//!
//! [`threads`] keeps which threads serve one request after the other, [`goroutines`] which goroutine runs, [`processes`] which processes serve
//! one request.
//!
//! [`begin`] and [`offer`] are the two ways for a connection to be offloaded, [`fallback`] ends it; all three and
//! [`crate::transfer`] hand calls to [`mod@call`].

mod begin;
mod call;
mod exchange;
mod fallback;
mod goroutines;
mod http;
mod lock;
mod message;
mod mysql;
mod offer;
mod pending;
mod postgres;
mod processes;
mod redis;
mod slots;
mod sql;
mod steps;
mod threads;

pub use begin::{begins, may_begin};
pub use call::{FALL_BACK, call};
pub use fallback::{closed, fall_back};
pub use goroutines::process_ended;
pub use offer::{accepts_offer, withdraw};
pub use threads::{call_serving, moving_goroutine};
