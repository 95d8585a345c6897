//! The agent with its real probes on this machine's kernel.
//!
//! Needs root and the eBPF object, named by `PORTHOLE_BPF_OBJECT` or at `target/dist/bpf/porthole.bpf.o`:
//! `cargo xtask test` sets both up. Otherwise every test here says that it did not run.

mod calls;
mod counted;
mod databases;
mod drivers;
mod harness;
mod http;
mod identity;
mod languages;
mod latency;
mod lengths;
mod lifecycle;
mod lookups;
mod loss;
mod offers;
mod packets;
mod programs;
mod running;
mod sequence;
mod servers;
mod spans;
mod statements;
mod uring;
