//! Connections that the containers of one sandbox make, by the address that they go to, as their agent reported them last.
//!
//! Values are the agent's, since its start, whatever its epoch. They are neither added up nor kept in the ledger: after a restart of
//! the exporter the agent reports them again, and those of an agent that was started again begin at zero, which Prometheus takes for
//! a counter's reset. Increments since earlier reports are added up besides, until the topology takes them.
//!
//! Invariants: containers are those of the registry's record; each pair of a container's name and an address is exposed once; there
//! are at most [`DEPENDENCIES_MAX`], of which those that were not reported for longest make room, as they do in the agent; what is held is charged to the tenant before.

mod connections;
mod increments;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use porthole_agent_api::dependencies::{DEPENDENCIES_MAX, Failure, UNUSED};

use self::increments::PendingIncrements;
pub use self::{
    connections::{Connections, Failures},
    increments::Increment,
};
use super::{
    budget::{Charge, TenantBudget},
    cost,
    golden::Golden,
    sandbox::Containers,
};
use crate::rejection::Rejection;

/// What an agent reports of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// containerd's id of the container.
    pub container_id: String,
    /// The address.
    pub address: Box<str>,
    /// Its port; empty where there is none.
    pub port: Box<str>,
    /// The name for which the container looked it up, as the guest reports it.
    pub name: Option<Box<str>>,
    /// The values.
    pub connections: Connections,
    /// Another number than before where the agent has begun the address anew; it grows.
    pub begun: u64,
}

/// A container's name, an address and its port.
pub type Key = [Box<str>; 3];

/// How long an address must not have been reported to make room for another: a little less than in the agent, which is first. So a
/// guest that makes addresses up has few series in the long run, too.
const UNREPORTED: Duration = UNUSED.saturating_sub(Duration::from_mins(1));

/// How long an agent takes to report what it knows when the exporter connects, at most. What comes later is new.
const FIRST_REPORTS: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Known {
    /// Shared with scrapes, which take them without copying.
    connections: Arc<Connections>,
    name: Option<Box<str>>,
    begun: u64,
    reported: Instant,
}

/// The connections of one sandbox.
#[derive(Debug)]
pub struct Dependencies {
    charge: Charge,
    /// Bytes of the labels that all series have in a scrape.
    identity_labels: usize,
    known: BTreeMap<Arc<Key>, Known>,
    /// What it reports first of an address came lately.
    young: bool,
    /// When an agent reported first.
    first: Option<Instant>,
    pending: PendingIncrements,
    resident: usize,
    exposed: usize,
}

impl Dependencies {
    /// None yet, of a sandbox whose labels take so many bytes of each line of a scrape. Of one that is not `young`, such as those
    /// that ran before the exporter, it is not known when the connections were made that its agent reports in the first minute.
    pub fn new(budget: Arc<TenantBudget>, identity_labels: usize, young: bool) -> Self {
        Self {
            charge: Charge::new(budget),
            identity_labels,
            known: BTreeMap::new(),
            young,
            first: None,
            pending: PendingIncrements::default(),
            resident: 0,
            exposed: 0,
        }
    }

    /// What it holds of its tenant's budget.
    pub fn charge(&self) -> &Charge {
        &self.charge
    }

