//! What the containers of one sandbox and its guest take, as their agent measured it last.
//!
//! Cumulative values are the guest's kernel's, since a container's or the guest's start. So they are neither added up over epochs
//! nor kept in the ledger: after a restart of the exporter the agent's next batch has them again, and a container that was started
//! again begins at zero, which Prometheus takes for a counter's reset.
//!
//! Invariants: containers are those of the registry's record, each exposed once, by its name; what is held is charged to the
//! tenant before; no cumulative value of a container goes backwards.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use porthole_agent_api::resources::{Measured, Resource};

use super::{
    budget::{Charge, TenantBudget},
    cost,
    sandbox::Containers,
};
use crate::{
    instrument::resources::{FAMILIES, Family, cumulative, is_of_guest},
    rejection::Rejection,
};

/// For how long a container that is no longer measured is still shown: a scrape or two see its last values.
const SHOWN_AFTER_END: Duration = Duration::from_secs(90);

/// Rates are of a time of once to twice this length before the last measurement; of a shorter one at first.
const RATES_OVER: Duration = Duration::from_secs(10);

/// Shortest time that a rate can be of: batches that waited arrive at one moment.
const RATES_OVER_MIN: Duration = Duration::from_secs(1);

/// What has a rate.
const RATED: [Resource; 13] = [
    Resource::CpuUser,
    Resource::CpuSystem,
    Resource::CpuThrottled,
    Resource::DiskReadBytes,
    Resource::DiskWriteBytes,
    Resource::PressureCpuSome,
    Resource::PressureMemorySome,
    Resource::PressureIoSome,
    Resource::GuestCpuUser,
    Resource::GuestCpuSystem,
    Resource::GuestCpuSteal,
    Resource::NetworkReceivedBytes,
    Resource::NetworkSentBytes,
];

/// What was known at an earlier time.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    at: Instant,
    /// Zero where there was none.
    values: [u64; RATED.len()],
}

impl Earlier {
    fn new(at: Instant, values: &Measured) -> Self {
        Self { at, values: RATED.map(|resource| values.get(resource).unwrap_or(0)) }
    }
}

/// One container's, or the guest's.
#[derive(Debug)]
struct Known {
    /// containerd's id; empty for the guest.
    id: Box<str>,
    values: Measured,
    measured_at: Instant,
    /// What rates begin at, and what they begin at later.
    earlier: [Earlier; 2],
    /// Bytes that it takes in a scrape, by its name.
    exposed: usize,
}

impl Known {
    fn new(id: &str, now: Instant, values: &Measured, exposed: usize) -> Self {
        let earlier = [Earlier::new(now, values); 2];
        Self { id: id.into(), values: *values, measured_at: now, earlier, exposed }
    }

    /// Takes values of the same container.
    fn update(&mut self, now: Instant, values: &Measured, late: bool) {
        self.values = merged(&self.values, values, late);
        self.measured_at = now;
        let [_, later] = self.earlier;
        if !late && now.saturating_duration_since(later.at) >= RATES_OVER {
            self.earlier = [later, Earlier::new(now, &self.values)];
        }
    }
}

/// What was measured of one container, or of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a>(&'a Known);

impl Taken<'_> {
    /// A value.
    pub fn get(self, resource: Resource) -> Option<u64> {
        self.0.values.get(resource)
    }

    /// How much more it becomes in a second, over the last seconds; none of what has no rate, or was measured once.
    pub fn per_second(self, resource: Resource) -> Option<f64> {
        let [earlier, _] = self.0.earlier;
        let place = RATED.iter().position(|rated| *rated == resource)?;
        let more = self.get(resource)?.checked_sub(earlier.values[place])?;
        let over = self.0.measured_at.checked_duration_since(earlier.at)?;
        // Exact below 2^53.
        #[allow(clippy::cast_precision_loss)]
        (over >= RATES_OVER_MIN).then(|| more as f64 / over.as_secs_f64())
    }
}

/// What one sandbox takes.
#[derive(Debug)]
pub struct SandboxResources {
    charge: Charge,
    /// Bytes of the labels that all series have in a scrape.
    identity_labels: usize,
    /// By the container's name; the guest's are at `None`.
    known: BTreeMap<Option<Box<str>>, Known>,
}

impl SandboxResources {
    /// Without values, of a sandbox whose labels take so many bytes of each line of a scrape.
    pub fn new(budget: Arc<TenantBudget>, identity_labels: usize) -> Self {
        Self { charge: Charge::new(budget), identity_labels, known: BTreeMap::new() }
    }

    /// What it holds of its tenant's budget.
    pub fn charge(&self) -> &Charge {
        &self.charge
    }

