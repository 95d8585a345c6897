//! What a fresh Debian-like machine with Rust lacks.

mod go;
mod kafka;
mod packages;
mod tools;

use anyhow::Result;

pub use go::{COLLECTOR, OIDC, programs as go_programs};
pub use kafka::{jars as kafka_jars, newest_jars as newest_kafka_jars};
pub use packages::Need;
pub use tools::{cargo_deny, cargo_llvm_cov};

use crate::workspace::Workspace;

/// Installs the distribution packages that are missing, without starting their services.
pub fn packages(needs: &[Need]) -> Result<()> {
    packages::install(needs)
}

/// The same of those that the distribution has.
pub fn available_packages(needs: &[Need]) -> Result<()> {
    packages::install_available(needs)
}

/// Gets the build tools that no distribution package has.
pub fn build_tools(workspace: &Workspace) -> Result<()> {
    tools::rust_source(workspace)?;
    tools::bpf_linker(workspace)?;
    tools::vhost_device_vsock(workspace)
}
