//! The guest agent.
//!
//! ```text
//! probes ─records→ tracker: order, l7 ─exchanges→ series ─batches→ service (ttrpc) ─→ host
//! ```
//!
//! - [`btf`], [`probes`]: the programs in the kernel.
//! - [`tracker`] with [`order`], [`peer`], [`containers`]: from records to exchanges.
//! - [`learned`]: keys that the kernel side counts by itself, and the names behind its hashes.
//! - [`series`]: sums, by small integer keys.
//! - [`state`]: what the capture loop and the service share.
//! - [`capture`]: which programs run, and the loop that reads their records.
//! - [`syscalls`], [`packets`]: what becomes of the records, of system calls and of packets.
//! - [`service`], [`listen`]: what the host sees.
//! - [`privileges`], [`usage`]: capabilities, and what the agent itself takes.
//!
//! Invariants: memory is bounded everywhere; what is dropped is counted; nothing here can hold up the workload; the
//! kernel's records are read as if they came from an adversary, since the bytes in them do.

pub mod btf;
pub mod capture;
pub mod containers;
mod handover;
pub mod learned;
pub mod listen;
pub mod offers;
pub mod order;
pub mod packets;
pub mod peer;
pub mod privileges;
pub mod probes;
pub mod series;
pub mod service;
pub mod spans;
pub mod state;
pub mod syscalls;
pub mod tracker;
pub mod usage;
