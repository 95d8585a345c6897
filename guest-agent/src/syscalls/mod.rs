//! Capture of system calls on sockets: from the programs' records to exchanges.
//!
//! ```text
//! record ──► Tracker ──► record_order ──► l7's connection ──► exchange ──► recorder
//!               │                              ▲
//!               ├──► fallback: a connection that the programs followed ┘
//!               ├──► offers: connections that the programs can follow
//!               └──► kernel_keys: keys whose exchanges the programs aggregate, and their slots ──► recorder
//! ```
//!
//! - [`source`] joins the programs and the tracker for the capture loop.
//! - [`tracker`] takes each record to where it belongs; [`connections`] is its table.
//! - [`record_order`] puts a connection's records in order; [`numbered`] is what can be one of them.
//! - [`kernel_keys`] and [`request_names`] say what the programs aggregate by, and what the agent calls it.
//!
//! Invariants: a connection is followed by the programs or by `l7`, never by both; an exchange is counted once; what the
//! programs are to be told comes out as [`crate::kernel::command::Command`]s, so nothing but [`source`] does I/O.

mod connections;
mod fallback;
pub mod kernel_keys;
mod numbered;
pub mod offers;
pub mod record_order;
pub mod request_names;
pub mod source;
pub mod tracker;
