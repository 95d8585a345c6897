//! One sandbox: its identity, its record, its counts, how its agent is reached.

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use porthole_registry::{ContainerId, ContainerRecord, SandboxRecord, last_state::LastStateName};

use super::{
    link::Link,
    starts::{self, Start},
};
use crate::{
    accumulate::{
        budget::{Charge, TenantBudget, nanoseconds},
        cost,
        dependencies::Dependencies,
        resources::SandboxResources,
        sandbox::Accumulator,
    },
    clock::unix_ms,
    guest_clock::GuestClock,
    identity::{Application, Identity},
    metering::TokenBucket,
    rejection::{Rejection, Rejections},
};

/// CPU time that the batches of one sandbox may take in the long run, seconds of one core per second. A full batch of
/// changed series takes a few milliseconds.
const SANDBOX_CPU: f64 = 0.05;

/// CPU time that they may take at once, seconds.
const SANDBOX_CPU_BURST: f64 = 0.5;

/// Longest time that an agent is held back after one batch.
const THROTTLE_MAX: Duration = Duration::from_secs(5);

/// Violations of the contract per second that are borne in the long run, by their weight: an honest agent has none.
const VIOLATIONS_PER_SECOND: f64 = 0.2;

/// Violations that are borne at once, by their weight.
const VIOLATIONS_BURST: f64 = 100.0;

/// A sandbox in the fleet. A namespace's id may be used again; the time of creation distinguishes its uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxKey {
    /// containerd's namespace.
    pub containerd_namespace: String,
    /// containerd's id.
    pub sandbox_id: String,
    /// When the companion began, milliseconds since 1970-01-01T00:00:00Z.
    pub created_unix_ms: u64,
    /// 0 of the sandbox under its present name, and above of what it was under earlier ones.
    pub former: u32,
}

impl SandboxKey {
    /// The key of a record's sandbox.
    pub fn of(record: &SandboxRecord) -> Self {
        Self::new(&Identity::from(record), record.created_unix_ms)
    }

    /// The key of a last state's sandbox.
    pub fn of_last_state(name: &LastStateName) -> Self {
        Self {
            containerd_namespace: name.sandbox.namespace.to_string(),
            sandbox_id: name.sandbox.id.to_string(),
            created_unix_ms: name.created_unix_ms,
            former: 0,
        }
    }

    /// The key of a sandbox with these labels.
    pub fn new(identity: &Identity, created_unix_ms: u64) -> Self {
        Self {
            containerd_namespace: identity.containerd_namespace.clone(),
            sandbox_id: identity.sandbox_id.clone(),
            created_unix_ms,
            former: 0,
        }
    }

    /// The key of a sandbox after so many other names, which may be `former` itself.
    pub fn named(identity: &Identity, created_unix_ms: u64, names_before: u32, is_former: bool) -> Self {
        let former = if is_former { names_before.saturating_add(1) } else { 0 };
        Self { former, ..Self::new(identity, created_unix_ms) }
    }

    /// Whether both are uses of the same id in the same namespace.
    pub fn is_another_use_of(&self, other: &Self) -> bool {
        (&self.containerd_namespace, &self.sandbox_id) == (&other.containerd_namespace, &other.sandbox_id)
    }

    /// Every use of this key's id in its namespace.
    pub(super) fn all_uses(&self) -> RangeInclusive<Self> {
        let key = |created_unix_ms, former| Self { created_unix_ms, former, ..self.clone() };
        key(0, 0)..=key(u64::MAX, u32::MAX)
    }
}

/// Where a sandbox is in its life; see the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its record is in the registry.
    Live,
    /// Its series are exposed for the next scrapes.
    Ended {
        /// When it ended, milliseconds since 1970-01-01T00:00:00Z.
        at_unix_ms: u64,
        /// Scrapes that have seen its final values.
        scrapes: u32,
    },
    /// Only its totals are kept.
    Remembered {
        /// When it ended, milliseconds since 1970-01-01T00:00:00Z.
        at_unix_ms: u64,
    },
}

impl Phase {
    /// Whether scrapes show the sandbox's series.
    pub fn exposes_series(self) -> bool {
        !matches!(self, Self::Remembered { .. })
    }

    /// When the sandbox ended, milliseconds since 1970-01-01T00:00:00Z.
    pub fn ended_unix_ms(self) -> Option<u64> {
        match self {
            Self::Live => None,
            Self::Ended { at_unix_ms, .. } | Self::Remembered { at_unix_ms } => Some(at_unix_ms),
        }
    }
}

