//! Kernel keys: what the exchanges have in common that the programs aggregate, and the slots for their sums.
//!
//! ```text
//! UnnamedRequest ► request_names           Completed ──► exchange with its name ──► series
//!                                               └──► its key and status get a slot: the programs aggregate the next ones
//! slots ─────► what was added since ──► series
//! ```
//!
//! Keys and slots are bounded. When a key finds no room, those that were not used for a while make room: the programs forget
//! the key first, then what is under way there is not aggregated any more, and then its slots are free
//! ([`KernelKeys::make_room`]).

use foldhash::HashMap;
use porthole_bpf_types::kernel_key::{KERNEL_KEYS_MAX, KernelKey, RequestKey, SLOTS_MAX, STATUSES_MAX};

use super::{
    request_names::{RequestName, RequestNames},
    request_numbers::{is_numbered, numbered_name},
};
use crate::{
    kernel::{
        command::Command,
        slots::{Marks, SlotSums, Slots},
    },
    recorder::{Increment, NamedSeries, Place, SeriesTable, series::SeriesNames},
};

/// How long a key must not have been used to make room for another, nanoseconds.
const UNUSED_NS: u64 = 10_000_000_000;

/// How long a key that is in use is kept at least although some of its statuses are not, while others find no slot, nanoseconds. The key
/// gets slots again for the statuses that come then; until then its exchanges are records.
const UNUSED_STATUS_NS: u64 = 60_000_000_000;

/// Most keys in use that the programs forget at a time for their unused statuses: so many have all their exchanges as records.
const IN_USE_FORGOTTEN_MAX: usize = 16;

/// What the longest run of a program is certainly shorter than, nanoseconds.
const RUN_NS: u64 = 1_000_000_000;

/// The kernel keys, and what the requests are called.
#[derive(Debug, Default)]
pub struct KernelKeys {
    names: RequestNames,
    indexes: HashMap<RequestKey, u32>,
    keys: Vec<KeySlot>,
    slots: Vec<SlotUse>,
    free_keys: Vec<u32>,
    free_slots: Vec<u32>,
    /// A key found no room since room was last made.
    refused: bool,
}

/// One entry of the programs' table of kernel keys.
#[derive(Debug)]
struct KeySlot {
    key: RequestKey,
    entry: KernelKey,
    /// While the programs know the key.
    name: Option<RequestName>,
    stage: Stage,
    /// A status found no place in the entry since room was last made.
    refused: bool,
}

/// Since when, by the last time that was read, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The programs find it by its key.
    Used,
    /// They do not; requests that found it before and were not answered yet are aggregated here still.
    Leaving(u64),
    /// No request is aggregated here any more, but for those that a program is in the middle of.
    Closed(u64),
    /// Nothing refers to it.
    Free,
}

/// The series of a slot's exchanges.
#[derive(Debug)]
enum SlotSeries {
    /// By its place in the table.
    At(Place),
    /// The table has begun anew, and does not have it yet. Exchanges that overflowed before still do.
    Named { named: Box<NamedSeries>, overflows: bool },
}

/// What is known of a slot.
#[derive(Debug)]
struct SlotUse {
    series: SlotSeries,
    marks: Marks,
    /// Since when it is of its key and status, by the first [`KernelKeys::make_room`] that finds it, nanoseconds; 0 before. What was
    /// aggregated there earlier was another's.
    since_ns: u64,
    taken: Box<SlotSums>,
}

impl SlotUse {
    /// When it was used last, or else assigned, nanoseconds.
    fn last_ns(&mut self, now_ns: u64) -> u64 {
        if self.since_ns == 0 {
            self.since_ns = now_ns;
        }
        self.marks.into_iter().fold(self.since_ns, u64::max)
    }
}

impl SlotSeries {
    /// Adds exchanges to the series; gives their number.
    fn add(
        &mut self,
        increment: Increment<impl Iterator<Item = (i32, u64)>>,
        table: &mut SeriesTable,
    ) -> u64 {
        if let Self::Named { named, overflows } = self {
            match table.again(named) {
                Some(place) => *self = Self::At(Place { overflows: place.overflows || *overflows, ..place }),
                None => return table.drop_exchanges(increment),
            }
        }
        let Self::At(place) = self else { return 0 };
        table.add(*place, increment)
    }
}

