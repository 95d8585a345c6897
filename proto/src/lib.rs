//! What the parts of Porthole say to each other.
//!
//! - [`agent`] and [`agent_ttrpc`]: the service that the agent in the guest offers to the host,
//!   generated from `proto/agent.proto`.
//! - [`registry`]: the directory on the host in which the companion tells the exporter about sandboxes.
//! - [`channel`]: how the host reaches an agent.
//! - [`config`]: the host's configuration file.
//! - [`histogram`]: the one latency histogram, from the kernel to the exposition.
//!
//! Invariant: nothing that a guest sends names a tenant. Identity is in the registry, written by the host.

#[allow(missing_docs, clippy::all, clippy::pedantic, unsafe_op_in_unsafe_fn)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub mod channel;
pub mod config;
pub mod histogram;
pub mod limits;
pub mod registry;

pub use generated::{agent, agent_ttrpc};