    /// Takes what was reported of one address. A container that the record does not list is left out. What comes `late` may be
    /// older than what is known.
    pub fn apply(
        &mut self,
        reported: Reported,
        containers: &Containers,
        late: bool,
        now: Instant,
    ) -> Result<(), Rejection> {
        let Some(container) = containers.get(reported.container_id.as_str()) else { return Ok(()) };
        let key = [container.name.as_str().into(), reported.address, reported.port];
        let mut connections = reported.connections;
        connections.made.shrink();
        let first = *self.first.get_or_insert(now);
        let counts_whole = self.young || now.saturating_duration_since(first) >= FIRST_REPORTS;
        if self.known.len() >= DEPENDENCIES_MAX && !self.known.contains_key(&key) {
            self.make_room(now)?;
        }
        let known = self.known.get(&key);
        let begun = reported.begun;
        let is_older = |known: &Known| {
            known.begun > begun || known.begun == begun && !connections.is_since(&known.connections)
        };
        if late && known.is_some_and(is_older) {
            return Ok(());
        }
        let begins_anew = known.is_some_and(|known| known.begun != begun);
        let before = known.map(|known| &*known.connections);
        let (held, exposed) = match before {
            Some(before) => (before.bytes(), 0),
            None => (0, exposed_bytes(&key, self.identity_labels)),
        };
        let name = reported.name.or_else(|| known.and_then(|known| known.name.clone()));
        let of_name = |name: Option<&str>| name.map_or(0, cost::text);
        let held = held + of_name(known.and_then(|known| known.name.as_deref()));
        let more = connections.bytes()
            + of_name(name.as_deref())
            + if before.is_none() { entry_bytes(&key) } else { 0 };
        let all = || connections.golden();
        let increment = match before {
            Some(_) if begins_anew => all(),
            Some(before) => all().since(&before.golden()).unwrap_or_else(all),
            None if counts_whole => all(),
            None => Golden::default(),
        };
        let pending_bytes = PendingIncrements::bytes_of(&key, &increment);
        if !self.charge.budget().resident.admits(more.saturating_sub(held) + pending_bytes) {
            return Err(Rejection::TenantMemoryLimit);
        }
        if exposed > 0 && !self.charge.budget().exposed.admits(exposed) {
            return Err(Rejection::TenantSeriesLimit);
        }
        self.pending.add(&key, &increment);
        let known = Known { connections: Arc::new(connections), name, begun, reported: now };
        if let Some(before) = self.known.get_mut(&key) {
            *before = known;
        } else {
            self.known.insert(Arc::new(key), known);
        }
        self.resident = self.resident + more - held;
        self.exposed += exposed;
        self.charge.set_resident(self.resident + self.pending.bytes());
        self.charge.set_exposed(self.exposed);
        Ok(())
    }

    /// Takes the increments since this was called last.
    pub fn take_increments(&mut self) -> Vec<Increment> {
        let increments = self.pending.take();
        self.charge.set_resident(self.resident);
        increments
    }

    /// Forgets the address that was not reported for longest, if that is long ago.
    fn make_room(&mut self, now: Instant) -> Result<(), Rejection> {
        let oldest = self.known.iter().min_by_key(|(_, known)| known.reported);
        let is_old = |known: &Known| now.saturating_duration_since(known.reported) >= UNREPORTED;
        let Some(key) = oldest.filter(|(_, known)| is_old(known)).map(|(key, _)| Arc::clone(key)) else {
            return Err(Rejection::SandboxSeriesLimit);
        };
        if let Some(known) = self.known.remove(&key) {
            let name = known.name.as_deref().map_or(0, cost::text);
            self.resident -= known.connections.bytes() + name + entry_bytes(&key);
            self.exposed -= exposed_bytes(&key, self.identity_labels);
        }
        Ok(())
    }

    /// Forgets all: the sandbox has ended and was scraped often enough.
    pub fn forget(&mut self) {
        (self.known, self.pending) = (BTreeMap::new(), PendingIncrements::default());
        (self.resident, self.exposed) = (0, 0);
        self.charge.set_resident(0);
        self.charge.set_exposed(0);
    }

    /// Addresses by container, and the connections to them.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Connections)> {
        self.known.iter().map(|(key, known)| (&**key, &*known.connections))
    }

    /// The same, to be read when the lock is released.
    pub fn shared(&self) -> Vec<SharedConnections> {
        let shared = |(key, known): (&Arc<Key>, &Known)| (Arc::clone(key), Arc::clone(&known.connections));
        self.known.iter().map(shared).collect()
    }

    /// The names for which containers looked addresses up, by address. Of several containers' names the first one's.
    pub fn names(&self) -> LookedUp {
        let mut names = LookedUp::new();
        for (key, known) in &self.known {
            if let (Some(name), Ok(address)) = (&known.name, key[1].parse::<IpAddr>()) {
                names.entry(address.to_canonical()).or_insert_with(|| name.clone());
            }
        }
        names
    }
}

