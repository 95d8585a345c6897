//! What the agent itself takes, and the brake on it.

use std::{path::Path, time::Duration};

/// CPU time of this process so far.
pub fn cpu_time() -> Duration {
    // SAFETY: all zero is a valid value of this struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct lives until after the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return Duration::ZERO;
    }
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Resident memory of this process, bytes; 0 where it cannot be read.
pub fn resident_bytes(proc: &Path) -> u64 {
    let statm = std::fs::read_to_string(proc.join("self/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}

/// Nanoseconds of the clock that the kernel's records carry.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct lives until after the call; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Over how long the share is measured: bursts are what the agent is there for.
const WINDOW: Duration = Duration::from_secs(5);

/// Longest pause at a time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Says when the agent has to stop capturing because it took more than its share of CPU.
#[derive(Debug)]
pub struct Brake {
    /// Share of one CPU; `None` for no limit.
    share: Option<f64>,
    window_start: Duration,
    cpu_at_start: Duration,
    /// Pauses so far.
    pauses: u64,
}

impl Brake {
    /// A brake that allows `percent` of one CPU; 0 allows everything.
    pub fn new(percent: u32) -> Self {
        let share = (percent > 0).then(|| f64::from(percent) / 100.0);
        Self { share, window_start: Duration::ZERO, cpu_at_start: Duration::ZERO, pauses: 0 }
    }

    /// Looks at the clock and at the CPU time so far; says how long to pause.
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

/// Gives memory that was freed back to the kernel. Loading takes a few MiB for a moment, in which the allocator would
/// otherwise keep the agent for good; where it has no such function it does so by itself.
pub fn give_back_memory() {
    // SAFETY: no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_brake_pauses_for_what_was_too_much() {
        let mut brake = Brake::new(50);
        assert_eq!(brake.check(seconds(10), seconds(9)), None, "the first window only begins");
        assert_eq!(brake.check(seconds(12), seconds(11)), None, "too short to say");
        assert_eq!(brake.check(seconds(16), seconds(12)), None, "3 of 6 seconds");
        assert_eq!(
            brake.check(seconds(22), seconds(15) + Duration::from_millis(500)),
            Some(Duration::from_millis(500))
        );
        assert_eq!(brake.check(seconds(28), seconds(21)), Some(PAUSE_MAX));
        assert_eq!(brake.pauses(), 2);
    }

    #[test]
    fn without_a_share_it_never_pauses() {
        let mut brake = Brake::new(0);
        for second in 1..30 {
            assert_eq!(brake.check(seconds(second), seconds(second)), None);
        }
    }

    #[test]
    fn this_process_takes_memory_and_time() {
        assert!(resident_bytes(Path::new("/proc")) > 100_000);
        let before = cpu_time();
        while cpu_time() == before {
            std::hint::spin_loop();
        }
        assert!(unix_ns() > monotonic_ns());
    }
}