impl KernelKeys {
    /// Takes the name of a hash.
    pub fn learn_name(&mut self, hash: u64, name: RequestName, commands: &mut Vec<Command>) {
        self.names.learn(hash, name, commands);
    }

    /// The request of a prepared statement's executions.
    pub fn prepared(&mut self, operation: &str, table: &str) -> u64 {
        self.names.prepared(operation, table)
    }

    /// Names of prepared statements that made room for others.
    pub fn names_displaced(&self) -> u64 {
        self.names.displaced()
    }

    /// Whether a request came so often that the programs are to know its key.
    fn recurs(&mut self, key: &RequestKey) -> bool {
        is_numbered(key) || self.indexes.contains_key(key) || self.names.recurs(key.request)
    }

    /// What a request is called: a line, a statement's name, or a MySQL command's number; empty when it is not known.
    pub fn name(&self, key: &RequestKey) -> &[u8] {
        if is_numbered(key) {
            return numbered_name(key);
        }
        let of_key = || self.keys.get(*self.indexes.get(key)? as usize)?.name.as_ref();
        self.names.get(key.request).or_else(of_key).map(RequestName::as_bytes).unwrap_or_default()
    }

    /// From now on the programs aggregate exchanges of this key and status for this series.
    pub fn learn(&mut self, key: &RequestKey, status: u32, series: Place, commands: &mut Vec<Command>) {
        if !self.recurs(key) {
            return;
        }
        let known = self.indexes.get(key).copied();
        if let Some(KeySlot { entry, refused, .. }) =
            known.and_then(|index| self.keys.get_mut(index as usize))
        {
            let used = entry.used as usize;
            if entry.statuses[..used].contains(&status) {
                return;
            }
            if used >= STATUSES_MAX {
                *refused = true;
                return;
            }
        }
        let has_slot = !self.free_slots.is_empty() || self.slots.len() < SLOTS_MAX as usize;
        let index = if has_slot { known.or_else(|| self.add(*key)) } else { None };
        let Some(index) = index else {
            self.refused = true;
            return;
        };
        let Some(KeySlot { entry, .. }) = self.keys.get_mut(index as usize) else { return };
        let used = entry.used as usize;
        let new = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let slot = self.free_slots.pop().unwrap_or(new);
        match self.slots.get_mut(slot as usize) {
            // What was aggregated there before was taken.
            Some(free) => (free.series, free.since_ns) = (SlotSeries::At(series), 0),
            None => self.slots.push(SlotUse {
                series: SlotSeries::At(series),
                marks: Marks::default(),
                since_ns: 0,
                taken: Box::default(),
            }),
        }
        entry.statuses[used] = status;
        entry.slots[used] = slot;
        entry.used += 1;
        commands.push(Command::SetKey { index, entry: *entry });
        if known.is_none() {
            commands.push(Command::IndexKey { key: *key, index });
        }
    }

    /// An entry for a new key, where there is room.
    fn add(&mut self, key: RequestKey) -> Option<u32> {
        let name = Some(RequestName::kept(self.name(&key)));
        let stage = Stage::Used;
        let new = u32::try_from(self.keys.len()).ok().filter(|&new| new < KERNEL_KEYS_MAX);
        let index = self.free_keys.pop().or(new)?;
        if let Some(free) = self.keys.get_mut(index as usize) {
            *free = KeySlot { key, entry: free.entry, name, stage, refused: false };
        } else {
            let entry = KernelKey { generation: 1, ..KernelKey::default() };
            self.keys.push(KeySlot { key, entry, name, stage, refused: false });
        }
        self.indexes.insert(key, index);
        Some(index)
    }

