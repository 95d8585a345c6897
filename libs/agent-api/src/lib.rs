//! The contract between the agent in a guest and the host.
//!
//! - [`agent`] and [`agent_ttrpc`]: the service that the agent offers to the host, generated from `proto/agent.proto`.
//! - [`limits`]: bounds that both sides keep and the host enforces.
//!
//! Invariant: nothing that a guest sends names a tenant. Identity is in the registry, written by the host.

#[allow(missing_docs, clippy::all, clippy::pedantic, unsafe_op_in_unsafe_fn)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

mod histogram;
pub mod limits;

pub use generated::{agent, agent_ttrpc};
