//! Keys that the kernel side has learned, and the names behind its hashes.
//!
//! ```text
//! Name ──────► names                       Completed ──► exchange with names ──► series
//!                                                          └► its key and status get a slot: the kernel counts on
//! slots ─────► what was added since ──► series
//! ```
//!
//! Places are bounded. When a key finds none, those that were not used for a while make room: the kernel side forgets their
//! keys first, then what is under way there counts no more, and then they are given away ([`Keys::make_room`]).

use std::collections::HashMap;

use porthole_bpf_types::{
    kernel_key::{COMMANDS_MAX, KERNEL_KEYS_MAX, KernelKey, RequestKey, SLOTS_MAX, STATUSES_MAX},
    offload::protocol,
    sql,
};
use porthole_histogram::INDEX_MIN;

use porthole_l7::sql::name::{prepared_name, statement_name};

use crate::{
    probes::slots::{Marks, SlotSums, Slots},
    series::SeriesTable,
    tracker::Command,
};

/// Names that are kept besides those of learned keys.
const NAMES_MAX: usize = 4096;

/// Exchanges after which a key is learned.
const RECURRING: u32 = 2;

/// How long a key must not have been used to make room for another, nanoseconds.
const UNUSED_NS: u64 = 10_000_000_000;

/// What the longest run of a program is certainly shorter than, nanoseconds.
const RUN_NS: u64 = 1_000_000_000;

/// What is kept of a request line, bytes.
const NAME_BYTES_MAX: usize = 512;

/// Kernel keys and names.
#[derive(Debug, Default)]
pub struct Keys {
    /// By hash.
    names: HashMap<u64, Known>,
    /// Those that were known before `names` was last emptied.
    older: HashMap<u64, Known>,
    /// Names of prepared statements, by hash.
    prepared: HashMap<u64, Name>,
    places: HashMap<RequestKey, u32>,
    learned: Vec<Place>,
    slots: Vec<Use>,
    free_places: Vec<u32>,
    free_slots: Vec<u32>,
    /// A key found no place since the last time that room was made.
    refused: bool,
}

/// What is kept of a request in order to name those of its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Of a request from its first byte, or of a statement.
    pub fn of(protocol: u64, request: &[u8]) -> Self {
        if [protocol::MYSQL, protocol::POSTGRESQL].map(u64::from).contains(&protocol) {
            return Self(statement_name(request.strip_suffix(&[0]).unwrap_or(request)));
        }
        let line = request.iter().position(|&byte| byte == b'\n').map_or(request.len(), |end| end + 1);
        Self(request.get(..line.min(NAME_BYTES_MAX)).unwrap_or_default().into())
    }
}

/// A hash's name.
#[derive(Debug)]
struct Known {
    name: Name,
    /// Exchanges that it was needed for.
    uses: u32,
    /// The kernel side was told not to send it again.
    told: bool,
}

#[derive(Debug)]
struct Place {
    key: RequestKey,
    entry: KernelKey,
    /// While the key is learned.
    name: Option<Name>,
    stage: Stage,
}

/// Since when, as far as anybody has looked at the time, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The kernel side finds it by its key; 0 when nobody has looked since.
    Used(u64),
    /// It does not; requests that found it before and were not answered yet count here still.
    Leaving(u64),
    /// No request counts here any more, but for those that a program is in the middle of.
    Closed(u64),
    /// Nothing refers to it.
    Free,
}

/// What a slot counts.
#[derive(Debug)]
struct Use {
    series: usize,
    marks: Marks,
    taken: Box<SlotSums>,
}

impl Keys {
    /// Takes the name of a hash.
    pub fn learn_name(&mut self, hash: u64, name: Name, commands: &mut Vec<Command>) {
        if let Some(known) = self.names.get_mut(&hash) {
            // It recurs: most that do not are ids which nobody will ask for again.
            if !std::mem::replace(&mut known.told, true) {
                commands.push(Command::Name(hash));
            }
            return;
        }
        if self.names.len() >= NAMES_MAX {
            // The kernel side asks again for what is still in use.
            let older = std::mem::replace(&mut self.older, std::mem::take(&mut self.names));
            commands
                .extend(older.iter().filter(|(_, known)| known.told).map(|(&hash, _)| Command::Unname(hash)));
        }
        self.names.insert(hash, Known { name, uses: 0, told: false });
    }

    /// What executions of a prepared statement ask for; `None` when there is no room for its name.
    pub fn prepared(&mut self, operation: &str, table: &str) -> Option<u64> {
        let name = Name(prepared_name(operation, table));
        let (hash, _) = sql::hash(protocol::MYSQL, &name.0);
        if !self.prepared.contains_key(&hash) {
            if self.prepared.len() >= NAMES_MAX {
                return None;
            }
            self.prepared.insert(hash, name);
        }
        Some(hash)
    }

