//! All sandboxes of the host, live and ended, and the totals of the applications.
//!
//! A sandbox goes through phases: *live* while its record is in the registry; *ended* while its series are still
//! exposed for the next scrapes; *remembered*, without series, so that a sandbox whose record only vanished for a while
//! comes back without being counted twice. At last it is *retired*: it is forgotten, and its values are added to its
//! application's retired totals. A sandbox whose names the host changes ends under the one name and begins, with nothing counted, under the
//! other. An application's totals are its retired ones plus those of every sandbox in any phase,
//! and so never go backwards.

mod applications;
pub mod link;
mod retirement;
pub mod sandbox;
pub mod starts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use porthole_histogram::Histogram;
use porthole_registry::SandboxRecord;
use tokio::sync::watch;

use self::{
    sandbox::{Sandbox, SandboxKey},
    starts::Starts,
};
use crate::{
    accumulate::{
        budget::{Charge, Limits, NodeBudget, TenantBudget},
        counters::AgentCounters,
        golden::GoldenTable,
    },
    guest_clock::Offset,
    identity::{Application, Identity},
    objectives::Objectives,
    own::OwnCounts,
    rejection::Rejection,
    spans::SpanStore,
};

/// Ended sandboxes that are remembered one by one; beyond, the oldest are retired.
pub const REMEMBERED_MAX: usize = 2_000;

/// How long an ended sandbox is remembered one by one.
pub const ENDED_KEEP: Duration = Duration::from_hours(1);

/// When an ended sandbox's series go.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Scrapes that must have seen the final values.
    pub scrapes: u32,
    /// Least time after the end, so that a look by hand does not use the scrapes up.
    pub at_least: Duration,
    /// Longest time, scraped or not.
    pub at_most: Duration,
}

/// How many applications a tenant has, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct ApplicationLimits {
    /// Applications of one tenant; those beyond are counted as `other`.
    pub per_tenant: usize,
    /// How long an application without sandboxes keeps its totals.
    pub idle: Duration,
}

impl Default for ApplicationLimits {
    fn default() -> Self {
        Self { per_tenant: 200, idle: Duration::from_hours(24) }
    }
}

/// Whose retired totals changed since they were written.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    /// Applications, also those that are gone.
    pub applications: BTreeSet<Application>,
    /// Tenants.
    pub tenants: BTreeSet<String>,
}

/// All sandboxes of the host.
#[derive(Debug)]
pub struct Fleet {
    /// What all tenants together may use.
    pub budget: NodeBudget,
    applications: ApplicationLimits,
    /// What is expected of the applications.
    pub objectives: Objectives,
    retention: Retention,
    inner: RwLock<Inner>,
    /// The exporter's counts about itself.
    pub own: OwnCounts,
    /// Exchanges sampled as spans.
    pub spans: SpanStore,
    changes: AtomicU64,
    /// [`Self::changes`] up to which the ledger is known to be written.
    saved: watch::Sender<u64>,
    dirty: Mutex<Dirty>,
    starts: Mutex<Starts>,
    /// Series of sandboxes that ended since stay whatever scrapes had of them, milliseconds since 1970-01-01T00:00:00Z.
    held_since: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    sandboxes: BTreeMap<SandboxKey, Arc<Sandbox>>,
    retired: Retired,
    budgets: BTreeMap<String, Arc<TenantBudget>>,
    /// What the applications of a tenant hold of its budget: memory of their retired totals, bytes of a scrape of all.
    application_charges: BTreeMap<String, Charge>,
}

/// Totals of sandboxes that are no longer remembered.
#[derive(Clone, Debug, Default)]
pub struct Retired {
    /// Golden values by application.
    pub applications: BTreeMap<Application, GoldenTable>,
    /// Agents' own counts by tenant.
    pub tenant_counters: BTreeMap<String, AgentCounters>,
    /// Since when an application has had no sandbox, milliseconds since 1970-01-01T00:00:00Z.
    pub idle_since: BTreeMap<Application, u64>,
    /// Since when a tenant has had neither sandbox nor application.
    pub tenants_idle_since: BTreeMap<String, u64>,
}

impl Fleet {
    /// A fleet without sandboxes.
    pub fn new(limits: Limits, retention: Retention) -> Self {
        Self {
            budget: NodeBudget::new(limits),
            retention,
            applications: ApplicationLimits::default(),
            objectives: Objectives::default(),
            inner: RwLock::default(),
            own: OwnCounts::default(),
            spans: SpanStore::default(),
            changes: AtomicU64::new(0),
            saved: watch::Sender::new(0),
            dirty: Mutex::default(),
            starts: Mutex::default(),
            held_since: AtomicU64::new(u64::MAX),
        }
    }

    /// The fleet with other bounds of applications.
    #[must_use]
    pub fn with_applications(mut self, limits: ApplicationLimits) -> Self {
        self.applications = limits;
        self
    }

