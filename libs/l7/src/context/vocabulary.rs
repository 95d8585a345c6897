//! The names of applications by kind, each kind within a bound. Names that are not used make room.

use foldhash::HashMap;

use crate::{
    Timestamp,
    context::Limits,
    symbol::{SEARCH_INTERVAL_NS, ScopeId, Symbol, UNUSED_NS},
};

/// A vocabulary of names that an application brings, each bounded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NameKind {
    /// HTTP methods that are not well known.
    HttpMethod,
    /// gRPC `/service/method`.
    GrpcMethod,
    /// Tables of SQL statements.
    Table,
    /// Commands that are not well known, of any protocol.
    Command,
    /// Error words that are not well known: SQLSTATEs, Redis error prefixes.
    ErrorWord,
    /// Topics, subjects, queues, exchanges.
    Destination,
    /// Collections of document stores.
    Collection,
    /// Domain names, converged.
    Domain,
    /// Classes of keys.
    KeyClass,
}

impl NameKind {
    pub(super) const ALL: [Self; 9] = [
        Self::HttpMethod,
        Self::GrpcMethod,
        Self::Table,
        Self::Command,
        Self::ErrorWord,
        Self::Destination,
        Self::Collection,
        Self::Domain,
        Self::KeyClass,
    ];

    /// Most names of this kind that one application has.
    pub(super) fn limit(self, limits: &Limits) -> usize {
        match self {
            Self::HttpMethod => 16,
            Self::Command | Self::ErrorWord => 64,
            _ => limits.routes_per_scope,
        }
    }
}

/// The names of one kind of an application, with the time of their last use.
#[derive(Debug, Default)]
struct Vocabulary {
    used: HashMap<Symbol, Timestamp>,
    searched: Timestamp,
}

impl Vocabulary {
    /// Whether a name is in it; it is used now.
    fn contains(&mut self, symbol: Symbol, now: Timestamp) -> bool {
        let Some(used) = self.used.get_mut(&symbol) else { return false };
        *used = now;
        true
    }

    fn has_room(&mut self, limit: usize, now: Timestamp) -> bool {
        if self.used.len() >= limit && now.since(self.searched) >= SEARCH_INTERVAL_NS {
            self.searched = now;
            self.used.retain(|_, used| now.since(*used) < UNUSED_NS);
        }
        self.used.len() < limit
    }
}

/// Those of all applications.
#[derive(Debug, Default)]
pub(super) struct Vocabularies {
    of: HashMap<(ScopeId, NameKind), Vocabulary>,
}

impl Vocabularies {
    /// Whether a name is in a vocabulary; it is used now.
    pub(super) fn contain(&mut self, scope: ScopeId, kind: NameKind, symbol: Symbol, now: Timestamp) -> bool {
        self.of.get_mut(&(scope, kind)).is_some_and(|vocabulary| vocabulary.contains(symbol, now))
    }

    /// A name is used, of whatever kind it is.
    pub(super) fn touch(&mut self, scope: ScopeId, symbol: Symbol, now: Timestamp) {
        for kind in NameKind::ALL {
            self.contain(scope, kind, symbol, now);
        }
    }

    /// Whether a vocabulary has room for another name.
    pub(super) fn have_room(&mut self, scope: ScopeId, kind: NameKind, limit: usize, now: Timestamp) -> bool {
        self.of.entry((scope, kind)).or_default().has_room(limit, now)
    }

    /// Adds a name to a vocabulary that has room.
    pub(super) fn insert(&mut self, scope: ScopeId, kind: NameKind, symbol: Symbol, now: Timestamp) {
        self.of.entry((scope, kind)).or_default().used.insert(symbol, now);
    }

    /// Drops all names but these.
    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(Symbol) -> bool) {
        for vocabulary in self.of.values_mut() {
            vocabulary.used.retain(|symbol, _| is_kept(*symbol));
        }
    }

    /// Drops the vocabularies of an application.
    pub(super) fn forget(&mut self, scope: ScopeId) {
        self.of.retain(|(of, _), _| *of != scope);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}
