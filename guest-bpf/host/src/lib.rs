//! The eBPF programs' parsing of calls, compiled for the host: what the kernel does with the bytes of a connection can be
//! tested without one.
//!
//! ```text
//! calls ──► the programs' own files (transfer, offload, window, capture, …) ──records──► the agent's own files ──► l7
//! ```
//!
//! The modules of `guest-bpf/programs` are included by their paths and compile against
//! `porthole-bpf-stand-in` instead of `aya-ebpf`. Only what reads the kernel's memory or consists of instructions of the
//! target has a stand-in here: [`kernel`], [`registers`], [`connections`], [`datagrams`], [`process`], [`verifier`].
//!
//! [`agent`] joins them with the agent's way from records to exchanges; [`differential`] compares that with `l7` alone, [`generated`] makes
//! conversations for it.

mod connections;
mod datagrams;
mod kernel;
mod process;
#[cfg(test)]
mod processes;
mod registers;
#[cfg(test)]
mod threads;
mod verifier;

pub mod agent;
pub mod differential;
pub mod generated;

// Casts and names are as the target needs them; what no test calls stays as it is in the programs.
macro_rules! programs {
    ($($name:ident = $path:literal;)*) => {$(
        #[allow(dead_code, missing_docs, unused_imports, unused_macros, clippy::all, clippy::pedantic)]
        #[path = $path]
        mod $name;
    )*};
}

programs! {
    capture = "../../programs/src/capture.rs";
    maps = "../../programs/src/maps.rs";
    offload = "../../programs/src/offload/mod.rs";
    ring = "../../programs/src/ring.rs";
    transfer = "../../programs/src/transfer.rs";
    user_memory = "../../programs/src/user_memory.rs";
    window = "../../programs/src/window.rs";
}