    /// The fleet with other objectives of its applications.
    #[must_use]
    pub fn with_objectives(mut self, objectives: Objectives) -> Self {
        self.objectives = objectives;
        self
    }

    /// A number that grows whenever something that the ledger holds changes.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Something that the ledger holds has changed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The ledger holds whatever had changed when [`Self::changes`] gave this number.
    pub fn saved(&self, changes: u64) {
        self.saved.send_if_modified(|saved| std::mem::replace(saved, changes.max(*saved)) < changes);
    }

    /// What [`Self::saved`] was called with last.
    pub fn watch_saved(&self) -> watch::Receiver<u64> {
        self.saved.subscribe()
    }

    /// The budget of a tenant.
    pub fn tenant_budget(&self, tenant: &str) -> Arc<TenantBudget> {
        self.inner.write().tenant_budget(tenant, &self.budget)
    }

    /// The sandbox whose last state this is of, if it is known: the one of the record, or the one that has gone on with its
    /// series because its id was used again.
    pub fn find(&self, record: &SandboxRecord) -> Option<Arc<Sandbox>> {
        let key = SandboxKey::of(record);
        let inner = self.inner.read();
        if let Some(known) = inner.sandboxes.get(&key) {
            return Some(Arc::clone(known));
        }
        let identity = Identity::from(record);
        let later = inner.sandboxes.range(key.clone()..=key.all_uses().end().clone());
        let mut later = later.filter(|(key, _)| key.former == 0).map(|(_, sandbox)| sandbox);
        later.find(|sandbox| *sandbox.identity == identity).cloned()
    }

    /// The sandbox of a record: the one known, the one that came back, or a new one.
    pub fn register(&self, record: &Arc<SandboxRecord>) -> Arc<Sandbox> {
        let key = SandboxKey::of(record);
        if let Some(known) = self.inner.read().sandboxes.get(&key) {
            known.record_changed(record);
            self.agent_reached(known, record);
            return Arc::clone(known);
        }
        let mut inner = self.inner.write();
        let identity = Identity::from(&**record);
        let earlier = inner
            .sandboxes
            .range(key.all_uses())
            .filter(|(earlier, _)| earlier.former == 0)
            .find(|(_, sandbox)| *sandbox.identity == identity && sandbox.phase().exposes_series())
            .map(|(earlier, _)| earlier.clone());
        // An id used again while the series of its earlier use are still exposed has the same labels: they go on rather
        // than appear twice.
        let sandbox = earlier.and_then(|earlier| inner.sandboxes.remove(&earlier)).unwrap_or_else(|| {
            let budget = inner.tenant_budget(&identity.tenant, &self.budget);
            let application = self.admit(&mut inner, identity.application());
            inner.forget_former_series(&key, &identity);
            Arc::new(Sandbox::new(identity, key.created_unix_ms, budget).counted_for(application))
        });
        sandbox.record_changed(record);
        inner.sandboxes.insert(key, Arc::clone(&sandbox));
        drop(inner);
        self.agent_reached(&sandbox, record);
        self.changed();
        sandbox
    }

    /// The sandbox goes on under the name that the record gives it. What was counted stays with its name before, which ends. Its
    /// agent's connection must have ended. What the ledger has of the running epoch and the agent has not reported again
    /// ([`Accumulator::knows_its_epoch`](crate::accumulate::sandbox::Accumulator)) would be counted under both names.
    pub fn rename(&self, sandbox: &Arc<Sandbox>, record: &Arc<SandboxRecord>) -> Arc<Sandbox> {
        let identity = Identity::from(&**record);
        let mut inner = self.inner.write();
        let budget = inner.tenant_budget(&identity.tenant, &self.budget);
        let application = self.admit(&mut inner, identity.application());
        let key = sandbox.key();
        let successor = Arc::new(sandbox.successor(identity, budget).counted_for(application));
        inner.sandboxes.remove(&key);
        sandbox.supersede();
        inner.sandboxes.insert(sandbox.key(), Arc::clone(sandbox));
        inner.forget_former_series(&key, &successor.identity);
        inner.sandboxes.insert(key, Arc::clone(&successor));
        drop(inner);
        successor.record_changed(record);
        self.own.identity_changes.inc();
        self.changed();
        successor
    }

    /// Takes from a record when the sandbox's agent was reached.
    fn agent_reached(&self, sandbox: &Sandbox, record: &SandboxRecord) {
        let mut start = sandbox.start.lock();
        if !self.starts.lock().agent_reached(sandbox.start_of(), &mut start, record) {
            sandbox.reject(Rejection::TenantMemoryLimit);
        }
    }

    /// The sandbox has reached a phase at this moment of the guest's clock, from which the host's has this offset.
    pub fn reached(&self, sandbox: &Sandbox, phase: starts::Phase, guest_unix_ns: u64, offset: Offset) {
        let mut start = sandbox.start.lock();
        if !self.starts.lock().reached(sandbox.start_of(), &mut start, phase, (guest_unix_ns, offset)) {
            sandbox.reject(Rejection::TenantMemoryLimit);
        }
    }

