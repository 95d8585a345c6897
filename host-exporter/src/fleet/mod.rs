//! All sandboxes of the host, live and ended, and the totals of the applications.
//!
//! A sandbox goes through phases: *live* while its record is in the registry; *ended* while its series are still
//! exposed for the next scrapes; *remembered*, without series, so that a sandbox whose record only vanished for a while
//! comes back without being counted twice; at last it is folded into its application's totals. An application's totals
//! are the folded ones plus those of every sandbox in any phase, and so never go backwards.

pub mod link;
pub mod sandbox;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use porthole_registry::SandboxRecord;

use self::sandbox::{Phase, Sandbox, SandboxKey};
use crate::{
    accumulate::{budget::TenantBudget, counters::AgentCounters, golden::GoldenTable, series::OTHER},
    clock::unix_ms,
    identity::{Application, Identity},
    own::OwnCounts,
    spans::SpanStore,
};

/// Ended sandboxes that are remembered one by one; beyond, the oldest are folded into their applications.
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

/// What was folded and changed since it was written.
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
    series_per_tenant: usize,
    applications: ApplicationLimits,
    retention: Retention,
    inner: RwLock<Inner>,
    /// The exporter's counts about itself.
    pub own: OwnCounts,
    /// Exchanges sampled as spans.
    pub spans: SpanStore,
    changes: AtomicU64,
    dirty: Mutex<Dirty>,
}

#[derive(Debug, Default)]
struct Inner {
    sandboxes: BTreeMap<SandboxKey, Arc<Sandbox>>,
    folded: Folded,
    /// Since when an application has had no sandbox, milliseconds since 1970-01-01T00:00:00Z.
    idle_since: BTreeMap<Application, u64>,
    budgets: BTreeMap<String, Arc<TenantBudget>>,
}

/// What was folded out of sandboxes that are no longer remembered.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// Golden values by application.
    pub applications: BTreeMap<Application, GoldenTable>,
    /// Agents' own counts by tenant.
    pub tenant_counters: BTreeMap<String, AgentCounters>,
}

impl Fleet {
    /// A fleet without sandboxes.
    pub fn new(series_per_tenant: usize, retention: Retention) -> Self {
        Self {
            series_per_tenant,
            retention,
            applications: ApplicationLimits::default(),
            inner: RwLock::default(),
            own: OwnCounts::default(),
            spans: SpanStore::default(),
            changes: AtomicU64::new(0),
            dirty: Mutex::default(),
        }
    }

    /// The fleet with other bounds of applications.
    #[must_use]
    pub fn with_applications(mut self, limits: ApplicationLimits) -> Self {
        self.applications = limits;
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

    /// The budget of a tenant.
    pub fn budget(&self, tenant: &str) -> Arc<TenantBudget> {
        self.inner.write().budget(tenant, self.series_per_tenant)
    }

    /// The sandbox of a record: the one known, the one that came back, or a new one.
    pub fn register(&self, record: &SandboxRecord) -> Arc<Sandbox> {
        let key = SandboxKey::of(record);
        if let Some(known) = self.inner.read().sandboxes.get(&key) {
            known.record_changed(record);
            return Arc::clone(known);
        }
        let mut inner = self.inner.write();
        let identity = Identity::from(record);
        let earlier = inner
            .sandboxes
            .range(key.all_uses())
            .find(|(_, sandbox)| sandbox.identity == identity && sandbox.phase().exposes_series())
            .map(|(earlier, _)| earlier.clone());
        // An id used again while the series of its earlier use are still exposed has the same labels: they go on rather
        // than appear twice.
        let sandbox = earlier.and_then(|earlier| inner.sandboxes.remove(&earlier)).unwrap_or_else(|| {
            let budget = inner.budget(&identity.tenant, self.series_per_tenant);
            let application = self.admit(&mut inner, identity.application());
            Arc::new(Sandbox::new(identity, key.created_unix_ms, budget).counted_for(application))
        });
        sandbox.record_changed(record);
        inner.sandboxes.insert(key, Arc::clone(&sandbox));
        drop(inner);
        self.changed();
        sandbox
    }

    /// Puts a sandbox of an earlier run of the exporter back.
    pub fn restore(&self, sandbox: Sandbox) {
        let key = SandboxKey::new(&sandbox.identity, sandbox.created_unix_ms());
        self.inner.write().sandboxes.insert(key, Arc::new(sandbox));
    }

    /// Puts the folded totals of an earlier run back.
    pub fn restore_folded(&self, folded: Folded) {
        let mut inner = self.inner.write();
        let now = unix_ms();
        inner.idle_since = folded.applications.keys().map(|application| (application.clone(), now)).collect();
        inner.folded = folded;
    }

    /// The application that a new sandbox is counted for: its own, or `other` where its tenant has too many. One that
    /// has had no sandbox for longest makes room. Once decided it stays: totals that moved would be invented requests.
    fn admit(&self, inner: &mut Inner, application: Application) -> Application {
        let of_tenant = |known: &&Application| known.tenant == application.tenant;
        let live: BTreeSet<Application> = inner
            .sandboxes
            .values()
            .map(|sandbox| sandbox.application())
            .filter(of_tenant)
            .cloned()
            .collect();
        if live.contains(&application) || inner.folded.applications.contains_key(&application) {
            return application;
        }
        let mut known: BTreeSet<Application> =
            inner.folded.applications.keys().filter(of_tenant).cloned().collect();
        known.extend(live.iter().cloned());
        if known.len() < self.applications.per_tenant {
            return application;
        }
        let idle = known.iter().filter(|known| !live.contains(*known) && known.service_name != OTHER);
        let oldest = idle.min_by_key(|known| inner.idle_since.get(*known).copied().unwrap_or(0)).cloned();
        match oldest {
            Some(oldest) => {
                self.forget_application(inner, &oldest);
                application
            }
            None => Application { service_name: OTHER.to_owned(), ..application },
        }
    }

    fn forget_application(&self, inner: &mut Inner, application: &Application) {
        inner.folded.applications.remove(application);
        inner.idle_since.remove(application);
        self.dirty.lock().applications.insert(application.clone());
        self.own.applications_forgotten.inc();
        self.changed();
    }

    /// Lets applications go that have had no sandbox for long.
    fn age_applications(&self, now_unix_ms: u64) {
        let mut inner = self.inner.write();
        let live: BTreeSet<Application> =
            inner.sandboxes.values().map(|sandbox| sandbox.application().clone()).collect();
        let mut idle = Vec::new();
        for application in inner.folded.applications.keys().filter(|known| !live.contains(*known)) {
            idle.push(application.clone());
        }
        inner.idle_since.retain(|application, _| !live.contains(application));
        for application in idle {
            let since = *inner.idle_since.entry(application.clone()).or_insert(now_unix_ms);
            if Duration::from_millis(now_unix_ms.saturating_sub(since)) >= self.applications.idle {
                self.forget_application(&mut inner, &application);
            }
        }
    }

    /// A sandbox has ended: its values are final.
    pub fn end(&self, sandbox: &Sandbox) {
        if sandbox.end() {
            self.changed();
        }
    }

    /// Every sandbox in any phase.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.inner.read().sandboxes.values().cloned().collect()
    }

