//! The registry of sandboxes: one JSON file per sandbox in a directory on the host.
//!
//! The companion of a sandbox writes `<namespace>@<sandbox id>.json` by rename, holds an exclusive `flock` on
//! `<namespace>@<sandbox id>.lock` while it lives, and removes both at the end. The exporter watches the directory. A
//! file whose lock can be taken belongs to a companion that died: any reader may remove both. Files and directory
//! are readable by root only. When a sandbox ends, the companion leaves its agent's last state beside them ([`last_state`]).
//!
//! Everything in a record comes from the host (containerd, the configuration), never from the guest.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use porthole_config::Section;

pub use crate::key::{ContainerId, ID_BYTES_MAX, InvalidId, Namespace, SandboxId, SandboxKey};

pub use crate::secret::{AgentSecret, InvalidSecret, SECRET_BYTES};

use crate::channel::Channel;

pub mod channel;
#[cfg(feature = "dial")]
pub mod dial;
mod key;
pub mod last_state;
mod secret;

/// Where the registry is unless configured otherwise.
pub const DEFAULT_DIRECTORY: &str = "/run/porthole/sandboxes";

/// Version of the record's form.
pub const RECORD_VERSION: u32 = 2;

/// Largest record that is read, in bytes.
pub const RECORD_BYTES_MAX: u64 = 256 * 1024;

/// `[registry]`: shared by the shim, which writes, and the exporter, which reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// Directory of the sandboxes' records.
    pub directory: PathBuf,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self { directory: DEFAULT_DIRECTORY.into() }
    }
}

impl Section for RegistrySettings {
    const NAME: &'static str = "registry";
}

/// How far the monitoring of a sandbox has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// The companion waits for the sandbox or puts the agent into it.
    Injecting,
    /// The agent was started; the exporter can dial it.
    Watching,
    /// The workload runs without an agent; with the reason.
    Unmonitored,
    /// The workload has ended; the companion is cleaning up.
    Ended,
}

impl SandboxState {
    /// The state's name in records, metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injecting => "injecting",
            Self::Watching => "watching",
            Self::Unmonitored => "unmonitored",
            Self::Ended => "ended",
        }
    }
}

/// Why a sandbox has no agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One of a small fixed set of words, fit for a metric's label: `sidecar_missing`, `create_refused`, …
    pub code: String,
    /// The whole story, one line.
    pub message: String,
}

/// Code of the reason that the exporter gives when another process than the agent listens in a sandbox.
pub const AGENT_IMPOSTOR: &str = "agent_impostor";

/// A container of the sandbox that belongs to the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// `k8s_container_name`; for plain containerd the container's id.
    pub name: String,
}

/// One sandbox, by what the host has about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// containerd's id of the sandbox container.
    pub sandbox_id: SandboxId,
    /// containerd's namespace.
    pub containerd_namespace: Namespace,
    /// Whom the numbers belong to.
    pub tenant: String,
    /// The application (OpenTelemetry's `service.name`).
    pub service_name: String,
    /// Kubernetes namespace of a CRI pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_namespace_name: Option<String>,
    /// Kubernetes name of a CRI pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_pod_name: Option<String>,
    /// The workload's containers; the agent's own is not among them.
    pub containers: BTreeMap<ContainerId, ContainerRecord>,
    /// The sandbox's own addresses, as its network namespace had them before the workload started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The delegate's binary name.
    pub runtime: String,
    /// Where the agent listens, once it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// What the agent must prove that it holds; without one, every listener is accepted as the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<AgentSecret>,
    /// How far the monitoring has come.
    pub state: SandboxState,
    /// Set when the state is [`SandboxState::Unmonitored`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The sandbox ended without its agent's last state: what happened since the agent's last batch is not counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abrupt_end: bool,
    /// When the companion began, milliseconds since 1970-01-01T00:00:00Z.
    pub created_unix_ms: u64,
    /// When it had reached the agent for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watching_unix_ms: Option<u64>,
}

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file holds something else than a record.
    #[error("{path}: not a sandbox record: {source}")]
    Malformed {
        /// The file concerned.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The file is larger than a record may be.
    #[error("{path}: larger than {RECORD_BYTES_MAX} bytes")]
    TooLarge {
        /// The file concerned.
        path: PathBuf,
    },
    /// The record is of another form.
    #[error("{path}: record version {found}, this build reads {RECORD_VERSION}")]
    Version {
        /// The file concerned.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
}

/// Makes the registry's directory, or that of companions, if it is not there, for root only: who can open a lock file can hold
/// its lock.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    /// The embedded runtime's last sandbox may remove the directory above at the same time.
    const ATTEMPTS: u32 = 10;
    let create = || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let lost =
        |result: &io::Result<()>| result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let mut attempts = (1..ATTEMPTS).map(|_| create());
    attempts.find(|result| !lost(result)).unwrap_or_else(create)
}

