//! Rates that may be exceeded for a while: what was spent beyond the rate has to be waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A store of tokens that refills at a constant rate. Spending may go below zero; the debt is the time to wait.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    level: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, level: burst, filled: Instant::now() }
    }

    /// Spends tokens; the time until the bucket is not in debt.
    pub fn spend(&mut self, tokens: f64) -> Duration {
        self.refill();
        self.level -= tokens;
        self.debt()
    }

    /// Time until the bucket is not in debt.
    pub fn wait(&mut self) -> Duration {
        self.refill();
        self.debt()
    }

    /// Refills at another rate from now on.
    fn set_rate(&mut self, per_second: f64, burst: f64) {
        self.refill();
        (self.per_second, self.burst) = (per_second, burst);
        self.level = self.level.min(burst);
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let earned = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        self.level = (self.level + earned).min(self.burst);
        self.filled = now;
    }

    fn debt(&self) -> Duration {
        if self.level >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.level / self.per_second).unwrap_or(Duration::MAX)
    }
}

/// How much may be spent per second, and how much at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In the long run.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

impl Rate {
    /// A rate of which so many seconds may be spent at once.
    pub fn lasting(per_second: f64, seconds: f64) -> Self {
        Self { per_second, burst: per_second * seconds }
    }

    fn bucket(self) -> TokenBucket {
        TokenBucket::new(self.per_second, self.burst)
    }

    #[allow(clippy::cast_precision_loss)]
    fn among(self, count: usize) -> Self {
        let count = count.max(1) as f64;
        Self { per_second: self.per_second / count, burst: self.burst / count }
    }
}

/// What all tenants together may spend. While it is exceeded, those who spend more than an equal share wait.
#[derive(Debug)]
pub struct SharedRate {
    rate: Rate,
    bucket: Mutex<TokenBucket>,
    tenants: AtomicUsize,
}

impl SharedRate {
    /// A rate of which nothing is spent yet.
    pub fn new(rate: Rate) -> Arc<Self> {
        Arc::new(Self { rate, bucket: Mutex::new(rate.bucket()), tenants: AtomicUsize::new(0) })
    }
}

/// What one tenant may spend: a rate of its own, and its share of what all may.
#[derive(Debug)]
pub struct TenantRate {
    shared: Arc<SharedRate>,
    buckets: Mutex<TenantBuckets>,
}

#[derive(Debug)]
struct TenantBuckets {
    own: TokenBucket,
    share: TokenBucket,
}

impl TenantRate {
    /// A rate of one more tenant.
    pub fn new(shared: &Arc<SharedRate>, own: Rate) -> Self {
        let tenants = shared.tenants.fetch_add(1, Ordering::Relaxed) + 1;
        let share = shared.rate.among(tenants).bucket();
        Self { shared: Arc::clone(shared), buckets: Mutex::new(TenantBuckets { own: own.bucket(), share }) }
    }

    /// Spends tokens; the time until more may be spent.
    pub fn spend(&self, tokens: f64) -> Duration {
        let of_all = self.shared.bucket.lock().spend(tokens);
        let rate = self.shared.rate.among(self.shared.tenants.load(Ordering::Relaxed));
        let mut buckets = self.buckets.lock();
        buckets.share.set_rate(rate.per_second, rate.burst);
        let share = buckets.share.spend(tokens);
        buckets.own.spend(tokens).max(of_all.min(share))
    }

    /// Time until more may be spent.
    pub fn wait(&self) -> Duration {
        self.spend(0.0)
    }
}

impl Drop for TenantRate {
    fn drop(&mut self) {
        self.shared.tenants.fetch_sub(1, Ordering::Relaxed);
    }
}

/// CPU time that this thread has used (`clock_gettime(2)`, `CLOCK_THREAD_CPUTIME_ID`).
pub fn thread_cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_exceeds_the_rate_is_waited_for() {
        let mut bucket = TokenBucket::new(10.0, 20.0);
        assert_eq!(bucket.spend(20.0), Duration::ZERO, "the burst");
        assert_eq!(bucket.spend(5.0), Duration::from_millis(500));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(bucket.wait(), Duration::ZERO);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(bucket.spend(21.0), Duration::from_millis(100), "no more than the burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn who_spends_more_than_a_share_waits_when_all_together_spend_too_much() {
        let shared = SharedRate::new(Rate { per_second: 100.0, burst: 100.0 });
        let own = Rate { per_second: 80.0, burst: 1_000.0 };
        let (greedy, modest) = (TenantRate::new(&shared, own), TenantRate::new(&shared, own));
        assert_eq!(greedy.spend(100.0), Duration::ZERO, "no other spends any");
        assert_eq!(greedy.spend(10.0), Duration::from_millis(100), "until all are within the rate");
        assert_eq!(modest.spend(5.0), Duration::ZERO, "within its share");
        assert!(modest.spend(100.0) > Duration::ZERO);
        drop(modest);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(greedy.spend(100.0), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_a_rate_of_its_own_whatever_the_others_leave() {
        let shared = SharedRate::new(Rate { per_second: 1e9, burst: 1e9 });
        let tenant = TenantRate::new(&shared, Rate { per_second: 10.0, burst: 10.0 });
        assert_eq!(tenant.spend(15.0), Duration::from_millis(500));
    }
}
