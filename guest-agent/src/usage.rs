//! What the agent itself takes: CPU time and memory; and the clocks.

use std::{path::Path, time::Duration};

use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};
use procfs::process::Process;
use rustix::process::setpriority_process;

/// CPU time of this process so far.
pub fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// Resident memory of this process, bytes; 0 where it cannot be read.
pub fn resident_bytes(proc: &Path) -> u64 {
    let statm = Process::new_with_root(proc.join("self")).and_then(|process| process.statm());
    statm.map_or(0, |statm| statm.resident * procfs::page_size())
}

/// Nanoseconds of the clock that the kernel's records carry.
pub fn monotonic_ns() -> u64 {
    clock_ns(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    clock_ns(ClockId::CLOCK_REALTIME)
}

/// The wall clock's time when the monotonic clock showed 0, as the wall clock is set now; nanoseconds since 1970.
pub fn unix_offset_ns() -> u64 {
    unix_ns().saturating_sub(monotonic_ns())
}

fn clock_ns(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux.
    let now = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Gives memory that was freed back to the kernel. Loading takes a few MiB for a moment, in which the allocator would
/// otherwise keep the agent for good; where it has no such function it does so by itself.
pub fn give_back_memory() {
    // A function of glibc alone, so neither nix nor rustix has it.
    // SAFETY: malloc_trim may be called at any time by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Takes the usual priority, if a supervisor gave another one for loading. Must be called while it may be raised.
pub fn take_usual_priority() {
    // A process may always raise its nice value to 0; to lower one it needs the capability.
    let _ = setpriority_process(None, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

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
