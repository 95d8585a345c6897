//! The sandbox's secret, as the companion hands it to the sidecar: in its environment.
//!
//! The environment a process was started with can be read in its `/proc/PID/environ` by who may trace it. So it is
//! overwritten there as soon as it was read, and the process is made untraceable for what runs as the same user.

use std::{env, ffi::CString};

use anyhow::{Context, Result};
use nix::sys::prctl::set_dumpable;
use porthole_agent_api::proof::SECRET_ENV;
use porthole_registry::AgentSecret;

/// Takes the secret out of the environment; none outside a sandbox.
///
/// To be called while the process has one thread: it changes the environment's memory.
pub fn take() -> Result<Option<AgentSecret>> {
    let Some(text) = env::var_os(SECRET_ENV) else { return Ok(None) };
    erase()?;
    let secret = text.to_str().and_then(|text| text.parse().ok());
    secret.map(Some).with_context(|| format!("{SECRET_ENV} is no secret of 64 hexadecimal digits"))
}

fn erase() -> Result<()> {
    let name = CString::new(SECRET_ENV).context("a name without NUL")?;
    // By libc, because only it gives the place of a value in the environment.
    // SAFETY: the name is a C string; the result is the value's C string in the environment, or null. Nothing changes the
    // environment meanwhile, as the process has one thread.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        if !value.is_null() {
            // What is overwritten is the value itself, up to its own end.
            libc::memset(value.cast(), i32::from(b'x'), libc::strlen(value));
        }
    }
    // /proc/PID is root's from now on: not even a process of the same user may trace this one.
    set_dumpable(false).context("make the process untraceable")
}
