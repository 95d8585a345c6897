//! Keys that the kernel side has learned, and the names behind its hashes.
//!
//! ```text
//! Name ──────► names                       Completed ──► exchange with names ──► series
//!                                                          └► its key and status get a slot: the kernel counts on
//! slots ─────► what was added since ──► series
//! ```

use std::collections::HashMap;

use porthole_bpf_types::{
    counted::{LEARNED_MAX, Learned, RequestKey, SLOTS_MAX, STATUSES, protocol},
    histogram::INDEX_MIN,
};

use crate::{
    probes::slots::{Marks, SlotSums, Slots},
    series::SeriesTable,
    tracker::Command,
};

/// Names that are kept besides those of learned keys.
const NAMES_MAX: usize = 4096;

/// Exchanges after which a key is learned.
const RECURRING: u32 = 2;

/// What is kept of a request line, bytes.
const NAME_BYTES_MAX: usize = 512;

/// Learned keys and names.
#[derive(Debug, Default)]
pub struct Keys {
    /// By hash.
    names: HashMap<u64, Name>,
    /// Those that were known before `names` was last emptied.
    older: HashMap<u64, Name>,
    places: HashMap<RequestKey, u32>,
    learned: Vec<Place>,
    slots: Vec<Use>,
}

#[derive(Debug)]
struct Name {
    /// The request line.
    line: Box<[u8]>,
    /// Exchanges that it was needed for.
    uses: u32,
    /// The kernel side was told not to send it again.
    told: bool,
}

#[derive(Debug)]
struct Place {
    entry: Learned,
    /// The request line, while the key is learned.
    name: Option<Box<[u8]>>,
}

/// What a slot counts.
#[derive(Debug)]
struct Use {
    series: usize,
    marks: Marks,
    taken: Box<SlotSums>,
}

impl Keys {
    /// Takes the name of a hash: a request from its first byte.
    pub fn learn_name(&mut self, hash: u64, request: &[u8], commands: &mut Vec<Command>) {
        let line = request.iter().position(|&byte| byte == b'\n').map_or(request.len(), |end| end + 1);
        let line = request.get(..line.min(NAME_BYTES_MAX)).unwrap_or_default();
        if let Some(name) = self.names.get_mut(&hash) {
            // It recurs: most that do not are ids which nobody will ask for again.
            if !std::mem::replace(&mut name.told, true) {
                commands.push(Command::Name(hash));
            }
            return;
        }
        if self.names.len() >= NAMES_MAX {
            // The kernel side asks again for what is still in use.
            let older = std::mem::replace(&mut self.older, std::mem::take(&mut self.names));
            commands
                .extend(older.iter().filter(|(_, name)| name.told).map(|(&hash, _)| Command::Unname(hash)));
        }
        self.names.insert(hash, Name { line: line.into(), uses: 0, told: false });
    }

    /// Whether a request has been asked for so often that its key is worth learning.
    fn recurs(&mut self, key: &RequestKey) -> bool {
        if key.protocol != u32::from(protocol::HTTP1) || self.places.contains_key(key) {
            return true;
        }
        let name = match self.names.get_mut(&key.request) {
            Some(name) => name,
            None => match self.older.get_mut(&key.request) {
                Some(name) => name,
                None => return false,
            },
        };
        name.uses = name.uses.saturating_add(1);
        name.uses >= RECURRING
    }

    /// The request line behind a hash; empty when it is not known.
    pub fn name(&self, key: &RequestKey) -> &[u8] {
        let learned = || self.learned.get(*self.places.get(key)? as usize)?.name.as_deref();
        let found = self.names.get(&key.request).or_else(|| self.older.get(&key.request));
        found.map(|name| &*name.line).or_else(learned).unwrap_or_default()
    }

    /// From now on the kernel counts exchanges of this key and status into this series.
    pub fn learn(&mut self, key: &RequestKey, status: u32, series: usize, commands: &mut Vec<Command>) {
        if !self.recurs(key) {
            return;
        }
        let Ok(slot) = u32::try_from(self.slots.len()) else { return };
        if slot >= SLOTS_MAX {
            return;
        }
        let known = self.places.get(key).copied();
        let place = match known {
            Some(place) => place,
            None if self.learned.len() < LEARNED_MAX as usize => {
                let name = Some(self.name(key).into());
                self.learned.push(Place { entry: Learned { generation: 1, ..Learned::default() }, name });
                let place = u32::try_from(self.learned.len() - 1).unwrap_or(u32::MAX);
                self.places.insert(*key, place);
                place
            }
            None => return,
        };
        let Some(Place { entry, .. }) = self.learned.get_mut(place as usize) else { return };
        let used = entry.used as usize;
        if used >= STATUSES || entry.statuses[..used].contains(&status) {
            return;
        }
        entry.statuses[used] = status;
        entry.slots[used] = slot;
        entry.used += 1;
        self.slots.push(Use { series, marks: Marks::default(), taken: Box::default() });
        commands.push(Command::Learn { place, entry: *entry });
        if known.is_none() {
            commands.push(Command::Request { key: *key, place });
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
        self.learned.len()
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.learned.is_empty()
    }
}

/// Index of a slot's first bucket.
pub const FIRST_BUCKET: i32 = INDEX_MIN;

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that needs no name.
    fn key(request: u64) -> RequestKey {
        RequestKey { request, protocol: protocol::REDIS.into(), ..RequestKey::default() }
    }

    fn http(request: u64) -> RequestKey {
        RequestKey { protocol: protocol::HTTP1.into(), ..key(request) }
    }

    #[test]
    fn what_is_asked_for_once_is_not_learned() {
        let (mut keys, mut commands) = (Keys::default(), Vec::new());
        for hash in 0..1_000 {
            keys.learn_name(hash, b"GET /token HTTP/1.1\r\n", &mut commands);
            keys.learn(&http(hash), 200, 0, &mut commands);
        }
        assert!(keys.is_empty() && commands.is_empty(), "{commands:?}");
        keys.learn_name(7, b"GET /token HTTP/1.1\r\n", &mut commands);
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
        assert_eq!(keys.slots.len(), STATUSES);
        for request in 0..2 * u64::from(LEARNED_MAX) {
            keys.learn(&key(request), 200, 0, &mut commands);
        }
        assert!(keys.len() <= LEARNED_MAX as usize && keys.slots.len() == SLOTS_MAX as usize);
    }

    #[test]
    fn names_are_bounded_and_those_of_learned_keys_stay() {
        let (mut keys, mut commands) = (Keys::default(), Vec::new());
        for _ in 0..RECURRING {
            keys.learn_name(1, b"GET /a HTTP/1.1\r\nHost: x\r\n", &mut commands);
            keys.learn(&http(1), 200, 0, &mut commands);
        }
        for hash in 2..3 * NAMES_MAX as u64 {
            for _ in 0..2 {
                keys.learn_name(hash, b"GET /b HTTP/1.1\r\n", &mut commands);
            }
        }
        assert_eq!(keys.name(&http(1)), b"GET /a HTTP/1.1\r\n");
        assert!(keys.names.len() + keys.older.len() <= 2 * NAMES_MAX);
        assert!(keys.name(&http(2)).is_empty(), "forgotten");
        assert!(commands.contains(&Command::Unname(2)));
        assert!(!keys.name(&key(3 * NAMES_MAX as u64 - 1)).is_empty());
    }
}
