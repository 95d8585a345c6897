//! Routes of one application: templated by their form, limited by their use.
//!
//! ```text
//! target → template (ids become `{}`) → known route
//!                                     └ new: kept aside until its outcome is known → its own route, `{}` or `other`
//! ```
//!
//! A real route is one that recurs and is answered by something else than "not found". So:
//! - a path whose only answers are 404 and the like gets its own route as long as a small share of the bound lasts,
//!   then it is `other`;
//! - a place in the tree below which more and more different segments turn up folds: new segments there become `{}`,
//!   those that were known stay. The fuller the bound, the sooner a place folds;
//! - a path that was folded and keeps coming back gets its own route after all, out of a reserve.
//!
//! The number of routes never exceeds the bound; exchanges that had to be folded are counted.

pub mod own;
pub(crate) mod template;
mod words;

use std::collections::HashMap;

use crate::{Status, Symbol};

/// Templates of new paths whose outcome is not known yet, per application.
const PROVISIONAL_MAX: usize = 256;

/// Counters for folded paths that may recur, per application.
const CANDIDATES: usize = 256;

/// Occurrences after which a folded path gets its own route.
const RECURRING: u16 = 16;

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
    Known(u32),
    Provisional {
        slot: u16,
        generation: u32,
    },
}

#[derive(Debug)]
struct Route {
    symbol: Symbol,
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
    folded: bool,
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
    all: Vec<Route>,
    unproven: usize,
    /// By hash of the template: those that meet in one slot displace each other.
    provisional: Vec<Provisional>,
    /// By hash of the path that leads there.
    places: HashMap<u64, Place>,
    candidates: Vec<Candidate>,
}

impl Routes {
    /// Looks up a template.
    pub(crate) fn begin(&mut self, template: &str) -> RouteRef {
        if let Some(&index) = self.known.get(template) {
            return RouteRef(Inner::Known(index));
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
    /// [`Symbol::OTHER`] says that it was folded away.
    pub(crate) fn finish(
        &mut self,
        route: RouteRef,
        status: Status,
        limit: usize,
        intern: impl FnOnce(&str) -> Symbol,
    ) -> Symbol {
        let proven = proves(status);
        let index = match route.0 {
            Inner::Own(symbol) => return symbol,
            Inner::Known(index) => index,
            Inner::Provisional { slot, generation } => {
                let Some(provisional) = self.provisional.get_mut(usize::from(slot)) else {
                    return Symbol::OTHER;
                };
                if provisional.generation != generation {
                    return Symbol::OTHER;
                }
                let text = std::mem::take(&mut provisional.text);
                let placing = self.place(&text, proven, limit);
                if let Some(provisional) = self.provisional.get_mut(usize::from(slot)) {
                    provisional.text = text;
                }
                match placing {
                    Placing::Known(index) => index,
                    Placing::Other => return Symbol::OTHER,
                    Placing::New(name) => {
                        let symbol = intern(&name);
                        if symbol == Symbol::OTHER {
                            return symbol;
                        }
                        let index = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
                        self.all.push(Route { symbol, proven });
                        self.unproven += usize::from(!proven);
                        self.known.insert(name.into_boxed_str(), index);
                        index
                    }
                }
            }
        };
        let Some(known) = self.all.get_mut(index as usize) else { return Symbol::OTHER };
        if proven && !known.proven {
            known.proven = true;
            self.unproven = self.unproven.saturating_sub(1);
        }
        known.symbol
    }

    fn place(&mut self, text: &str, proven: bool, limit: usize) -> Placing {
        if let Some(&index) = self.known.get(text) {
            return Placing::Known(index);
        }
        let room = limit.saturating_sub(self.all.len());
        if room == 0 {
            return self.fold(text).map_or(Placing::Other, |folded| self.known_or_other(&folded));
        }
        if !proven && self.unproven >= limit / 8 {
            return Placing::Other;
        }
        let reserve = limit / 5;
        if let Some(folded) = self.fold(text) {
            if !proven || !self.recurs(text) {
                if let Some(&index) = self.known.get(folded.as_str()) {
                    return Placing::Known(index);
                }
                if room <= reserve {
                    return Placing::Other;
                }
                self.grow(&folded, room);
                return Placing::New(folded);
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

    /// The template with `{}` where its segments are new below a folded place; `None` when it stays as it is.
    fn fold(&self, text: &str) -> Option<String> {
        let mut folded = None::<String>;
        let mut path = hash(0, b"");
        let mut done = 0;
        for segment in text.split_inclusive('/') {
            let end = done + segment.len();
            let name = segment.strip_suffix('/').unwrap_or(segment);
            let below = hash(path, name.as_bytes());
            let unknown_in_folded =
                self.places.get(&path).is_some_and(|place| place.folded) && !self.places.contains_key(&below);
            if unknown_in_folded && !name.is_empty() && name != "{}" {
                let so_far = folded.get_or_insert_with(|| text.get(..done).unwrap_or_default().to_owned());
                so_far.push_str("{}");
                if segment.ends_with('/') {
                    so_far.push('/');
                }
                path = hash(path, b"{}");
            } else {
                if let Some(so_far) = &mut folded {
                    so_far.push_str(segment);
                }
                path = below;
            }
            done = end;
        }
        folded
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
                place.folded |= usize::from(place.children) >= threshold;
            }
            if new {
                self.places.insert(below, Place::default());
            }
            path = below;
        }
    }

    /// Counts a folded path; whether it has come often enough for a route of its own.
    fn recurs(&mut self, text: &str) -> bool {
        if self.candidates.is_empty() {
            self.candidates = vec![Candidate::default(); CANDIDATES];
        }
        let hash = hash(1, text.as_bytes());
        let slot = usize::try_from(hash % CANDIDATES as u64).unwrap_or(0);
        let Some(candidate) = self.candidates.get_mut(slot) else { return false };
        if candidate.hash == hash {
            candidate.count = candidate.count.saturating_add(1);
            return candidate.count >= RECURRING;
        }
        // The slot's owner must keep coming to stay: a crawler's paths wear each other down.
        candidate.count = candidate.count.saturating_sub(1);
        if candidate.count == 0 {
            *candidate = Candidate { hash, count: 1 };
        }
        false
    }
}

/// Whether an answer says that the route exists.
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
mod tests;