/// A container's address, and the connections to it.
pub type SharedConnections = (Arc<Key>, Arc<Connections>);

/// Names by address, as a guest reports them.
pub type LookedUp = BTreeMap<IpAddr, Box<str>>;

fn entry_bytes(key: &Key) -> usize {
    let shared = cost::block(size_of::<Key>() + 16) + cost::block(size_of::<Connections>() + 16);
    cost::map_entry::<Arc<Key>, Known>() + shared + key.iter().map(|text| cost::text(text)).sum::<usize>()
}

/// Bytes of the lines of an address in a scrape as text: a histogram, counts by reason, and two values.
fn exposed_bytes([container, address, port]: &Key, identity: usize) -> usize {
    let labels = identity
        + cost::label("k8s_container_name", container)
        + cost::label("server_address", address)
        + cost::label("server_port", port)
        + cost::label("error_type", Failure::Unreachable.as_str());
    cost::histogram_lines(labels)
        + (2 * Failure::ALL.len() + 2) * (cost::line("tcp_client_connections_failed") + labels)
}

#[cfg(test)]
mod tests {
    use porthole_registry::ContainerRecord;

    use super::*;
    use crate::accumulate::budget::{Limits, NodeBudget};

    fn dependencies(exposed: usize) -> Dependencies {
        let limits = Limits { exposed_per_tenant: exposed, ..Limits::of_series(10) };
        Dependencies::new(Arc::new(TenantBudget::new(&NodeBudget::new(limits))), 200, true)
    }

    fn listed() -> Containers {
        [("c1".parse().expect("an id"), ContainerRecord { name: "shop".to_owned() })].into_iter().collect()
    }

    fn reported(container: &str, address: &str, refused: u64) -> Reported {
        let mut connections = Connections::default();
        connections.made.record(1_000_000);
        connections.failed[Failure::Refused as usize] = refused;
        let container_id = container.to_owned();
        let (address, port) = (address.into(), "80".into());
        Reported { container_id, address, port, name: None, connections, begun: 1 }
    }

    fn refused(dependencies: &Dependencies) -> Vec<(String, u64)> {
        let of = |(key, connections): (&Key, &Connections)| {
            (key[1].to_string(), connections.failed[Failure::Refused as usize])
        };
        dependencies.iter().map(of).collect()
    }

    #[test]
    fn the_last_values_count_and_what_comes_late_only_if_it_is_not_older() {
        let (mut dependencies, now) = (dependencies(1 << 20), Instant::now());
        for (container, count, late, expected) in [
            ("c1", 5, false, 5),
            ("c1", 4, true, 5),
            ("c1", 7, true, 7),
            ("not-listed", 9, false, 7),
            // The agent was started again.
            ("c1", 1, false, 1),
        ] {
            assert_eq!(
                dependencies.apply(reported(container, "10.0.0.1", count), &listed(), late, now),
                Ok(())
            );
            assert_eq!(refused(&dependencies), [("10.0.0.1".to_owned(), expected)]);
        }
        assert!(dependencies.charge().resident() > 0 && dependencies.charge().exposed() > 0);
        dependencies.forget();
        assert_eq!((dependencies.charge().resident(), dependencies.charge().exposed()), (0, 0));
    }

