//! The values of one sandbox: epochs, series ids, and what of them is exposed.
//!
//! Invariants:
//! - the golden values and the exposed series never go backwards, whatever the agent sends;
//! - memory is bounded by [`SANDBOX_SERIES_MAX`] ids, by the tenant's budget, and by the bounds of each series;
//! - a value is counted once however often it is reported.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use porthole_agent_api::limits::SANDBOX_SERIES_MAX;
use porthole_histogram::Histogram;

use super::{
    budget::TenantBudget,
    counters::AgentCounters,
    golden::GoldenTable,
    series::{CheckedSeries, SeriesKey},
    values::Values,
};
use crate::{
    protocol::{ErrorClass, Protocol, Side},
    rejection::Rejection,
};

/// Ended epochs that are remembered so that one that returns is not counted again.
pub const CLOSED_EPOCHS_MAX: usize = 64;

/// Names of the sandbox's containers by containerd's id, from the registry's record.
pub type ContainerNames = BTreeMap<String, String>;

/// What the sandbox's golden values consist of. Ended epochs, and the one that runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Golden values of the epochs before.
    pub closed: GoldenTable,
    /// Golden values of the running epoch.
    pub current: GoldenTable,
    /// What an earlier run of the exporter knew of the running epoch.
    pub floor: GoldenTable,
    /// The same three for the agent's own counts.
    pub closed_counters: AgentCounters,
    /// Counts of the running epoch.
    pub current_counters: AgentCounters,
    /// What an earlier run of the exporter knew of them.
    pub floor_counters: AgentCounters,
}

impl Totals {
    /// All that is known.
    pub fn golden(&self) -> GoldenTable {
        let mut all = self.current.at_least(&self.floor);
        all.add(&self.closed);
        all
    }

    /// All that is known of the agent's own counts.
    pub fn counters(&self) -> AgentCounters {
        let mut all = self.current_counters.at_least(&self.floor_counters);
        all.add(&self.closed_counters);
        all
    }

    fn close_epoch(&mut self) {
        self.closed = self.golden();
        self.closed_counters = self.counters();
        self.current = GoldenTable::default();
        self.floor = GoldenTable::default();
        self.current_counters = AgentCounters::default();
        self.floor_counters = AgentCounters::default();
    }
}

#[derive(Debug)]
struct Tracked {
    key: Arc<SeriesKey>,
    error: ErrorClass,
    folded: bool,
    /// The container's id as long as the record does not list it.
    unlisted: Option<Box<str>>,
    last: Values,
}

/// An exposed series. Its value over all epochs is kept up to date with each change, so that a scrape adds nothing.
#[derive(Debug, Default)]
struct Exposed {
    /// Values of the epochs before.
    carried: Option<Box<Values>>,
    /// Ids of the running epoch that make up the series: one, unless several share their labels.
    members: u32,
    sum: Sum,
}

/// Values of an exposed series over all epochs.
#[derive(Debug, Default)]
enum Sum {
    /// The carried values: no id of the running epoch makes it up.
    #[default]
    Carried,
    /// Those of the one id that makes it up.
    Member(u32),
    /// The carried ones and those of all ids.
    Merged(Box<Values>),
}

impl Exposed {
    fn add_member(&mut self, id: u32, last: &Values, by_id: &HashMap<u32, Tracked>) {
        self.members += 1;
        match &mut self.sum {
            Sum::Merged(sum) => sum.add(last),
            Sum::Carried => match self.carried.as_deref() {
                None => self.sum = Sum::Member(id),
                Some(carried) => {
                    let mut sum = carried.clone();
                    sum.add(last);
                    self.sum = Sum::Merged(Box::new(sum));
                }
            },
            Sum::Member(only) => {
                let mut sum = by_id.get(only).map_or_else(Values::default, |tracked| tracked.last.clone());
                sum.add(last);
                self.sum = Sum::Merged(Box::new(sum));
            }
        }
    }

    fn remove_member(&mut self, last: &Values) {
        self.members = self.members.saturating_sub(1);
        if self.members == 0 {
            self.sum = Sum::Carried;
        } else if let Sum::Merged(sum) = &mut self.sum
            && let Some(rest) = sum.since(last)
        {
            **sum = rest;
        }
    }

