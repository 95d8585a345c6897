//! From what the registry holds to one task per agent, and to the end of each sandbox. Where an agent's last state was left, its
//! sandbox ends when that is counted, after its connection.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use porthole_registry::{SandboxRecord, SandboxState, channel::Channel};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    agent::{
        outlook::Outlook,
        task::{self, Links},
    },
    fleet::{
        link::LinkState,
        sandbox::{Phase, Sandbox, SandboxKey},
    },
    last_states::LastStates,
    registry::{
        liveness::{self, Companion},
        scan::{Found, Scanner, Snapshot},
        watch::DirectoryWatch,
    },
};

/// How long other names wait until the agent has reported again what an earlier run of the exporter had counted.
const RENAME_PATIENCE: Duration = Duration::from_mins(1);

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
    /// The record with the state `ended`.
    last_record: Option<Arc<SandboxRecord>>,
    /// Since when the companion is dead.
    orphan_since: Option<Instant>,
    /// Since when the record has had other names.
    to_rename_since: Option<Instant>,
}

struct Linked {
    channel: Channel,
    outlook: watch::Sender<Outlook>,
    task: JoinHandle<()>,
}

impl Linked {
    /// Nothing of it is taken back: an orphaned link can end, an ended one is never again orphaned.
    fn reach(&self, outlook: Outlook) {
        self.outlook.send_if_modified(|now| std::mem::replace(now, outlook.max(*now)) < outlook);
    }
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
    watched: HashMap<SandboxKey, Box<Watched>>,
    /// The registry was scanned once.
    ready: Arc<AtomicBool>,
    /// A link's task has ended.
    link_ended: Arc<Notify>,
    last_states: LastStates,
}

impl Supervisor {
    /// A supervisor that has not looked yet.
    pub fn new(links: Links, watching: Watching, ready: Arc<AtomicBool>) -> Self {
        let last_states = LastStates::new(watching.directory.clone(), Arc::clone(&links.fleet));
        Self { links, watching, watched: HashMap::new(), ready, link_ended: Arc::default(), last_states }
    }

    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        let mut scanner = Some(Scanner::new(self.watching.directory.clone()));
        let mut watch = DirectoryWatch::new(self.watching.rescan);
        let mut saved = self.links.fleet.watch_saved();
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
                    self.look(&snapshot).await;
                    self.links.fleet.retire(crate::clock::unix_ms());
                    self.ready.store(true, Ordering::Release);
                }
                Err(error) if !failing => {
                    failing = true;
                    let directory = self.watching.directory.display();
                    tracing::error!(%error, %directory, "the registry cannot be read; trying again");
                }
                Err(_) => {}
            }
            loop {
                tokio::select! {
                    () = watch.changed() => break,
                    () = self.link_ended.notified() => break,
                    saved = reached(&mut saved, self.last_states.next_removal()) => {
                        self.last_states.remove(saved, None);
                    }
                }
            }
        }
    }

    /// Counts the last states of sandboxes that are not watched any more, or never were.
    async fn count_last_states(&mut self, snapshot: &Snapshot) {
        let runs = |key: &SandboxKey| {
            let mut found = snapshot.found.iter().map(|found| &found.record);
            found.any(|record| record.state != SandboxState::Ended && SandboxKey::of(record) == *key)
        };
        let due: Vec<_> = snapshot
            .last_states
            .iter()
            .filter(|name| {
                let key = SandboxKey::of_last_state(name);
                // An earlier use of the id is counted before it.
                let in_turn = |watched: &SandboxKey| watched.is_another_use_of(&key) && *watched <= key;
                !self.watched.keys().any(in_turn) && !runs(&key)
            })
            .collect();
        for name in due {
            self.last_states.count(name).await;
        }
    }

    async fn look(&mut self, snapshot: &Snapshot) {
        let present: HashSet<SandboxKey> =
            snapshot.found.iter().map(|found| SandboxKey::of(&found.record)).collect();
        let left: HashSet<SandboxKey> = snapshot.last_states.iter().map(SandboxKey::of_last_state).collect();
        let links = &self.links;
        self.watched
            .retain(|key, watched| present.contains(key) || !watched.finish(links, left.contains(key)));
        // Before a later use of an id goes on with the series of the one before it.
        self.count_last_states(snapshot).await;
        for found in &snapshot.found {
            self.look_at(found, &left).await;
        }
        self.count_last_states(snapshot).await;
        let saved = *self.links.fleet.watch_saved().borrow();
        self.last_states.remove(saved, Some(&snapshot.last_states));
        // Sandboxes of an earlier run of the exporter whose records are gone.
        for sandbox in self.links.fleet.sandboxes() {
            let key = sandbox.key();
            let is_known = self.watched.contains_key(&key) || present.contains(&key) || left.contains(&key);
            if sandbox.phase() == Phase::Live && !is_known {
                self.links.fleet.end(&sandbox);
            }
        }
    }

    async fn look_at(&mut self, found: &Found, left: &HashSet<SandboxKey>) {
        let record = &found.record;
        let key = SandboxKey::of(record);
        if record.state == SandboxState::Ended {
            if let Some(watched) = self.watched.get_mut(&key) {
                watched.last_record = Some(Arc::clone(record));
                if watched.finish(&self.links, left.contains(&key)) {
                    self.watched.remove(&key);
                }
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
            let name = record.key();
            Box::new(Watched { sandbox, name, link: None, last_record: None, orphan_since: None, to_rename_since: None })
        });
        if watched.sandbox.is_renamed_by(record) {
            watched.rename(links, record).await;
        } else if watched.sandbox.record().as_deref() != Some(record.as_ref()) {
            links.fleet.register(record);
        }
        match (record.state, &record.channel) {
            (SandboxState::Watching, Some(channel)) if found.companion != Companion::Dead => {
                watched.link_to(links, channel, &self.link_ended);
            }
            (SandboxState::Watching, _) => watched.orphan(),
            _ => watched.unlink(),
        }
        let has_last_state = left.contains(&SandboxKey::of(record));
        if watched.look_after_orphan(links, &self.watching, found.companion, has_last_state) {
            self.watched.remove(&SandboxKey::of(record));
        }
    }

    /// A companion that died while it cleaned up leaves a record with the state `ended`.
    fn clear_orphan_of_ended(&self, found: &Found) {
        if found.companion == Companion::Dead {
            remove_orphan(&self.watching, &found.record.key());
        }
    }
}

