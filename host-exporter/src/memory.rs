//! The ceiling of the process's memory. What tenants hold is bounded before it is held ([`crate::accumulate::budget`]); this
//! watches what the process really takes, and acts before the ceiling is reached:
//!
//! - from three quarters on, free memory is given back to the system, and only tenants below their share take more;
//! - from seven eighths on, no tenant takes more, and expositions that clients are still reading are dropped but the
//!   last.

use std::{fs, io, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{accumulate::pool::Pressure, fleet::Fleet};

/// Between two looks. What is not accounted for grows by some MiB meanwhile at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// Resident memory of this process, bytes (proc(5), `/proc/pid/statm`).
pub fn resident_bytes() -> io::Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    let pages = pages.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(pages * page_size())
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096)
}

/// Few arenas, so that what one thread frees another one uses (mallopt(3), which glibc alone has). Before threads exist.
pub fn limit_arenas() {
    // SAFETY: mallopt has no precondition but to be called by one thread at a time, and no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Gives free memory back to the system (`malloc_trim(3)`, which glibc alone has).
fn trim() {
    // SAFETY: malloc_trim may be called at any time by any thread.
    unsafe { libc::malloc_trim(0) };
}

/// How scarce memory is when the process takes so much of its ceiling.
fn pressure(resident: usize, ceiling: usize) -> Pressure {
    if resident >= ceiling / 8 * 7 {
        Pressure::Full
    } else if resident >= ceiling / 4 * 3 {
        Pressure::Near
    } else {
        Pressure::None
    }
}

/// Watches the process's memory until stopped; `shed` drops what can be done without.
pub async fn watch(fleet: Arc<Fleet>, shed: impl Fn() + Send, mut stop: watch::Receiver<bool>) {
    let ceiling = fleet.budget.limits().memory;
    let mut before = Pressure::None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Ok(mut resident) = resident_bytes() else { continue };
        if pressure(resident, ceiling) != Pressure::None {
            if pressure(resident, ceiling) == Pressure::Full {
                shed();
            }
            trim();
            resident = resident_bytes().unwrap_or(resident);
        }
        let now = pressure(resident, ceiling);
        fleet.budget.set_pressure(now);
        if now > before {
            tracing::warn!(
                resident,
                ceiling,
                ?now,
                "memory is scarce: series of tenants above their share are counted in `other`"
            );
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_grows_with_what_the_process_takes() {
        assert_eq!(pressure(383, 512), Pressure::None);
        assert_eq!(pressure(384, 512), Pressure::Near);
        assert_eq!(pressure(448, 512), Pressure::Full);
        let resident = resident_bytes().expect("read");
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    }
}
