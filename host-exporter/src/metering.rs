//! Rates that may be exceeded for a while: what was spent beyond the rate has to be waited for.

use std::time::Duration;

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
}
