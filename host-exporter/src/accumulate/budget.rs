//! The budget of a tenant: one tenant's cardinality is never another's memory, and its batches never another's CPU time.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{metering::TokenBucket, rejection::Rejections};

/// CPU time that the batches of one tenant may take in the long run, seconds of one core per second.
pub const TENANT_CPU: f64 = 0.25;

/// CPU time that they may take at once, seconds: so many full states after a restart of the exporter.
pub const TENANT_CPU_BURST: f64 = 5.0;

/// For each exposed series a tenant may have this many series ids tracked behind it: ids that fold into `other` still
/// need their last value remembered, or their counts could not be added exactly once.
const TRACKED_PER_EXPOSED: usize = 4;

/// What a tenant has taken of its budget.
#[derive(Debug)]
pub struct TenantBudget {
    limit: usize,
    exposed: AtomicUsize,
    tracked: AtomicUsize,
    cpu: Mutex<TokenBucket>,
    throttled_ns: AtomicU64,
    /// What the tenant's agents sent that was not counted.
    pub rejections: Rejections,
}

impl TenantBudget {
    /// A budget of `limit` exposed series.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            exposed: AtomicUsize::new(0),
            tracked: AtomicUsize::new(0),
            cpu: Mutex::new(TokenBucket::new(TENANT_CPU, TENANT_CPU_BURST)),
            throttled_ns: AtomicU64::new(0),
            rejections: Rejections::default(),
        }
    }

    /// CPU time was spent on the tenant's behalf; the time until more may be spent.
    pub fn spend_cpu(&self, spent: Duration) -> Duration {
        self.cpu.lock().spend(spent.as_secs_f64())
    }

    /// An agent of the tenant is held back for so long.
    pub fn throttled_for(&self, wait: Duration) {
        self.throttled_ns.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long the tenant's agents were held back.
    pub fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled_ns.load(Ordering::Relaxed))
    }

    /// Series that the tenant may expose.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Series that the tenant exposes.
    pub fn exposed(&self) -> usize {
        self.exposed.load(Ordering::Relaxed)
    }

    /// Takes one exposed series; false when the budget is used up.
    #[must_use]
    pub fn take_exposed(&self) -> bool {
        take(&self.exposed, self.limit)
    }

    /// Takes one exposed series in any case: for `other`, of which a sandbox has a bounded number.
    pub fn take_exposed_for_other(&self) {
        self.exposed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one tracked series id; false when the budget is used up.
    #[must_use]
    pub fn take_tracked(&self) -> bool {
        take(&self.tracked, self.limit.saturating_mul(TRACKED_PER_EXPOSED))
    }

    /// Gives exposed series back.
    pub fn release_exposed(&self, count: usize) {
        self.exposed.fetch_sub(count, Ordering::Relaxed);
    }

    /// Gives tracked series ids back.
    pub fn release_tracked(&self, count: usize) {
        self.tracked.fetch_sub(count, Ordering::Relaxed);
    }
}

fn take(counter: &AtomicUsize, limit: usize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then_some(taken + 1))
        .is_ok()
}
