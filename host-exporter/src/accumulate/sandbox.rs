//! The values of one sandbox: epochs, series ids, and what of them is exposed.
//!
//! Invariants:
//! - the golden values and the exposed series never go backwards, whatever the agent sends;
//! - memory is bounded by [`SANDBOX_SERIES_MAX`] ids and by the tenant's budget, which is charged before anything is
//!   held;
//! - a value is counted once however often it is reported.

mod epochs;
mod shown;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use porthole_agent_api::limits::SANDBOX_SERIES_MAX;
use porthole_histogram::Histogram;
use porthole_registry::{ContainerId, ContainerRecord};

use super::{
    budget::{Charge, TenantBudget},
    calls::{Call, Calls},
    cost,
    counters::AgentCounters,
    exposed::{Exposed, Tracked},
    golden::{Golden, GoldenTable},
    packed::Packed,
    predecessor::Predecessor,
    series::{CheckedSeries, SeriesKey},
    totals::Totals,
    values::Values,
};
use crate::{
    protocol::{ErrorClass, Protocol, Side},
    rejection::Rejection,
};

/// Ended epochs that are remembered so that one that returns is not counted again.
pub const CLOSED_EPOCHS_MAX: usize = 64;

/// The sandbox's containers by containerd's id, from the registry's record.
pub type Containers = BTreeMap<ContainerId, ContainerRecord>;

/// A series as a scrape shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its labels.
    pub key: Arc<SeriesKey>,
    /// Its durations over all epochs.
    pub durations: Histogram,
}

/// Exposed series of one protocol's side.
type Group = BTreeMap<Arc<SeriesKey>, Exposed>;

/// What a call of [`Accumulator::apply`] did with a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its values count.
    Accepted,
    /// Its values count, in `other`.
    Overflowed,
}

/// The values of one sandbox.
#[derive(Debug)]
pub struct Accumulator {
    charge: Charge,
    /// Bytes of the labels that all series have in a scrape.
    identity_labels: usize,
    /// Bytes of what is tracked and exposed, without the table of ids.
    series_bytes: usize,
    /// Bytes that the exposed series take in a scrape.
    exposed_bytes: usize,
    epoch: Option<u64>,
    closed_epochs: VecDeque<u64>,
    by_id: HashMap<u32, Tracked>,
    /// Containers of series, by the series' id, as long as the record does not list them.
    unlisted: BTreeMap<u32, Box<str>>,
    exposed: BTreeMap<(Protocol, Side), Group>,
    exposed_count: usize,
    totals: Totals,
    /// What of the running epoch was counted under an earlier name.
    predecessor: Predecessor,
    /// What its clients called and the topology has not taken yet.
    calls: Calls,
    /// The agent is reporting again what an earlier run of the exporter knew.
    reports_again: bool,
    /// The carried values contain those of the running epoch: they were written down after the sandbox's end.
    carried_is_final: bool,
    /// The carried values are not in the ledger yet.
    carried_is_unwritten: bool,
}

impl Accumulator {
    /// An accumulator without values, of a sandbox whose labels take so many bytes of each line of a scrape.
    pub fn new(budget: Arc<TenantBudget>, identity_labels: usize) -> Self {
        Self {
            charge: Charge::new(budget),
            identity_labels,
            series_bytes: 0,
            exposed_bytes: 0,
            epoch: None,
            closed_epochs: VecDeque::new(),
            by_id: HashMap::new(),
            unlisted: BTreeMap::new(),
            exposed: BTreeMap::new(),
            exposed_count: 0,
            totals: Totals::default(),
            predecessor: Predecessor::default(),
            calls: Calls::default(),
            reports_again: false,
            carried_is_final: false,
            carried_is_unwritten: false,
        }
    }

    /// An accumulator that goes on where an earlier run of the exporter stopped.
    #[must_use]
    pub fn restored(
        mut self,
        epoch: Option<u64>,
        closed_epochs: impl IntoIterator<Item = u64>,
        totals: Totals,
        carried: impl IntoIterator<Item = (SeriesKey, Values)>,
        carried_is_final: bool,
    ) -> Self {
        self.epoch = epoch;
        self.reports_again = !totals.floor.is_empty();
        self.totals = totals;
        self.carried_is_final = carried_is_final;
        self.closed_epochs = closed_epochs.into_iter().take(CLOSED_EPOCHS_MAX).collect();
        for (key, values) in carried.into_iter().take(SANDBOX_SERIES_MAX) {
            let group = self.exposed.entry((key.protocol, key.side)).or_default();
            if group.contains_key(&key) {
                continue;
            }
            let key = Arc::new(key);
            let exposed = Exposed::carrying(values);
            let bytes = exposed_entry(&key) + exposed.bytes();
            if !self.charge.budget().resident.admits(bytes) || !self.charge.budget().take_exposed() {
                break;
            }
            self.series_bytes += bytes;
            self.exposed_bytes += cost::exposed_series(&key, self.identity_labels);
            self.exposed_count += 1;
            group.insert(key, exposed);
            self.settle();
        }
        self.settle();
        self
    }