    /// Whether a request has been asked for so often that its key is worth learning.
    fn recurs(&mut self, key: &RequestKey) -> bool {
        if is_numbered(key) || self.places.contains_key(key) || self.prepared.contains_key(&key.request) {
            return true;
        }
        let known = match self.names.get_mut(&key.request) {
            Some(known) => known,
            None => match self.older.get_mut(&key.request) {
                Some(known) => known,
                None => return false,
            },
        };
        known.uses = known.uses.saturating_add(1);
        known.uses >= RECURRING
    }

    /// What a request is called: a line, a statement's name, or a MySQL command's number; empty when it is not known.
    pub fn name(&self, key: &RequestKey) -> &[u8] {
        if is_numbered(key) {
            let number = usize::try_from(key.request).unwrap_or(usize::MAX);
            return BYTES
                .get(number..=number)
                .filter(|_| key.protocol == u32::from(protocol::MYSQL))
                .unwrap_or_default();
        }
        let learned = || Some(&self.learned.get(*self.places.get(key)? as usize)?.name.as_ref()?.0);
        let found = self.names.get(&key.request).or_else(|| self.older.get(&key.request));
        let found = found.map(|known| &known.name).or_else(|| self.prepared.get(&key.request));
        found.map(|name| &name.0).or_else(learned).map(|name| &**name).unwrap_or_default()
    }

    /// From now on the kernel counts exchanges of this key and status into this series.
    pub fn learn(&mut self, key: &RequestKey, status: u32, series: usize, commands: &mut Vec<Command>) {
        if !self.recurs(key) {
            return;
        }
        let known = self.places.get(key).copied();
        if let Some(Place { entry, .. }) = known.and_then(|place| self.learned.get(place as usize)) {
            let used = entry.used as usize;
            if used >= STATUSES_MAX || entry.statuses[..used].contains(&status) {
                return;
            }
        }
        let has_slot = !self.free_slots.is_empty() || self.slots.len() < SLOTS_MAX as usize;
        let place = if has_slot { known.or_else(|| self.place(*key)) } else { None };
        let Some(place) = place else {
            self.refused = true;
            return;
        };
        let Some(Place { entry, .. }) = self.learned.get_mut(place as usize) else { return };
        let used = entry.used as usize;
        let new = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let slot = self.free_slots.pop().unwrap_or(new);
        match self.slots.get_mut(slot as usize) {
            // What it counted before was taken.
            Some(free) => free.series = series,
            None => self.slots.push(Use { series, marks: Marks::default(), taken: Box::default() }),
        }
        entry.statuses[used] = status;
        entry.slots[used] = slot;
        entry.used += 1;
        commands.push(Command::Learn { place, entry: *entry });
        if known.is_none() {
            commands.push(Command::Request { key: *key, place });
        }
    }

    /// A place for a new key, where there is one.
    fn place(&mut self, key: RequestKey) -> Option<u32> {
        let name = Some(Name(self.name(&key).into()));
        let stage = Stage::Used(0);
        let new = u32::try_from(self.learned.len()).ok().filter(|&new| new < KERNEL_KEYS_MAX);
        let place = self.free_places.pop().or(new)?;
        if let Some(free) = self.learned.get_mut(place as usize) {
            *free = Place { key, entry: free.entry, name, stage };
        } else {
            let entry = KernelKey { generation: 1, ..KernelKey::default() };
            self.learned.push(Place { key, entry, name, stage });
        }
        self.places.insert(key, place);
        Some(place)
    }

    /// Takes places back from keys that were not used for a while, if others have found none. `forget` makes the kernel side
    /// forget a key, and says whether it did. Call it every few seconds, and between two calls [`Self::harvest`].
    pub fn make_room(
        &mut self,
        now_ns: u64,
        mut forget: impl FnMut(&RequestKey) -> bool,
        commands: &mut Vec<Command>,
    ) {
        let wanted = std::mem::take(&mut self.refused);
        let is_over = |since: u64, ns: u64| now_ns.saturating_sub(since) >= ns;
        for (number, place) in (0..).zip(&mut self.learned) {
            let slots = place.entry.slots.get(..place.entry.used as usize).unwrap_or_default();
            match place.stage {
                Stage::Used(0) => place.stage = Stage::Used(now_ns),
                Stage::Used(since) if wanted => {
                    let marks = slots.iter().filter_map(|&slot| self.slots.get(slot as usize));
                    let newest = marks.flat_map(|used| used.marks).max().unwrap_or_default();
                    if !is_over(newest.max(since), UNUSED_NS) || !forget(&place.key) {
                        continue;
                    }
                    self.places.remove(&place.key);
                    let request = place.key.request;
                    let named = !is_numbered(&place.key) && !self.prepared.contains_key(&request);
                    if let Some(name) = place.name.take().filter(|_| named) {
                        // It may be asked for still.
                        self.names.entry(request).or_insert(Known { name, uses: 0, told: false });
                    }
                    place.stage = Stage::Leaving(now_ns);
                }
                Stage::Leaving(since) if is_over(since, RUN_NS) => {
                    place.entry.generation = place.entry.generation.wrapping_add(1);
                    commands
                        .push(Command::Learn { place: number, entry: KernelKey { used: 0, ..place.entry } });
                    place.stage = Stage::Closed(now_ns);
                }
                Stage::Closed(since) if is_over(since, RUN_NS) => {
                    self.free_slots.extend(slots);
                    self.free_places.push(number);
                    place.entry.used = 0;
                    place.stage = Stage::Free;
                }
                _ => {}
            }
        }
    }

