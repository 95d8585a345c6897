//! The spans of one tenant, on shelves: what failed or was slow, the samples of its traces, and other samples.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Eviction, Exemplar, Kept, SANDBOX_SPANS_MAX, TENANT_SPANS_MAX};
use crate::accumulate::{
    budget::{Charge, TenantBudget},
    cost,
};

/// Kinds of spans, which have a bound each: those that failed or were slow, and their traces' others; those that were only sampled.
pub(super) const MARKED: usize = 0;
pub(super) const SAMPLED: usize = 1;

/// The shelf of samples that count as marked, for something in their traces is; the other two shelves have the numbers of their kinds.
const PROMOTED: usize = 2;

/// The shelves of each kind, in the order in which they lose spans.
const OF_KIND: [&[usize]; 2] = [&[PROMOTED, MARKED], &[SAMPLED]];

/// Some spans of a tenant.
#[derive(Debug, Default)]
struct Shelf {
    /// Bytes of all spans.
    bytes: usize,
    by_number: BTreeMap<u64, Arc<Kept>>,
    /// Numbers of each sandbox, the oldest first.
    by_sandbox: BTreeMap<String, VecDeque<u64>>,
}

impl Shelf {
    /// Spans of a sandbox.
    fn count_of(&self, sandbox: &str) -> usize {
        self.by_sandbox.get(sandbox).map_or(0, VecDeque::len)
    }

    /// Removes the oldest, of a sandbox or of all; whether there was one.
    fn remove_oldest(&mut self, sandbox: Option<&str>) -> bool {
        let oldest = match sandbox {
            Some(sandbox) => self.by_sandbox.get(sandbox).and_then(VecDeque::front),
            None => self.by_number.first_key_value().map(|(number, _)| number),
        };
        oldest.copied().and_then(|number| self.take(number)).is_some()
    }

    fn put(&mut self, kept: Arc<Kept>) {
        let numbers = self.by_sandbox.entry(kept.identity.sandbox_id.clone()).or_default();
        // A sample that is moved here may be older than others of its sandbox.
        let at = numbers.partition_point(|number| *number < kept.number);
        numbers.insert(at, kept.number);
        self.bytes += kept.bytes();
        self.by_number.insert(kept.number, kept);
    }

    /// Takes a span out.
    fn take(&mut self, number: u64) -> Option<Arc<Kept>> {
        let kept = self.by_number.remove(&number)?;
        self.bytes -= kept.bytes();
        let sandbox = &kept.identity.sandbox_id;
        if let Some(numbers) = self.by_sandbox.get_mut(sandbox) {
            if let Ok(at) = numbers.binary_search(&number) {
                numbers.remove(at);
            }
            if numbers.is_empty() {
                self.by_sandbox.remove(sandbox);
            }
        }
        Some(kept)
    }

    /// Removes what came before; the number of those.
    fn expire(&mut self, before_unix_ms: u64) -> u64 {
        let mut expired = 0;
        while self
            .by_number
            .first_key_value()
            .is_some_and(|(_, kept)| kept.reception.unix_ms < before_unix_ms)
        {
            self.remove_oldest(None);
            expired += 1;
        }
        expired
    }
}

/// The spans of a tenant.
#[derive(Debug)]
pub(super) struct OfTenant {
    charge: Charge,
    shelves: [Shelf; 3],
    /// Sorted by sandbox and series.
    exemplars: Arc<[Exemplar]>,
}

impl OfTenant {
    pub fn new(budget: &Arc<TenantBudget>) -> Self {
        Self {
            charge: Charge::new(Arc::clone(budget)),
            shelves: Default::default(),
            exemplars: Arc::default(),
        }
    }

    fn settle(&mut self) {
        let shelves: usize = self.shelves.iter().map(|shelf| shelf.bytes).sum();
        let exemplars: usize = self.exemplars.iter().map(Exemplar::bytes).sum();
        self.charge.set_resident(shelves + exemplars);
        self.charge.set_exposed(self.exemplars.len() * cost::EXPOSED_EXEMPLAR);
    }