    /// The accumulator, of whose running epoch a part was counted under an earlier name.
    #[must_use]
    pub fn after(mut self, predecessor: Predecessor) -> Self {
        self.predecessor = predecessor;
        self.settle();
        self
    }

    /// The accumulator of the same agent under another name: it has counted nothing, and what the agent has reported of its running
    /// epoch remains with this one. It is charged whether or not there is room: nothing that a guest sends brings it about.
    #[must_use]
    pub fn successor(&self, budget: Arc<TenantBudget>, identity_labels: usize) -> Self {
        let counted = self.by_id.iter().map(|(id, tracked)| (*id, tracked.last.clone()));
        let not_again = self.predecessor.series().filter(|(id, _)| !self.by_id.contains_key(id));
        let series = counted.chain(not_again.map(|(id, values)| (id, Packed::from(&values))));
        let mut counters = self.totals.current_counters.at_least(&self.totals.floor_counters);
        counters.add(self.predecessor.counters());
        let mut successor = Self::new(budget, identity_labels).after(Predecessor::new(series, counters));
        successor.epoch = self.epoch;
        successor.closed_epochs.clone_from(&self.closed_epochs);
        // An exporter that ends before this is in the ledger goes on under the name before.
        successor.carried_is_unwritten = true;
        successor
    }

    /// Whether the agent has reported again all that an earlier run of the exporter knew of the running epoch.
    pub fn knows_its_epoch(&self) -> bool {
        !self.carried_is_final && self.caught_up()
    }

    /// What of the running epoch was counted under an earlier name.
    pub fn predecessor(&self) -> &Predecessor {
        &self.predecessor
    }

    fn budget(&self) -> &TenantBudget {
        self.charge.budget()
    }

    /// What it holds of its tenant's budget.
    pub fn charge(&self) -> &Charge {
        &self.charge
    }

    /// Charges what is held now.
    fn settle(&mut self) {
        let bytes = self.series_bytes
            + cost::table(&self.by_id)
            + self.totals.bytes()
            + self.calls.bytes()
            + self.predecessor.bytes();
        self.charge.set_resident(bytes);
        self.charge.set_exposed(self.exposed_bytes);
    }

    /// The epoch that runs, once an agent sent a message.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Epochs that ended, oldest first.
    pub fn closed_epochs(&self) -> impl Iterator<Item = u64> {
        self.closed_epochs.iter().copied()
    }

    /// What outlives the sandbox.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Number of exposed series.
    pub fn series(&self) -> usize {
        self.exposed_count
    }

    /// Takes one series of a batch of the running epoch.
    pub fn apply(
        &mut self,
        mut reported: CheckedSeries,
        containers: &Containers,
    ) -> Result<Outcome, Rejection> {
        reported.values.durations.shrink();
        let taken = if self.by_id.contains_key(&reported.id) {
            self.apply_known(&reported, containers)
        } else {
            self.apply_new(reported, containers)
        };
        self.settle();
        taken
    }

    /// Whether the tenant's budget has room for what was not held before: so many bytes by id, and of a histogram, which is
    /// merged into a series and into the totals at most.
    fn admits(&self, reported: &CheckedSeries, by_id: usize, histogram: usize) -> bool {
        let row = (!self.totals.current.has(reported.key.side, reported.key.protocol))
            .then_some(GoldenTable::ROW_BYTES);
        let more = by_id + 2 * histogram + row.unwrap_or(0);
        (by_id == 0 && histogram == 0) || self.budget().resident.admits(more)
    }

