//! A sandbox as the exporter finds it: a registry record, a lock that is held, a socket, a secret.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use porthole_agent_api::{agent, proof};
use porthole_registry::{
    AgentSecret, ContainerRecord, SandboxId, SandboxKey, SandboxRecord, SandboxState, channel::Channel,
    lock_path, record_path,
};
use tokio::net::UnixListener;

/// Prefix of the honest tenants' names, and of what is theirs.
pub const HONEST: &str = "honest-";

/// Prefix of the hostile tenants' names.
pub const HOSTILE: &str = "evil-";

/// A sandbox with its agent's end of the channel. The record goes with it.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id, which is its container's and its application's name.
    pub id: String,
    /// What its agent must prove to hold.
    pub secret: AgentSecret,
    socket: PathBuf,
    files: [PathBuf; 2],
    _lock: Flock<File>,
}

impl Sandbox {
    /// Listens, and enters the sandbox into the registry. To be called within a runtime.
    pub fn create(directory: &Path, id: &str, tenant: &str) -> Result<(Self, UnixListener)> {
        let registry = directory.join("registry");
        let socket = directory.join("sockets").join(id);
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
        let name: SandboxId = id.parse().context("a sandbox's id")?;
        let secret = AgentSecret::random().context("random numbers")?;
        let record = SandboxRecord {
            containers: [(name.clone(), ContainerRecord { name: id.to_owned() })].into(),
            channel: Some(Channel::Unix { path: socket.clone() }),
            secret: Some(secret.clone()),
            state: SandboxState::Watching,
            ..SandboxRecord::new(
                SandboxKey { namespace: "attack".parse().context("a namespace")?, id: name },
                tenant,
                id,
                "attack",
                1,
            )
        };
        let files = [record_path(&registry, &record.key()), lock_path(&registry, &record.key())];
        let lock = File::create(&files[1]).context("make a lock file")?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        record.write(&registry).context("write a record")?;
        Ok((Self { id: id.to_owned(), secret, socket, files, _lock: lock }, listener))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for path in self.files.iter().chain([&self.socket]) {
            // The directory goes as a whole in any case.
            let _ = fs::remove_file(path);
        }
    }
}

/// The answer of an agent that keeps to the contract.
pub fn hello(request: &agent::HelloRequest, secret: &AgentSecret, epoch: u64) -> agent::HelloResponse {
    let nonce = [7; proof::NONCE_BYTES];
    agent::HelloResponse {
        version: request.version_max,
        agent_version: "attack".to_owned(),
        kernel_release: "6.1.0".to_owned(),
        epoch,
        start_unix_ns: 1,
        proof: proof::prove(secret.bytes(), &request.host_nonce, &nonce).unwrap_or_default(),
        agent_nonce: nonce.to_vec(),
        ..Default::default()
    }
}
