//! What a process on the host may do: its [`capabilities`], its [`system_calls`], its resource limits.
//!
//! A process gives up what it no longer needs as soon as it does not. What is given up stays so for the process and for
//! all that it starts.

pub mod capabilities;
pub mod system_calls;

use nix::sys::resource::{Resource, setrlimit};

/// Something could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// A set of capabilities.
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// `no_new_privs` (prctl(2)).
    #[error("no_new_privs: {0}")]
    NewPrivileges(nix::errno::Errno),
    /// The filter cannot be compiled.
    #[error("seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The filter cannot be applied.
    #[error("seccomp filter: {0}")]
    Apply(#[from] seccompiler::Error),
    /// A limit.
    #[error("limit {0:?}: {1}")]
    Limit(Resource, nix::errno::Errno),
}

/// Lowers limits for good, setrlimit(2).
pub fn limit_resources(limits: &[(Resource, u64)]) -> Result<(), ConfinementError> {
    for (resource, limit) in limits {
        setrlimit(*resource, *limit, *limit).map_err(|errno| ConfinementError::Limit(*resource, errno))?;
    }
    Ok(())
}
