//! From captured packets to the bytes of connections, and from these to exchanges.
//!
//! ```text
//! file → Packet → link → Datagram (IP, reassembled) → flows: TCP in order, UDP → Chunk → l7 → Exchange
//! ```
//!
//! [`capture`] reads pcap and pcapng files, [`link`] takes the link layer off, [`ip`] joins fragments, [`tcp`] puts one
//! direction's segments in order, [`conversation`] both directions with each other, [`flows`] keeps the connections. Only [`capture`] knows of files: the rest takes
//! packets from anywhere.
//!
//! Invariants: every packet is hostile; memory is bounded in all ([`flows::Limits`]); what was not captured is told to
//! the engine as a gap and counted, never guessed.
#![forbid(unsafe_code)]

pub mod capture;
pub mod conversation;
pub mod flows;
pub mod ip;
pub mod link;
pub mod tcp;

pub use capture::{Capture, CaptureError, Packet};
pub use flows::{Endpoints, Flows, Limits, Tally};
pub use link::Link;