    /// All that the ledger holds, as of one moment, and what of the folded totals was not written yet.
    pub fn snapshot<T>(
        &self,
        take: impl FnOnce(&BTreeMap<SandboxKey, Arc<Sandbox>>, &Folded, Dirty) -> T,
    ) -> T {
        let inner = self.inner.read();
        let dirty = std::mem::take(&mut *self.dirty.lock());
        take(&inner.sandboxes, &inner.folded, dirty)
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
        let mut applications = inner.folded.applications.clone();
        for sandbox in inner.sandboxes.values() {
            let golden = sandbox.accumulator.lock().totals().golden();
            if !golden.is_empty() {
                applications.entry(sandbox.application().clone()).or_default().add(&golden);
            }
        }
        applications
    }

    /// What the agents of each tenant count about themselves, for good.
    pub fn tenant_counters(&self) -> BTreeMap<String, AgentCounters> {
        let inner = self.inner.read();
        let mut tenants = inner.folded.tenant_counters.clone();
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

    /// A scrape that saw these ended sandboxes went out whole.
    pub fn scraped(&self, ended: &[Arc<Sandbox>]) {
        for sandbox in ended {
            sandbox.scraped();
        }
        self.retire(unix_ms());
    }

    /// Lets series, and then memory, of ended sandboxes go when their time has come.
    pub fn retire(&self, now_unix_ms: u64) {
        let mut remembered = Vec::new();
        for sandbox in self.sandboxes() {
            match sandbox.phase() {
                Phase::Live => {}
                Phase::Ended { at_unix_ms, scrapes } => {
                    let age = Duration::from_millis(now_unix_ms.saturating_sub(at_unix_ms));
                    let seen = scrapes >= self.retention.scrapes && age >= self.retention.at_least;
                    if seen || age >= self.retention.at_most {
                        sandbox.forget_series();
                    }
                }
                Phase::Remembered { at_unix_ms } => remembered.push((at_unix_ms, sandbox)),
            }
        }
        remembered.sort_by_key(|(at_unix_ms, _)| *at_unix_ms);
        let surplus = remembered.len().saturating_sub(REMEMBERED_MAX);
        let expired =
            |at_unix_ms: u64| Duration::from_millis(now_unix_ms.saturating_sub(at_unix_ms)) >= ENDED_KEEP;
        for (at, (ended_unix_ms, sandbox)) in remembered.into_iter().enumerate() {
            if at < surplus || expired(ended_unix_ms) {
                self.fold(&sandbox);
            }
        }
        self.age_applications(now_unix_ms);
    }

    fn fold(&self, sandbox: &Arc<Sandbox>) {
        let mut inner = self.inner.write();
        let key = SandboxKey::new(&sandbox.identity, sandbox.created_unix_ms());
        // It may have come back to life since it was listed.
        if !matches!(sandbox.phase(), Phase::Remembered { .. }) || inner.sandboxes.remove(&key).is_none() {
            return;
        }
        let accumulator = sandbox.accumulator.lock();
        let totals = accumulator.totals();
        let golden = totals.golden();
        if !golden.is_empty() {
            let application = sandbox.application();
            inner.folded.applications.entry(application.clone()).or_default().add(&golden);
            self.dirty.lock().applications.insert(application.clone());
        }
        self.dirty.lock().tenants.insert(sandbox.identity.tenant.clone());
        inner
            .folded
            .tenant_counters
            .entry(sandbox.identity.tenant.clone())
            .or_default()
            .add(&totals.counters());
        drop(accumulator);
        drop(inner);
        self.changed();
    }
}

impl Inner {
    fn budget(&mut self, tenant: &str, limit: usize) -> Arc<TenantBudget> {
        if let Some(budget) = self.budgets.get(tenant) {
            return Arc::clone(budget);
        }
        let budget = Arc::new(TenantBudget::new(limit));
        self.budgets.insert(tenant.to_owned(), Arc::clone(&budget));
        budget
    }
}

#[cfg(test)]
mod tests;