    fn apply_known(
        &mut self,
        reported: &CheckedSeries,
        containers: &Containers,
    ) -> Result<Outcome, Rejection> {
        self.list_container(reported.id, containers);
        let Some(tracked) = self.by_id.get_mut(&reported.id) else { return Err(Rejection::KeyChanged) };
        let same = tracked.error == reported.error
            && tracked.key.protocol == reported.key.protocol
            && tracked.key.side == reported.key.side
            && (tracked.overflowed || tracked.key.is_but_for_container(&reported.key));
        if !same {
            return Err(Rejection::KeyChanged);
        }
        let earlier = tracked.last.unpack();
        let grown = reported.values.since(&earlier).ok_or(Rejection::WentBackwards)?;
        let before = tracked.bytes();
        let last = Packed::from(&reported.values);
        let by_id = last.bytes().saturating_sub(tracked.last.bytes());
        let histogram = cost::histogram(&reported.values.durations);
        if !self.admits(reported, by_id, histogram.saturating_sub(cost::histogram(&earlier.durations))) {
            return Err(Rejection::TenantMemoryLimit);
        }
        let Some(tracked) = self.by_id.get_mut(&reported.id) else { return Err(Rejection::KeyChanged) };
        tracked.last = last;
        self.series_bytes = self.series_bytes + tracked.bytes() - before;
        let group = self.exposed.get_mut(&(tracked.key.protocol, tracked.key.side));
        if let Some(exposed) = group.and_then(|group| group.get_mut(&tracked.key)) {
            let before = exposed.bytes();
            exposed.grow(&grown);
            self.series_bytes = self.series_bytes + exposed.bytes() - before;
        }
        let outcome = if tracked.overflowed { Outcome::Overflowed } else { Outcome::Accepted };
        self.count(&reported.key, reported.error, &grown.durations);
        Ok(outcome)
    }

    fn apply_new(
        &mut self,
        mut reported: CheckedSeries,
        containers: &Containers,
    ) -> Result<Outcome, Rejection> {
        if self.by_id.len() >= SANDBOX_SERIES_MAX {
            return Err(Rejection::SandboxSeriesLimit);
        }
        let values = self.predecessor.rest(reported.id, &reported.values)?;
        let last = Packed::from(&reported.values);
        let by_id = size_of::<(u32, Tracked)>() + last.bytes();
        if !self.admits(&reported, by_id, cost::histogram(&reported.values.durations)) {
            return Err(Rejection::TenantMemoryLimit);
        }
        if !self.budget().take_tracked() {
            return Err(Rejection::TenantSeriesLimit);
        }
        match containers.get(reported.container_id.as_str()) {
            Some(container) => reported.key = reported.key.in_container(&container.name),
            None if reported.container_id.is_empty() => {}
            None => {
                let unlisted = reported.container_id.into_boxed_str();
                self.series_bytes += unlisted_entry(&unlisted);
                self.unlisted.insert(reported.id, unlisted);
            }
        }
        self.count(&reported.key, reported.error, &values.durations);
        let (key, overflowed) = self.expose(reported.key, reported.id, &values);
        let tracked = Tracked { key, error: reported.error, overflowed, last };
        self.series_bytes += tracked.bytes();
        self.by_id.insert(reported.id, tracked);
        Ok(if overflowed { Outcome::Overflowed } else { Outcome::Accepted })
    }

    /// Adds what came to the totals and, of a client, to the calls. What an agent reports again to an exporter that has started
    /// since is no call of now.
    fn count(&mut self, key: &SeriesKey, error: ErrorClass, came: &Histogram) {
        let error = (!key.is_unknown(error)).then_some(error);
        self.totals.current.record(key.side, key.protocol, error, came);
        if self.reports_again {
            self.reports_again = !self.caught_up();
        } else if key.side == Side::Client && came.count() > 0 {
            let budget = self.charge.budget();
            self.calls.record(key.protocol, key.labels(), error, came, |bytes| budget.resident.admits(bytes));
        }
    }

    /// Gives out what its clients called since it was given out last.
    pub fn take_calls(&mut self) -> Vec<(Call, Golden)> {
        let calls = self.calls.take();
        self.settle();
        calls
    }

    /// Finds or makes the exposed series of a key and adds the id to it; the overflow series when the budget is used up.
    fn expose(&mut self, key: SeriesKey, id: u32, values: &Values) -> (Arc<SeriesKey>, bool) {
        let of = (key.protocol, key.side);
        let known = |key: &SeriesKey, exposed: &BTreeMap<_, Group>| {
            Some(Arc::clone(exposed.get(&of)?.get_key_value(key)?.0))
        };
        let (key, overflowed, new) = if let Some(known) = known(&key, &self.exposed) {
            (known, false, false)
        } else {
            let key = Arc::new(key);
            if self.take_exposed(&key) {
                (key, false, true)
            } else {
                let other = key.overflow();
                if let Some(known) = known(&other, &self.exposed) {
                    (known, true, false)
                } else {
                    self.budget().take_exposed_for_other();
                    (Arc::new(other), true, true)
                }
            }
        };
        if new {
            self.exposed_count += 1;
            self.series_bytes += exposed_entry(&key);
            self.exposed_bytes += cost::exposed_series(&key, self.identity_labels);
        }
        let exposed = self.exposed.entry(of).or_default().entry(Arc::clone(&key)).or_default();
        let before = exposed.bytes();
        exposed.add_member(id, values, !self.predecessor.has(id), &self.by_id);
        self.series_bytes = self.series_bytes + exposed.bytes() - before;
        (key, overflowed)
    }

