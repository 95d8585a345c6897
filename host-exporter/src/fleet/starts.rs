//! How long sandboxes take from their creation on: until their guest's kernel begins, the agent is reached, the first process is made,
//! the first port is open, and the first request is answered.
//!
//! All are the host's times. The guest's clock may be set to anything, so its distance from the host's is measured
//! ([`crate::guest_clock`]); a moment that would be before the sandbox's creation or in the future is left out.
//!
//! Sums by application hold the sandboxes that were created since the exporter began: of older ones an exporter before it may have
//! counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use porthole_histogram::Histogram;
use porthole_registry::SandboxRecord;

use crate::{
    accumulate::{
        budget::{Charge, TenantBudget, nanoseconds},
        cost,
    },
    clock::{unix_ms, unix_ns},
    guest_clock::Offset,
    identity::Application,
};

/// What a sandbox has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its guest's kernel has begun.
    Machine,
    /// Its agent was reached.
    Agent,
    /// The first process of a container was made.
    FirstProcess,
    /// A process of a container accepted connections.
    FirstListen,
    /// It answered its first request.
    FirstRequest,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 5] =
        [Self::Machine, Self::Agent, Self::FirstProcess, Self::FirstListen, Self::FirstRequest];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Agent => "agent",
            Self::FirstProcess => "first_process",
            Self::FirstListen => "first_listen",
            Self::FirstRequest => "first_request",
        }
    }
}

/// The start of one sandbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    times: [Option<Duration>; Phase::ALL.len()],
}

impl Start {
    /// Time from the sandbox's creation, if it is known.
    pub fn time(&self, phase: Phase) -> Option<Duration> {
        self.times[phase as usize]
    }

    /// Whether a phase is not known to be reached.
    pub fn awaits(&self, phase: Phase) -> bool {
        self.time(phase).is_none()
    }

    /// The companion's record of when it reached the agent; the time if it was not known.
    fn agent_reached(&mut self, record: &SandboxRecord) -> Option<Duration> {
        let reached = record.watching_unix_ms?.checked_sub(record.created_unix_ms)?;
        self.set(Phase::Agent, Duration::from_millis(reached))
    }

    /// A phase was reached at a moment of the guest's clock; the time if it was not known.
    fn reached(
        &mut self,
        phase: Phase,
        (guest_unix_ns, offset): (u64, Offset),
        created_unix_ms: u64,
        now_unix_ns: u64,
    ) -> Option<Duration> {
        let by_host = |offset_ns: i64| i128::from(guest_unix_ns) + i128::from(offset_ns);
        let (created, now) = (i128::from(created_unix_ms) * 1_000_000, i128::from(now_unix_ns));
        let time = by_host(offset.middle_ns()).min(now) - created;
        let is_past = by_host(offset.low_ns) <= now;
        let time = u64::try_from(time).ok().filter(|_| is_past)?;
        self.set(phase, Duration::from_nanos(time))
    }

    fn set(&mut self, phase: Phase, time: Duration) -> Option<Duration> {
        let slot = &mut self.times[phase as usize];
        slot.is_none().then(|| *slot.insert(time))
    }
}

/// Times of an application's sandboxes, by phase.
#[derive(Debug)]
struct Times {
    charge: Charge,
    durations: [Histogram; Phase::ALL.len()],
}

/// Times of the sandboxes of all applications.
#[derive(Debug)]
pub struct Starts {
    since_unix_ms: u64,
    applications: BTreeMap<Application, Times>,
}

impl Default for Starts {
    fn default() -> Self {
        Self { since_unix_ms: unix_ms(), applications: BTreeMap::new() }
    }
}

impl Starts {
    /// The companion has reached the sandbox's agent. False when the tenant's budget has no room for it.
    pub fn agent_reached(&mut self, of: Of<'_>, start: &mut Start, record: &SandboxRecord) -> bool {
        let time = start.agent_reached(record);
        time.is_none_or(|time| self.count(of, Phase::Agent, time))
    }

    /// The sandbox has reached a phase at a moment of the guest's clock. False when the tenant's budget has no room for it.
    pub fn reached(&mut self, of: Of<'_>, start: &mut Start, phase: Phase, at: (u64, Offset)) -> bool {
        let time = start.reached(phase, at, of.created_unix_ms, unix_ns());
        time.is_none_or(|time| self.count(of, phase, time))
    }