    fn grow(&mut self, grown: &Values) {
        if let Sum::Merged(sum) = &mut self.sum {
            sum.add(grown);
        }
    }

    fn values<'a>(&'a self, by_id: &'a HashMap<u32, Tracked>) -> Option<&'a Values> {
        match &self.sum {
            Sum::Carried => self.carried.as_deref(),
            Sum::Member(id) => by_id.get(id).map(|tracked| &tracked.last),
            Sum::Merged(sum) => Some(sum),
        }
    }
}

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
    Folded,
}

/// The values of one sandbox.
#[derive(Debug)]
pub struct Accumulator {
    budget: Arc<TenantBudget>,
    epoch: Option<u64>,
    closed_epochs: VecDeque<u64>,
    by_id: HashMap<u32, Tracked>,
    exposed: BTreeMap<(Protocol, Side), Group>,
    exposed_count: usize,
    totals: Totals,
    /// The carried values contain those of the running epoch: they were written down after the sandbox's end.
    carried_is_final: bool,
}

impl Accumulator {
    /// An accumulator without values.
    pub fn new(budget: Arc<TenantBudget>) -> Self {
        Self {
            budget,
            epoch: None,
            closed_epochs: VecDeque::new(),
            by_id: HashMap::new(),
            exposed: BTreeMap::new(),
            exposed_count: 0,
            totals: Totals::default(),
            carried_is_final: false,
        }
    }

    /// An accumulator that goes on where an earlier run of the exporter stopped.
    pub fn restored(
        budget: Arc<TenantBudget>,
        epoch: Option<u64>,
        closed_epochs: impl IntoIterator<Item = u64>,
        totals: Totals,
        carried: impl IntoIterator<Item = (SeriesKey, Values)>,
        carried_is_final: bool,
    ) -> Self {
        let mut restored = Self::new(budget);
        restored.epoch = epoch;
        restored.totals = totals;
        restored.carried_is_final = carried_is_final;
        restored.closed_epochs = closed_epochs.into_iter().take(CLOSED_EPOCHS_MAX).collect();
        for (key, values) in carried.into_iter().take(SANDBOX_SERIES_MAX) {
            if !restored.budget.take_exposed() {
                break;
            }
            let of = (key.protocol, key.side);
            let exposed = Exposed { carried: Some(Box::new(values)), ..Exposed::default() };
            if restored.exposed.entry(of).or_default().insert(Arc::new(key), exposed).is_none() {
                restored.exposed_count += 1;
            } else {
                restored.budget.release_exposed(1);
            }
        }
        restored
    }