/// The record file of a sandbox.
pub fn record_path(directory: &Path, sandbox: &SandboxKey) -> PathBuf {
    directory.join(format!("{sandbox}.json"))
}

/// The lock file of a sandbox's companion.
pub fn lock_path(directory: &Path, sandbox: &SandboxKey) -> PathBuf {
    directory.join(format!("{sandbox}.lock"))
}

impl SandboxRecord {
    /// The record of a sandbox whose monitoring has not begun, and of which nothing else is known yet.
    pub fn new(
        sandbox: SandboxKey,
        tenant: impl Into<String>,
        service_name: impl Into<String>,
        runtime: impl Into<String>,
        created_unix_ms: u64,
    ) -> Self {
        Self {
            version: RECORD_VERSION,
            sandbox_id: sandbox.id,
            containerd_namespace: sandbox.namespace,
            tenant: tenant.into(),
            service_name: service_name.into(),
            k8s_namespace_name: None,
            k8s_pod_name: None,
            containers: BTreeMap::new(),
            addresses: Vec::new(),
            runtime: runtime.into(),
            channel: None,
            secret: None,
            state: SandboxState::Injecting,
            reason: None,
            abrupt_end: false,
            created_unix_ms,
            watching_unix_ms: None,
        }
    }

    /// The sandbox that the record is about.
    pub fn key(&self) -> SandboxKey {
        SandboxKey { namespace: self.containerd_namespace.clone(), id: self.sandbox_id.clone() }
    }

    /// Writes the record so that a reader sees the old or the new one, never half of one.
    pub fn write(&self, directory: &Path) -> Result<(), RecordError> {
        let path = record_path(directory, &self.key());
        let io = |source| RecordError::Io { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| RecordError::Malformed { path: path.clone(), source })?;
        let staged = directory.join(format!(".{}.json.new", self.key()));
        // A staging file that an earlier companion left may have other rights: the mode counts for new files only.
        match std::fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create_new(true).write(true).mode(0o600).open(&staged).map_err(io)?;
        io::Write::write_all(&mut file, &text).map_err(io)?;
        std::fs::rename(&staged, &path).map_err(io)
    }

    /// Reads one record.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let io = |source| RecordError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, RECORD_BYTES_MAX + 1), &mut text).map_err(io)?;
        if text.len() as u64 > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge { path: path.to_owned() });
        }
        let record: Self = serde_json::from_slice(&text)
            .map_err(|source| RecordError::Malformed { path: path.to_owned(), source })?;
        if record.version != RECORD_VERSION {
            return Err(RecordError::Version { path: path.to_owned(), found: record.version });
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn record() -> SandboxRecord {
        SandboxRecord {
            containers: BTreeMap::from([(
                "shop-1".parse().expect("id"),
                ContainerRecord { name: "shop".into() },
            )]),
            channel: Some("hvsock:///run/x.sock:10260".parse().expect("channel")),
            secret: Some("5a".repeat(32).parse().expect("secret")),
            state: SandboxState::Watching,
            ..SandboxRecord::new(
                "acme@shop-1".parse().expect("key"),
                "acme \"quoted\"\nünïcode",
                "shop",
                "containerd-shim-porthole-microvm-v2",
                1,
            )
        }
    }

    #[test]
    fn a_record_survives_a_round_trip() {
        let dir = tempfile::tempdir().expect("directory");
        record().write(dir.path()).expect("written");
        let path = record_path(dir.path(), &record().key());
        assert_eq!(SandboxRecord::read(&path).expect("read"), record());
        assert_eq!(std::fs::read_dir(dir.path()).expect("listing").count(), 1, "no staging file remains");
    }

    #[test]
    fn other_versions_garbage_and_giants_are_refused_with_the_file_named() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("x.json");
        let future = serde_json::to_string(&SandboxRecord { version: 9, ..record() }).expect("json");
        for text in [future.as_bytes(), b"{", &vec![b' '; 300_000]] {
            std::fs::write(&path, text).expect("written");
            let error = SandboxRecord::read(&path).expect_err("refused").to_string();
            assert!(error.contains("x.json"), "{error}");
        }
    }

    #[test]
    fn a_record_can_be_read_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("directory");
        let path = record_path(dir.path(), &record().key());
        // What an earlier version left under either name does not lend its rights.
        for left in [path.clone(), dir.path().join(".acme@shop-1.json.new")] {
            std::fs::write(&left, "{}").expect("written");
            std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o644)).expect("mode");
        }
        record().write(dir.path()).expect("written");
        assert_eq!(std::fs::metadata(&path).expect("record").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_id_in_two_namespaces_has_two_records() {
        let dir = tempfile::tempdir().expect("directory");
        let other = SandboxRecord { containerd_namespace: "globex".parse().expect("namespace"), ..record() };
        record().write(dir.path()).expect("written");
        other.write(dir.path()).expect("written");
        for one in [record(), other] {
            assert_eq!(SandboxRecord::read(&record_path(dir.path(), &one.key())).expect("read"), one);
        }
    }
}
