//! The end-to-end harness: everything real, nothing of the machine's own.
//!
//! An [`environment::Environment`] is a directory, a containerd with its own root, state and socket, network
//! namespaces, an exporter and a Prometheus; [`scenario`] and [`starts`] are what the demo, the tests and a benchmark run in it. The order in
//! which things are made is the order in which they can depend on each other; they go in reverse.
//!
//! Invariants:
//! - Nothing here touches the machine's containerd, Prometheus, interfaces or address space: all sockets are in the
//!   environment's directory or on loopback, all interfaces in namespaces that carry the environment's name.
//! - Whatever happens (panic, Ctrl-C, a failed start), dropping the environment ends what it began; what a killed
//!   run left behind is swept by the next one ([`sweep`]).
//! - Waiting is always for a condition, with a deadline ([`wait`]).

pub mod command;
pub mod container;
pub mod containerd;
pub mod daemon;
pub mod dist;
pub mod environment;
pub mod exporter;
pub mod exposition;
pub mod footprint;
pub mod http;
pub mod image;
pub mod interrupt;
pub mod network;
pub mod prometheus;
pub mod scenario;
pub mod shim;
pub mod starts;
pub mod sweep;
pub mod wait;
