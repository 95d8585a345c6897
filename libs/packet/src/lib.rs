//! From captured packets to the bytes of connections, and from these to exchanges.
//!
//! ```text
//! file ──► Packet ──► link ──► clock ─┐
//!                                     ├─► flows: IP, fragments joined ──► TCP in order, datagrams ──► l7 ──► exchanges
//! packets at sockets ─────────────────┘
//! ```
//!
//! - [`capture`] reads pcap and pcapng files, [`link`] takes the link layer off, [`replay`] takes both through the table.
//! - [`flows`] is the table of flows; [`ip`] joins fragments, [`tunnel`] finds packets in packets, [`network`] which flow
//!   these are of, [`tcp`] puts one direction's segments in order, [`conversation`] both directions with each other.
//!
//! Invariants: every packet is hostile; memory is bounded in all ([`flows::Limits`]); what was not captured is passed to
//! the parsers as a gap and counted, never guessed.
#![forbid(unsafe_code)]

pub mod capture;
mod clock;
pub mod conversation;
mod datagrams;
pub mod flows;
pub mod ip;
pub mod link;
pub mod network;
pub mod replay;
mod route;
mod segment;
mod successor;
pub mod tcp;
pub mod tunnel;

pub use capture::{Capture, CaptureError, Packet};
pub use flows::{Limits, Tally};
pub use link::Link;
pub use replay::{Endpoints, Replay};
