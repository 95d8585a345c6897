//! What a fresh Debian-like machine with Rust lacks.

mod collector;
mod kafka;
mod packages;
mod tools;

use anyhow::Result;

pub use collector::programs as collector;
pub use kafka::jars as kafka_jars;
pub use packages::Need;
pub use tools::{cargo_deny, cargo_llvm_cov};

use crate::workspace::Workspace;

/// Installs the distribution packages that are missing, without starting their services.
pub fn packages(needs: &[Need]) -> Result<()> {
    packages::install(needs)
}

/// Gets the build tools that no distribution package has.
pub fn build_tools(workspace: &Workspace) -> Result<()> {
    tools::rust_source(workspace)?;
    tools::bpf_linker(workspace)?;
    tools::vhost_device_vsock(workspace)
}
