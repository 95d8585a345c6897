//! The further containers of a sandbox: their bundles are beside the sandbox's, and their annotations name it.
//!
//! A container can be gone a moment after it was made, and then only its bundle's annotations have given its name. So every
//! change of the directory is followed at once (inotify(7)). containerd 1.6 calls the wrapper's `start` for each container
//! besides, which wakes the companion, and the directory's modification time is looked at for what neither has shown.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use porthole_registry::{ContainerId, ContainerRecord, SandboxId};
use rustix::fs::inotify;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
    time::sleep,
};

use super::{context::Companion, record::Publisher};
use crate::bundle::{Annotations, Role};

/// Time between two looks at the directory.
pub const TICK: Duration = Duration::from_secs(1);

/// Time between two looks at a bundle that is being made.
const RETRY: Duration = Duration::from_millis(5);

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
    /// When the bundle of a container of the record was first seen to be gone. Its last numbers may come much later, if no
    /// exporter runs.
    gone: HashMap<ContainerId, Instant>,
    wake: Option<pipe::Receiver>,
    changes: Option<AsyncFd<OwnedFd>>,
    /// Until when bundles that were incomplete at the last look are looked at again.
    retry_until: Option<Instant>,
}

/// Why the containers should be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A wrapper was called: for a further container, or to delete the sandbox.
    Called,
    /// The directory of bundles has changed.
    Changed,
}

fn watch(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let changes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let kinds = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    inotify::add_watch(&changes, directory, kinds)?;
    // SAFETY: an OwnedFd owns a valid descriptor, which is not replaced while it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }?)
}

/// Returns when the directory has changed. Cancel safe: the events are taken when it is certain that it returns.
async fn changed(changes: Option<&AsyncFd<OwnedFd>>) {
    let Some(changes) = changes else { return std::future::pending().await };
    let Ok(mut ready) = changes.readable().await else { return std::future::pending().await };
    // What has changed is found by looking.
    let mut events = [0; 4096];
    while rustix::io::read(changes.get_ref(), &mut events).is_ok() {}
    ready.clear_ready();
}

/// Returns when something was written into the FIFO. Cancel safe.
async fn called(wake: Option<&pipe::Receiver>) {
    let mut sink = [0; 4096];
    let Some(wake) = wake else { return std::future::pending().await };
    loop {
        if wake.readable().await.is_err() {
            return std::future::pending().await;
        }
        match wake.try_read(&mut sink) {
            Ok(0) => {}
            Ok(_) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return std::future::pending().await,
        }
    }
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
        let directory = bundle.parent().map(PathBuf::from).unwrap_or_default();
        let changes = watch(&directory);
        if let Err(error) = &changes {
            tracing::warn!(%error, "the directory of bundles is not followed: containers that end soon may have no name");
        }
        Self {
            sandbox: companion.assignment.sandbox.id.clone(),
            directory,
            looked_at: None,
            foreign: HashSet::new(),
            gone: HashMap::new(),
            wake: wake.ok(),
            changes: changes.ok(),
            retry_until: None,
        }
    }

    /// Returns when the containers should be looked at. Cancel safe.
    pub async fn woken(&mut self) -> Woken {
        let retry_until = self.retry_until;
        let retry = async {
            match retry_until {
                Some(_) => sleep(RETRY).await,
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            () = called(self.wake.as_ref()) => Some(Woken::Called),
            () = changed(self.changes.as_ref()) => Some(Woken::Changed),
            () = retry => None,
        };
        self.looked_at = None;
        if woken.is_some() {
            self.retry_until = Some(Instant::now() + TICK);
        }
        woken.unwrap_or(Woken::Changed)
    }

    /// Looks at the bundles if the directory changed, and puts what it found into the record.
    pub fn refresh(&mut self, publisher: &mut Publisher) {
        // What is not there by then comes with the next change of the directory, or never.
        self.retry_until = self.retry_until.filter(|until| Instant::now() < *until);
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
                    if let Some(name) = publisher.container_name(name, &annotations) {
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
        if complete {
            self.retry_until = None;
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
