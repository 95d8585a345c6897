//! Routes of one application: templated by their form, limited by their use.
//!
//! ```text
//! target → template (ids become `{}`) → known route
//!                                     └ new: kept aside until its outcome is known
//!                                         → name (what is not known to be code becomes `{}`) → its own route, `{}` or `other`
//! ```
//!
//! What is code and what is data, [`learning`] finds out. What follows bounds the routes that are left.
//!
//! A real route is one that recurs and is answered by something else than "not found". So:
//! - a path whose only answers are 404 and the like gets its own route as long as a small share of the bound lasts,
//!   then it is `other`;
//! - a place in the tree below which more and more different segments turn up collapses: new segments there become
//!   `{}`, those that were known stay. The fuller the bound, the sooner a place collapses;
//! - a path that was collapsed and keeps coming back gets its own route after all, out of a reserve.
//!
//! The number of routes never exceeds the bound; exchanges beyond it are counted. At the bound, routes that were
//! not used for a while are forgotten.

pub(crate) mod learning;
pub mod own;
pub(crate) mod template;
mod vocabulary;
mod words;

use foldhash::HashMap;

use crate::{
    Status, Symbol, Timestamp,
    routes::learning::{Segments, Sighting},
    symbol::{SEARCH_INTERVAL_NS, UNUSED_NS},
};

/// Templates of new paths whose outcome is not known yet, per application.
const PROVISIONAL_MAX: usize = 256;

/// Counters for collapsed paths that may recur, per application.
const CANDIDATES: usize = 256;

/// Occurrences after which a collapsed path gets its own route.
const RECURRING: u16 = 16;

/// Occurrences after which a path whose segments were not learned keeps the name that it has by then: what recurs so often is
/// aggregated in the kernel, where its clients are not known.
const SETTLED: u16 = 256;

/// Most paths that keep their name so, per application.
const SETTLED_MAX: usize = 256;

/// A request's route, before its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRef(Inner);

impl RouteRef {
    /// A route that has no name.
    pub(crate) fn unnamed() -> Self {
        Self(Inner::Own(Symbol::OTHER))
    }

    /// A route that the user gave.
    pub(crate) fn own(symbol: Symbol) -> Self {
        Self(Inner::Own(symbol))
    }

