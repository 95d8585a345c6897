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
}

/// Since when, by the last time that was read, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The programs find it by its key; 0 when it was not set since.
    Used(u64),
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
    taken: Box<SlotSums>,
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
        if let Some(KeySlot { entry, .. }) = known.and_then(|index| self.keys.get(index as usize)) {
            let used = entry.used as usize;
            if used >= STATUSES_MAX || entry.statuses[..used].contains(&status) {
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
            Some(free) => free.series = SlotSeries::At(series),
            None => self.slots.push(SlotUse {
                series: SlotSeries::At(series),
                marks: Marks::default(),
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
        let stage = Stage::Used(0);
        let new = u32::try_from(self.keys.len()).ok().filter(|&new| new < KERNEL_KEYS_MAX);
        let index = self.free_keys.pop().or(new)?;
        if let Some(free) = self.keys.get_mut(index as usize) {
            *free = KeySlot { key, entry: free.entry, name, stage };
        } else {
            let entry = KernelKey { generation: 1, ..KernelKey::default() };
            self.keys.push(KeySlot { key, entry, name, stage });
        }
        self.indexes.insert(key, index);
        Some(index)
    }

    /// Takes the entries of keys that were not used for a while, if others have found no room. `forget` makes the programs
    /// forget a key, and returns whether it did. Call it every few seconds, and between two calls [`Self::harvest`].
    pub fn make_room(
        &mut self,
        now_ns: u64,
        mut forget: impl FnMut(&RequestKey) -> bool,
        commands: &mut Vec<Command>,
    ) {
        let wanted = std::mem::take(&mut self.refused);
        let is_over = |since: u64, ns: u64| now_ns.saturating_sub(since) >= ns;
        for (index, slot) in (0..).zip(&mut self.keys) {
            let slots = slot.entry.slots.get(..slot.entry.used as usize).unwrap_or_default();
            match slot.stage {
                Stage::Used(0) => slot.stage = Stage::Used(now_ns),
                Stage::Used(since) if wanted => {
                    let uses = slots.iter().filter_map(|&slot| self.slots.get(slot as usize));
                    let newest = uses.flat_map(|used| used.marks).max().unwrap_or_default();
                    if !is_over(newest.max(since), UNUSED_NS) || !forget(&slot.key) {
                        continue;
                    }
                    self.indexes.remove(&slot.key);
                    if let Some(name) = slot.name.take().filter(|_| !is_numbered(&slot.key)) {
                        self.names.keep(slot.key.request, name);
                    }
                    slot.stage = Stage::Leaving(now_ns);
                }
                Stage::Leaving(since) if is_over(since, RUN_NS) => {
                    slot.entry.generation = slot.entry.generation.wrapping_add(1);
                    commands.push(Command::SetKey { index, entry: KernelKey { used: 0, ..slot.entry } });
                    slot.stage = Stage::Closed(now_ns);
                }
                Stage::Closed(since) if is_over(since, RUN_NS) => {
                    self.free_slots.extend(slots);
                    self.free_keys.push(index);
                    slot.entry.used = 0;
                    slot.stage = Stage::Free;
                }
                _ => {}
            }
        }
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
mod tests {
    use porthole_l7::{Exchange, Limits, ParserContext, Side, Status};
    use porthole_protocol::Offload;

    use super::{
        super::request_names::{NAMES_MAX, RECURRING},
        *,
    };
    use crate::recorder::{
        peer::Peer,
        testing::{exchange, origin},
    };

    /// A key that needs no name.
    fn key(request: u64) -> RequestKey {
        RequestKey { request, protocol: Offload::Redis.number().into(), ..RequestKey::default() }
    }

    /// The series of that number, whose own exchanges it has.
    fn own(at: usize) -> Place {
        Place { at, overflows: false }
    }

    fn line(request: &[u8]) -> RequestName {
        RequestName::of(Offload::Http1.number().into(), request)
    }

    fn http(request: u64) -> RequestKey {
        RequestKey { protocol: Offload::Http1.number().into(), ..key(request) }
    }

    #[test]
    fn requests_that_come_once_get_no_key() {
        let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
        for hash in 0..1_000 {
            keys.learn_name(hash, line(b"GET /token HTTP/1.1\r\n"), &mut commands);
            keys.learn(&http(hash), 200, own(0), &mut commands);
        }
        assert!(keys.is_empty() && commands.is_empty(), "{commands:?}");
        keys.learn_name(7, line(b"GET /token HTTP/1.1\r\n"), &mut commands);
        assert_eq!(commands, [Command::NameKnown(7)]);
        keys.learn(&http(7), 200, own(0), &mut commands);
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn a_key_has_one_entry_and_a_slot_for_each_status() {
        let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
        keys.learn(&key(7), 200, own(0), &mut commands);
        keys.learn(&key(7), 404, own(1), &mut commands);
        keys.learn(&key(7), 404, own(1), &mut commands);
        let [
            Command::SetKey { index: 0, entry: first },
            Command::IndexKey { index: 0, .. },
            Command::SetKey { index: 0, entry },
        ] = &commands[..]
        else {
            panic!("{commands:?}")
        };
        assert_eq!((first.used, entry.used), (1, 2));
        assert_eq!((entry.statuses[..2].to_vec(), entry.slots[..2].to_vec()), (vec![200, 404], vec![0, 1]));
    }

    #[test]
    fn keys_slots_and_statuses_are_bounded() {
        let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
        for status in 0..100 {
            keys.learn(&key(1), status, own(0), &mut commands);
        }
        assert_eq!(keys.slots.len(), STATUSES_MAX);
        for request in 0..2 * u64::from(KERNEL_KEYS_MAX) {
            keys.learn(&key(request), 200, own(0), &mut commands);
        }
        assert!(keys.len() <= KERNEL_KEYS_MAX as usize && keys.slots.len() == SLOTS_MAX as usize);
    }

    const SECOND: u64 = 1_000_000_000;

    /// Keys that have all the entries, at a time at which none of them is new any more.
    fn full() -> (KernelKeys, u64) {
        let mut keys = KernelKeys::default();
        for request in 0..KERNEL_KEYS_MAX.into() {
            keys.learn(&key(request), 0, own(0), &mut Vec::new());
        }
        keys.make_room(SECOND, |_| panic!("no key waits"), &mut Vec::new());
        (keys, SECOND + UNUSED_NS)
    }

    #[test]
    fn keys_that_are_not_used_make_room() {
        let (mut keys, now) = full();
        let mut commands = Vec::new();
        keys.make_room(now, |_| panic!("no key waits"), &mut commands);
        let new = key(KERNEL_KEYS_MAX.into());
        keys.learn(&new, 0, own(7), &mut commands);
        keys.slots[3].marks[1] = now - SECOND;
        let mut forgotten = Vec::new();
        keys.make_room(
            now,
            |key| {
                forgotten.push(key.request);
                true
            },
            &mut commands,
        );
        assert!(forgotten.len() == KERNEL_KEYS_MAX as usize - 1 && !forgotten.contains(&3));
        keys.learn(&new, 0, own(7), &mut commands);
        assert!(commands.is_empty(), "what is under way is aggregated there still");
        keys.make_room(now + RUN_NS, |_| true, &mut commands);
        let closed = |command: &Command| matches!(command, Command::SetKey { entry, .. } if (entry.generation, entry.used) == (2, 0));
        assert!(commands.len() == forgotten.len() && commands.iter().all(closed));
        commands.clear();
        keys.learn(&new, 0, own(7), &mut commands);
        assert!(commands.is_empty(), "a program may be in the middle of it");
        keys.make_room(now + 2 * RUN_NS, |_| true, &mut commands);
        keys.learn(&new, 0, own(7), &mut commands);
        let [Command::SetKey { index, entry }, Command::IndexKey { key, index: same }] = commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!((key, index, entry.generation, entry.used), (new, same, 2, 1));
        assert!(matches!(keys.slots[entry.slots[0] as usize].series, SlotSeries::At(Place { at: 7, .. })));
        assert_eq!((keys.len(), keys.slots.len()), (2, SLOTS_MAX as usize));
    }

    #[test]
    fn what_is_aggregated_after_the_series_began_anew_is_in_the_new_ones() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let exchange = exchange(&mut context, Side::Server, "/", 200);
        let origin = origin(&Peer::Unknown);
        let series = table.record(&exchange, origin, &context, 0).expect("room");
        let mut keys = KernelKeys::default();
        keys.learn(&key(1), 0, series, &mut Vec::new());
        let sums = |count| {
            let buckets = [(0, count)].into_iter();
            Increment { duration_ns: 1, request_bytes: 0, response_bytes: 0, buckets }
        };
        assert_eq!(keys.slots[0].series.add(sums(2), &mut table), 2);
        for _ in 0..2 {
            let ended = table.renew(0, 7);
            keys.series_renewed(&ended);
        }
        assert_eq!(keys.slots[0].series.add(sums(3), &mut table), 3);
        assert_eq!(keys.slots[0].series.add(sums(4), &mut table), 4);
        let series = table.all();
        let [series] = &series[..] else { panic!("{series:?}") };
        assert_eq!((&series.key.operation[..], series.duration.count, series.start_unix_ns), ("GET", 7, 7));
        assert_eq!((series.key.container_id.as_str(), table.recorded()), ("shop-1", 10));
    }

    #[test]
    fn what_overflows_for_one_key_does_so_for_that_key_alone() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let base = exchange(&mut context, Side::Server, "/", 200);
        let (own_series, other_series) = (own(3), Place { at: 3, overflows: true });
        for number in 0..8 {
            let exchange = Exchange { status: Status::Code(number), ..base };
            table.record(&exchange, origin(&Peer::Unknown), &context, 0).expect("room");
        }
        let mut keys = KernelKeys::default();
        keys.learn(&key(1), 0, own_series, &mut Vec::new());
        keys.learn(&key(2), 0, other_series, &mut Vec::new());
        let sums = |count| {
            let buckets = [(0, count)].into_iter();
            Increment { duration_ns: 1, request_bytes: 0, response_bytes: 0, buckets }
        };
        let mut overflowed = 0;
        for _ in 0..3 {
            keys.slots[0].series.add(sums(100), &mut table);
            assert_eq!(table.overflowed(), overflowed, "exchanges of its own");
            keys.slots[1].series.add(sums(7), &mut table);
            overflowed += 7;
            assert_eq!(table.overflowed(), overflowed, "those of another key");
            let ended = table.renew(0, 7);
            keys.series_renewed(&ended);
        }
    }

    #[test]
    fn what_the_programs_do_not_forget_stays() {
        let (mut keys, now) = full();
        for pass in 0..4 {
            keys.learn(&key(KERNEL_KEYS_MAX.into()), 0, own(7), &mut Vec::new());
            keys.make_room(now + pass * RUN_NS, |_| false, &mut Vec::new());
        }
        assert_eq!(keys.len(), KERNEL_KEYS_MAX as usize);
    }

    #[test]
    fn names_are_bounded_and_those_of_kernel_keys_stay() {
        let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
        for _ in 0..RECURRING {
            keys.learn_name(1, line(b"GET /a HTTP/1.1\r\nHost: x\r\n"), &mut commands);
            keys.learn(&http(1), 200, own(0), &mut commands);
        }
        for hash in 2..3 * NAMES_MAX as u64 {
            for _ in 0..2 {
                keys.learn_name(hash, line(b"GET /b HTTP/1.1\r\n"), &mut commands);
            }
        }
        assert_eq!(keys.name(&http(1)), b"GET /a HTTP/1.1\r\n");
        assert!(keys.names.kept() <= 2 * NAMES_MAX);
        assert!(keys.name(&http(2)).is_empty(), "forgotten");
        assert!(commands.contains(&Command::NameForgotten(2)));
        assert!(!keys.name(&http(3 * NAMES_MAX as u64 - 1)).is_empty());
    }
}