    /// Takes what an agent measured at one time; gives why the rest was not taken. Containers that the record does not list
    /// are left out. What comes `late` is older than what is known.
    pub fn apply(
        &mut self,
        measured: &[(String, Measured)],
        containers: &Containers,
        late: bool,
    ) -> Option<Rejection> {
        let now = Instant::now();
        let mut rejection = None;
        for (id, values) in measured {
            let name = match containers.get(id.as_str()) {
                _ if id.is_empty() => None,
                Some(container) => Some(Box::from(container.name.as_str())),
                None => continue,
            };
            match self.known.get_mut(&name) {
                // Two containers of a name: the one before is there until its control group is removed.
                Some(known)
                    if *known.id != **id && measured.iter().any(|(other, _)| **other == *known.id) => {}
                Some(known) if *known.id == **id => known.update(now, values, late),
                Some(known) if late => known.measured_at = now,
                Some(known) => {
                    *known = Known::new(id, now, values, known.exposed);
                }
                None => {
                    let exposed = exposed_bytes(name.as_deref(), self.identity_labels);
                    let known = Known::new(id, now, values, exposed);
                    rejection = self.insert(name, known).err().or(rejection);
                }
            }
        }
        if !late {
            let is_shown = |known: &Known| now.saturating_duration_since(known.measured_at) < SHOWN_AFTER_END;
            self.known.retain(|name, known| name.is_none() || is_shown(known));
        }
        self.settle();
        rejection
    }

    fn insert(&mut self, name: Option<Box<str>>, known: Known) -> Result<(), Rejection> {
        let budget = self.charge.budget();
        if !budget.resident.admits(entry_bytes(name.as_deref(), &known.id)) {
            return Err(Rejection::TenantMemoryLimit);
        }
        if !budget.exposed.admits(known.exposed) {
            return Err(Rejection::TenantSeriesLimit);
        }
        self.known.insert(name, known);
        // The next one finds this one charged.
        self.settle();
        Ok(())
    }

    /// Forgets all: the sandbox has ended and was scraped often enough.
    pub fn forget(&mut self) {
        self.known = BTreeMap::new();
        self.settle();
    }

    fn settle(&mut self) {
        let (mut resident, mut exposed) = (0, 0);
        for (name, known) in &self.known {
            resident += entry_bytes(name.as_deref(), &known.id);
            exposed += known.exposed;
        }
        self.charge.set_resident(resident);
        self.charge.set_exposed(exposed);
    }

    /// Names of containers and their values, and at `None` the guest's.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, &Measured)> {
        self.known.iter().map(|(name, known)| (name.as_deref(), &known.values))
    }

    /// The same, with rates.
    pub fn taken(&self) -> impl Iterator<Item = (Option<&str>, Taken<'_>)> {
        self.known.iter().map(|(name, known)| (name.as_deref(), Taken(known)))
    }
}

/// Values of a container of which these were known before: what is cumulative does not go backwards, whatever a guest reports.
fn merged(before: &Measured, now: &Measured, late: bool) -> Measured {
    let mut merged = if late { *before } else { *now };
    for resource in cumulative() {
        merged.set(resource, before.get(resource).max(now.get(resource)));
    }
    merged
}

/// Most bytes that a container, or the guest where there is no name, takes in a scrape as text; `identity` is the bytes of the labels
/// of its sandbox.
fn exposed_bytes(container: Option<&str>, identity: usize) -> usize {
    let name = container.map_or(0, |name| cost::label("k8s_container_name", name));
    let of = |family: &Family| {
        let samples =
            family.samples.iter().filter(|(resource, _)| is_of_guest(*resource) == container.is_none());
        let labels = |values: &[&str]| {
            family.labels.iter().zip(values).map(|(name, value)| cost::label(name, value)).sum::<usize>()
        };
        samples.map(|(_, values)| cost::line(family.name) + identity + name + labels(values)).sum::<usize>()
    };
    FAMILIES.iter().map(of).sum()
}

fn entry_bytes(name: Option<&str>, id: &str) -> usize {
    cost::map_entry::<Option<Box<str>>, Known>() + name.map_or(0, cost::text) + cost::text(id)
}

#[cfg(test)]
mod tests {
    use porthole_agent_api::resources::Resource;
    use porthole_registry::ContainerRecord;

    use super::*;
    use crate::accumulate::budget::{Limits, NodeBudget};

    fn budget(exposed: usize) -> Arc<TenantBudget> {
        let limits = Limits { exposed_per_tenant: exposed, ..Limits::of_series(10) };
        Arc::new(TenantBudget::new(&NodeBudget::new(limits)))
    }

    fn containers(of: &[(&str, &str)]) -> Containers {
        let container = |&(id, name): &(&str, &str)| {
            (id.parse().expect("an id"), ContainerRecord { name: name.to_owned() })
        };
        of.iter().map(container).collect()
    }

    fn measured(id: &str, cpu: u64, memory: u64) -> (String, Measured) {
        let mut measured = Measured::default();
        measured.set(Resource::CpuUser, cpu);
        measured.set(Resource::MemoryUsage, memory);
        (id.to_owned(), measured)
    }

