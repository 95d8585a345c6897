//! Why programs cannot be loaded or used.

use std::io;

use aya::maps::MapError;

/// Programs that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The object file is none of ours.
    #[error("eBPF object: {0}")]
    Object(String),
    /// A map cannot be made or used.
    #[error("eBPF map {name}: {source}")]
    Map {
        /// The map.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// A map cannot be used.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// The kernel refuses the programs' type information.
    #[error("type information of the eBPF object: {0}")]
    Types(io::Error),
    /// The kernel refuses a program.
    #[error("eBPF program {name}: {source}\n{log}")]
    Load {
        /// The program.
        name: String,
        /// The system's error.
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The object was built from other shared types than the agent.
    #[error(
        "the eBPF object is of another build than this agent: its layout is {found}, the agent's is {expected:016x}; \
         build both from one source (`cargo xtask build`)"
    )]
    Layout {
        /// The error of reading the object.
        found: String,
        /// What the agent was built with.
        expected: u64,
    },
    /// There is no way to end without waiting.
    #[error("io_uring, without which detaching from functions would delay the agent's end: {0}")]
    DeferredClose(io::Error),
    /// The kernel refuses the hooks that `--hooks` demands.
    #[error("hooks on system calls: {0}")]
    Hooks(String),
    /// The kernel has no such hook.
    #[error("attaching {name}: {source}")]
    Attach {
        /// The tracepoint, or the system call.
        name: String,
        /// The system's error.
        source: io::Error,
    },
}