    #[test]
    fn increments_are_given_out_once_and_of_older_sandboxes_only_after_the_first_reports() {
        let taken = |dependencies: &mut Dependencies| {
            let of = |(_, golden): Increment| (golden.durations.count(), golden.errors.no_response);
            dependencies.take_increments().into_iter().map(of).collect::<Vec<_>>()
        };
        for (young, first) in [(true, vec![(1, 5)]), (false, vec![])] {
            let budget = Arc::new(TenantBudget::new(&NodeBudget::new(Limits::of_series(10))));
            let mut dependencies = Dependencies::new(budget, 200, young);
            let report = |dependencies: &mut Dependencies, refused| {
                dependencies
                    .apply(reported("c1", "10.0.0.1", refused), &listed(), false, Instant::now())
                    .expect("room");
            };
            report(&mut dependencies, 5);
            let held = dependencies.charge().resident();
            assert_eq!(taken(&mut dependencies), first);
            assert_eq!(dependencies.charge().resident() < held, young, "what was given out is not held");
            report(&mut dependencies, 7);
            report(&mut dependencies, 8);
            assert_eq!(taken(&mut dependencies), [(0, 3)]);
            // The agent was started again.
            report(&mut dependencies, 2);
            assert_eq!(taken(&mut dependencies), [(1, 2)]);
            assert_eq!(taken(&mut dependencies), []);
            // It had no room for the address in between.
            let again = Reported { begun: 2, ..reported("c1", "10.0.0.1", 2) };
            dependencies.apply(again, &listed(), false, Instant::now()).expect("room");
            assert_eq!(taken(&mut dependencies), [(1, 2)], "the same count, of others");
            let older = dependencies.apply(reported("c1", "10.0.0.1", 9), &listed(), true, Instant::now());
            assert_eq!((older, taken(&mut dependencies)), (Ok(()), vec![]));
            let later = Instant::now() + FIRST_REPORTS;
            dependencies.apply(reported("c1", "10.0.0.2", 9), &listed(), false, later).expect("room");
            assert_eq!(taken(&mut dependencies), [(1, 9)], "one that is new");
        }
    }

    #[test]
    fn names_are_kept_by_address_and_charged() {
        let mut dependencies = dependencies(1 << 20);
        let apply = |dependencies: &mut Dependencies, address: &str, name: Option<&str>| {
            let reported = Reported { name: name.map(Into::into), ..reported("c1", address, 1) };
            dependencies.apply(reported, &listed(), false, Instant::now()).expect("room");
            dependencies.charge().resident()
        };
        let without = apply(&mut dependencies, "10.0.0.1", None);
        let with = apply(&mut dependencies, "10.0.0.1", Some("db.example"));
        assert_eq!(with, without + cost::text("db.example"));
        assert_eq!(apply(&mut dependencies, "10.0.0.1", None), with, "a name stays");
        apply(&mut dependencies, "::ffff:10.0.0.2", Some("a.example"));
        apply(&mut dependencies, "other", Some("b.example"));
        let names = dependencies.names();
        let names: Vec<_> = names.iter().map(|(address, name)| (address.to_string(), &**name)).collect();
        assert_eq!(names, [("10.0.0.1".to_owned(), "db.example"), ("10.0.0.2".to_owned(), "a.example")]);
    }

    #[test]
    fn addresses_are_bounded_by_number_and_by_the_tenants_budget() {
        let start = Instant::now();
        let apply_at = |dependencies: &mut Dependencies, number: usize, now| {
            dependencies.apply(reported("c1", &format!("10.0.0.{number}"), 1), &listed(), false, now)
        };
        let apply = |dependencies: &mut Dependencies, number| apply_at(dependencies, number, start);
        let mut many = dependencies(1 << 30);
        for number in 0..DEPENDENCIES_MAX {
            assert_eq!(apply(&mut many, number), Ok(()));
        }
        assert_eq!(apply(&mut many, DEPENDENCIES_MAX), Err(Rejection::SandboxSeriesLimit));
        assert_eq!(apply(&mut many, 0), Ok(()), "a known one");
        // What is not reported any more makes room.
        many.take_increments();
        let (resident, later) = (many.charge().resident(), start + UNREPORTED);
        assert_eq!(apply_at(&mut many, 1, later), Ok(()));
        for number in 0..DEPENDENCIES_MAX - 1 {
            assert_eq!(apply_at(&mut many, 1_000 + number, later), Ok(()));
        }
        assert_eq!(apply_at(&mut many, 2_000, later), Err(Rejection::SandboxSeriesLimit));
        assert_eq!(many.iter().filter(|(key, _)| key[1].len() < "10.0.0.1000".len()).count(), 1);
        many.take_increments();
        assert!(many.charge().resident().abs_diff(resident) < resident / 10);
        let mut few = dependencies(100_000);
        let refusals = (0..50).filter(|number| apply(&mut few, *number) == Err(Rejection::TenantSeriesLimit));
        assert!((1..50).contains(&refusals.count()));
        assert!(few.charge().exposed() <= 100_000);
    }
}
