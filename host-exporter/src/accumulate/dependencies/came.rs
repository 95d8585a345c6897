//! What came to the connections of a sandbox since it was given out last, by address, over all containers.

use std::collections::{BTreeMap, btree_map::Entry};

use porthole_agent_api::dependencies::DEPENDENCIES_MAX;

use super::Key;
use crate::accumulate::{cost, golden::Golden, series::OTHER};

/// Connections to an address and a port, as [`super::Connections::golden`] has them.
pub type Came = ([Box<str>; 2], Golden);

/// What was not given out yet.
#[derive(Debug, Default)]
pub(super) struct Coming {
    sums: BTreeMap<[Box<str>; 2], Golden>,
    bytes: usize,
}

impl Coming {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that something takes at most that came to an address.
    pub fn bytes_of([_, address, port]: &Key, came: &Golden) -> usize {
        entry_bytes(address, port) + cost::histogram(&came.durations)
    }

    /// Adds what came; beyond so many addresses, to [`OTHER`].
    pub fn add(&mut self, [_, address, port]: &Key, came: &Golden) {
        if came.durations.count() == 0 && came.errors.total() == 0 {
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
        sum.add(came);
        self.bytes = self.bytes + cost::histogram(&sum.durations) - before;
    }

    /// Gives it out.
    pub fn take(&mut self) -> Vec<Came> {
        std::mem::take(self).sums.into_iter().collect()
    }
}

fn entry_bytes(address: &str, port: &str) -> usize {
    cost::map_entry::<[Box<str>; 2], Golden>() + cost::text(address) + cost::text(port)
}
