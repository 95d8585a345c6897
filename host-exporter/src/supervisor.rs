//! From what the registry holds to one task per agent, and to the end of each sandbox.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use porthole_registry::{SandboxState, channel::Channel};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    agent::task::{self, Links},
    fleet::{
        link::LinkState,
        sandbox::{Phase, Sandbox, SandboxKey},
    },
    registry::{
        liveness::{self, Companion},
        scan::{Found, Scanner, Snapshot},
        watch::DirectoryWatch,
    },
};

/// How the supervisor watches the registry.
#[derive(Clone, Debug)]
pub struct Watching {
    /// The registry's directory.
    pub directory: PathBuf,
    /// Longest time between two looks.
    pub rescan: Duration,
    /// How long a record may be without a living companion before the sandbox counts as ended.
    pub orphan_grace: Duration,
}

struct Watched {
    sandbox: Arc<Sandbox>,
    name: porthole_registry::SandboxKey,
    link: Option<Linked>,
    /// Since when the companion is dead.
    orphan_since: Option<Instant>,
}

struct Linked {
    channel: Channel,
    ended: watch::Sender<bool>,
    /// No companion vouches for the channel: another virtual machine may have it by now.
    orphaned: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches the registry until cancelled.
pub struct Supervisor {
    links: Links,
    watching: Watching,
    watched: HashMap<SandboxKey, Watched>,
    /// The registry was scanned once.
    ready: Arc<AtomicBool>,
    /// A link's task has ended.
    link_ended: Arc<Notify>,
}

impl Supervisor {
    /// A supervisor that has not looked yet.
    pub fn new(links: Links, watching: Watching, ready: Arc<AtomicBool>) -> Self {
        Self { links, watching, watched: HashMap::new(), ready, link_ended: Arc::default() }
    }

    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        let mut scanner = Some(Scanner::new(self.watching.directory.clone()));
        let mut watch = DirectoryWatch::new(self.watching.rescan);
        let mut failing = false;
        loop {
            watch.attach(&self.watching.directory);
            let Some(mut reading) = scanner.take() else { return };
            let read = tokio::task::spawn_blocking(move || {
                let snapshot = reading.scan();
                (reading, snapshot)
            });
            // Only a panic or the end of the runtime loses the scanner.
            let snapshot = match read.await {
                Ok((reading, snapshot)) => {
                    scanner = Some(reading);
                    snapshot
                }
                Err(error) => {
                    tracing::error!(%error, "reading the registry failed");
                    scanner = Some(Scanner::new(self.watching.directory.clone()));
                    Err(std::io::Error::other(error))
                }
            };
            match snapshot {
                Ok(snapshot) => {
                    failing = false;
                    self.links
                        .fleet
                        .own
                        .records_unreadable
                        .set(i64::try_from(snapshot.unreadable).unwrap_or(i64::MAX));
                    self.look(&snapshot);
                    self.ready.store(true, Ordering::Release);
                }
                Err(error) if !failing => {
                    failing = true;
                    let directory = self.watching.directory.display();
                    tracing::error!(%error, %directory, "the registry cannot be read; trying again");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = watch.changed() => {}
                () = self.link_ended.notified() => {}
            }
        }
    }

    fn look(&mut self, snapshot: &Snapshot) {
        let present: HashSet<SandboxKey> =
            snapshot.found.iter().map(|found| SandboxKey::of(&found.record)).collect();
        for (key, watched) in &mut self.watched {
            if !present.contains(key) {
                watched.finish(&self.links);
            }
        }
        self.watched.retain(|_, watched| watched.sandbox.phase() == Phase::Live);
        for found in &snapshot.found {
            self.look_at(found);
        }
        // Sandboxes of an earlier run of the exporter whose records are gone.
        for sandbox in self.links.fleet.sandboxes() {
            let key = SandboxKey::new(&sandbox.identity, sandbox.created_unix_ms());
            if sandbox.phase() == Phase::Live && !self.watched.contains_key(&key) && !present.contains(&key) {
                self.links.fleet.end(&sandbox);
            }
        }
        self.links.fleet.retire(crate::clock::unix_ms());
    }

