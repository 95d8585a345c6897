//! Names of what an application calls by an id, as Kafka its topics, within a bound. Those that are not used make room.

use foldhash::HashMap;

use crate::{
    Timestamp,
    symbol::{ScopeId, Symbol, UNUSED_NS},
};

/// Most ids of which names are kept.
pub(super) const LEARNED_IDS_MAX: usize = 4096;

/// The names, with the time of their last use.
#[derive(Debug, Default)]
pub(super) struct LearnedIds {
    of: HashMap<(ScopeId, [u8; 16]), (Symbol, Timestamp)>,
}

impl LearnedIds {
    /// Stores the name of an id; false when there is no room for another.
    pub(super) fn learn(&mut self, scope: ScopeId, id: [u8; 16], name: Symbol, now: Timestamp) -> bool {
        let is_known = self.of.contains_key(&(scope, id));
        if self.of.len() >= LEARNED_IDS_MAX && !is_known {
            self.of.retain(|_, (_, used)| now.since(*used) < UNUSED_NS);
        }
        let has_room = is_known || self.of.len() < LEARNED_IDS_MAX;
        if has_room {
            self.of.insert((scope, id), (name, now));
        }
        has_room
    }

    /// The name of an id, which is used now.
    pub(super) fn get(&mut self, scope: ScopeId, id: [u8; 16], now: Timestamp) -> Option<Symbol> {
        let (symbol, used) = self.of.get_mut(&(scope, id))?;
        *used = now;
        Some(*symbol)
    }

    /// Drops all names but these.
    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(Symbol) -> bool) {
        self.of.retain(|_, (symbol, _)| is_kept(*symbol));
    }

    /// Drops the ids of an application.
    pub(super) fn forget(&mut self, scope: ScopeId) {
        self.of.retain(|(of, _), _| *of != scope);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}
