//! `containerd-shim-porthole-v2`: what containerd starts for the runtime class `porthole`.
//!
//! ```text
//! containerd ──start──► wrapper ──argv, environment, stdin──► delegate
//!            ◄──stdout, exit code, byte for byte────────────────┘
//!                          └─(new sandbox)─► companion ──ttrpc──► delegate's shim: Create, Start (sidecar)
//!                                                └─► record in the registry, read by the exporter
//! ```
//!
//! - The **wrapper** ([`wrapper`]) lives as long as containerd's call. It passes the call to the delegate unchanged.
//! - The **companion** ([`companion`]) lives as long as the sandbox, detached from containerd and from the wrapper.
//!
//! Invariants: nothing of ours reaches stdout or stderr (containerd reads both); whatever fails on our side leaves
//! the delegate's call and the workload as they would be without us, with the reason in the log and the record.

pub mod bootstrap;
pub mod bundle;
pub mod companion;
pub mod delegate;
pub mod deployment;
pub mod identity;
pub mod invocation;
pub mod label;
pub mod log;
pub mod message;
pub mod names;
pub mod settings;
pub mod state;
pub mod wrapper;
