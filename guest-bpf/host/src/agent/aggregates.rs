//! Kernel keys and slots, and what the programs have aggregated in them; the agent's own chooses which keys get them.

use std::collections::HashMap;

use porthole_bpf_types::kernel_key::{Completed, KernelKey, RequestKey, STATUSES_MAX, Slot};
use porthole_l7::Exchange;

use crate::maps::{KERNEL_KEYS, KEY_INDEXES, SLOTS};

/// What was aggregated in one slot.
#[derive(Clone, Copy, Debug)]
pub struct Aggregate {
    /// An exchange with the names of all of them.
    pub example: Exchange,
    /// Exchanges.
    pub count: u64,
    /// Sum of their durations, nanoseconds.
    pub duration_ns: u64,
    /// Sums of their sizes, bytes: requests, responses.
    pub bytes: [u64; 2],
}

/// The slots in use.
#[derive(Debug, Default)]
pub struct Aggregates {
    keys: HashMap<RequestKey, (u32, KernelKey)>,
    /// An exchange of each slot.
    slots: Vec<Exchange>,
}

impl Aggregates {
    /// Gives a slot to the exchanges that are like this one.
    pub fn learn(&mut self, completed: &Completed, exchange: &Exchange) {
        let new = u32::try_from(self.keys.len()).expect("few keys");
        let (index, entry) = self
            .keys
            .entry(completed.key)
            .or_insert((new, KernelKey { generation: 1, ..KernelKey::default() }));
        let used = entry.used as usize;
        if used == STATUSES_MAX || entry.statuses[..used].contains(&completed.status) {
            return;
        }
        entry.statuses[used] = completed.status;
        entry.slots[used] = u32::try_from(self.slots.len()).expect("few slots");
        entry.used += 1;
        self.slots.push(*exchange);
        if let Some(known) = KERNEL_KEYS.get_ptr_mut(*index) {
            // SAFETY: a value that a look-up gave, of this thread's machine.
            unsafe { *known = *entry };
            let _ = KEY_INDEXES.insert(completed.key, *index, 0);
        }
    }

    /// What the programs have aggregated.
    pub fn read(&self) -> Vec<Aggregate> {
        let numbered = (0_u32..).zip(&self.slots);
        let read = numbered.filter_map(|(index, example)| {
            // SAFETY: a value that a look-up gave, of this thread's machine.
            let slot: &Slot = unsafe { &*SLOTS.get_ptr(index)? };
            let count = slot.buckets.iter().map(|&count| u64::from(count)).sum();
            let bytes = [slot.request_bytes, slot.response_bytes];
            Some(Aggregate { example: *example, count, duration_ns: slot.duration_ns, bytes })
        });
        read.filter(|aggregate| aggregate.count > 0).collect()
    }
}
