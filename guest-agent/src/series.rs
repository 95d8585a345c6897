//! Exchanges, summed up by what they have in common.
//!
//! A key is a few small integers; its words are looked up once, when the series is made. The number of series is
//! bounded: what has no room goes into series whose resource, then also whose operation, status and peer are `other`.

use std::collections::HashMap;

use porthole_agent_api::{agent, limits::KEY_STRING_MAX, limits::KEY_WORD_MAX, limits::SANDBOX_SERIES_MAX};
use porthole_histogram::Histogram;
use porthole_l7::{ErrorClass, Exchange, ParserContext, Protocol, Side, Status, Symbol};
use protobuf::{EnumOrUnknown, MessageField};

use crate::{
    containers::ContainerIndex, learned::FIRST_BUCKET, peer::Peer, probes::slots::SlotSums, spans::Spans,
};

/// Most series that are kept; the rest of [`SANDBOX_SERIES_MAX`] is for what is folded.
pub const SERIES_MAX: usize = SANDBOX_SERIES_MAX / 2;

/// Most series in all, folded ones included.
pub const SERIES_WITH_FOLDED_MAX: usize = SERIES_MAX + SERIES_MAX / 4;

/// Most peers that are told apart.
pub const PEERS_MAX: usize = 512;

/// A peer, as a small integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerIndex(u32);

impl PeerIndex {
    const NONE: Self = Self(0);
    const OTHER: Self = Self(1);
}

/// What the exchanges of one series have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    container: ContainerIndex,
    protocol: Protocol,
    side: Side,
    operation: Symbol,
    resource: Symbol,
    status: Status,
    error: ErrorClass,
    peer: PeerIndex,
}

impl Key {
    /// The keys to try, from the exact one to the coarsest.
    fn coarser(self) -> [Self; 3] {
        let no_resource = match self.resource {
            Symbol::NONE => self,
            _ => Self { resource: Symbol::OTHER, ..self },
        };
        let coarsest = Self {
            operation: Symbol::OTHER,
            status: Status::None,
            peer: if self.peer == PeerIndex::NONE { PeerIndex::NONE } else { PeerIndex::OTHER },
            ..no_resource
        };
        [self, no_resource, coarsest]
    }
}

#[derive(Debug)]
struct Entry {
    words: agent::SeriesKey,
    duration: Histogram,
    request_bytes: u64,
    response_bytes: u64,
    start_unix_ns: u64,
    /// [`SeriesTable::version`] when it last changed.
    changed: u64,
}

/// All series of this agent.
#[derive(Debug)]
pub struct SeriesTable {
    /// Exchanges of them that are told in full.
    pub spans: Spans,
    index: HashMap<Key, u32>,
    entries: Vec<Entry>,
    peers: HashMap<Peer, PeerIndex>,
    version: u64,
    folded: u64,
    dropped: u64,
    recorded: u64,
}

impl Default for SeriesTable {
    fn default() -> Self {
        Self {
            spans: Spans::default(),
            index: HashMap::new(),
            entries: Vec::new(),
            peers: HashMap::from([(Peer::Unknown, PeerIndex::NONE)]),
            version: 1,
            folded: 0,
            dropped: 0,
            recorded: 0,
        }
    }
}

/// Where an exchange was seen.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The process's container.
    pub container: ContainerIndex,
    /// That container's id.
    pub container_id: &'a str,
    /// The other end of the connection.
    pub peer: &'a Peer,
    /// What else is known of it.
    pub details: Details<'a>,
}

/// What is known of an exchange and is of no concern to its series.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'a> {
    /// This end of the connection.
    pub local: Option<&'a Peer>,
    /// Process that moved the last bytes, in the outermost pid namespace; 0 when it is not known.
    pub process: u32,
    /// The same of the thread.
    pub thread: u32,
    /// The kernel side chose it to be told in full.
    pub chosen: bool,
}

impl SeriesTable {
    /// Adds an exchange, seen at `now`, nanoseconds since 1970; gives the number of its series.
    pub fn record(
        &mut self,
        exchange: &Exchange,
        origin: Origin<'_>,
        engine: &ParserContext,
        now_unix_ns: u64,
    ) -> Option<usize> {
        let peer = match exchange.side {
            // A server's peers are its clients' passing ports.
            Side::Server => PeerIndex::NONE,
            Side::Client => self.peer_index(origin.peer),
        };
        let key = Key {
            container: origin.container,
            protocol: exchange.protocol,
            side: exchange.side,
            operation: exchange.operation,
            resource: exchange.resource,
            status: exchange.status,
            error: exchange.error,
            peer,
        };
        let Some(at) = self.find_or_make(key, origin, engine, now_unix_ns) else {
            self.dropped += 1;
            return None;
        };
        self.version += 1;
        self.recorded += 1;
        let entry = &mut self.entries[at];
        entry.duration.record(exchange.duration_ns());
        entry.request_bytes = entry.request_bytes.saturating_add(exchange.request_bytes);
        entry.response_bytes = entry.response_bytes.saturating_add(exchange.response_bytes);
        entry.changed = self.version;
        self.spans.consider(at, exchange, &origin, now_unix_ns);
        Some(at)
    }

