//! Which segments of an application's paths are code and which are data.
//!
//! A segment that is made of words of programs ([`vocabulary`]) is code. Any other is part of a
//! route's name only when it recurs like code: successful requests for it came at least [`RECURRENCES`] times, from
//! [`CLIENTS`] clients, over [`SPAN_NS`], and its place in the tree of paths is no place for data. A place is one for data
//! when more than [`VARIETY_MAX`] different segments that are no words came there within a day. There, only words
//! are code: those that had come before, and those that recur. Until a segment is known to be code, `{}` stands for it.
//!
//! Of segments only hashes are kept.

use std::borrow::Cow;

use foldhash::HashMap;

use super::{
    hash, vocabulary,
    words::{self, Behind},
};
use crate::Timestamp;

/// Successful requests after which a segment may be code.
const RECURRENCES: u16 = 8;

/// Clients that must have sent them.
const CLIENTS: usize = 3;

/// Time over which they must have come, nanoseconds.
const SPAN_NS: u64 = 10_000_000_000;

/// Most different segments, other than words of programs, of a place for code; most that are observed at a place.
pub(super) const VARIETY_MAX: usize = 32;

/// Most words of programs that are remembered of a place.
const WORDS_MAX: usize = 64;

/// Time after which a segment that did not come again, or a place for data to which nothing came, is forgotten,
/// nanoseconds.
const FORGOTTEN_NS: u64 = 24 * 3600 * 1_000_000_000;

/// Most places of an application that are kept. The one that was not used for the longest time makes room.
pub(super) const PLACES_MAX: usize = 256;

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    /// A number of its client's own.
    pub(crate) client: u64,
    /// When its response ended.
    pub(crate) at: Timestamp,
}

/// A segment that may be code.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    hash: u64,
    count: u16,
    /// Hashes of different clients; 0 for none.
    clients: [u32; CLIENTS],
    first: Timestamp,
    last: Timestamp,
}

/// A place in the tree of paths: what comes next there.
#[derive(Debug, Default)]
struct Place {
    candidates: Vec<Candidate>,
    /// Hashes of the words that came before it was known to be one for data.
    words: Vec<u64>,
    data: bool,
    used: Timestamp,
}

/// The places of one application, by hash of the path that leads there.
#[derive(Debug, Default)]
pub(super) struct Segments {
    places: HashMap<u64, Place>,
}

/// A template's name.
#[derive(Debug)]
pub(super) struct Name<'a> {
    /// The template, with `{}` for segments that are not known to be code.
    pub(super) text: Cow<'a, str>,
    /// A place that turned out to be one for data: its hash.
    pub(super) turned: Option<u64>,
}

impl Segments {
    /// Names a template; a sighting counts for the segments that are not known yet.
    pub(super) fn name<'a>(&mut self, template: &'a str, sighting: Option<Sighting>) -> Name<'a> {
        let mut turned = None;
        let mut named = None::<String>;
        // `*`, and targets in authority form.
        if !template.starts_with('/') {
            return Name { text: Cow::Borrowed(template), turned };
        }
        let mut place = hash(0, b"");
        let mut done = 0;
        let mut behind = Behind::Other;
        for piece in template.split_inclusive('/') {
            let segment = piece.strip_suffix('/').unwrap_or(piece);
            let code = segment.is_empty()
                || segment == "{}"
                || segment == "*"
                || self.is_code(place, segment, behind, sighting, &mut turned);
            behind = words::behind(segment.as_bytes());
            if !code {
                let so_far = named.get_or_insert_with(|| template.get(..done).unwrap_or_default().to_owned());
                so_far.push_str("{}");
                so_far.push_str(piece.get(segment.len()..).unwrap_or_default());
            } else if let Some(so_far) = &mut named {
                so_far.push_str(piece);
            }
            if !segment.is_empty() {
                place = hash(place, if code { segment.as_bytes() } else { b"{}" });
            }
            done += piece.len();
        }
        Name { text: named.map_or(Cow::Borrowed(template), Cow::Owned), turned }
    }

    /// Whether a name has a segment at this place that is no word of programs.
    pub(super) fn is_through(name: &str, turned: u64) -> bool {
        let mut place = hash(0, b"");
        for segment in name.split('/').filter(|segment| !segment.is_empty()) {
            if place == turned && segment != "{}" && !vocabulary::is_made_of_words(segment) {
                return true;
            }
            place = hash(place, segment.as_bytes());
        }
        false
    }

    fn is_code(
        &mut self,
        place: u64,
        segment: &str,
        behind: Behind,
        sighting: Option<Sighting>,
        turned: &mut Option<u64>,
    ) -> bool {
        let word = match behind {
            Behind::Other => vocabulary::is_made_of_words(segment),
            Behind::Person | Behind::Secret => words::is_code(segment.as_bytes()),
        };
        let of = hash(3, segment.as_bytes());
        let Some(Sighting { client, at }) = sighting else {
            return self.places.get(&place).map_or(word, |place| place.knows(of, word));
        };
        if self.places.len() >= PLACES_MAX && !self.places.contains_key(&place) {
            self.forget_one();
        }
        let entry = self.places.entry(place).or_default();
        entry.data &= at.since(entry.used) < FORGOTTEN_NS;
        entry.used = entry.used.max(at);
        if entry.knows(of, word) {
            if word && !entry.data && entry.words.len() < WORDS_MAX && !entry.words.contains(&of) {
                entry.words.push(of);
            }
            if let Some(candidate) = entry.candidates.iter_mut().find(|candidate| candidate.hash == of) {
                candidate.last = candidate.last.max(at);
            }
            return true;
        }
        if entry.data && !word {
            return false;
        }
        if !entry.candidates.iter().any(|candidate| candidate.hash == of) {
            if entry.candidates.len() >= VARIETY_MAX {
                entry.candidates.retain(|candidate| at.since(candidate.last) < FORGOTTEN_NS);
            }
            if entry.candidates.len() >= VARIETY_MAX {
                if entry.data {
                    // A word makes room for another.
                    entry.candidates.remove(0);
                } else {
                    entry.data = true;
                    entry.candidates.clear();
                    *turned = Some(place);
                    return false;
                }
            }
            let clients = [0; CLIENTS];
            entry.candidates.push(Candidate { hash: of, count: 0, clients, first: at, last: at });
        }
        let candidate = entry.candidates.iter_mut().find(|candidate| candidate.hash == of);
        candidate.is_some_and(|candidate| candidate.seen(client, at))
    }

    fn forget_one(&mut self) {
        if let Some(&oldest) = self.places.iter().min_by_key(|(_, place)| place.used).map(|(hash, _)| hash) {
            self.places.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

impl Place {
    /// Whether a segment is known to be code.
    fn knows(&self, of: u64, word: bool) -> bool {
        (word && (!self.data || self.words.contains(&of)))
            || self.candidates.iter().any(|candidate| candidate.hash == of && candidate.is_code())
    }
}

impl Candidate {
    /// Counts a request; returns whether the segment is code.
    fn seen(&mut self, client: u64, at: Timestamp) -> bool {
        self.count = self.count.saturating_add(1);
        self.last = self.last.max(at);
        // Fits: 32 bits are left. No client's hash is 0.
        let client = u32::try_from(hash(client, b"client") >> 32).unwrap_or(1).max(1);
        if !self.clients.contains(&client)
            && let Some(free) = self.clients.iter_mut().find(|known| **known == 0)
        {
            *free = client;
        }
        self.is_code()
    }

    fn is_code(&self) -> bool {
        self.count >= RECURRENCES && !self.clients.contains(&0) && self.last.since(self.first) >= SPAN_NS
    }
}
