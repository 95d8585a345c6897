//! Reasons for which a trial may be ignored although everything that can be set up has been set up.
//!
//! `cargo xtask test` fails for every other reason: what is missing then is its own to set up.

/// Only with `--all`: large toolchains, and packages from registries.
pub const ONLY_WITH_ALL: &str = "takes long; `cargo xtask test --all` runs it";

/// The kernel has no tracepoints of its own for what sockets move.
pub const NO_SOCKET_TRACEPOINTS: &str = "sockets report what they move from Linux 6.3 on";

/// All of them.
pub const ACCEPTED: &[&str] = &[ONLY_WITH_ALL, NO_SOCKET_TRACEPOINTS];