    /// Adds what the kernel counted for a series between two readings of a slot; gives the number of exchanges.
    pub fn add(&mut self, at: usize, before: &SlotSums, now: &SlotSums) -> u64 {
        let Some(entry) = self.entries.get_mut(at) else { return 0 };
        let mut exchanges = 0;
        for (bucket, (before, now)) in (FIRST_BUCKET..).zip(before.buckets.iter().zip(&now.buckets)) {
            let count = u64::from(now.wrapping_sub(*before));
            entry.duration.add(bucket, count, 0);
            exchanges += count;
        }
        entry.duration.add_sum(now.duration_ns.wrapping_sub(before.duration_ns));
        let bytes = |now: u64, before: u64| now.wrapping_sub(before);
        entry.request_bytes =
            entry.request_bytes.saturating_add(bytes(now.request_bytes, before.request_bytes));
        entry.response_bytes =
            entry.response_bytes.saturating_add(bytes(now.response_bytes, before.response_bytes));
        self.version += 1;
        self.recorded += exchanges;
        entry.changed = self.version;
        exchanges
    }

    fn peer_index(&mut self, peer: &Peer) -> PeerIndex {
        if let Some(&index) = self.peers.get(peer) {
            return index;
        }
        if self.peers.len() >= PEERS_MAX {
            return PeerIndex::OTHER;
        }
        let index = PeerIndex(u32::try_from(self.peers.len()).unwrap_or(u32::MAX).saturating_add(1));
        self.peers.insert(peer.clone(), index);
        index
    }

    fn find_or_make(
        &mut self,
        key: Key,
        origin: Origin<'_>,
        engine: &ParserContext,
        now_unix_ns: u64,
    ) -> Option<usize> {
        if let Some(&at) = self.index.get(&key) {
            return Some(at as usize);
        }
        if self.entries.len() < SERIES_MAX {
            return Some(self.make(key, origin, engine, now_unix_ns));
        }
        self.folded += 1;
        let [_, no_resource, coarsest] = key.coarser();
        for (candidate, limit) in
            [(no_resource, SERIES_MAX + SERIES_MAX / 8), (coarsest, SERIES_WITH_FOLDED_MAX)]
        {
            if let Some(&at) = self.index.get(&candidate) {
                return Some(at as usize);
            }
            if self.entries.len() < limit {
                return Some(self.make(candidate, origin, engine, now_unix_ns));
            }
        }
        None
    }

    fn make(&mut self, key: Key, origin: Origin<'_>, engine: &ParserContext, now_unix_ns: u64) -> usize {
        let at = self.entries.len();
        self.entries.push(Entry {
            words: words(&key, origin, engine),
            duration: Histogram::default(),
            request_bytes: 0,
            response_bytes: 0,
            start_unix_ns: now_unix_ns,
            changed: 0,
        });
        self.index.insert(key, u32::try_from(at).unwrap_or(u32::MAX));
        at
    }

    /// Changes with every exchange; see [`Self::changed_since`].
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Up to `most` series that changed after `version`, in the form of the wire, and where to go on for the rest.
    pub fn changed_since(
        &self,
        version: u64,
        from: usize,
        most: usize,
    ) -> (Vec<agent::Series>, Option<usize>) {
        let changed = |at: &usize| self.entries.get(*at).is_some_and(|entry| entry.changed > version);
        let mut indexes = (from..self.entries.len()).filter(changed);
        let series = indexes.by_ref().take(most).map(|at| self.to_wire(at)).collect();
        (series, indexes.next())
    }

    fn to_wire(&self, at: usize) -> agent::Series {
        let entry = &self.entries[at];
        agent::Series {
            id: u32::try_from(at).unwrap_or(u32::MAX),
            key: MessageField::some(entry.words.clone()),
            duration: MessageField::some(agent::Histogram::from(&entry.duration)),
            request_bytes: entry.request_bytes,
            response_bytes: entry.response_bytes,
            start_unix_ns: entry.start_unix_ns,
            ..agent::Series::default()
        }
    }

    /// All series, in the form of the wire.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Vec<agent::Series> {
        self.changed_since(0, 0, usize::MAX).0
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Exchanges that became part of a series.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Exchanges that went into a coarser series than their own.
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// Exchanges for which there was no room at all.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn words(key: &Key, origin: Origin<'_>, engine: &ParserContext) -> agent::SeriesKey {
    let name = |symbol| cut(engine.name(symbol).to_owned());
    agent::SeriesKey {
        container_id: cut(origin.container_id.to_owned()),
        protocol: EnumOrUnknown::from_i32(key.protocol.wire()),
        side: EnumOrUnknown::from_i32(key.side.wire()),
        operation: cut_to(name(key.operation), KEY_WORD_MAX),
        resource: name(key.resource),
        status: match key.status {
            Status::None => String::new(),
            Status::Code(code) => code.to_string(),
            Status::Word(word) => cut_to(name(word), KEY_WORD_MAX),
        },
        error: EnumOrUnknown::from_i32(key.error.wire()),
        peer: match key.peer {
            PeerIndex::NONE => String::new(),
            PeerIndex::OTHER => "other".to_owned(),
            _ => cut(origin.peer.to_string()),
        },
        ..agent::SeriesKey::default()
    }
}