    /// Adds what the kernel counted since the last time to the series; gives the number of exchanges.
    pub fn harvest(&mut self, slots: &Slots, series: &mut SeriesTable) -> u64 {
        let mut exchanges = 0;
        for (slot, used) in self.slots.iter_mut().enumerate() {
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            if !slots.has_changed(slot, &mut used.marks) {
                continue;
            }
            let now = slots.sums(slot);
            exchanges += series.add(used.series, &used.taken, &now);
            *used.taken = now;
        }
        exchanges
    }

    /// Number of learned keys.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// Whether a request is a number that both sides know.
fn is_numbered(key: &RequestKey) -> bool {
    let mysql = key.protocol == u32::from(protocol::MYSQL);
    key.protocol == u32::from(protocol::REDIS) || (mysql && key.request < COMMANDS_MAX)
}

/// Every byte, at its place.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        bytes[byte as usize] = byte;
        byte -= 1;
    }
    bytes
};

/// Index of a slot's first bucket.
pub const FIRST_BUCKET: i32 = INDEX_MIN;

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that needs no name.
    fn key(request: u64) -> RequestKey {
        RequestKey { request, protocol: protocol::REDIS.into(), ..RequestKey::default() }
    }

    fn line(request: &[u8]) -> Name {
        Name::of(protocol::HTTP1.into(), request)
    }

    fn http(request: u64) -> RequestKey {
        RequestKey { protocol: protocol::HTTP1.into(), ..key(request) }
    }

    #[test]
    fn what_is_asked_for_once_is_not_learned() {
        let (mut keys, mut commands) = (Keys::default(), Vec::new());
        for hash in 0..1_000 {
            keys.learn_name(hash, line(b"GET /token HTTP/1.1\r\n"), &mut commands);
            keys.learn(&http(hash), 200, 0, &mut commands);
        }
        assert!(keys.is_empty() && commands.is_empty(), "{commands:?}");
        keys.learn_name(7, line(b"GET /token HTTP/1.1\r\n"), &mut commands);
        assert_eq!(commands, [Command::Name(7)]);
        keys.learn(&http(7), 200, 0, &mut commands);
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn a_key_has_one_place_and_a_slot_for_each_status() {
        let (mut keys, mut commands) = (Keys::default(), Vec::new());
        keys.learn(&key(7), 200, 0, &mut commands);
        keys.learn(&key(7), 404, 1, &mut commands);
        keys.learn(&key(7), 404, 1, &mut commands);
        let [
            Command::Learn { place: 0, entry: first },
            Command::Request { place: 0, .. },
            Command::Learn { place: 0, entry },
        ] = &commands[..]
        else {
            panic!("{commands:?}")
        };
        assert_eq!((first.used, entry.used), (1, 2));
        assert_eq!((entry.statuses[..2].to_vec(), entry.slots[..2].to_vec()), (vec![200, 404], vec![0, 1]));
    }

    #[test]
    fn keys_slots_and_statuses_are_bounded() {
        let (mut keys, mut commands) = (Keys::default(), Vec::new());
        for status in 0..100 {
            keys.learn(&key(1), status, 0, &mut commands);
        }
        assert_eq!(keys.slots.len(), STATUSES_MAX);
        for request in 0..2 * u64::from(KERNEL_KEYS_MAX) {
            keys.learn(&key(request), 200, 0, &mut commands);
        }
        assert!(keys.len() <= KERNEL_KEYS_MAX as usize && keys.slots.len() == SLOTS_MAX as usize);
    }

    const SECOND: u64 = 1_000_000_000;

    /// Keys that have all the places, at a time at which none of them is new any more.
    fn full() -> (Keys, u64) {
        let mut keys = Keys::default();
        for request in 0..KERNEL_KEYS_MAX.into() {
            keys.learn(&key(request), 0, 0, &mut Vec::new());
        }
        keys.make_room(SECOND, |_| panic!("nobody waits"), &mut Vec::new());
        (keys, SECOND + UNUSED_NS)
    }

    #[test]
    fn keys_that_are_not_used_make_room() {
        let (mut keys, now) = full();
        let mut commands = Vec::new();
        keys.make_room(now, |_| panic!("nobody waits"), &mut commands);
        let new = key(KERNEL_KEYS_MAX.into());
        keys.learn(&new, 0, 7, &mut commands);
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
        keys.learn(&new, 0, 7, &mut commands);
        assert!(commands.is_empty(), "what is under way counts there still");
        keys.make_room(now + RUN_NS, |_| true, &mut commands);
        let closed = |command: &Command| matches!(command, Command::Learn { entry, .. } if (entry.generation, entry.used) == (2, 0));
        assert!(commands.len() == forgotten.len() && commands.iter().all(closed));
        commands.clear();
        keys.learn(&new, 0, 7, &mut commands);
        assert!(commands.is_empty(), "a program may be in the middle of it");
        keys.make_room(now + 2 * RUN_NS, |_| true, &mut commands);
        keys.learn(&new, 0, 7, &mut commands);
        let [Command::Learn { place, entry }, Command::Request { key, place: same }] = commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!((key, place, entry.generation, entry.used), (new, same, 2, 1));
        assert_eq!(keys.slots[entry.slots[0] as usize].series, 7);
        assert_eq!((keys.len(), keys.slots.len()), (2, SLOTS_MAX as usize));
    }

    #[test]
    fn what_the_kernel_side_does_not_forget_stays() {
        let (mut keys, now) = full();
        for pass in 0..4 {
            keys.learn(&key(KERNEL_KEYS_MAX.into()), 0, 7, &mut Vec::new());
            keys.make_room(now + pass * RUN_NS, |_| false, &mut Vec::new());
        }
        assert_eq!(keys.len(), KERNEL_KEYS_MAX as usize);
    }

    #[test]
    fn names_are_bounded_and_those_of_learned_keys_stay() {
        let (mut keys, mut commands) = (Keys::default(), Vec::new());
        for _ in 0..RECURRING {
            keys.learn_name(1, line(b"GET /a HTTP/1.1\r\nHost: x\r\n"), &mut commands);
            keys.learn(&http(1), 200, 0, &mut commands);
        }
        for hash in 2..3 * NAMES_MAX as u64 {
            for _ in 0..2 {
                keys.learn_name(hash, line(b"GET /b HTTP/1.1\r\n"), &mut commands);
            }
        }
        assert_eq!(keys.name(&http(1)), b"GET /a HTTP/1.1\r\n");
        assert!(keys.names.len() + keys.older.len() <= 2 * NAMES_MAX);
        assert!(keys.name(&http(2)).is_empty(), "forgotten");
        assert!(commands.contains(&Command::Unname(2)));
        assert!(!keys.name(&http(3 * NAMES_MAX as u64 - 1)).is_empty());
    }

    #[test]
    fn statements_of_one_hash_have_one_name() {
        let pieces = [
            "SELECT ",
            "UPDATE ",
            "INSERT INTO ",
            "DELETE ",
            "* ",
            "FROM ",
            "WHERE ",
            "a",
            "t1",
            "t2",
            "2024_x",
            "2025_x",
            "1",
            "22",
            " ",
            " ",
            ",",
            "(",
            ")",
            ";",
            "'",
            "'",
            "''",
            "\\",
            "\"",
            "`",
            "x'y",
            "--",
            "-",
            "/*",
            "*/",
            "#",
            "\n",
            "$$",
            "$1",
            "E'",
            "é",
            ".",
            "=",
            "'b'",
            "'c'",
        ];
        let mut seen: HashMap<u64, (Name, String)> = HashMap::new();
        let (mut random, mut met) = (0x9e37_79b9_7f4a_7c15_u64, 0);
        for _ in 0..300_000 {
            let mut statement = String::new();
            let mut below = |bound: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                usize::try_from(random >> 40).expect("small") % bound
            };
            for _ in 0..=below(9) {
                statement.push_str(pieces[below(pieces.len())]);
            }
            let (hash, several) = porthole_bpf_types::sql::hash(protocol::MYSQL, statement.as_bytes());
            let name = Name::of(protocol::MYSQL.into(), statement.as_bytes());
            if let Some((known, of)) = seen.get(&hash) {
                assert_eq!(*known, name, "{statement:?} and {of:?}");
                met += usize::from(*of != statement);
            } else {
                seen.insert(hash, (name, statement.clone()));
            }
            let told = several || !porthole_l7::sql::is_several(statement.as_bytes());
            assert!(told, "{statement:?} is several");
        }
        assert!(met > 1_000, "{met}");
    }
}