    /// What its tenant may use.
    pub fn budget(&self) -> &Arc<TenantBudget> {
        &self.budget
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

    /// An agent said in which epoch it is. An epoch that was left does not come back.
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<(), Rejection> {
        if self.epoch == Some(epoch) {
            if std::mem::take(&mut self.carried_is_final) {
                // The agent will report again what is among the carried values.
                self.forget_series();
            }
            return Ok(());
        }
        if self.closed_epochs.contains(&epoch) {
            return Err(Rejection::EpochReturned);
        }
        if let Some(before) = self.epoch.replace(epoch) {
            if self.closed_epochs.len() == CLOSED_EPOCHS_MAX {
                self.closed_epochs.pop_front();
            }
            self.closed_epochs.push_back(before);
            self.close_epoch();
        }
        Ok(())
    }

    fn close_epoch(&mut self) {
        if !self.caught_up() {
            // What an earlier run exposed of this epoch is lost: going on from the values of the epochs before it would
            // look like requests of now, starting over is what Prometheus takes for what it is.
            self.forget_series();
        }
        self.carried_is_final = false;
        self.totals.close_epoch();
        for exposed in self.exposed.values_mut().flat_map(BTreeMap::values_mut) {
            let values = exposed.values(&self.by_id).cloned().unwrap_or_default();
            *exposed = Exposed { carried: Some(Box::new(values)), ..Exposed::default() };
        }
        self.budget.release_tracked(self.by_id.len());
        self.by_id.clear();
    }

    /// Takes one series of a batch of the running epoch.
    pub fn apply(
        &mut self,
        reported: CheckedSeries,
        containers: &ContainerNames,
    ) -> Result<Outcome, Rejection> {
        if self.by_id.contains_key(&reported.id) {
            self.apply_known(reported, containers)
        } else {
            self.apply_new(reported, containers)
        }
    }

    fn apply_known(
        &mut self,
        reported: CheckedSeries,
        containers: &ContainerNames,
    ) -> Result<Outcome, Rejection> {
        self.list_container(reported.id, containers);
        let Some(tracked) = self.by_id.get_mut(&reported.id) else { return Err(Rejection::KeyChanged) };
        let same = tracked.error == reported.error
            && tracked.key.protocol == reported.key.protocol
            && tracked.key.side == reported.key.side
            && (tracked.folded
                || (tracked.key.operation == reported.key.operation
                    && tracked.key.resource == reported.key.resource
                    && tracked.key.status == reported.key.status
                    && tracked.key.peer_address == reported.key.peer_address
                    && tracked.key.peer_port == reported.key.peer_port));
        if !same {
            return Err(Rejection::KeyChanged);
        }
        let grown = reported.values.since(&tracked.last).ok_or(Rejection::WentBackwards)?;
        self.totals.current.record(
            reported.key.side,
            reported.key.protocol,
            reported.error,
            &grown.durations,
        );
        tracked.last = reported.values;
        let group = self.exposed.get_mut(&(tracked.key.protocol, tracked.key.side));
        if let Some(exposed) = group.and_then(|group| group.get_mut(&tracked.key)) {
            exposed.grow(&grown);
        }
        Ok(if tracked.folded { Outcome::Folded } else { Outcome::Accepted })
    }

    fn apply_new(
        &mut self,
        mut reported: CheckedSeries,
        containers: &ContainerNames,
    ) -> Result<Outcome, Rejection> {
        if self.by_id.len() >= SANDBOX_SERIES_MAX {
            return Err(Rejection::SandboxSeriesLimit);
        }
        if !self.budget.take_tracked() {
            return Err(Rejection::TenantSeriesLimit);
        }
        let mut unlisted = None;
        match containers.get(&reported.container_id) {
            Some(name) => reported.key.container = name.as_str().into(),
            None if reported.container_id.is_empty() => {}
            None => unlisted = Some(reported.container_id.into_boxed_str()),
        }
        let (key, folded) = self.expose(reported.key, reported.id, &reported.values);
        self.totals.current.record(key.side, key.protocol, reported.error, &reported.values.durations);
        self.by_id.insert(
            reported.id,
            Tracked { key, error: reported.error, folded, unlisted, last: reported.values },
        );
        Ok(if folded { Outcome::Folded } else { Outcome::Accepted })
    }

    /// Finds or makes the exposed series of a key and adds the id to it; folds when the budget is used up.
    fn expose(&mut self, key: SeriesKey, id: u32, last: &Values) -> (Arc<SeriesKey>, bool) {
        let group = self.exposed.entry((key.protocol, key.side)).or_default();
        let known =
            |key: &SeriesKey, group: &Group| group.get_key_value(key).map(|(known, _)| Arc::clone(known));
        let (key, folded, new) = match known(&key, group) {
            Some(known) => (known, false, false),
            None if self.exposed_count < SANDBOX_SERIES_MAX && self.budget.take_exposed() => {
                (Arc::new(key), false, true)
            }
            None => {
                let other = key.folded();
                if let Some(known) = known(&other, group) {
                    (known, true, false)
                } else {
                    self.budget.take_exposed_for_other();
                    (Arc::new(other), true, true)
                }
            }
        };
        self.exposed_count += usize::from(new);
        group.entry(Arc::clone(&key)).or_default().add_member(id, last, &self.by_id);
        (key, folded)
    }

    /// Moves a series under its container's name when the record has come to list the container.
    fn list_container(&mut self, id: u32, containers: &ContainerNames) {
        let Some(tracked) = self.by_id.get_mut(&id) else { return };
        let Some(name) = tracked.unlisted.as_deref().and_then(|unlisted| containers.get(unlisted)) else {
            return;
        };
        tracked.unlisted = None;
        if tracked.folded {
            return;
        }
        let before = Arc::clone(&tracked.key);
        let last = tracked.last.clone();
        let listed = SeriesKey { container: name.as_str().into(), ..(*before).clone() };
        let group = self.exposed.entry((before.protocol, before.side)).or_default();
        if let Some(exposed) = group.get_mut(&before) {
            exposed.remove_member(&last);
            if exposed.members == 0 && exposed.carried.is_none() {
                group.remove(&before);
                self.exposed_count -= 1;
                self.budget.release_exposed(1);
            }
        }
        let (key, folded) = self.expose(listed, id, &last);
        if let Some(tracked) = self.by_id.get_mut(&id) {
            tracked.key = key;
            tracked.folded = folded;
        }
    }

    /// Looks up containers that the record did not list when their series came.
    pub fn containers_changed(&mut self, containers: &ContainerNames) {
        let listed: Vec<u32> = self
            .by_id
            .iter()
            .filter(|(_, tracked)| {
                tracked.unlisted.as_deref().is_some_and(|unlisted| containers.contains_key(unlisted))
            })
            .map(|(&id, _)| id)
            .collect();
        for id in listed {
            self.list_container(id, containers);
        }
    }

    /// Key and error class of a series of the running epoch, under which its values are exposed.
    pub fn key_of(&self, id: u32) -> Option<(Arc<SeriesKey>, ErrorClass)> {
        self.by_id.get(&id).map(|tracked| (Arc::clone(&tracked.key), tracked.error))
    }

    /// Whether a series is one whose container the record does not list.
    pub fn is_unlisted(&self, id: u32) -> bool {
        self.by_id.get(&id).is_some_and(|tracked| tracked.unlisted.is_some())
    }

    /// Takes the agent's own counts of the running epoch.
    pub fn apply_counters(&mut self, reported: &AgentCounters) {
        self.totals.current_counters = reported.at_least(&self.totals.current_counters);
    }

    /// Whether the agent has reported again all that an earlier run of the exporter knew of the running epoch. Until then a
    /// series that was not reported yet would be exposed without its values of this epoch, and seem to go backwards.
    fn caught_up(&self) -> bool {
        self.carried_is_final
            || self.totals.floor.is_empty()
            || self.totals.current.at_least(&self.totals.floor) == self.totals.current
    }

    /// Copies series of one protocol's side that follow `after`, in the order of their keys, until `most` are copied.
    pub fn copy_series(
        &self,
        of: (Protocol, Side),
        after: Option<&Arc<SeriesKey>>,
        most: usize,
        copied: &mut Vec<Shown>,
    ) {
        let Some(group) = self.exposed.get(&of) else { return };
        let caught_up = self.caught_up();
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(Arc::clone(key)));
        let shown = group.range((from, Bound::Unbounded)).filter_map(|(key, exposed)| {
            let values = self.shown(exposed, caught_up)?;
            Some(Shown { key: Arc::clone(key), durations: values.durations.clone() })
        });
        copied.extend(shown.take(most));
    }

