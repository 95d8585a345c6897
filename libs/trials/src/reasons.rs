//! Reasons for which a trial may be ignored although everything that can be set up has been set up.
//!
//! `cargo xtask test` fails for every other reason: what is missing then is its own to set up.

/// Only with `--all`: large toolchains, and packages from registries.
pub const ONLY_WITH_ALL: &str = "takes long; `cargo xtask test --all` runs it";

/// The kernel has no tracepoints of its own for what sockets move.
pub const NO_SOCKET_TRACEPOINTS: &str = "sockets report what they move from Linux 6.3 on";

/// `cargo xtask test` builds the Collector, with Go 1.21 or later, which older distributions lack, and with modules of a registry.
pub const NO_COLLECTOR: &str = "a Collector and Jaeger are needed: `cargo xtask test` builds them where Go is 1.21 or \
                                later and its modules are in reach";

/// `cargo xtask test --all` builds them, with Go 1.21 or later and modules of a registry.
pub const NO_OIDC: &str = "oauth2-proxy and a mock of a provider are needed: `cargo xtask test --all` builds them where Go is \
                           1.21 or later and its modules are in reach";

/// A package of Debian up to 12, which later releases have under another name or not at all.
pub const NO_VICTORIA_METRICS: &str = "victoria-metrics is not installed: `cargo xtask test` installs it where the \
                                       distribution has it";

/// All of them.
pub const ACCEPTED: &[&str] =
    &[ONLY_WITH_ALL, NO_SOCKET_TRACEPOINTS, NO_COLLECTOR, NO_OIDC, NO_VICTORIA_METRICS];
