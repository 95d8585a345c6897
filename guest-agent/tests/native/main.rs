//! The agent with its real probes on this machine's kernel.
//!
//! Needs root and the eBPF object, named by `PORTHOLE_BPF_OBJECT` or at `target/dist/bpf/porthole.bpf.o`:
//! `cargo xtask test` sets both up. Without them every test here is ignored, as is one whose server or client is not
//! installed.

mod brokers;
mod built_in;
mod calls;
mod clients;
mod coverage;
mod databases;
mod drivers;
mod harness;
mod http;
mod identity;
mod languages;
mod latency;
mod lengths;
mod lifecycle;
mod live;
mod long_calls;
mod lookups;
mod loss;
mod offers;
mod offload;
mod packets;
mod parents;
mod peers;
mod pipelines;
mod programs;
mod running;
mod sequence;
mod servers;
mod spans;
mod statements;
mod unread;
mod uring;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = [
        brokers::tests(),
        built_in::tests(),
        calls::tests(),
        clients::tests(),
        coverage::tests(),
        databases::tests(),
        drivers::tests(),
        identity::tests(),
        languages::tests(),
        latency::tests(),
        lengths::tests(),
        lifecycle::tests(),
        live::tests(),
        long_calls::tests(),
        lookups::tests(),
        loss::tests(),
        offers::tests(),
        offload::tests(),
        packets::tests(),
        parents::tests(),
        peers::tests(),
        pipelines::tests(),
        programs::tests(),
        sequence::tests(),
        servers::tests(),
        spans::tests(),
        statements::tests(),
        unread::tests(),
        uring::tests(),
    ];
    porthole_trials::run(tests.into_iter().flatten())
}
