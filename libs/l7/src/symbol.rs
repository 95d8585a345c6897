//! Names as small integers, the application for which their number is bounded, and the clients that use them.

use std::hash::{DefaultHasher, Hash, Hasher};

use foldhash::{HashMap, HashMapExt as _};

use crate::Timestamp;

/// A name, as a small integer. Equal names have equal symbols within one [`ParserContext`](crate::ParserContext), as long as they
/// are in use: the symbol of a name that made room for another stands for `other` from then on, and is never another name's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub u32);

/// Bits of a symbol that are its name's slot; those above, up to a candidate's, count how often the slot got another name.
const SLOT_BITS: u32 = 16;
const GENERATIONS: u32 = 1 << (31 - SLOT_BITS);

impl Symbol {
    fn numbered(slot: usize, generation: u32) -> Self {
        Self((generation % GENERATIONS) << SLOT_BITS | u32::try_from(slot).unwrap_or(0))
    }

    fn slot(self) -> usize {
        usize::try_from(self.0 & ((1 << SLOT_BITS) - 1)).unwrap_or(0)
    }

    /// No name.
    pub const NONE: Self = Self(0);
    /// A name that is not known.
    pub const OTHER: Self = Self(1);
    /// What a name becomes when there is no room for another: `other` as well. Exchanges that are given out have
    /// [`Self::OTHER`] in its place. No name has this symbol: the one in that slot stays.
    pub(crate) const OVERFLOWED: Self = Self(1 << SLOT_BITS | 1);

    /// Whether it stands for a name that is not known or that found no room.
    pub(crate) fn is_other(self) -> bool {
        [Self::OTHER, Self::OVERFLOWED].contains(&self)
    }

    /// The symbol as it is given out.
    pub(crate) fn given_out(self) -> Self {
        if self.is_other() { Self::OTHER } else { self }
    }
}

/// Time after which a name that was not used makes room for others, nanoseconds.
pub(crate) const UNUSED_NS: u64 = 3600 * 1_000_000_000;

/// How often unused names are looked for at most, nanoseconds.
pub(crate) const SEARCH_INTERVAL_NS: u64 = 60 * 1_000_000_000;

/// The application in whose favour routes are limited: all connections of one container share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub u32);

/// Who sends the requests of a connection, as far as connections are distinguished by it: a number of the client's address
/// without its port. Clients are only compared with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl ClientId {
    /// The client that this distinguishes: its address.
    pub fn of(client: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        client.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The names of one context, by symbol. Bounded: when there is no room for another, those that were not used for an hour make
/// room.
#[derive(Debug)]
pub(crate) struct Names {
    slots: Vec<Slot>,
    symbols: HashMap<Box<str>, Symbol>,
    /// Slots without a name.
    free: Vec<usize>,
    most: usize,
    searched: Timestamp,
}

#[derive(Debug)]
struct Slot {
    text: Box<str>,
    symbol: Symbol,
    used: Timestamp,
    /// It is a word of the code, of which there are few, or of the user's.
    is_word: bool,
    generation: u32,
}

impl Names {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.clamp(2, 1 << SLOT_BITS);
        Self {
            slots: Vec::new(),
            symbols: HashMap::new(),
            free: Vec::new(),
            most,
            searched: Timestamp::default(),
        }
    }

    /// The text of a symbol.
    pub(crate) fn text(&self, symbol: Symbol) -> &str {
        let slot = self.slots.get(symbol.slot()).filter(|slot| slot.symbol == symbol);
        slot.map_or("other", |slot| &slot.text)
    }

    /// The symbol of a name that has one.
    pub(crate) fn known(&self, name: &str) -> Option<Symbol> {
        self.symbols.get(name).copied()
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.symbols.keys().map(|text| &**text)
    }

    /// Whether a symbol still stands for its name.
    pub(crate) fn is_in_use(&self, symbol: Symbol) -> bool {
        self.slots.get(symbol.slot()).is_some_and(|slot| slot.symbol == symbol)
    }

    /// A name is used.
    pub(crate) fn touch(&mut self, symbol: Symbol, now: Timestamp) {
        if let Some(slot) = self.slots.get_mut(symbol.slot()).filter(|slot| slot.symbol == symbol) {
            slot.used = now;
        }
    }

    /// The symbol of a name; `None` when there is no room for another.
    pub(crate) fn intern(&mut self, name: &str, is_word: bool, now: Timestamp) -> Option<Symbol> {
        if let Some(symbol) = self.known(name) {
            if let Some(slot) = self.slots.get_mut(symbol.slot()) {
                slot.used = now;
                slot.is_word |= is_word;
            }
            return Some(symbol);
        }
        let at = self.free.pop().unwrap_or(self.slots.len());
        if at >= self.most {
            return None;
        }
        let generation = self.slots.get(at).map_or(0, |slot| slot.generation + 1);
        let symbol = Symbol::numbered(at, generation);
        let slot = Slot { text: name.into(), symbol, used: now, is_word, generation };
        match self.slots.get_mut(at) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        self.symbols.insert(name.into(), symbol);
        Some(symbol)
    }

    /// Drops the names that were not used for a while, if there is no room for another; whether there were any. Looks for them
    /// once a minute at most.
    pub(crate) fn make_room(&mut self, now: Timestamp) -> bool {
        let is_full = self.free.is_empty() && self.slots.len() >= self.most;
        if !is_full || now.since(self.searched) < SEARCH_INTERVAL_NS {
            return false;
        }
        self.searched = now;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if !slot.is_word && now.since(slot.used) >= UNUSED_NS {
                self.symbols.remove(&slot.text);
                (slot.text, slot.symbol) = (Box::default(), Symbol::OTHER);
                self.free.push(at);
            }
        }
        !self.free.is_empty()
    }
}
