//! What a companion is started with, as its command line.

use std::{ffi::OsString, path::PathBuf};

use porthole_registry::SandboxKey;

use crate::bootstrap::BootstrapAddress;

/// The first word of a companion's command line, as `ps` shows it; the sandbox's id follows.
pub const PROCESS_NAME: &str = "porthole-companion";

/// What a companion has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Monitor a new sandbox until its end.
    Watch,
    /// Clean up after a companion that died.
    CleanUp,
}

/// One companion's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// What to do.
    pub mode: Mode,
    /// The sandbox.
    pub sandbox: SandboxKey,
    /// The sandbox container's bundle.
    pub bundle: PathBuf,
    /// File name of the delegate.
    pub runtime: String,
    /// How to reach the delegate's shim, or why it cannot be reached.
    pub address: Result<BootstrapAddress, String>,
}

impl Assignment {
    /// The command line after the program's name; the sandbox's id comes first, for `ps`.
    pub fn to_arguments(&self) -> Vec<OsString> {
        let mode = if self.mode == Mode::Watch { "watch" } else { "clean-up" };
        let (kind, address) = match &self.address {
            Ok(address) => ("address", address.to_string()),
            Err(message) => ("no-address", message.clone()),
        };
        vec![
            self.sandbox.id.as_str().into(),
            mode.into(),
            self.sandbox.namespace.as_str().into(),
            self.bundle.clone().into(),
            self.runtime.clone().into(),
            kind.into(),
            // An argument cannot hold a NUL.
            address.replace('\0', " ").into(),
        ]
    }

    /// Reads what [`Self::to_arguments`] wrote.
    pub fn from_arguments(arguments: &[OsString]) -> Option<Self> {
        let [sandbox, mode, namespace, bundle, runtime, kind, address] = arguments else { return None };
        let text = |argument: &OsString| argument.to_str().map(str::to_owned);
        Some(Self {
            mode: match mode.to_str()? {
                "watch" => Mode::Watch,
                "clean-up" => Mode::CleanUp,
                _ => return None,
            },
            sandbox: SandboxKey {
                namespace: namespace.to_str()?.parse().ok()?,
                id: sandbox.to_str()?.parse().ok()?,
            },
            bundle: bundle.into(),
            runtime: text(runtime)?,
            address: match kind.to_str()? {
                "address" => text(address)?.parse::<BootstrapAddress>().map_err(|error| error.to_string()),
                _ => Err(text(address)?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::TaskApi;

    #[test]
    fn an_assignment_survives_a_round_trip() {
        let mut assignment = Assignment {
            mode: Mode::CleanUp,
            sandbox: "acme@shop-1".parse().expect("key"),
            bundle: "/run/b".into(),
            runtime: "containerd-shim-x-v2".into(),
            address: Ok(BootstrapAddress { address: "unix:///run/s".into(), api: TaskApi::V3 }),
        };
        assert_eq!(Assignment::from_arguments(&assignment.to_arguments()), Some(assignment.clone()));
        assignment.address = Err("no such thing".into());
        assignment.mode = Mode::Watch;
        assert_eq!(Assignment::from_arguments(&assignment.to_arguments()), Some(assignment));
        assert_eq!(Assignment::from_arguments(&["x".into()]), None);
    }
}
