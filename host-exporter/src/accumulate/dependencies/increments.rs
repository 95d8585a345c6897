//! By how much the values of a sandbox's connections grew since that was taken last, by address, over all containers.

use std::collections::{BTreeMap, btree_map::Entry};

use porthole_agent_api::dependencies::DEPENDENCIES_MAX;

use super::Key;
use crate::accumulate::{cost, golden::Golden, series::OTHER};

/// What was added to the connections to an address and a port, as [`super::Connections::golden`] has them.
pub type Increment = ([Box<str>; 2], Golden);

/// Increments that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct PendingIncrements {
    sums: BTreeMap<[Box<str>; 2], Golden>,
    bytes: usize,
}

impl PendingIncrements {
    /// Bytes that they occupy.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that an increment occupies at most.
    pub fn bytes_of([_, address, port]: &Key, increment: &Golden) -> usize {
        entry_bytes(address, port) + cost::histogram(&increment.durations)
    }

    /// Adds an increment; beyond so many addresses, to [`OTHER`].
    pub fn add(&mut self, [_, address, port]: &Key, increment: &Golden) {
        if increment.durations.count() == 0 && increment.errors.total() == 0 {
            return;
        }
        let mut at = [address.clone(), port.clone()];
        if self.sums.len() >= DEPENDENCIES_MAX && !self.sums.contains_key(&at) {
            at = [OTHER.into(), "".into()];
        }
        let sum = match self.sums.entry(at) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let [address, port] = entry.key();
                self.bytes += entry_bytes(address, port);
                entry.insert(Golden::default())
            }
        };
        let before = cost::histogram(&sum.durations);
        sum.add(increment);
        self.bytes = self.bytes + cost::histogram(&sum.durations) - before;
    }

    /// Takes all of them.
    pub fn take(&mut self) -> Vec<Increment> {
        std::mem::take(self).sums.into_iter().collect()
    }
}

fn entry_bytes(address: &str, port: &str) -> usize {
    cost::map_entry::<[Box<str>; 2], Golden>() + cost::text(address) + cost::text(port)
}
