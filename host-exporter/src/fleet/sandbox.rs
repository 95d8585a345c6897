//! One sandbox: who it is, what its record says, what it has counted, how its agent is reached.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use porthole_registry::SandboxRecord;

use super::link::Link;
use crate::{
    accumulate::{
        budget::TenantBudget,
        sandbox::{Accumulator, ContainerNames},
    },
    clock::unix_ms,
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
}

impl SandboxKey {
    /// The key of a record's sandbox.
    pub fn of(record: &SandboxRecord) -> Self {
        Self::new(&Identity::from(record), record.created_unix_ms)
    }

    /// The key of a sandbox with these labels.
    pub fn new(identity: &Identity, created_unix_ms: u64) -> Self {
        Self {
            containerd_namespace: identity.containerd_namespace.clone(),
            sandbox_id: identity.sandbox_id.clone(),
            created_unix_ms,
        }
    }

    /// Whether both are uses of the same id in the same namespace.
    pub fn is_another_use_of(&self, other: &Self) -> bool {
        (&self.containerd_namespace, &self.sandbox_id) == (&other.containerd_namespace, &other.sandbox_id)
    }

    /// Every use of this key's id in its namespace.
    pub(super) fn all_uses(&self) -> RangeInclusive<Self> {
        let key = |created_unix_ms| Self { created_unix_ms, ..self.clone() };
        key(0)..=key(u64::MAX)
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

/// One sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// Its labels; they never change.
    pub identity: Identity,
    application: Application,
    changes: AtomicU64,
    /// What it has counted.
    pub accumulator: Mutex<Accumulator>,
    /// What its tenant may use.
    pub budget: Arc<TenantBudget>,
    /// What its agent sent that was not counted.
    pub rejections: Rejections,
    /// Refusals that show an agent which does not keep to the contract.
    violations: Mutex<TokenBucket>,
    cpu: Mutex<TokenBucket>,
    /// How its agent is reached, and what the agent said about itself.
    pub link: Mutex<Link>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    created_unix_ms: u64,
    phase: Phase,
    record: Option<Arc<SandboxRecord>>,
    containers: Arc<ContainerNames>,
}

impl Sandbox {
    /// A live sandbox that has counted nothing.
    pub fn new(identity: Identity, created_unix_ms: u64, budget: Arc<TenantBudget>) -> Self {
        Self::restored(identity, created_unix_ms, Phase::Live, Accumulator::new(budget))
    }

    /// A sandbox of an earlier run of the exporter.
    pub fn restored(
        identity: Identity,
        created_unix_ms: u64,
        phase: Phase,
        accumulator: Accumulator,
    ) -> Self {
        Self {
            application: identity.application(),
            identity,
            changes: AtomicU64::new(0),
            budget: Arc::clone(accumulator.budget()),
            rejections: Rejections::default(),
            violations: Mutex::new(TokenBucket::new(VIOLATIONS_PER_SECOND, VIOLATIONS_BURST)),
            cpu: Mutex::new(TokenBucket::new(SANDBOX_CPU, SANDBOX_CPU_BURST)),
            accumulator: Mutex::new(accumulator),
            link: Mutex::default(),
            state: Mutex::new(State { created_unix_ms, phase, record: None, containers: Arc::default() }),
        }
    }

    /// The same, counted for another application than its own.
    #[must_use]
    pub fn counted_for(mut self, application: Application) -> Self {
        self.application = application;
        self
    }

    /// The application that its totals are counted for.
    pub fn application(&self) -> &Application {
        &self.application
    }

    /// Changes what is accumulated, and marks the change under the same lock.
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

    /// Something has changed that the ledger holds of it. A change of the accumulator's totals is marked under its lock.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Something that its agent sent was not counted.
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
        let own = self.cpu.lock().spend(spent.as_secs_f64());
        let wait = self.budget.spend_cpu(spent).max(own).min(THROTTLE_MAX);
        if !wait.is_zero() {
            self.budget.throttled_for(wait);
        }
        wait
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

    /// Names of the containers that the record lists.
    pub fn containers(&self) -> Arc<ContainerNames> {
        Arc::clone(&self.state.lock().containers)
    }

    /// The registry has this record of the sandbox.
    pub(super) fn record_changed(&self, record: &SandboxRecord) {
        let containers: ContainerNames = record
            .containers
            .iter()
            .map(|(id, container)| (id.to_string(), container.name.clone()))
            .collect();
        self.changed();
        let mut state = self.state.lock();
        state.created_unix_ms = record.created_unix_ms;
        state.phase = Phase::Live;
        if state.record.as_deref() != Some(record) {
            state.record = Some(Arc::new(record.clone()));
        }
        if *state.containers == containers {
            return;
        }
        state.containers = Arc::new(containers);
        let containers = Arc::clone(&state.containers);
        drop(state);
        self.accumulator.lock().containers_changed(&containers);
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
            self.changed();
            self.accumulator.lock().forget_series();
        }
    }
}
