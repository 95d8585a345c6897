//! The rate of the processor's time stamp counter, which an emulated guest reads as its own.
//!
//! A guest's kernel would measure the counter at boot, against a timer that QEMU emulates. On a busy host the two are read at
//! different times. The guest's clock then runs many times too fast as long as it lives: what it measures is wrong, and the deadlines
//! of its calls pass at once. So the kernel is given the rate (`tsc_early_khz`).

use std::time::Duration;

use tokio::time::sleep;

/// Shortest time between the two readings: it makes the error of a reading, less than a microsecond, a small part.
const BASE_MIN: Duration = Duration::from_millis(10);

/// Attempts at one reading: the one during which least time passes is best.
const ATTEMPTS: u32 = 8;

/// The counter and the clock at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    ticks: u64,
    nanoseconds: u64,
}

impl Reading {
    /// Reads both; none where the processor has no such counter.
    pub fn now() -> Option<Self> {
        let attempt = || {
            let before = counter()?;
            // Adjusted by NTP, so that the guest's clock runs as the host's does.
            let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?;
            let took = counter()?.checked_sub(before)?;
            let nanoseconds = u64::try_from(Duration::from(time).as_nanos()).ok()?;
            Some((took, Self { ticks: before + took / 2, nanoseconds }))
        };
        (0..ATTEMPTS).filter_map(|_| attempt()).min_by_key(|(took, _)| *took).map(|(_, reading)| reading)
    }

    /// The rate since this reading, kHz. Waits until enough time has passed.
    pub async fn khz_since(self) -> Option<u32> {
        let rest = BASE_MIN.saturating_sub(Duration::from_nanos(Self::now()?.nanoseconds - self.nanoseconds));
        if !rest.is_zero() {
            sleep(rest).await;
        }
        khz(self, Self::now()?)
    }
}

fn khz(first: Reading, last: Reading) -> Option<u32> {
    let ticks = u128::from(last.ticks.checked_sub(first.ticks)?);
    let nanoseconds = u128::from(last.nanoseconds.checked_sub(first.nanoseconds)?);
    let khz = (ticks * 1_000_000).checked_div(nanoseconds)?;
    // A virtual machine may have a counter that stands still.
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other processors have none")]
fn counter() -> Option<u64> {
    // SAFETY: the instruction reads a register, which user space may (`PR_SET_TSC` is not used).
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_ticks_by_milliseconds() {
        let at = |ticks, nanoseconds| Reading { ticks, nanoseconds };
        assert_eq!(khz(at(1000, 7), at(25_001_000, 10_000_007)), Some(2_500_000));
        assert_eq!(khz(at(5, 5), at(5, 10_000_005)), None, "it stands still");
        assert_eq!(khz(at(5, 5), at(50, 5)), None, "no time has passed");
        assert_eq!(khz(at(5, 5), at(4, 10)), None, "it went back");
    }

    #[cfg(target_arch = "x86_64")]
    #[tokio::test]
    async fn two_measurements_agree() {
        let first = Reading::now().expect("a counter");
        let short = f64::from(first.khz_since().await.expect("a rate"));
        sleep(BASE_MIN * 5).await;
        let long = f64::from(first.khz_since().await.expect("a rate"));
        assert!((short / long - 1.0).abs() < 0.01, "{short} and {long} kHz");
    }
}