/// Age of a sandbox, milliseconds, up to which all that it did belongs to the steps from now on.
const YOUNG_MS: u64 = 60_000;

/// One sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// Its labels; they never change.
    pub identity: Arc<Identity>,
    application: Application,
    /// How many names it had before.
    names_before: u32,
    changes: AtomicU64,
    /// What it has counted.
    pub accumulator: Mutex<Accumulator>,
    /// What its containers and its guest take.
    pub resources: Mutex<SandboxResources>,
    /// Connections that its containers make.
    pub dependencies: Mutex<Dependencies>,
    /// Its guest's clock.
    pub clock: Mutex<GuestClock>,
    /// What its tenant may use.
    pub budget: Arc<TenantBudget>,
    /// What its agent sent that was not counted.
    pub rejections: Rejections,
    /// Refusals that show an agent which does not keep to the contract.
    violations: Mutex<TokenBucket>,
    cpu: Mutex<TokenBucket>,
    ingested: AtomicU64,
    cpu_ns: AtomicU64,
    throttled_ns: AtomicU64,
    /// The sandbox itself, its record, and what its agent reported about itself.
    charge: Mutex<Charge>,
    /// How long it took to start.
    pub start: Mutex<Start>,
    /// How its agent is reached, and what the agent reported about itself.
    pub link: Mutex<Link>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    created_unix_ms: u64,
    phase: Phase,
    record: Option<Arc<SandboxRecord>>,
    /// It goes on under another name.
    is_former: bool,
}

impl Sandbox {
    /// A live sandbox that has counted nothing.
    pub fn new(identity: Identity, created_unix_ms: u64, budget: Arc<TenantBudget>) -> Self {
        Self::restored(identity, created_unix_ms, Phase::Live, budget, |accumulator| accumulator)
    }

    /// A sandbox of an earlier run of the exporter.
    pub fn restored(
        identity: Identity,
        created_unix_ms: u64,
        phase: Phase,
        budget: Arc<TenantBudget>,
        restore: impl FnOnce(Accumulator) -> Accumulator,
    ) -> Self {
        let labels = cost::identity_labels(identity.labels());
        let accumulator = restore(Accumulator::new(Arc::clone(&budget), labels));
        let resources = SandboxResources::new(Arc::clone(&budget), labels);
        let young = unix_ms().saturating_sub(created_unix_ms) < YOUNG_MS;
        let dependencies = Dependencies::new(Arc::clone(&budget), labels, young);
        let mut charge = Charge::new(Arc::clone(&budget));
        charge.set_resident(identity_bytes(&identity));
        Self {
            application: identity.application(),
            names_before: 0,
            identity: Arc::new(identity),
            changes: AtomicU64::new(0),
            budget,
            rejections: Rejections::default(),
            violations: Mutex::new(TokenBucket::new(VIOLATIONS_PER_SECOND, VIOLATIONS_BURST)),
            cpu: Mutex::new(TokenBucket::new(SANDBOX_CPU, SANDBOX_CPU_BURST)),
            ingested: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            throttled_ns: AtomicU64::new(0),
            charge: Mutex::new(charge),
            accumulator: Mutex::new(accumulator),
            resources: Mutex::new(resources),
            dependencies: Mutex::new(dependencies),
            clock: Mutex::default(),
            start: Mutex::default(),
            link: Mutex::default(),
            state: Mutex::new(State { created_unix_ms, phase, record: None, is_former: false }),
        }
    }

    /// The same, counted for another application than its own.
    #[must_use]
    pub fn counted_for(mut self, application: Application) -> Self {
        self.application = application;
        self
    }

    /// The same, after so many other names, and where it `is_former` before another one.
    #[must_use]
    pub fn named(mut self, names_before: u32, is_former: bool) -> Self {
        self.names_before = names_before;
        self.state.get_mut().is_former = is_former;
        self
    }