    /// Takes a series of its own from every budget; false when one of them is used up.
    fn take_exposed(&self, key: &Arc<SeriesKey>) -> bool {
        let budget = self.budget();
        self.exposed_count < SANDBOX_SERIES_MAX
            && budget.resident.admits(exposed_entry(key))
            && budget.exposed.admits(cost::exposed_series(key, self.identity_labels))
            && budget.take_exposed()
    }

    /// Moves a series under its container's name when the record has come to list the container.
    fn list_container(&mut self, id: u32, containers: &Containers) {
        let Some(unlisted) = self.unlisted.get(&id) else { return };
        let Some(container) = containers.get(&**unlisted) else { return };
        self.series_bytes -= unlisted_entry(unlisted);
        self.unlisted.remove(&id);
        let Some(tracked) = self.by_id.get(&id).filter(|tracked| !tracked.overflowed) else { return };
        let before = Arc::clone(&tracked.key);
        let last = tracked.last.unpack();
        let values = self.predecessor.rest(id, &last).unwrap_or_default();
        let listed = before.in_container(&container.name);
        let group = self.exposed.entry((before.protocol, before.side)).or_default();
        if let Some(exposed) = group.get_mut(&before) {
            let bytes = exposed.bytes();
            exposed.remove_member(&values);
            self.series_bytes = self.series_bytes + exposed.bytes() - bytes;
            if exposed.members == 0 && exposed.carried.is_none() {
                group.remove(&before);
                self.series_bytes -= exposed_entry(&before);
                self.exposed_bytes -= cost::exposed_series(&before, self.identity_labels);
                self.exposed_count -= 1;
                self.budget().release_exposed(1);
            }
        }
        let (key, overflowed) = self.expose(listed, id, &values);
        if let Some(tracked) = self.by_id.get_mut(&id) {
            tracked.key = key;
            tracked.overflowed = overflowed;
        }
    }

    /// Looks up containers that the record did not list when their series came.
    pub fn containers_changed(&mut self, containers: &Containers) {
        let listed: Vec<u32> = self
            .unlisted
            .iter()
            .filter(|(_, unlisted)| containers.contains_key(&***unlisted))
            .map(|(&id, _)| id)
            .collect();
        for id in listed {
            self.list_container(id, containers);
        }
        self.settle();
    }

    /// Key and error class of a series of the running epoch, under which its values are exposed.
    pub fn key_of(&self, id: u32) -> Option<(Arc<SeriesKey>, ErrorClass)> {
        self.by_id.get(&id).map(|tracked| (Arc::clone(&tracked.key), tracked.error))
    }

    /// Whether a series is one whose container the record does not list.
    pub fn is_unlisted(&self, id: u32) -> bool {
        self.unlisted.contains_key(&id)
    }

    /// Takes the agent's own counts of the running epoch.
    pub fn apply_counters(&mut self, reported: &AgentCounters) {
        let own = self.predecessor.rest_of_counters(reported);
        self.totals.current_counters = own.at_least(&self.totals.current_counters);
    }

    /// Whether the agent has reported again all that an earlier run of the exporter knew of the running epoch. Until then a
    /// series that was not reported yet would be exposed without its values of this epoch, and seem to go backwards.
    fn caught_up(&self) -> bool {
        self.carried_is_final
            || self.totals.floor.is_empty()
            || self.totals.current.at_least(&self.totals.floor) == self.totals.current
    }

    /// Forgets the series and keeps the totals: the sandbox has ended and was scraped often enough. If it comes back in the same
    /// epoch, its agent reports again what the totals have.
    pub fn forget_series(&mut self) {
        self.release();
        self.totals.begin_again();
        self.reports_again = !self.totals.floor.is_empty();
        self.by_id = HashMap::new();
        self.unlisted = BTreeMap::new();
        self.exposed = BTreeMap::new();
        self.carried_is_unwritten = false;
        self.exposed_count = 0;
        self.series_bytes = 0;
        self.exposed_bytes = 0;
        self.settle();
    }

    fn release(&self) {
        self.budget().release_tracked(self.by_id.len());
        self.budget().release_exposed(self.exposed_count);
    }
}

/// Bytes of an exposed series without values: its key, and its place in the map.
fn exposed_entry(key: &Arc<SeriesKey>) -> usize {
    cost::key(key) + cost::map_entry::<Arc<SeriesKey>, Exposed>()
}

/// Bytes of a container that the record does not list.
fn unlisted_entry(container: &str) -> usize {
    cost::map_entry::<u32, Box<str>>() + cost::text(container)
}

impl Drop for Accumulator {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
