//! The further containers of a sandbox: their bundles lie beside the sandbox's, and their annotations name it.
//!
//! containerd 1.6 calls the wrapper's `start` for each, which wakes the companion; newer ones do not, so the
//! directory's modification time is looked at as well.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use porthole_registry::{ContainerId, ContainerRecord, SandboxId};
use tokio::net::unix::pipe;

use super::{context::Companion, record::Publisher};
use crate::{
    bundle::{Annotations, Role},
    identity,
};

/// Time between two looks at the directory.
pub const TICK: Duration = Duration::from_secs(1);

/// How long a container stays in the record after its bundle is gone: its last numbers are still on their way.
const KEPT_AFTER_END: Duration = Duration::from_mins(1);

/// Largest number of containers in a record; a pod that restarts one in a loop must not fill it.
const CONTAINERS_MAX: usize = 256;

/// The containers found so far.
pub struct Containers {
    sandbox: SandboxId,
    directory: PathBuf,
    /// Modification time at the last complete look.
    looked_at: Option<SystemTime>,
    /// Bundles that were read and belong to other sandboxes.
    foreign: HashSet<String>,
    /// When the bundle of a container of the record was first seen to be gone.
    gone: HashMap<ContainerId, Instant>,
    wake: Option<pipe::Receiver>,
}

impl Containers {
    /// Starts with nothing found and listens for wrappers.
    pub fn new(companion: &Companion<'_>) -> Self {
        let bundle = &companion.assignment.bundle;
        let wake = companion.state.wake();
        let _ = nix::unistd::mkfifo(&wake, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR);
        // Opened for both, so that there is no end of file between two writers.
        let wake = pipe::OpenOptions::new().read_write(true).open_receiver(wake);
        if let Err(error) = &wake {
            tracing::debug!(%error, "no FIFO: containers are found by looking");
        }
        Self {
            sandbox: companion.assignment.sandbox.id.clone(),
            directory: bundle.parent().map(PathBuf::from).unwrap_or_default(),
            looked_at: None,
            foreign: HashSet::new(),
            gone: HashMap::new(),
            wake: wake.ok(),
        }
    }

    /// Returns when a wrapper wrote into the FIFO. Cancel safe.
    pub async fn woken(&mut self) {
        let mut sink = [0; 4096];
        let Some(wake) = &self.wake else { return std::future::pending().await };
        loop {
            if wake.readable().await.is_err() {
                return std::future::pending().await;
            }
            match wake.try_read(&mut sink) {
                Ok(0) => {}
                Ok(_) => {
                    self.looked_at = None;
                    return;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }

    /// Looks at the bundles if the directory changed, and puts what it found into the record.
    pub fn refresh(&mut self, publisher: &mut Publisher) {
        self.forget(publisher);
        let Ok(modified) = std::fs::metadata(&self.directory).and_then(|found| found.modified()) else {
            return;
        };
        if self.looked_at == Some(modified) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        let names: HashSet<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        self.foreign.retain(|name| names.contains(name));
        let mut containers = publisher.containers().clone();
        let mut complete = true;
        for name in &names {
            let Ok(id) = name.parse::<ContainerId>() else { continue };
            if self.foreign.contains(name) || containers.contains_key(&id) || id == self.sandbox {
                continue;
            }
            match Annotations::read(&self.directory.join(name)) {
                Ok(annotations) if annotations.role() == Role::Member(self.sandbox.clone()) => {
                    if let Some(name) = identity::container_name(name, &annotations) {
                        containers.insert(id, ContainerRecord { name });
                    }
                }
                Ok(_) => {
                    self.foreign.insert(name.clone());
                }
                // containerd makes the directory first and the file in it afterwards.
                Err(_) => complete = false,
            }
        }
        let known = containers.keys().map(|id| (id.clone(), names.contains(id.as_str())));
        for (id, present) in known.collect::<Vec<_>>() {
            if !present && id != self.sandbox {
                self.gone.entry(id).or_insert_with(Instant::now);
            }
        }
        self.bound(&mut containers);
        publisher.set_containers(containers);
        self.looked_at = complete.then_some(modified);
    }

    fn forget(&mut self, publisher: &mut Publisher) {
        let due = |since: &Instant| since.elapsed() >= KEPT_AFTER_END;
        if self.gone.values().any(due) {
            let mut containers = publisher.containers().clone();
            self.gone.retain(|id, since| !due(since) || containers.remove(id).is_none());
            publisher.set_containers(containers);
        }
    }

    /// Drops the containers that have been gone longest until the record is small enough.
    fn bound(&mut self, containers: &mut BTreeMap<ContainerId, ContainerRecord>) {
        while containers.len() > CONTAINERS_MAX {
            let oldest = self.gone.iter().min_by_key(|(_, since)| **since).map(|(id, _)| id.clone());
            let victim = oldest.or_else(|| containers.keys().find(|id| **id != self.sandbox).cloned());
            let Some(victim) = victim else { return };
            self.gone.remove(&victim);
            containers.remove(&victim);
        }
    }
}