    /// How long the sandboxes of each application took to start, of one tenant or of all.
    pub fn starts(&self, of: Option<&str>) -> Vec<(Application, starts::Phase, Histogram)> {
        self.starts.lock().of(of)
    }

    /// Puts a sandbox of an earlier run of the exporter back.
    pub fn restore(&self, sandbox: Sandbox) {
        let key = sandbox.key();
        self.inner.write().sandboxes.insert(key, Arc::new(sandbox));
    }

    /// A sandbox has ended: its values are final.
    pub fn end(&self, sandbox: &Sandbox) {
        if sandbox.end() {
            if sandbox.record().is_some_and(|record| record.abrupt_end) {
                self.own.abrupt_ends.inc();
            }
            self.changed();
        }
    }

    /// Every sandbox in any phase.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.inner.read().sandboxes.values().cloned().collect()
    }

    /// Every sandbox of one tenant, or of all, in any phase.
    pub fn sandboxes_of(&self, tenant: Option<&str>) -> Vec<Arc<Sandbox>> {
        let Some(tenant) = tenant else { return self.sandboxes() };
        let inner = self.inner.read();
        inner.sandboxes.values().filter(|sandbox| sandbox.identity.tenant == tenant).cloned().collect()
    }

    /// All that the ledger holds, as of one moment, and which of the retired totals were not written yet.
    pub fn snapshot<T>(
        &self,
        take: impl FnOnce(&BTreeMap<SandboxKey, Arc<Sandbox>>, &Retired, Dirty) -> T,
    ) -> T {
        let inner = self.inner.read();
        let dirty = std::mem::take(&mut *self.dirty.lock());
        take(&inner.sandboxes, &inner.retired, dirty)
    }

    /// What was taken from [`Self::snapshot`] was not written.
    pub fn dirty_again(&self, dirty: Dirty) {
        let mut now = self.dirty.lock();
        now.applications.extend(dirty.applications);
        now.tenants.extend(dirty.tenants);
    }

    /// Golden values of every application, for good.
    pub fn applications(&self) -> BTreeMap<Application, GoldenTable> {
        let inner = self.inner.read();
        let mut applications = inner.retired.applications.clone();
        for sandbox in inner.sandboxes.values() {
            let golden = sandbox.accumulator.lock().totals().golden();
            if !golden.is_empty() {
                applications.entry(sandbox.application().clone()).or_default().add(&golden);
            }
        }
        applications
    }

    /// The applications that have counted anything.
    pub fn application_names(&self) -> BTreeSet<Application> {
        let inner = self.inner.read();
        let mut names: BTreeSet<_> = inner.retired.applications.keys().cloned().collect();
        for sandbox in inner.sandboxes.values() {
            if !sandbox.accumulator.lock().totals().golden().is_empty() {
                names.insert(sandbox.application().clone());
            }
        }
        names
    }

    /// What the agents of each tenant count about themselves, for good.
    pub fn tenant_counters(&self) -> BTreeMap<String, AgentCounters> {
        let inner = self.inner.read();
        let mut tenants = inner.retired.tenant_counters.clone();
        for sandbox in inner.sandboxes.values() {
            let counters = sandbox.accumulator.lock().totals().counters();
            tenants.entry(sandbox.identity.tenant.clone()).or_default().add(&counters);
        }
        tenants
    }

    /// Every tenant's budget.
    pub fn budgets(&self) -> Vec<(String, Arc<TenantBudget>)> {
        self.inner
            .read()
            .budgets
            .iter()
            .map(|(tenant, budget)| (tenant.clone(), Arc::clone(budget)))
            .collect()
    }

    /// A tenant's budget, if it has one.
    pub fn budget_of(&self, tenant: &str) -> Option<Arc<TenantBudget>> {
        self.inner.read().budgets.get(tenant).cloned()
    }
}

impl Inner {
    /// Forgets the series of earlier names of an id that have the same labels: they must not appear twice.
    fn forget_former_series(&self, key: &SandboxKey, identity: &Identity) {
        let former = self.sandboxes.range(key.all_uses()).filter(|(key, _)| key.former > 0);
        for (_, former) in former.filter(|(_, former)| *former.identity == *identity) {
            former.forget_series();
        }
    }

    fn tenant_budget(&mut self, tenant: &str, node: &NodeBudget) -> Arc<TenantBudget> {
        if let Some(budget) = self.budgets.get(tenant) {
            return Arc::clone(budget);
        }
        let budget = Arc::new(TenantBudget::new(node));
        self.budgets.insert(tenant.to_owned(), Arc::clone(&budget));
        budget
    }
}

#[cfg(test)]
mod tests;