    fn shown<'a>(&'a self, exposed: &'a Exposed, caught_up: bool) -> Option<&'a Values> {
        if exposed.members == 0 && !caught_up { None } else { exposed.values(&self.by_id) }
    }

    /// Calls `visit` for every exposed series with its values over all epochs.
    pub fn for_each_series<E>(
        &self,
        mut visit: impl FnMut(&SeriesKey, &Values) -> Result<(), E>,
    ) -> Result<(), E> {
        let caught_up = self.caught_up();
        for (key, exposed) in self.exposed.values().flatten() {
            if let Some(values) = self.shown(exposed, caught_up) {
                visit(key, values)?;
            }
        }
        Ok(())
    }

    /// Values of ended epochs, which no agent will report again.
    pub fn carried(&self) -> impl Iterator<Item = (&SeriesKey, &Values)> {
        self.exposed
            .values()
            .flatten()
            .filter_map(|(key, exposed)| Some((key.as_ref(), exposed.carried.as_deref()?)))
    }

    /// Forgets the series and keeps the totals: the sandbox has ended and was scraped often enough.
    pub fn forget_series(&mut self) {
        self.release();
        self.by_id = HashMap::new();
        self.exposed = BTreeMap::new();
        self.exposed_count = 0;
    }

    fn release(&self) {
        self.budget.release_tracked(self.by_id.len());
        self.budget.release_exposed(self.exposed_count);
    }
}

impl Drop for Accumulator {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
