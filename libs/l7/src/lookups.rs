//! Which names applications looked up for the addresses that they got.
//!
//! Bounded: at [`LOOKUPS_MAX`] addresses, or [`SCOPE_LOOKUPS_MAX`] of an application, those that were not looked up for ten minutes make
//! room. Of several names of an address, the one
//! that was looked up first stays as long as it is looked up: servers of several names have one node in a picture of calls.

use std::net::IpAddr;

use foldhash::HashMap;

use crate::{
    Timestamp,
    symbol::{ScopeId, Symbol},
};

/// Most addresses.
const LOOKUPS_MAX: usize = 2_048;

/// Most addresses of one application: others have room beside one that looks up new names all the time.
const SCOPE_LOOKUPS_MAX: usize = LOOKUPS_MAX / 2;

/// Time after which a lookup makes room for others, nanoseconds.
const UNUSED_NS: u64 = 600 * 1_000_000_000;

/// How often unused ones are looked for at most, nanoseconds.
const SEARCH_INTERVAL_NS: u64 = 10 * 1_000_000_000;

/// Names by application and address.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    names: HashMap<(ScopeId, IpAddr), (Symbol, Timestamp)>,
    searched: Option<Timestamp>,
}

impl Lookups {
    /// An application looked up a name and got an address.
    pub(crate) fn add(&mut self, scope: ScopeId, address: IpAddr, name: Symbol, now: Timestamp) {
        let key = (scope, address);
        if let Some((known, used)) = self.names.get_mut(&key) {
            if *known == name || now.since(*used) >= UNUSED_NS {
                (*known, *used) = (name, now);
            }
            return;
        }
        let may_search = self.searched.is_none_or(|at| now.since(at) >= SEARCH_INTERVAL_NS);
        let mut has_room = self.has_room(scope);
        if !has_room && may_search {
            self.searched = Some(now);
            self.names.retain(|_, (_, used)| now.since(*used) < UNUSED_NS);
            has_room = self.has_room(scope);
        }
        if has_room {
            self.names.insert(key, (name, now));
        }
    }

    fn has_room(&self, scope: ScopeId) -> bool {
        let all = self.names.len();
        let of_scope = || self.names.keys().filter(|(other, _)| *other == scope).count();
        all < LOOKUPS_MAX && (all < SCOPE_LOOKUPS_MAX || of_scope() < SCOPE_LOOKUPS_MAX)
    }

    /// The name that an application looked up for an address.
    pub(crate) fn name(&self, scope: ScopeId, address: IpAddr) -> Option<Symbol> {
        self.names.get(&(scope, address)).map(|(name, _)| *name)
    }

    /// Those of which this is true stay.
    pub(crate) fn retain(&mut self, stays: impl Fn(ScopeId, Symbol) -> bool) {
        self.names.retain(|(scope, _), (name, _)| stays(*scope, *name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn the_name_that_came_first_stays_as_long_as_it_is_looked_up() {
        let mut lookups = Lookups::default();
        let (scope, [first, second]) = (ScopeId(1), [Symbol(7), Symbol(8)]);
        for (name, at, expected) in [
            (first, 0, first),
            (second, 1, first),
            (first, UNUSED_NS - 1, first),
            (second, UNUSED_NS, first),
            (second, 2 * UNUSED_NS - 1, second),
        ] {
            lookups.add(scope, address(1), name, Timestamp(at));
            assert_eq!(lookups.name(scope, address(1)), Some(expected), "{at}");
        }
        assert_eq!(lookups.name(ScopeId(2), address(1)), None, "another application's");
    }

    #[test]
    fn lookups_beyond_the_bound_wait_until_others_are_unused() {
        let mut lookups = Lookups::default();
        for number in 0..10_000 {
            lookups.add(ScopeId(0), address(number), Symbol(5), Timestamp(1));
        }
        assert_eq!(lookups.names.len(), SCOPE_LOOKUPS_MAX);
        for number in 0..10_000 {
            lookups.add(ScopeId(1 + number % 2), address(number), Symbol(5), Timestamp(1));
        }
        assert_eq!(lookups.names.len(), LOOKUPS_MAX);
        assert_eq!(lookups.name(ScopeId(1), address(0)), Some(Symbol(5)), "another application's");
        assert_eq!(lookups.name(ScopeId(0), address(9_999)), None);
        lookups.add(ScopeId(0), address(9_999), Symbol(5), Timestamp(1 + UNUSED_NS));
        assert_eq!((lookups.names.len(), lookups.name(ScopeId(0), address(9_999))), (1, Some(Symbol(5))));
    }
}