    fn look_at(&mut self, found: &Found) {
        let record = &found.record;
        let key = SandboxKey::of(record);
        if record.state == SandboxState::Ended {
            if self.watched.get_mut(&key).is_some_and(|watched| watched.finish(&self.links)) {
                self.watched.remove(&key);
            }
            self.clear_orphan_of_ended(found);
            return;
        }
        let used_before = |watched: &SandboxKey| watched.is_another_use_of(&key);
        if !self.watched.contains_key(&key) && self.watched.keys().any(used_before) {
            // The id's earlier use still drains; its task reports its end.
            return;
        }
        let links = &self.links;
        let watched = self.watched.entry(key).or_insert_with(|| {
            let sandbox = links.fleet.register(record);
            tracing::info!(sandbox = %record.key(), tenant = %record.tenant, service = %record.service_name, "sandbox");
            Watched { sandbox, name: record.key(), link: None, orphan_since: None }
        });
        if watched.sandbox.record().as_deref() != Some(record.as_ref()) {
            watched.record_changed(links, record);
        }
        match (record.state, &record.channel) {
            (SandboxState::Watching, Some(channel)) if found.companion != Companion::Dead => {
                watched.link_to(links, channel, &self.link_ended);
            }
            (SandboxState::Watching, _) => watched.orphan(),
            _ => watched.unlink(),
        }
        watched.look_after_orphan(links, &self.watching, found.companion);
        if watched.sandbox.phase() != Phase::Live {
            self.watched.remove(&SandboxKey::of(record));
        }
    }

    /// A companion that died while it cleaned up leaves a record that says `ended`.
    fn clear_orphan_of_ended(&self, found: &Found) {
        if found.companion == Companion::Dead {
            remove_orphan(&self.watching, &found.record.key());
        }
    }
}

impl Watched {
    fn record_changed(&mut self, links: &Links, record: &porthole_registry::SandboxRecord) {
        let identity = crate::identity::Identity::from(record);
        if identity != self.sandbox.identity {
            // Whose numbers they are is settled when a sandbox begins; otherwise one tenant's past would become
            // another's.
            tracing::error!(sandbox = %record.key(), "the record changed its identity; the change is ignored");
            links.fleet.own.identity_changes.inc();
            return;
        }
        links.fleet.register(record);
    }

    fn link_to(&mut self, links: &Links, channel: &Channel, link_ended: &Arc<Notify>) {
        if let Some(link) = &self.link {
            let ending = *link.ended.borrow() || *link.orphaned.borrow();
            if !link.task.is_finished() && (ending || link.channel == *channel) {
                return;
            }
            if link.task.is_finished() && !ending {
                tracing::error!(sandbox = %self.name, "an agent's task ended unexpectedly; starting it again");
                links.fleet.own.task_failures.inc();
            }
        }
        let (ended, is_ended) = watch::channel(false);
        let (orphaned, is_orphaned) = watch::channel(false);
        let end = ReportEnd(Arc::clone(link_ended));
        let kept =
            task::keep(links.clone(), Arc::clone(&self.sandbox), channel.clone(), is_ended, is_orphaned);
        let task = tokio::spawn(async move {
            let _end = end;
            kept.await;
        });
        self.link = Some(Linked { channel: channel.clone(), ended, orphaned, task });
    }

    /// The record no longer says that an agent runs: messages under way are processed, and no agent is dialled.
    fn unlink(&mut self) {
        let Some(link) = &self.link else { return };
        link.ended.send_replace(true);
        if link.task.is_finished() {
            self.link = None;
        }
    }

    /// The companion is dead: the connection that there is goes on, and nobody is dialled.
    fn orphan(&mut self) {
        if let Some(link) = &self.link {
            link.orphaned.send_replace(true);
        }
        self.sandbox.link.lock().orphaned = true;
    }

    /// Lets the link drain; true once the sandbox is over.
    fn finish(&mut self, links: &Links) -> bool {
        if let Some(link) = &self.link {
            link.ended.send_replace(true);
            if !link.task.is_finished() {
                return false;
            }
        }
        self.sandbox.link.lock().state = LinkState::Closed;
        links.fleet.end(&self.sandbox);
        tracing::info!(sandbox = %self.name, "sandbox ended");
        true
    }

    /// A sandbox whose companion died stays watched as long as its agent sends, and counts as ended afterwards.
    fn look_after_orphan(&mut self, links: &Links, watching: &Watching, companion: Companion) {
        if companion != Companion::Dead {
            self.orphan_since = None;
            return;
        }
        let since = *self.orphan_since.get_or_insert_with(|| {
            tracing::warn!(sandbox = %self.name, "the sandbox's companion is dead");
            Instant::now()
        });
        let speaking = self.sandbox.link.lock().state == LinkState::Connected;
        if speaking || since.elapsed() < watching.orphan_grace {
            return;
        }
        if self.finish(links) {
            remove_orphan(watching, &self.name);
        }
    }
}

/// Reports that a task is over, however it ended.
struct ReportEnd(Arc<Notify>);

impl Drop for ReportEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn remove_orphan(watching: &Watching, sandbox: &porthole_registry::SandboxKey) {
    match liveness::remove_orphan(&watching.directory, sandbox) {
        Ok(true) => tracing::info!(%sandbox, "removed what a dead companion left"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%sandbox, %error, "cannot remove what a dead companion left"),
    }
}