    /// Makes room for so many bytes by removing the oldest spans: samples, then for what is no sample others; the number of
    /// those that went.
    pub fn make_room(&mut self, bytes: usize, kind: usize) -> u64 {
        let mut removed = 0;
        for &at in OF_KIND[kind..].iter().rev().copied().flatten() {
            while !self.charge.budget().resident.admits(bytes) && self.shelves[at].remove_oldest(None) {
                removed += 1;
                self.settle();
            }
        }
        removed
    }

    /// The bound that a sandbox's next span of this kind would exceed.
    fn reached(&self, sandbox: &str, kind: usize) -> Option<Eviction> {
        let shelves = || OF_KIND[kind].iter().map(|at| &self.shelves[*at]);
        if shelves().map(|shelf| shelf.count_of(sandbox)).sum::<usize>() >= SANDBOX_SPANS_MAX[kind] {
            Some(Eviction::SandboxLimit)
        } else if shelves().map(|shelf| shelf.by_number.len()).sum::<usize>() >= TENANT_SPANS_MAX[kind] {
            Some(Eviction::TenantLimit)
        } else {
            None
        }
    }

    /// Keeps a span, for which an older one goes where a bound is reached.
    pub fn put(&mut self, kept: Arc<Kept>, kind: usize) -> Option<Eviction> {
        let sandbox = &kept.identity.sandbox_id;
        let evicted = self.reached(sandbox, kind);
        if let Some(eviction) = evicted {
            let of = (eviction == Eviction::SandboxLimit).then_some(sandbox.as_str());
            // One goes, from the first shelf that has any.
            OF_KIND[kind].iter().any(|&at| self.shelves[at].remove_oldest(of));
        }
        self.shelves[kind].put(kept);
        self.settle();
        evicted
    }

    /// Lets a sample count as marked, if there is room. Bytes stay as they are.
    pub fn promote(&mut self, number: u64) {
        let Some(kept) = self.shelves[SAMPLED].by_number.get(&number) else { return };
        if self.reached(&kept.identity.sandbox_id, MARKED).is_none()
            && let Some(kept) = self.shelves[SAMPLED].take(number)
        {
            self.shelves[PROMOTED].put(kept);
        }
    }

    /// Keeps these in place of those before, the first ones as far as there is room.
    pub fn set_exemplars(&mut self, mut exemplars: Vec<Exemplar>) {
        self.exemplars = Arc::default();
        self.settle();
        let budget = self.charge.budget();
        let (mut resident, mut exposed) = (0, 0);
        exemplars.retain(|exemplar| {
            resident += exemplar.bytes();
            exposed += cost::EXPOSED_EXEMPLAR;
            budget.resident.admits(resident) && budget.exposed.admits(exposed)
        });
        exemplars.sort_by(|a, b| (&a.identity, &a.key).cmp(&(&b.identity, &b.key)));
        self.exemplars = exemplars.into();
        self.settle();
    }

    /// Those of the last look at the traces.
    pub fn exemplars(&self) -> &Arc<[Exemplar]> {
        &self.exemplars
    }

    /// Lets go of these; the number of those that were there.
    pub fn discard(&mut self, numbers: &[u64]) -> u64 {
        let shelves = &mut self.shelves;
        let taken =
            numbers.iter().filter(|number| shelves.iter_mut().any(|shelf| shelf.take(**number).is_some()));
        let discarded = taken.count() as u64;
        self.settle();
        discarded
    }

    /// Lets go of what came before; the number of those.
    pub fn expire(&mut self, before_unix_ms: u64) -> u64 {
        let expired = self.shelves.iter_mut().map(|shelf| shelf.expire(before_unix_ms)).sum();
        self.settle();
        expired
    }

    /// The number of the newest.
    pub fn newest(&self) -> Option<u64> {
        self.shelves.iter().filter_map(|shelf| Some(*shelf.by_number.last_key_value()?.0)).max()
    }

    /// All, those of each shelf in the order in which they came.
    pub fn spans(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.shelves.iter().flat_map(|shelf| shelf.by_number.values())
    }
}