/// Cuts a word to what the contract allows.
pub(crate) fn cut(word: String) -> String {
    cut_to(word, KEY_STRING_MAX)
}

fn cut_to(mut word: String, bytes_max: usize) -> String {
    if word.len() > bytes_max {
        word.truncate(word.floor_char_boundary(bytes_max));
    }
    word
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use porthole_l7::{Limits, Timestamp};

    use super::*;

    fn exchange(engine: &mut ParserContext, side: Side, resource: &str, status: u32) -> Exchange {
        Exchange {
            protocol: Protocol::Http1,
            side,
            operation: engine.intern("GET"),
            resource: engine.intern(resource),
            status: Status::Code(status),
            error: ErrorClass::None,
            start: Timestamp(1_000),
            end: Timestamp(2_000_000),
            request_bytes: 10,
            response_bytes: 20,
        }
    }

    fn origin(peer: &Peer) -> Origin<'_> {
        Origin { container: ContainerIndex(1), container_id: "shop-1", peer, details: Details::default() }
    }

    #[test]
    fn equal_exchanges_are_one_series_with_words_looked_up() {
        let (mut table, mut engine) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let exchange = exchange(&mut engine, Side::Client, "/a", 200);
        let peer = Peer::Internet("10.0.0.1:80".parse().expect("address"));
        for _ in 0..3 {
            table.record(&exchange, origin(&peer), &engine, 77);
        }
        let series = table.all();
        let [series] = &series[..] else { panic!("{series:?}") };
        assert_eq!(series.duration.count, 3);
        assert_eq!((series.request_bytes, series.response_bytes, series.start_unix_ns), (30, 60, 77));
        let key = &series.key;
        assert_eq!((&key.container_id[..], &key.operation[..], &key.resource[..]), ("shop-1", "GET", "/a"));
        assert_eq!((&key.status[..], &key.peer[..]), ("200", "10.0.0.1:80"));
    }

    #[test]
    fn a_servers_clients_do_not_make_series() {
        let (mut table, mut engine) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let exchange = exchange(&mut engine, Side::Server, "/a", 200);
        for port in 1..100 {
            let peer = Peer::Internet(format!("10.0.0.1:{port}").parse().expect("address"));
            table.record(&exchange, origin(&peer), &engine, 0);
        }
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn only_what_changed_is_given_out() {
        let (mut table, mut engine) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let (a, b) =
            (exchange(&mut engine, Side::Server, "/a", 200), exchange(&mut engine, Side::Server, "/b", 200));
        table.record(&a, origin(&Peer::Unknown), &engine, 0);
        table.record(&b, origin(&Peer::Unknown), &engine, 0);
        let version = table.version();
        assert!(table.changed_since(version, 0, 9).0.is_empty());
        table.record(&b, origin(&Peer::Unknown), &engine, 0);
        let (changed, rest) = table.changed_since(version, 0, 9);
        assert_eq!((&changed[0].key.resource[..], changed.len(), rest), ("/b", 1, None));
        let (first, rest) = table.changed_since(0, 0, 1);
        let (second, end) = table.changed_since(0, rest.expect("another"), 1);
        assert_eq!((&first[0].key.resource[..], &second[0].key.resource[..], end), ("/a", "/b", None));
    }

    #[test]
    fn beyond_the_bound_exchanges_are_folded_and_counted_and_none_is_lost() {
        let (mut table, mut engine) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let base = exchange(&mut engine, Side::Server, "/a", 200);
        let many = SERIES_WITH_FOLDED_MAX as u32 + 500;
        for code in 0..many {
            let exchange = Exchange { status: Status::Code(code), ..base };
            table.record(&exchange, origin(&Peer::Unknown), &engine, 0);
        }
        assert!(table.len() <= SERIES_WITH_FOLDED_MAX, "{}", table.len());
        assert_eq!(table.folded(), u64::from(many) - SERIES_MAX as u64);
        assert_eq!(table.dropped(), 0);
        let counted: u64 = table.all().iter().map(|series| series.duration.count).sum();
        assert_eq!(counted, u64::from(many));
        let other = table.all().into_iter().find(|series| series.key.operation == "other").expect("a fold");
        assert_eq!((&other.key.resource[..], &other.key.status[..]), ("other", ""));
    }

    #[test]
    fn words_are_cut_to_what_the_contract_allows() {
        assert_eq!(cut("ä".repeat(200)).len(), KEY_STRING_MAX);
        assert_eq!(cut("x".into()), "x");
    }
}