    /// Whether its name is final, whatever the outcome.
    pub(crate) fn is_known(self) -> bool {
        !matches!(self.0, Inner::Provisional { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    /// One of the user's.
    Own(Symbol),
    Known {
        index: u32,
        symbol: Symbol,
    },
    Provisional {
        slot: u16,
        generation: u32,
    },
}

#[derive(Debug)]
struct Route {
    name: Box<str>,
    symbol: Symbol,
    /// When a request for it was last answered.
    used: Timestamp,
    /// Something else than "not found" was answered.
    proven: bool,
}

#[derive(Debug, Default)]
struct Provisional {
    text: String,
    generation: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    hash: u64,
    count: u16,
}

/// A place in the tree of routes.
#[derive(Debug, Default)]
struct Place {
    /// Different literal segments below it.
    children: u16,
    collapsed: bool,
}

/// The result for a new path.
#[derive(Debug, PartialEq, Eq)]
enum Placing {
    Known(u32),
    New(String),
    Other,
}

/// The routes of one application.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    known: HashMap<Box<str>, u32>,
    /// Those that were forgotten leave free slots.
    all: Vec<Option<Route>>,
    unproven: usize,
    /// When unused routes were last looked for.
    searched: Timestamp,
    /// The bound of the last request.
    limit: usize,
    /// By hash of the template: those that meet in one slot displace each other.
    provisional: Vec<Provisional>,
    /// By hash of the path that leads there.
    places: HashMap<u64, Place>,
    candidates: Vec<Candidate>,
    segments: Segments,
    /// Routes of paths that keep their name, by hash of the path.
    settled: HashMap<u64, u32>,
}

impl Routes {
    /// Looks up a template.
    pub(crate) fn begin(&mut self, template: &str) -> RouteRef {
        let settled = || self.settled.get(&hash(4, template.as_bytes()));
        if let Some(&index) = self.known.get(template).or_else(settled)
            && let Some(Some(Route { symbol, .. })) = self.all.get(index as usize)
        {
            return RouteRef(Inner::Known { index, symbol: *symbol });
        }
        if self.provisional.is_empty() {
            self.provisional.resize_with(PROVISIONAL_MAX, Provisional::default);
        }
        let slot = usize::try_from(hash(2, template.as_bytes()) % PROVISIONAL_MAX as u64).unwrap_or(0);
        let mut generation = 0;
        if let Some(provisional) = self.provisional.get_mut(slot) {
            if provisional.text != template {
                provisional.generation = provisional.generation.wrapping_add(1);
                provisional.text.clear();
                provisional.text.push_str(template);
            }
            generation = provisional.generation;
        }
        RouteRef(Inner::Provisional { slot: u16::try_from(slot).unwrap_or(0), generation })
    }

    /// The route's symbol, now that its outcome is known. `intern` makes a symbol of a new route's name;
    /// [`Symbol::OVERFLOWED`] when it exceeds a bound, [`Symbol::OTHER`] when it has no name or another path took its place
    /// before its outcome was known. When it `trusts`, every segment counts as code.
    pub(crate) fn finish(
        &mut self,
        route: RouteRef,
        status: Status,
        sighting: Sighting,
        trusts: bool,
        limit: usize,
        intern: impl FnOnce(&str) -> Symbol,
    ) -> Symbol {
        let proven = proves(status);
        self.limit = limit;
        let index = match route.0 {
            Inner::Own(symbol) => return symbol,
            Inner::Known { index, symbol } => {
                // The route may have been forgotten meanwhile.
                if !matches!(self.all.get(index as usize), Some(Some(route)) if route.symbol == symbol) {
                    return symbol;
                }
                index
            }
            Inner::Provisional { slot, generation } => {
                let Some(provisional) = self.provisional.get_mut(usize::from(slot)) else {
                    return Symbol::OTHER;
                };
                if provisional.generation != generation {
                    return Symbol::OTHER;
                }
                let text = std::mem::take(&mut provisional.text);
                if self.known.len() >= limit {
                    self.forget_unused(sighting.at);
                }
                let placing = if trusts {
                    self.place(&text, proven, limit)
                } else {
                    let name = self.segments.name(&text, proven.then_some(sighting));
                    if let Some(turned) = name.turned {
                        // What was learned there was data.
                        self.forget_if(|route| Segments::is_through(&route.name, turned));
                    }
                    let placing = self.place(&name.text, proven, limit);
                    if let Placing::Known(index) = placing
                        && name.text != text
                        && self.occurrences(&text) >= SETTLED
                    {
                        if self.settled.len() >= SETTLED_MAX {
                            self.settled.clear();
                        }
                        self.settled.insert(hash(4, text.as_bytes()), index);
                    }
                    placing
                };
                if let Some(provisional) = self.provisional.get_mut(usize::from(slot)) {
                    provisional.text = text;
                }
                match placing {
                    Placing::Known(index) => index,
                    Placing::Other => return Symbol::OVERFLOWED,
                    Placing::New(name) => {
                        let symbol = intern(&name);
                        if symbol == Symbol::OVERFLOWED {
                            return symbol;
                        }
                        let used = sighting.at;
                        self.add(Route { name: name.into_boxed_str(), symbol, used, proven })
                    }
                }
            }
        };
        let Some(Some(known)) = self.all.get_mut(index as usize) else { return Symbol::OTHER };
        known.used = known.used.max(sighting.at);
        if proven && !known.proven {
            known.proven = true;
            self.unproven = self.unproven.saturating_sub(1);
        }
        known.symbol
    }

    fn add(&mut self, route: Route) -> u32 {
        let free = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        let index = u32::try_from(free).unwrap_or(u32::MAX);
        self.unproven += usize::from(!route.proven);
        self.known.insert(route.name.clone(), index);
        if free == self.all.len() {
            self.all.push(Some(route));
        } else if let Some(slot) = self.all.get_mut(free) {
            *slot = Some(route);
        }
        index
    }

    /// Forgets the routes that were not used for a while.
    fn forget_unused(&mut self, now: Timestamp) {
        if now.since(self.searched) >= SEARCH_INTERVAL_NS {
            self.searched = now;
            self.forget_if(|route| now.since(route.used) >= UNUSED_NS);
        }
    }

    /// A route is used, if there is one of that name.
    pub(crate) fn touch(&mut self, symbol: Symbol, now: Timestamp) {
        for route in self.all.iter_mut().flatten().filter(|route| route.symbol == symbol) {
            route.used = route.used.max(now);
        }
    }

    /// Forgets the routes whose symbols stand for them no longer.
    pub(crate) fn retain(&mut self, is_in_use: impl Fn(Symbol) -> bool) {
        self.forget_if(|route| !is_in_use(route.symbol));
    }

    /// Forgets routes, and with them their places in the tree: what is left decides which places are collapsed.
    fn forget_if(&mut self, unwanted: impl Fn(&Route) -> bool) {
        let before = self.known.len();
        self.settled.clear();
        for slot in &mut self.all {
            if let Some(route) = slot.take_if(|route| unwanted(route)) {
                self.known.remove(&route.name);
                self.unproven -= usize::from(!route.proven).min(self.unproven);
            }
        }
        if self.known.len() == before {
            return;
        }
        self.places.clear();
        let names: Vec<Box<str>> = self.known.keys().cloned().collect();
        let room = self.limit.saturating_sub(names.len());
        for name in &names {
            self.grow(name, room);
        }
    }

    fn place(&mut self, text: &str, proven: bool, limit: usize) -> Placing {
        if let Some(&index) = self.known.get(text) {
            return Placing::Known(index);
        }
        let room = limit.saturating_sub(self.known.len());
        if room == 0 {
            return self.collapse(text).map_or(Placing::Other, |collapsed| self.known_or_other(&collapsed));
        }
        if !proven && self.unproven >= limit / 8 {
            return Placing::Other;
        }
        let reserve = limit / 5;
        if let Some(collapsed) = self.collapse(text) {
            if !proven || !self.recurs(text) {
                if let Some(&index) = self.known.get(collapsed.as_str()) {
                    return Placing::Known(index);
                }
                if room <= reserve {
                    return Placing::Other;
                }
                self.grow(&collapsed, room);
                return Placing::New(collapsed);
            }
        } else if room <= reserve && !(proven && self.recurs(text)) {
            return Placing::Other;
        }
        self.grow(text, room);
        Placing::New(text.to_owned())
    }

    fn known_or_other(&self, text: &str) -> Placing {
        self.known.get(text).map_or(Placing::Other, |&index| Placing::Known(index))
    }

    /// The template with `{}` where its segments are new below a collapsed place; `None` when it stays as it is.
    fn collapse(&self, text: &str) -> Option<String> {
        let mut collapsed = None::<String>;
        let mut path = hash(0, b"");
        let mut done = 0;
        for segment in text.split_inclusive('/') {
            let end = done + segment.len();
            let name = segment.strip_suffix('/').unwrap_or(segment);
            let below = hash(path, name.as_bytes());
            let unknown_in_collapsed = self.places.get(&path).is_some_and(|place| place.collapsed)
                && !self.places.contains_key(&below);
            if unknown_in_collapsed && !name.is_empty() && name != "{}" {
                let so_far = collapsed.get_or_insert_with(|| text.get(..done).unwrap_or_default().to_owned());
                so_far.push_str("{}");
                if segment.ends_with('/') {
                    so_far.push('/');
                }
                path = hash(path, b"{}");
            } else {
                if let Some(so_far) = &mut collapsed {
                    so_far.push_str(segment);
                }
                path = below;
            }
            done = end;
        }
        collapsed
    }

    /// Notes a new route's places in the tree.
    fn grow(&mut self, text: &str, room: usize) {
        let threshold = (room / 3).max(4);
        let mut path = hash(0, b"");
        self.places.entry(path).or_default();
        for segment in text.split('/') {
            let below = hash(path, segment.as_bytes());
            let new = !self.places.contains_key(&below);
            if new && !segment.is_empty() && segment != "{}" {
                let place = self.places.entry(path).or_default();
                place.children = place.children.saturating_add(1);
                place.collapsed |= usize::from(place.children) >= threshold;
            }
            if new {
                self.places.insert(below, Place::default());
            }
            path = below;
        }
    }

    /// Counts a collapsed path; whether it has come often enough for a route of its own.
    fn recurs(&mut self, text: &str) -> bool {
        self.occurrences(text) >= RECURRING
    }

    /// Counts a path; how often it came.
    fn occurrences(&mut self, text: &str) -> u16 {
        if self.candidates.is_empty() {
            self.candidates = vec![Candidate::default(); CANDIDATES];
        }
        let hash = hash(1, text.as_bytes());
        let slot = usize::try_from(hash % CANDIDATES as u64).unwrap_or(0);
        let Some(candidate) = self.candidates.get_mut(slot) else { return 0 };
        if candidate.hash == hash {
            candidate.count = candidate.count.saturating_add(1);
            return candidate.count;
        }
        // The slot's owner must keep coming to stay: a crawler's paths wear each other down.
        candidate.count = candidate.count.saturating_sub(1);
        if candidate.count == 0 {
            *candidate = Candidate { hash, count: 1 };
        }
        0
    }
}

/// Whether a status shows that the route exists.
fn proves(status: Status) -> bool {
    !matches!(status, Status::None | Status::Code(400 | 404 | 405 | 410 | 414 | 501))
}

/// FNV-1a, chained.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The last bytes must reach the low bits.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod learning_tests;
#[cfg(test)]
mod tests;