impl Watched {
    /// The host gives the sandbox other names. The connection to its agent is made anew, so that nothing is counted under the names
    /// before once they have ended. While the agent reports again what an earlier run of the exporter had counted, for which it has a
    /// minute, and when there will be no other connection, the names stay.
    async fn rename(&mut self, links: &Links, record: &Arc<SandboxRecord>) {
        let stays = self.link.as_ref().is_some_and(|link| *link.outlook.borrow() != Outlook::Open);
        let is_late = self.to_rename_since.get_or_insert_with(Instant::now).elapsed() >= RENAME_PATIENCE;
        if stays || !(is_late || self.sandbox.accumulator.lock().knows_its_epoch()) {
            return;
        }
        self.to_rename_since = None;
        if let Some(mut link) = self.link.take() {
            link.task.abort();
            // Whether it was cancelled or had ended: it runs no more.
            let _ = (&mut link.task).await;
        }
        self.sandbox = links.fleet.rename(&self.sandbox, record);
        tracing::info!(sandbox = %self.name, tenant = %record.tenant, service = %record.service_name, "named anew");
    }

    fn link_to(&mut self, links: &Links, channel: &Channel, link_ended: &Arc<Notify>) {
        if let Some(link) = &self.link {
            let ending = *link.outlook.borrow() != Outlook::Open;
            if !link.task.is_finished() && (ending || link.channel == *channel) {
                return;
            }
            if link.task.is_finished() && !ending {
                tracing::error!(sandbox = %self.name, "an agent's task ended unexpectedly; starting it again");
                links.fleet.own.task_failures.inc();
            }
        }
        let (outlook, has_outlook) = watch::channel(Outlook::Open);
        let end = ReportEnd(Arc::clone(link_ended));
        // A future that another one captures takes its memory twice: where it was captured and where it is awaited.
        let kept =
            Box::pin(task::keep(links.clone(), Arc::clone(&self.sandbox), channel.clone(), has_outlook));
        let task = tokio::spawn(async move {
            let _end = end;
            kept.await;
        });
        self.link = Some(Linked { channel: channel.clone(), outlook, task });
    }

    /// The record no longer has a state with an agent: messages under way are processed, and no agent is dialled.
    fn unlink(&mut self) {
        let Some(link) = &self.link else { return };
        link.reach(Outlook::Ended);
        if link.task.is_finished() {
            self.link = None;
        }
    }

    /// The companion is dead: the open connection goes on, and no other is made.
    fn orphan(&mut self) {
        if let Some(link) = &self.link {
            link.reach(Outlook::Orphaned);
        }
        self.sandbox.link.lock().orphaned = true;
    }

