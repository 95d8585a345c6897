//! The exporter's wall clock: read once, and driven by `CLOCK_BOOTTIME` from then on (`clock_gettime(2)`), which counts
//! through suspension and is never set. A wall clock that is set while the exporter runs ages nothing.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Milliseconds between the start of the machine and 1970, negative.
static OFFSET_MS: OnceLock<i64> = OnceLock::new();

/// A moment in both clocks, for an exporter that is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The kernel's random id of this boot.
    pub boot_id: String,
    /// The exporter's wall clock.
    pub unix_ms: u64,
    /// Since the boot.
    pub boot_ms: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot_id: boot_id.trim().to_owned(), unix_ms: unix_ms(), boot_ms: boot_ms() }
    }

    /// Goes on with the clock of an earlier run, if the machine was not started since.
    pub fn resume(&self) {
        let same_boot =
            !self.boot_id.is_empty() && self.boot_id == Self::now_boot_id() && self.boot_ms <= boot_ms();
        if same_boot {
            let offset = offset(self.unix_ms, self.boot_ms);
            // Set once: a clock that was read already goes on as it is.
            let _ = OFFSET_MS.set(offset);
        }
    }

    fn now_boot_id() -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn unix_ms() -> u64 {
    boot_ms().saturating_add_signed(offset_ms())
}

/// Nanoseconds since 1970-01-01T00:00:00Z.
pub fn unix_ns() -> u64 {
    let boot_ns = u64::try_from(boot().as_nanos()).unwrap_or(u64::MAX);
    boot_ns.saturating_add_signed(offset_ms().saturating_mul(1_000_000))
}

fn offset_ms() -> i64 {
    *OFFSET_MS.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        offset(wall, boot_ms())
    })
}

fn boot() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn boot_ms() -> u64 {
    millis(boot())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn offset(unix_ms: u64, boot_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX).saturating_sub(i64::try_from(boot_ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_the_wall_clock_at_first_and_never_goes_back() {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        let (first, second) = (unix_ms(), unix_ms());
        assert!(first.abs_diff(wall) < 60_000, "{first} {wall}");
        assert!(second >= first);
        assert!((second..second + 60_000).contains(&(unix_ns() / 1_000_000)));
        let moment = Moment::now();
        Moment { unix_ms: 5, ..moment }.resume();
        assert!(unix_ms() >= second, "a clock that was read goes on as it is");
    }
}
