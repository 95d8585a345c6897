//! What the containers of the guest have reached, for the host's times of starts.

use std::{path::Path, time::Duration};

use porthole_agent_api::agent::{Counters, Milestones as Report};

use crate::{unattached, usage};

/// Most looks for the oldest process of a container: each one reads files of all processes, and it can have ended.
const LOOKS_MAX: u32 = 8;

/// Moments of the guest's life, each the first of its kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Milestones {
    /// When the oldest process of a container was made, since boot.
    first_process: Option<Duration>,
    /// How often it was looked for.
    looks: u32,
    /// When a process of a container accepted connections, by the monotonic clock.
    first_listen_ns: Option<u64>,
    /// Containers ran before the programs were attached: one may have accepted connections before.
    is_late: bool,
    /// Counts changes.
    version: u64,
}

impl Milestones {
    /// From what was counted when the programs were attached, and whether another agent was there before.
    pub fn since_attached(counters: &Counters, replaces: bool) -> Self {
        let ran_before = counters.unattached_start_ns > 0 || counters.unattached_restart_ns > 0;
        Self { is_late: ran_before || replaces, ..Self::default() }
    }

    /// A process of a container accepts connections.
    pub fn listens(&mut self, at_ns: u64) {
        if self.first_listen_ns.is_none_or(|known| at_ns < known) {
            self.first_listen_ns = Some(at_ns);
            self.version += 1;
        }
    }

    /// A process of a container was made, so long after the guest's boot.
    pub fn process_made(&mut self, since_boot: Duration) {
        if self.first_process.is_none_or(|known| since_boot < known) {
            self.first_process = Some(since_boot);
            self.version += 1;
        }
    }

    /// There are containers: looks for their oldest process until there is one, a few times at most.
    pub fn find_process(&mut self, proc: &Path) {
        if self.first_process.is_none() && self.looks < LOOKS_MAX {
            self.looks += 1;
            if let Some(since_boot) = unattached::oldest_process(proc) {
                self.process_made(since_boot);
            }
        }
    }

    /// Another number when something was reached since.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The moments by the wall clock.
    pub fn report(&self) -> Report {
        let since_boot = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let unix_ns = usage::unix_ns();
        let booted_unix_ns = unix_ns.saturating_sub(since_boot(unattached::since_boot()));
        let first_listen_ns = self.first_listen_ns.filter(|_| !self.is_late);
        Report {
            booted_unix_ns,
            first_process_unix_ns: self
                .first_process
                .map_or(0, |time| booted_unix_ns.saturating_add(since_boot(time))),
            first_listen_unix_ns: first_listen_ns
                .map_or(0, |at_ns| unix_ns.saturating_sub(usage::monotonic_ns()).saturating_add(at_ns)),
            unix_ns,
            ..Report::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_is_reported_by_the_wall_clock() {
        let mut milestones = Milestones::since_attached(&Counters::default(), false);
        let before = milestones.report();
        assert_eq!((before.first_process_unix_ns, before.first_listen_unix_ns), (0, 0));
        assert!((1..=before.unix_ns).contains(&before.booted_unix_ns));
        assert!((1..=usage::unix_ns()).contains(&before.unix_ns));
        for (seconds, version) in [(2, 1), (3, 1), (1, 2)] {
            milestones.process_made(Duration::from_secs(seconds));
            assert_eq!(milestones.version(), version, "made at {seconds}");
        }
        for (at_ns, version) in [(9, 3), (7, 4), (8, 4)] {
            milestones.listens(at_ns);
            assert_eq!(milestones.version(), version, "listens at {at_ns}");
        }
        assert_eq!(milestones.first_listen_ns, Some(7));
        let after = milestones.report();
        assert_eq!(after.first_process_unix_ns - after.booted_unix_ns, 1_000_000_000);
        assert!(after.first_listen_unix_ns > 0);
    }

    #[test]
    fn a_process_that_is_not_found_is_looked_for_a_few_times() {
        let proc = tempfile::tempdir().expect("directory");
        let mut milestones = Milestones::default();
        for _ in 0..2 * LOOKS_MAX {
            milestones.find_process(proc.path());
        }
        assert_eq!((milestones.looks, milestones.first_process), (LOOKS_MAX, None));
    }

    #[test]
    fn a_listener_may_not_be_the_first_where_containers_ran_before() {
        let ran = Counters { unattached_start_ns: 1, ..Counters::default() };
        for (counters, replaces) in [(&ran, false), (&Counters::default(), true)] {
            let mut milestones = Milestones::since_attached(counters, replaces);
            milestones.listens(7);
            assert_eq!(milestones.report().first_listen_unix_ns, 0);
        }
    }
}
