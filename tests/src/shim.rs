//! Calls a sandbox's shim as the companion does, for what containerd does not list: the sidecar.

use std::fs;

use anyhow::{Context, Result};
use containerd_shim_protos::{api::KillRequest, shim::shim_ttrpc::TaskClient};

use porthole_registry::SandboxKey;

use crate::{environment::Environment, wait};

/// Id of a sandbox's sidecar container: its bundle is the only directory in the companion's own.
pub fn sidecar(environment: &Environment, sandbox: &SandboxKey) -> Result<String> {
    let directory = environment.companions().join(sandbox.to_string());
    let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let found = entries.flatten().find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let found = found.with_context(|| format!("no sidecar in {}", directory.display()))?;
    found.file_name().into_string().ok().context("a sidecar's id")
}

/// Sends a signal to a container of the sandbox.
pub fn kill(socket: &str, container: &str, signal: u32) -> Result<()> {
    let client = ttrpc::Client::connect(&format!("unix://{socket}")).context("connect to the shim")?;
    let request = KillRequest { id: container.to_owned(), signal, all: true, ..Default::default() };
    let deadline = wait::SOON;
    let context = ttrpc::context::with_timeout(deadline.as_nanos().try_into().unwrap_or(i64::MAX));
    TaskClient::new(client).kill(context, &request).with_context(|| format!("kill {container}"))?;
    Ok(())
}
