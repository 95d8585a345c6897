//! What came in each step of the last hour, by tenant and line, in memory that the tenants share.
//!
//! A step in which nothing came takes no memory. What exceeds the budget leaves with the oldest steps of the tenant that
//! holds the most.

use std::collections::{BTreeMap, VecDeque};

use super::{STEPS, StepNumber, step::PackedGolden};
use crate::accumulate::{cost, golden::Golden};

/// Steps of a tenant that leave at once when the budget is exceeded: five minutes, or half of those that it has.
const STEPS_LEAVING: u64 = 20;

/// What distinguishes the lines of a tenant.
pub(crate) trait LineKey: Ord {
    /// Whether a line stays that counted nothing in the hour, for its totals.
    const STAYS_WITHOUT_STEPS: bool;

    /// Bytes of memory besides its own.
    fn bytes(&self) -> usize;
}

/// The lines of all tenants.
#[derive(Debug)]
pub(crate) struct Hour<K> {
    /// The step that was recorded last.
    pub newest: Option<StepNumber>,
    tenants: BTreeMap<String, Tenant<K>>,
}

impl<K> Default for Hour<K> {
    fn default() -> Self {
        Self { newest: None, tenants: BTreeMap::new() }
    }
}

/// The lines of one tenant.
#[derive(Debug)]
pub(crate) struct Tenant<K> {
    /// Bytes of its lines.
    held: usize,
    pub lines: BTreeMap<K, Line>,
}

/// What one line counted.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Totals at the newest step.
    pub totals: PackedGolden,
    /// Scrapes show the totals.
    pub exposed: bool,
    /// What came in each step, oldest first.
    pub steps: VecDeque<(StepNumber, PackedGolden)>,
}

impl Line {
    /// Adds what came in a step, which is the newest one.
    pub fn add(&mut self, step: StepNumber, came: &Golden) {
        if came.durations.count() == 0 && came.errors.total() == 0 {
            return;
        }
        match self.steps.back_mut() {
            Some((last, sum)) if *last >= step => {
                let mut both = sum.unpack();
                both.add(came);
                *sum = PackedGolden::from(&both);
            }
            _ => self.steps.push_back((step, PackedGolden::from(came))),
        }
    }

    /// What came from a step on.
    pub fn since(&self, step: StepNumber) -> impl Iterator<Item = &(StepNumber, PackedGolden)> {
        self.steps.iter().filter(move |(at, _)| *at >= step)
    }
}

impl<K: LineKey> Hour<K> {
    /// The lines of a tenant, who is new or not.
    pub fn tenant(&mut self, name: &str) -> &mut Tenant<K> {
        if !self.tenants.contains_key(name) {
            self.tenants.insert(name.to_owned(), Tenant { held: 0, lines: BTreeMap::new() });
        }
        self.tenants.get_mut(name).expect("it was put there")
    }

    /// The lines of a tenant.
    pub fn of(&self, name: &str) -> Option<&Tenant<K>> {
        self.tenants.get(name)
    }

    /// All tenants.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Tenant<K>)> {
        self.tenants.iter()
    }

    /// The same to be changed.
    pub fn of_mut(&mut self, name: &str) -> Option<&mut Tenant<K>> {
        self.tenants.get_mut(name)
    }

    /// The names of all tenants.
    pub fn names(&self) -> Vec<String> {
        self.tenants.keys().cloned().collect()
    }

    /// The end of a step: what is an hour old goes, lines without steps of what is not there any more, and what exceeds the budget.
    pub fn end(&mut self, step: StepNumber, budget: usize, mut is_there: impl FnMut(&str, &K) -> bool) {
        self.newest = self.newest.max(Some(step));
        let oldest = step.saturating_sub(STEPS - 1);
        self.tenants.retain(|name, tenant| {
            tenant.forget_before(oldest);
            tenant.lines.retain(|key, line| !line.steps.is_empty() || is_there(name, key));
            tenant.count();
            !tenant.lines.is_empty()
        });
        self.fit(budget);
    }

    /// Counts what a tenant's lines hold within a step, and drops what exceeds the budget.
    pub fn fit_with(&mut self, tenant: &str, budget: usize) {
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.count();
        }
        self.fit(budget);
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.tenants.values().fold(0, |sum, tenant| sum.saturating_add(tenant.held))
    }

    /// Drops the oldest five minutes of the tenant that holds the most.
    pub fn shed(&mut self) {
        self.fit(self.held().saturating_sub(1));
    }

    /// Drops the oldest steps of the tenants that hold the most.
    fn fit(&mut self, budget: usize) {
        while self.held() > budget {
            let largest = self.tenants.values_mut().max_by_key(|tenant| tenant.held);
            let Some(tenant) = largest else { return };
            let Some(oldest) = tenant.oldest() else { return };
            let span = self.newest.unwrap_or(oldest).saturating_sub(oldest);
            tenant.forget_before(oldest.saturating_add((span / 2).clamp(1, STEPS_LEAVING)));
            if !K::STAYS_WITHOUT_STEPS {
                tenant.lines.retain(|_, line| !line.steps.is_empty());
            }
            tenant.count();
        }
    }
}

impl<K: LineKey> Tenant<K> {
    fn oldest(&self) -> Option<StepNumber> {
        self.lines.values().filter_map(|line| line.steps.front()).map(|&(step, _)| step).min()
    }

    fn forget_before(&mut self, step: StepNumber) {
        for line in self.lines.values_mut() {
            while line.steps.front().is_some_and(|&(first, _)| first < step) {
                line.steps.pop_front();
            }
            if line.steps.capacity() > 2 * line.steps.len() + 8 {
                line.steps.shrink_to_fit();
            }
        }
    }

    fn count(&mut self) {
        let of_line = |(key, line): (&K, &Line)| {
            cost::map_entry::<K, Line>()
                + key.bytes()
                + line.totals.bytes()
                + cost::block(line.steps.capacity() * size_of::<(StepNumber, PackedGolden)>())
                + line.steps.iter().map(|(_, packed)| packed.bytes()).sum::<usize>()
        };
        self.held = self.lines.iter().map(of_line).sum();
    }
}