    fn shown(resources: &SandboxResources) -> Vec<(String, u64, u64)> {
        let value = |measured: &Measured, of| measured.get(of).expect("measured");
        let of = |(name, values): (Option<&str>, &Measured)| {
            let name = name.unwrap_or("guest").to_owned();
            (name, value(values, Resource::CpuUser), value(values, Resource::MemoryUsage))
        };
        resources.iter().map(of).collect()
    }

    #[test]
    fn the_last_values_of_listed_containers_are_shown_and_what_is_cumulative_never_falls() {
        let listed = containers(&[("c1", "shop")]);
        let mut resources = SandboxResources::new(budget(1 << 20), 100);
        let first = [measured("", 1, 1), measured("c1", 10, 500), measured("unlisted", 9, 9)];
        assert_eq!(resources.apply(&first, &listed, false), None);
        assert_eq!(shown(&resources), [("guest".to_owned(), 1, 1), ("shop".to_owned(), 10, 500)]);
        assert!(resources.charge().resident() > 0 && resources.charge().exposed() > 0);
        resources.apply(&[measured("c1", 7, 300)], &listed, false);
        assert_eq!(shown(&resources)[1], ("shop".to_owned(), 10, 300));
        resources.apply(&[measured("c1", 12, 900)], &listed, true);
        assert_eq!(shown(&resources)[1], ("shop".to_owned(), 12, 300), "late");
        resources.forget();
        assert_eq!((resources.charge().resident(), resources.charge().exposed()), (0, 0));
    }

    #[test]
    fn a_container_that_is_started_again_begins_anew_when_the_one_before_is_gone() {
        let listed = containers(&[("c1", "shop"), ("c2", "shop")]);
        let mut resources = SandboxResources::new(budget(1 << 20), 100);
        resources.apply(&[measured("c1", 10, 5)], &listed, false);
        for _ in 0..2 {
            resources.apply(&[measured("c2", 1, 1), measured("c1", 11, 5)], &listed, false);
            assert_eq!(shown(&resources), [("shop".to_owned(), 11, 5)]);
        }
        resources.apply(&[measured("c2", 2, 1)], &listed, false);
        assert_eq!(shown(&resources), [("shop".to_owned(), 2, 1)]);
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_begin_anew_with_the_container() {
        let listed = containers(&[("c1", "shop"), ("c2", "shop")]);
        let mut resources = SandboxResources::new(budget(1 << 20), 100);
        let rate = |resources: &SandboxResources| {
            let (_, taken) = resources.taken().next().expect("one");
            assert_eq!(taken.per_second(Resource::MemoryUsage), None, "what has no rate");
            taken.per_second(Resource::CpuUser)
        };
        // As if what was measured were so much older.
        let age = |resources: &mut SandboxResources, seconds| {
            for known in resources.known.values_mut() {
                let times = known.earlier.iter_mut().map(|earlier| &mut earlier.at);
                times.for_each(|at| *at -= Duration::from_secs(seconds));
            }
        };
        let near = |rate: Option<f64>, expected: f64| {
            assert!(rate.is_some_and(|rate| (rate - expected).abs() < 0.1), "{rate:?}, not {expected}");
        };
        resources.apply(&[measured("c1", 100, 1)], &listed, false);
        assert_eq!(rate(&resources), None, "measured once");
        resources.apply(&[measured("c1", 150, 1)], &listed, false);
        assert_eq!(rate(&resources), None, "twice in one moment");
        for (seconds, cpu, expected) in [
            (4, 200, 100.0 / 4.0),
            (8, 420, 320.0 / 12.0),
            (4, 460, 360.0 / 16.0),
            // The first measurement is older than twice ten seconds.
            (8, 500, 80.0 / 12.0),
        ] {
            age(&mut resources, seconds);
            resources.apply(&[measured("c1", cpu, 1)], &listed, false);
            near(rate(&resources), expected);
        }
        resources.apply(&[measured("c2", 1, 1)], &listed, false);
        assert_eq!(rate(&resources), None, "another container of the name");
    }

    #[test]
    fn what_exceeds_the_tenants_budget_is_refused_and_the_rest_goes_on() {
        let all: Vec<_> = (0..50).map(|number| format!("c{number}")).collect();
        let listed = containers(&all.iter().map(|id| (id.as_str(), id.as_str())).collect::<Vec<_>>());
        let mut resources = SandboxResources::new(budget(100_000), 200);
        let report: Vec<_> = all.iter().map(|id| measured(id, 1, 1)).collect();
        assert_eq!(resources.apply(&report, &listed, false), Some(Rejection::TenantSeriesLimit));
        let count = shown(&resources).len();
        assert!((1..50).contains(&count), "{count}");
        assert!(resources.charge().exposed() <= 100_000);
        assert_eq!(resources.apply(&report[..1], &listed, false), None);
    }
}