    /// Takes the entries of keys that were not used for a while, if others have found no room; and where that makes none, of keys in
    /// use of which statuses were not used for longer. `forget` makes the programs forget a key, and returns whether it did. Call it
    /// every few seconds, and between two calls [`Self::harvest`].
    pub fn make_room(
        &mut self,
        now_ns: u64,
        mut forget: impl FnMut(&RequestKey) -> bool,
        commands: &mut Vec<Command>,
    ) {
        let wanted = std::mem::take(&mut self.refused);
        let is_over = |since: u64, ns: u64| now_ns.saturating_sub(since) >= ns;
        let (mut unused, mut partly_unused) = (Vec::new(), Vec::new());
        let mut is_room_coming = false;
        for (index, slot) in (0..).zip(&mut self.keys) {
            let slots = slot.entry.slots.get(..slot.entry.used as usize).unwrap_or_default();
            let refused = std::mem::take(&mut slot.refused);
            let is_wanted = wanted || refused;
            match slot.stage {
                Stage::Used => {
                    let (mut oldest, mut newest) = (u64::MAX, 0);
                    for &slot in slots {
                        let Some(used) = self.slots.get_mut(slot as usize) else { continue };
                        let last = used.last_ns(now_ns);
                        (oldest, newest) = (oldest.min(last), newest.max(last));
                    }
                    if is_wanted && is_over(newest, UNUSED_NS) {
                        unused.push(index);
                    } else if is_wanted && is_over(oldest, UNUSED_STATUS_NS) {
                        partly_unused.push((index, refused));
                    }
                }
                Stage::Leaving(since) if is_over(since, RUN_NS) => {
                    slot.entry.generation = slot.entry.generation.wrapping_add(1);
                    commands.push(Command::SetKey { index, entry: KernelKey { used: 0, ..slot.entry } });
                    slot.stage = Stage::Closed(now_ns);
                    is_room_coming = true;
                }
                Stage::Closed(since) if is_over(since, RUN_NS) => {
                    self.free_slots.extend(slots);
                    self.free_keys.push(index);
                    slot.entry.used = 0;
                    slot.stage = Stage::Free;
                    is_room_coming = true;
                }
                Stage::Leaving(_) | Stage::Closed(_) => is_room_coming = true,
                Stage::Free => {}
            }
        }
        for index in unused {
            is_room_coming |= self.leave(index, now_ns, &mut forget);
        }
        let mut left = IN_USE_FORGOTTEN_MAX;
        for (index, refused) in partly_unused {
            // The room of others is of no use to a key that has no place for another status.
            if left > 0 && (refused || !is_room_coming) {
                left -= usize::from(self.leave(index, now_ns, &mut forget));
            }
        }
    }

    /// Makes the programs forget a key; whether they did.
    fn leave(&mut self, index: u32, now_ns: u64, forget: &mut impl FnMut(&RequestKey) -> bool) -> bool {
        let Some(slot) = self.keys.get_mut(index as usize).filter(|slot| forget(&slot.key)) else {
            return false;
        };
        self.indexes.remove(&slot.key);
        if let Some(name) = slot.name.take().filter(|_| !is_numbered(&slot.key)) {
            self.names.keep(slot.key.request, name);
        }
        slot.stage = Stage::Leaving(now_ns);
        true
    }

    /// Adds what the programs aggregated since the last time to the series; gives the number of exchanges.
    pub fn harvest(&mut self, slots: &Slots, series: &mut SeriesTable) -> u64 {
        let mut exchanges = 0;
        for (slot, used) in self.slots.iter_mut().enumerate() {
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            if !slots.has_changed(slot, &mut used.marks) {
                continue;
            }
            let now = slots.sums(slot);
            exchanges += used.series.add(now.since(&used.taken), series);
            *used.taken = now;
        }
        exchanges
    }

    /// The names of the series to which the programs added something since that time, nanoseconds.
    pub fn names_in_use(&self, since_ns: u64, table: &SeriesTable) -> impl Iterator<Item = SeriesNames> {
        let in_use = move |used: &&SlotUse| used.marks.iter().any(|mark| *mark >= since_ns);
        self.slots.iter().filter(in_use).filter_map(|used| match &used.series {
            SlotSeries::At(place) => table.names(place.at),
            SlotSeries::Named { named, .. } => Some(named.names()),
        })
    }

    /// The table of series begins anew: what is aggregated from now on is of series in the new one. Call it right behind
    /// [`Self::harvest`].
    pub fn series_renewed(&mut self, before: &SeriesTable) {
        for used in &mut self.slots {
            if let SlotSeries::At(Place { at, overflows }) = used.series
                && let Some(named) = before.named(at)
            {
                used.series = SlotSeries::Named { named: Box::new(named), overflows };
            }
        }
    }

    /// Number of keys that the programs know.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether the programs know none.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }
}

#[cfg(test)]
#[path = "kernel_keys_tests.rs"]
mod tests;
