//! The series budget of a tenant: one tenant's cardinality is never another's memory.

use std::sync::atomic::{AtomicUsize, Ordering};

/// For each exposed series a tenant may have this many series ids tracked behind it: ids that fold into `other` still
/// need their last value remembered, or their counts could not be added exactly once.
const TRACKED_PER_EXPOSED: usize = 4;

/// What a tenant has taken of its budget.
#[derive(Debug)]
pub struct TenantBudget {
    limit: usize,
    exposed: AtomicUsize,
    tracked: AtomicUsize,
}

impl TenantBudget {
    /// A budget of `limit` exposed series.
    pub fn new(limit: usize) -> Self {
        Self { limit, exposed: AtomicUsize::new(0), tracked: AtomicUsize::new(0) }
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
