//! The guest agent.
//!
//! ```text
//! kernel: programs ──records──► capture ──► syscalls, or packets ──exchanges──► recorder ──batches──► report ──► host
//! ```
//!
//! - [`kernel`]: the eBPF programs, and the agent's commands to them.
//! - [`sources`]: which programs run: on system calls, or on packets.
//! - [`capture`]: the loop that reads their records.
//! - [`syscalls`], [`packets`]: from records to exchanges.
//! - [`recorder`]: from exchanges to series and spans.
//! - [`cgroups`]: the guest's tree of control groups.
//! - [`resources`]: what containers and the guest take.
//! - [`report`]: what the host gets.
//! - [`supervisor`]: keeps the agent running where the guest's image carries it; [`enrolment`]: its secret there;
//!   [`notice`]: how far it is.
//! - [`privileges`], [`usage`]: capabilities, and what the agent itself takes; [`unattached`]: for how long it saw nothing;
//!   [`milestones`]: what the containers have reached.
//!
//! Each of these uses only those of them that it needs, and none in a circle: `sources` ─► `syscalls`, `packets` ─►
//! `capture`, `kernel` ─► `report` ─► `recorder`; `capture` ─► `resources` ─► `cgroups`.
//!
//! Invariants: memory is bounded everywhere; what is dropped is counted; nothing here can hold up the workload; the
//! kernel's records are read as if they came from an adversary, since the bytes in them do.

#[cfg(test)]
mod bounds;
pub mod capture;
pub mod cgroups;
pub mod enrolment;
pub mod kernel;
pub mod milestones;
pub mod notice;
pub mod packets;
pub mod privileges;
pub mod recorder;
pub mod report;
pub mod resources;
pub mod secret;
pub mod sources;
pub mod supervisor;
pub mod syscalls;
pub mod unattached;
pub mod usage;
