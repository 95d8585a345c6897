//! The limit on the agent's own CPU time: in a sandbox it runs on CPUs that its tenant pays for.
//!
//! Every few seconds the CPU time is compared with the share that is allowed; capture pauses for what was too much.

use std::time::Duration;

/// Over how long the share is measured: bursts are what the agent is there for.
const WINDOW: Duration = Duration::from_secs(5);

/// Longest pause at a time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Decides when capture has to pause.
#[derive(Debug)]
pub struct CpuLimiter {
    /// Share of one CPU; `None` for no limit.
    share: Option<f64>,
    window_start: Duration,
    cpu_at_start: Duration,
    /// Pauses so far.
    pauses: u64,
}

impl CpuLimiter {
    /// Allows `percent` of one CPU; 0 allows everything.
    pub fn new(percent: u32) -> Self {
        let share = (percent > 0).then(|| f64::from(percent) / 100.0);
        Self { share, window_start: Duration::ZERO, cpu_at_start: Duration::ZERO, pauses: 0 }
    }

    /// Takes the time and the CPU time so far; gives how long to pause.
    pub fn check(&mut self, now: Duration, cpu: Duration) -> Option<Duration> {
        let elapsed = now.saturating_sub(self.window_start);
        if elapsed < WINDOW {
            return None;
        }
        let used = cpu.saturating_sub(self.cpu_at_start);
        let first = self.window_start.is_zero();
        (self.window_start, self.cpu_at_start) = (now, cpu);
        let allowed = elapsed.mul_f64(self.share?);
        let excess = used.saturating_sub(allowed);
        if first || excess.is_zero() {
            return None;
        }
        self.pauses += 1;
        Some(excess.min(PAUSE_MAX))
    }

    /// Pauses so far.
    pub fn pauses(&self) -> u64 {
        self.pauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_pauses_for_what_was_too_much() {
        let mut limiter = CpuLimiter::new(50);
        assert_eq!(limiter.check(seconds(10), seconds(9)), None, "the first window only begins");
        assert_eq!(limiter.check(seconds(12), seconds(11)), None, "too short to say");
        assert_eq!(limiter.check(seconds(16), seconds(12)), None, "3 of 6 seconds");
        assert_eq!(
            limiter.check(seconds(22), seconds(15) + Duration::from_millis(500)),
            Some(Duration::from_millis(500))
        );
        assert_eq!(limiter.check(seconds(28), seconds(21)), Some(PAUSE_MAX));
        assert_eq!(limiter.pauses(), 2);
    }

    #[test]
    fn without_a_share_it_never_pauses() {
        let mut limiter = CpuLimiter::new(0);
        for second in 1..30 {
            assert_eq!(limiter.check(seconds(second), seconds(second)), None);
        }
    }
}