    /// The sandbox under another name, which has counted nothing: what was counted remains with this one. Of an agent that is
    /// connected the connection must have ended before.
    pub(super) fn successor(&self, identity: Identity, budget: Arc<TenantBudget>) -> Self {
        let labels = cost::identity_labels(identity.labels());
        let accumulator = self.accumulator.lock().successor(Arc::clone(&budget), labels);
        let mut successor =
            Self::restored(identity, self.created_unix_ms(), Phase::Live, Arc::clone(&budget), |_| {
                accumulator
            });
        // The connections so far were those of the name before.
        successor.dependencies = Mutex::new(Dependencies::new(budget, labels, false));
        // The ledger writes what has another number of changes.
        successor.changes.store(self.changes() + 1, Ordering::Release);
        *successor.start.lock() = *self.start.lock();
        successor.named(self.names_before + 1, false)
    }

    /// It goes on under another name: what was counted under this one is final. Resources and connections, which agents report
    /// as sums since their start, go on under the other name whole.
    pub(super) fn supersede(&self) {
        self.resources.lock().forget();
        self.dependencies.lock().forget();
        self.state.lock().is_former = true;
        self.end();
        self.changed();
    }

    /// Its place in the fleet.
    pub fn key(&self) -> SandboxKey {
        let state = self.state.lock();
        SandboxKey::named(&self.identity, state.created_unix_ms, self.names_before, state.is_former)
    }