    /// Lets the link drain; true once the sandbox is over. One whose agent's last state was left ends when that is counted.
    fn finish(&mut self, links: &Links, has_last_state: bool) -> bool {
        if let Some(link) = &self.link {
            link.reach(Outlook::Ended);
            if !link.task.is_finished() {
                return false;
            }
        }
        self.sandbox.link.lock().state = LinkState::Closed;
        if let Some(record) = &self.last_record {
            self.sandbox.describe(record);
        }
        if !has_last_state {
            links.fleet.end(&self.sandbox);
        }
        tracing::info!(sandbox = %self.name, "sandbox ended");
        true
    }

    /// A sandbox whose companion died stays watched as long as its agent sends, and counts as ended afterwards; true then.
    fn look_after_orphan(
        &mut self,
        links: &Links,
        watching: &Watching,
        companion: Companion,
        has_last_state: bool,
    ) -> bool {
        if companion != Companion::Dead {
            self.orphan_since = None;
            return false;
        }
        let since = *self.orphan_since.get_or_insert_with(|| {
            tracing::warn!(sandbox = %self.name, "the sandbox's companion is dead");
            Instant::now()
        });
        let speaking = self.sandbox.link.lock().state == LinkState::Connected;
        if speaking || since.elapsed() < watching.orphan_grace {
            return false;
        }
        let is_over = self.finish(links, has_last_state);
        if is_over {
            remove_orphan(watching, &self.name);
        }
        is_over
    }
}

/// Waits until the ledger holds the changes of this number; without one, for ever.
async fn reached(saved: &mut watch::Receiver<u64>, changes: Option<u64>) -> u64 {
    let Some(changes) = changes else { return std::future::pending().await };
    let reached = saved.wait_for(|saved| *saved >= changes).await.is_ok();
    if !reached {
        // The fleet, which sends it, lives as long as the supervisor.
        std::future::pending::<()>().await;
    }
    *saved.borrow()
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

#[cfg(test)]
mod tests {
    use tokio::{sync::Semaphore, time::advance};

    use super::*;
    use crate::{
        accumulate::{
            budget::Limits,
            sandbox::Containers,
            series::{CheckedSeries, Labels, SeriesKey},
            values::Values,
        },
        agent::backoff::Backoff,
        fleet::{Fleet, Retention},
        protocol::{ErrorClass, Protocol, Side},
    };

    fn record(tenant: &str) -> Arc<SandboxRecord> {
        let sandbox = "default@shop-1".parse().expect("key");
        let record = SandboxRecord::new(sandbox, tenant, "shop", "test", 1);
        Arc::new(SandboxRecord { state: SandboxState::Watching, ..record })
    }

    fn report(sandbox: &Sandbox, requests: u64) {
        let mut values = Values::default();
        values.durations.add(0, requests, requests);
        let labels = Labels { operation: "GET", resource: "/", status: "200", ..Labels::default() };
        let key = SeriesKey::new(Protocol::Http1, Side::Server, labels).expect("short texts");
        let series =
            CheckedSeries { id: 1, container_id: String::new(), key, error: ErrorClass::None, values };
        let mut accumulator = sandbox.accumulator.lock();
        accumulator.begin_epoch(1).expect("epoch");
        accumulator.apply(series, &Containers::new()).expect("accepted");
    }

    #[tokio::test(start_paused = true)]
    async fn other_names_wait_for_what_an_agent_reports_again_but_not_for_ever() {
        for reports_again in [true, false] {
            let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
            let links = Links {
                fleet: Arc::new(Fleet::new(Limits::of_series(10), retention)),
                connections: Arc::new(Semaphore::new(1)),
                idle: Duration::from_secs(1),
                backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(1)),
            };
            let (before, after) = (record("acme"), record("rival"));
            let sandbox = links.fleet.register(&before);
            report(&sandbox, 5);
            // What is known of the running epoch is a floor now, as after the exporter's restart.
            sandbox.accumulator.lock().forget_series();
            let mut watched = Watched {
                sandbox,
                name: before.key(),
                link: None,
                last_record: None,
                orphan_since: None,
                to_rename_since: None,
            };
            watched.rename(&links, &after).await;
            advance(RENAME_PATIENCE.checked_sub(Duration::from_millis(1)).expect("longer")).await;
            watched.rename(&links, &after).await;
            assert_eq!(watched.sandbox.identity.tenant, "acme", "it may yet report again");
            if reports_again {
                report(&watched.sandbox, 5);
            } else {
                advance(Duration::from_millis(1)).await;
            }
            watched.rename(&links, &after).await;
            assert_eq!(watched.sandbox.identity.tenant, "rival");
            assert!(watched.to_rename_since.is_none());
        }
    }
}
