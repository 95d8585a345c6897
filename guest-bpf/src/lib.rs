//! Types and arithmetic that the eBPF programs in the guest's kernel share with the agent.
//!
//! - [`record`]: what goes through the ring buffer, and how the agent reads it; [`packet`]: the same in packet mode.
//! - [`connection`]: the kernel's table of connections.
//! - [`syscall`]: which system calls move bytes on sockets, and in which of their arguments.
//! - [`offload`]: connections whose exchanges the programs pair themselves; [`kernel_key`]: the keys and slots into which
//!   they aggregate them.
//! - [`path`], [`redis`], [`sql`]: the hashes by which a route, a command and a statement are known in the kernel.
//! - [`thread`]: what is known of threads that serve requests, [`process`] of their processes.
//! - [`offset`]: the kernel's struct offsets that the agent resolves from BTF before loading.
//! - [`layout`]: of which build both are.
//!
//! Invariants: `no_std`, no allocation, nothing that the eBPF verifier would refuse (no 128-bit arithmetic,
//! no floating point in what the programs call); every shared type is `repr(C)` without padding.
#![cfg_attr(not(test), no_std)]
// What the programs call must become part of them: a call costs, and the verifier forgets across one.
#![allow(clippy::inline_always)]

pub mod connection;
pub mod kernel_key;
pub mod layout;
pub mod offload;
pub mod offset;
pub mod packet;
pub mod path;
pub mod process;
pub mod record;
pub mod redis;
pub mod sql;
pub mod syscall;
pub mod thread;

#[cfg(feature = "user")]
mod user;
