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
//! - [`pieces`] joins the records of one call.
//! - [`threads`] has what the programs do not know of threads that serve requests, [`processes`] of their processes.
//! - [`kernel_keys`] and [`request_names`] hold what the programs aggregate by, and its names.
//!
//! Invariants: a connection is followed by the programs or by `l7`, never by both; an exchange is counted once; what the
//! programs have to do comes out as [`crate::kernel::command::Command`]s, so nothing but [`source`] does I/O.

pub mod connections;
mod fallback;
pub mod kernel_keys;
mod numbered;
pub mod offers;
mod pieces;
mod processes;
pub mod record_order;
pub mod request_names;
mod request_numbers;
pub mod source;
mod threads;
pub mod tracker;
