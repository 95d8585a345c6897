//! What the containers of the guest have reached, for the host's times of starts.

use std::{path::Path, time::Duration};

use porthole_agent_api::agent::{Counters, StatsResponse};

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
}

impl Milestones {
    /// From what was counted when the programs were attached, and whether another agent was there before.
    pub fn since_attached(counters: &Counters, replaces: bool) -> Self {
        let ran_before = counters.unattached_start_ns > 0 || counters.unattached_restart_ns > 0;
        Self { is_late: ran_before || replaces, ..Self::default() }
    }

    /// A process of a container accepts connections.
    pub fn listens(&mut self, at_ns: u64) {
        let known = self.first_listen_ns.get_or_insert(at_ns);
        *known = at_ns.min(*known);
    }

    /// There are containers: looks for their oldest process until there is one, a few times at most.
    pub fn find_process(&mut self, proc: &Path) {
        if self.first_process.is_none() && self.looks < LOOKS_MAX {
            self.looks += 1;
            self.first_process = unattached::oldest_process(proc);
        }
    }

    /// Writes the moments by the wall clock; what was not reached, or not seen, is 0.
    pub fn report(&self, stats: &mut StatsResponse) {
        let since_boot = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        stats.booted_unix_ns = usage::unix_ns().saturating_sub(since_boot(unattached::since_boot()));
        if let Some(time) = self.first_process {
            stats.first_process_unix_ns = stats.booted_unix_ns.saturating_add(since_boot(time));
        }
        if let Some(at_ns) = self.first_listen_ns.filter(|_| !self.is_late) {
            stats.first_listen_unix_ns = usage::unix_offset_ns().saturating_add(at_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(milestones: &Milestones) -> StatsResponse {
        let mut stats = StatsResponse::default();
        milestones.report(&mut stats);
        stats
    }

    #[test]
    fn the_first_of_each_kind_is_reported_by_the_wall_clock() {
        let mut milestones = Milestones::since_attached(&Counters::default(), false);
        let before = reported(&milestones);
        assert_eq!((before.first_process_unix_ns, before.first_listen_unix_ns), (0, 0));
        assert!((1..=usage::unix_ns()).contains(&before.booted_unix_ns));
        milestones.first_process = Some(Duration::from_secs(1));
        for at_ns in [9, 7, 8] {
            milestones.listens(at_ns);
        }
        assert_eq!(milestones.first_listen_ns, Some(7));
        let after = reported(&milestones);
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
            assert_eq!(reported(&milestones).first_listen_unix_ns, 0);
        }
    }
}
