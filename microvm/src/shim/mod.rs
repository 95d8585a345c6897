//! The shim: Task v2 towards containerd, one process for each sandbox.
//!
//! [`service`] is the edge: each call of the ttrpc service is one call of [`sandbox::Sandbox`], which knows nothing of
//! ttrpc. The verbs are in [`create`], [`start`], [`delete`] and [`control`]; [`ending`] takes the sandbox down when its
//! container has ended. [`launch`] is what containerd executes: `start`, `delete`, `-info`.
//!
//! Invariants: a container's end is reported before anything else happens because of it; the machine does not outlive
//! the sandbox's own container; a call to the guest has a deadline, since the guest may not answer.

use std::path::{Path, PathBuf};

use crate::{text::printable, vm::VmError};

pub mod container;
pub mod control;
pub mod create;
pub mod delete;
pub mod ending;
pub mod events;
#[cfg(test)]
mod hostile_init;
pub mod launch;
pub mod logs;
pub mod monitor;
pub mod sandbox;
pub mod service;
pub mod spec;
pub mod start;
pub mod stats;
pub mod stdio;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// No such container or process.
    #[error("{0}: not found")]
    NotFound(String),
    /// The id is taken.
    #[error("{0}: already exists")]
    Exists(String),
    /// Not in this state.
    #[error("{0}")]
    State(String),
    /// This runtime does not do that.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A file or directory of the host.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The specification.
    #[error("specification: {0}")]
    Spec(#[from] spec::SpecError),
    /// What containerd sent cannot be read.
    #[error("{what}: {source}")]
    Json {
        /// What it was.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// The machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The guest refused; the text is the guest's.
    #[error("{0}")]
    Guest(String),
    /// containerd's library.
    #[error("{0}")]
    Shim(containerd_shim::Error),
    /// Something that cannot be.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl ShimError {
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The guest's text without ttrpc's wrapping, cut and escaped.
impl From<ttrpc::Error> for ShimError {
    fn from(error: ttrpc::Error) -> Self {
        match error {
            ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND => {
                Self::NotFound(printable(status.message().trim_end_matches(" not found")))
            }
            ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::FAILED_PRECONDITION => {
                Self::State(printable(status.message()))
            }
            ttrpc::Error::RpcStatus(status) => Self::Guest(printable(status.message())),
            other => Self::Guest(format!("the guest does not answer: {}", printable(&other.to_string()))),
        }
    }
}