    fn count(&mut self, of: Of<'_>, phase: Phase, time: Duration) -> bool {
        if of.created_unix_ms < self.since_unix_ms {
            return true;
        }
        let known = self.applications.contains_key(of.application);
        let entry = cost::map_entry::<Application, Times>()
            + cost::text(&of.application.tenant)
            + cost::text(&of.application.service_name);
        let exposed = cost::exposed_starts(
            &of.application.tenant,
            &of.application.service_name,
            Phase::ALL.map(Phase::as_str),
        );
        let most = Phase::ALL.len() * MOST;
        let fits = known || (of.budget.resident.admits(entry + most) && of.budget.exposed.admits(exposed));
        if !fits {
            return false;
        }
        let times = self.applications.entry(of.application.clone()).or_insert_with(|| {
            let mut charge = Charge::new(Arc::clone(of.budget));
            charge.set_exposed(exposed);
            Times { charge, durations: Default::default() }
        });
        times.durations[phase as usize].record(nanoseconds(time));
        let held = times.durations.iter().map(cost::histogram).sum::<usize>();
        times.charge.set_resident(entry + held);
        true
    }

    /// Forgets the applications of which nothing else is known any more.
    pub fn retain(&mut self, is_known: impl Fn(&Application) -> bool) {
        self.applications.retain(|application, _| is_known(application));
    }

    /// Times by application and phase, of one tenant or of all.
    pub fn of(&self, tenant: Option<&str>) -> Vec<(Application, Phase, Histogram)> {
        let wanted = |application: &Application| tenant.is_none_or(|tenant| application.tenant == tenant);
        let applications = self.applications.iter().filter(|(application, _)| wanted(application));
        let times = applications.flat_map(|(application, times)| {
            let by_phase = Phase::ALL.into_iter().zip(&times.durations);
            by_phase.map(|(phase, durations)| (application.clone(), phase, durations.clone()))
        });
        times.filter(|(_, _, durations)| durations.count() > 0).collect()
    }
}

/// Bytes of a histogram of starts, as most are: a few buckets.
const MOST: usize = 256;

/// Of which sandbox a time is.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// The application that it is counted for.
    pub application: &'a Application,
    /// When its companion began.
    pub created_unix_ms: u64,
    /// What its tenant may use.
    pub budget: &'a Arc<TenantBudget>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accumulate::budget::{Limits, NodeBudget};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_guests_clock_is_translated_and_what_cannot_be_is_left_out() {
        let created = 1_000 * SECOND;
        let offset =
            |low: i64, high: i64| Offset { low_ns: low * 1_000_000_000, high_ns: high * 1_000_000_000 };
        for (served, offset, expected) in [
            // The guest's clock is ten seconds behind, or far ahead.
            (992, offset(10, 10), Some(2)),
            (9_001, offset(-8_000, -8_000), Some(1)),
            // It is not known well: a moment that can be past is not in the future.
            (1_000, offset(2, 4), Some(3)),
            (1_099, offset(0, 6), Some(100)),
            (1_101, offset(0, 6), None),
            // Before the creation, in the future, and far beyond.
            (989, offset(10, 10), None),
            (2_000, offset(10, 10), None),
            (1, Offset { low_ns: i64::MAX, high_ns: i64::MAX }, None),
        ] {
            let mut start = Start::default();
            assert!(start.awaits(Phase::FirstRequest));
            let first = (served * SECOND, offset);
            let mut reached =
                || start.reached(Phase::FirstRequest, first, created / 1_000_000, created + 100 * SECOND);
            let time = reached();
            assert_eq!(reached(), None, "once");
            assert_eq!(time, expected.map(Duration::from_secs), "{served} {offset:?}");
            assert_eq!(start.time(Phase::FirstRequest), time);
            assert_eq!(start.awaits(Phase::FirstRequest), time.is_none());
        }
    }

    #[test]
    fn sandboxes_that_are_older_than_the_exporter_are_not_counted_and_budgets_hold() {
        let mut starts = Starts::default();
        let since = starts.since_unix_ms;
        let count = |starts: &mut Starts, limits: Limits, service: &str, created_unix_ms: u64| {
            let budget = Arc::new(TenantBudget::new(&NodeBudget::new(limits)));
            let application = Application { tenant: "acme".into(), service_name: service.into() };
            let of = Of { application: &application, created_unix_ms, budget: &budget };
            let sandbox = format!("acme@{service}").parse().expect("key");
            let record = SandboxRecord::new(sandbox, "acme", service, "test", created_unix_ms);
            let record = SandboxRecord { watching_unix_ms: Some(created_unix_ms + 1_500), ..record };
            let mut start = Start::default();
            let counted = starts.agent_reached(of, &mut start, &record);
            assert_eq!(start.time(Phase::Agent), Some(Duration::from_millis(1_500)));
            assert!(starts.agent_reached(of, &mut start, &record), "known already");
            (counted, starts.of(Some("acme")).len())
        };
        let wide = || Limits::of_series(10_000);
        assert_eq!(count(&mut starts, wide(), "old", since - 1), (true, 0));
        assert_eq!(count(&mut starts, wide(), "new", since), (true, 1));
        let narrow = Limits { exposed_per_tenant: 10, ..wide() };
        assert_eq!(count(&mut starts, narrow, "other", since), (false, 1));
        assert!(starts.of(Some("globex")).is_empty());
        starts.retain(|application| application.service_name != "new");
        assert!(starts.of(None).is_empty());
    }
}
