//! The eBPF programs in the kernel: loading, attaching, commands to them, and reading what they aggregate.
//!
//! ```text
//! object file ──► object: layout, globals, maps ──► hooks: programs loaded and attached ──► Probes, or PacketProbes
//!                  btf: where the kernel's structs have their members ─┘
//! Command ──► Probes ──► maps          maps ──► slots, counters ──► the agent
//! ```
//!
//! - [`probes`] has the programs on system calls, [`packet_probes`] those on packets.
//! - [`command`] has the agent's commands to the programs; [`slots`] is what they aggregate, [`places`] what
//!   they know of processes.
//! - [`hooks`] decides on what they are attached, [`preemption`] whether function exits are safe.
//! - [`deferred_close`] keeps the end of the agent from waiting for slow detachments.
//!
//! Invariants: nothing here reads what the workload sent; the error of a refusal by the kernel names
//! the program or map, which distinguishes it from a fault of ours.

mod bpf;
pub mod btf;
pub mod command;
mod deferred_close;
mod error;
mod hooks;
mod object;
pub mod packet_probes;
pub mod places;
mod preemption;
pub mod probes;
pub mod slots;

pub use self::{
    error::ProbeError,
    hooks::{HookChoice, Hooks},
    object::{ProbeLimits, Records},
};