    /// Of which sandbox the times of its start are.
    pub(super) fn start_of(&self) -> starts::Of<'_> {
        let created_unix_ms = self.created_unix_ms();
        starts::Of { application: &self.application, created_unix_ms, budget: &self.budget }
    }

    /// How many names it had before.
    pub fn names_before(&self) -> u32 {
        self.names_before
    }

    /// Whether it goes on under another name.
    pub fn is_former(&self) -> bool {
        self.state.lock().is_former
    }

    /// Whether a record gives the sandbox, or a container that it has had, another name.
    pub fn is_renamed_by(&self, record: &SandboxRecord) -> bool {
        let other = |known: Arc<SandboxRecord>| {
            let name = |id: &ContainerId| record.containers.get(id).map(|container| container.name.as_str());
            let mut containers = known.containers.iter();
            containers.any(|(id, container)| name(id).is_some_and(|name| name != container.name))
        };
        *self.identity != Identity::from(record) || self.record().is_some_and(other)
    }

    /// The application that its totals are counted for.
    pub fn application(&self) -> &Application {
        &self.application
    }

    /// Changes what is accumulated. The change is marked under the same lock, so that a reader of the new values also gets
    /// the new number of changes.
    pub fn change<T>(&self, change: impl FnOnce(&mut Accumulator) -> T) -> T {
        let mut accumulator = self.accumulator.lock();
        let result = change(&mut accumulator);
        self.changed();
        result
    }

    /// A number that grows whenever something changes that the ledger holds of it. Read under the accumulator's lock, it
    /// is the number of the values that are read under it.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Marks a change of what the ledger holds of it.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Counts something that its agent sent and that was rejected.
    pub fn reject(&self, rejection: Rejection) {
        self.rejections.count(rejection);
        self.budget.rejections.count(rejection);
        self.violations.lock().spend(rejection.weight());
    }

    /// Whether its agent was refused so often that it does not mean to keep to the contract.
    pub fn misbehaves(&self) -> bool {
        !self.violations.lock().wait().is_zero()
    }

    /// CPU time was spent on its agent's behalf; the time until more may be spent.
    pub fn spend_cpu(&self, spent: Duration) -> Duration {
        self.cpu_ns.fetch_add(nanoseconds(spent), Ordering::Relaxed);
        let own = self.cpu.lock().spend(spent.as_secs_f64());
        let wait = self.budget.spend_cpu(spent).max(own).min(THROTTLE_MAX);
        if !wait.is_zero() {
            self.budget.throttled_for(wait);
            self.throttled_ns.fetch_add(nanoseconds(wait), Ordering::Relaxed);
        }
        wait
    }

    /// CPU time that its agent's batches took.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }

    /// For how long its agent was held back.
    pub fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled_ns.load(Ordering::Relaxed))
    }

    /// Bytes came from its agent.
    pub fn spend_ingest(&self, bytes: usize) {
        self.ingested.fetch_add(bytes as u64, Ordering::Relaxed);
        self.budget.spend_ingest(bytes);
    }

    /// Bytes that came from its agent.
    pub fn ingested(&self) -> u64 {
        self.ingested.load(Ordering::Relaxed)
    }

    /// Bytes that it holds of its tenant's budget: of memory, and of a scrape as text.
    pub fn charged(&self) -> (usize, usize) {
        let own = self.charge.lock().resident();
        let charged = |charge: &Charge| (charge.resident(), charge.exposed());
        let (resident, exposed) = charged(self.accumulator.lock().charge());
        let others = [charged(self.resources.lock().charge()), charged(self.dependencies.lock().charge())];
        others.into_iter().fold((own + resident, exposed), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    /// What is kept of its record, or of what its agent reports about itself, has changed.
    pub fn texts_changed(&self) {
        let link = self.link.lock().bytes();
        let record = self.record().map_or(0, |record| record_bytes(&record));
        self.charge.lock().set_resident(identity_bytes(&self.identity) + record + link);
    }

    /// When the companion began, milliseconds since 1970-01-01T00:00:00Z.
    pub fn created_unix_ms(&self) -> u64 {
        self.state.lock().created_unix_ms
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// The last record seen; `None` for a sandbox of an earlier run whose record was gone.
    pub fn record(&self) -> Option<Arc<SandboxRecord>> {
        self.state.lock().record.clone()
    }

    /// The registry has this record of the sandbox.
    pub(super) fn record_changed(&self, record: &Arc<SandboxRecord>) {
        self.changed();
        let mut state = self.state.lock();
        state.created_unix_ms = record.created_unix_ms;
        state.phase = Phase::Live;
        drop(state);
        self.describe(record);
    }

    /// Takes names and state from a record, whether or not the sandbox still runs.
    pub fn describe(&self, record: &Arc<SandboxRecord>) {
        let mut state = self.state.lock();
        let before = state.record.replace(Arc::clone(record));
        drop(state);
        if before.as_ref() == Some(record) {
            return;
        }
        self.texts_changed();
        if before.is_none_or(|before| before.containers != record.containers) {
            self.change(|accumulator| accumulator.containers_changed(&record.containers));
        }
    }

    /// Marks the end; false when it had ended before.
    pub(super) fn end(&self) -> bool {
        let mut state = self.state.lock();
        let live = state.phase == Phase::Live;
        if live {
            state.phase = Phase::Ended { at_unix_ms: unix_ms(), scrapes: 0 };
            self.changed();
        }
        live
    }

    pub(super) fn scraped(&self) {
        if let Phase::Ended { scrapes, .. } = &mut self.state.lock().phase {
            *scrapes = scrapes.saturating_add(1);
            self.changed();
        }
    }

    pub(super) fn forget_series(&self) {
        let mut state = self.state.lock();
        if let Phase::Ended { at_unix_ms, .. } = state.phase {
            state.phase = Phase::Remembered { at_unix_ms };
            drop(state);
            self.change(Accumulator::forget_series);
            self.resources.lock().forget();
            self.dependencies.lock().forget();
        }
    }
}

/// Bytes of a sandbox that has counted nothing, and of its places in the maps.
fn identity_bytes(identity: &Identity) -> usize {
    let texts = identity.labels().into_iter().map(|(_, value)| cost::text(value)).sum::<usize>();
    // Labels are kept in the identity, as the application and as keys.
    cost::block(size_of::<Sandbox>() + 16) + cost::block(size_of::<Identity>() + 16) + 2 * texts + MAPS
}

/// Places of a sandbox in the maps of the fleet, of the supervisor, of the registry's scanner and of the ledger.
const MAPS: usize = 1_200;

/// Bytes of a record, which the scanner and the sandbox share.
fn record_bytes(record: &SandboxRecord) -> usize {
    let texts = [
        record.tenant.as_str(),
        record.service_name.as_str(),
        record.k8s_namespace_name.as_deref().unwrap_or_default(),
        record.k8s_pod_name.as_deref().unwrap_or_default(),
        record.runtime.as_str(),
        record.reason.as_ref().map_or("", |reason| &reason.message),
    ];
    let containers = record.containers.iter().map(|(id, container)| {
        cost::map_entry::<ContainerId, ContainerRecord>()
            + cost::text(id.as_str())
            + cost::text(&container.name)
    });
    // The first node of the map of containers is there with the first of them.
    let own =
        cost::block(size_of::<SandboxRecord>() + 16) + cost::first_node::<ContainerId, ContainerRecord>();
    let addresses = cost::block(record.addresses.capacity() * size_of::<IpAddr>());
    own + addresses + texts.into_iter().map(cost::text).sum::<usize>() + containers.sum::<usize>()
}
