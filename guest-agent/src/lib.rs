//! The guest agent.
//!
//! ```text
//! kernel: programs ──records──► capture ──► syscalls, or packets ──exchanges──► recorder ──batches──► report ──► host
//! ```
//!
//! - [`kernel`]: the eBPF programs, and what the agent tells them.
//! - [`sources`]: which programs run: on system calls, or on packets.
//! - [`capture`]: the loop that reads their records.
//! - [`syscalls`], [`packets`]: from records to exchanges.
//! - [`recorder`]: from exchanges to series and spans.
//! - [`report`]: what the host gets.
//! - [`privileges`], [`usage`]: capabilities, and what the agent itself takes.
//!
//! Each of these uses only those of them that it needs, and none in a circle: `sources` ─► `syscalls`, `packets` ─►
//! `capture`, `kernel` ─► `report` ─► `recorder`.
//!
//! Invariants: memory is bounded everywhere; what is dropped is counted; nothing here can hold up the workload; the
//! kernel's records are read as if they came from an adversary, since the bytes in them do.

pub mod capture;
pub mod kernel;
pub mod packets;
pub mod privileges;
pub mod recorder;
pub mod report;
pub mod secret;
pub mod sources;
pub mod syscalls;
pub mod usage;
