//! Series: the sums of the exchanges that have a key in common.
//!
//! A key is a few small integers; its labels are written once, when the series is made. The number of series is
//! bounded: what has no room goes into overflow series, whose resource, then also whose operation, status and peer are
//! `other`. When many were not used for a while the table begins anew, in a new epoch ([`SeriesTable::renew`]).

use foldhash::{HashMap, HashMapExt as _};
use porthole_agent_api::{agent, limits::SANDBOX_SERIES_MAX};
use porthole_histogram::Histogram;
use porthole_l7::{Exchange, ParserContext, Side, Status, Symbol};
use protobuf::MessageField;

use super::{
    Origin,
    containers::ContainerIndex,
    key::{Key, PeerIndex},
    labels,
    marks::Marks,
    peers::Peers,
};

/// Most series that are kept; the rest of [`SANDBOX_SERIES_MAX`] is for overflow series.
pub const SERIES_MAX: usize = SANDBOX_SERIES_MAX / 2;

/// Most series in all, overflow series included.
pub const SERIES_WITH_OVERFLOW_MAX: usize = SERIES_MAX + SERIES_MAX / 4;

/// How long a series must not have been used to make room for others, nanoseconds.
const UNUSED_NS: u64 = 10_000_000_000;

/// Least time between two beginnings, nanoseconds: the host gets all series anew.
pub const RENEWAL_INTERVAL_NS: u64 = 30_000_000_000;

/// From this number of series on it is worth to begin anew.
const CROWDED: usize = SERIES_MAX - SERIES_MAX / 8;

/// Unused series for which it is worth to begin anew.
const UNUSED_MIN: usize = SERIES_MAX / 4;

#[derive(Debug)]
struct Entry {
    key: Key,
    labels: agent::SeriesKey,
    duration: Histogram,
    request_bytes: u64,
    response_bytes: u64,
    start_unix_ns: u64,
    /// [`SeriesTable::version`] when it last changed.
    changed: u64,
}

/// Exchanges of one series that were aggregated in the kernel.
#[derive(Debug)]
pub struct Increment<B> {
    /// Sum of the durations, nanoseconds.
    pub duration_ns: u64,
    /// Sum of the requests' sizes, bytes.
    pub request_bytes: u64,
    /// Sum of the responses' sizes, bytes.
    pub response_bytes: u64,
    /// Exchanges by bucket: index and number.
    pub buckets: B,
}

/// Where an exchange is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The series' place in the table.
    pub at: usize,
    /// The exchange counts as one that overflowed: this is not the series of its own key, or its peer or one of its names is
    /// `other` because there was no room.
    pub overflows: bool,
}

/// What a series is called, beyond the table that it is in.
#[derive(Clone, Debug)]
pub struct NamedSeries {
    key: Key,
    labels: agent::SeriesKey,
}

/// Names that the exchanges of a series have, and the container that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesNames {
    /// The container.
    pub container: ContainerIndex,
    /// Operation, resource, and the status where it is a word.
    pub symbols: [Symbol; 3],
}

impl SeriesNames {
    fn of(key: &Key) -> Self {
        let status = if let Status::Word(word) = key.status { word } else { Symbol::NONE };
        Self { container: key.container, symbols: [key.operation, key.resource, status] }
    }
}

impl NamedSeries {
    /// Its names.
    pub fn names(&self) -> SeriesNames {
        SeriesNames::of(&self.key)
    }
}

/// All series of this agent.
#[derive(Debug)]
pub struct SeriesTable {
    index: HashMap<Key, u32>,
    entries: Vec<Entry>,
    peers: Peers,
    version: u64,
    marks: Marks,
    /// When it began anew, nanoseconds; and since 1970.
    renewed_ns: u64,
    renewed_unix_ns: u64,
    overflowed: u64,
    dropped: u64,
    recorded: u64,
    bytes: u64,
}

impl Default for SeriesTable {
    fn default() -> Self {
        Self {
            index: HashMap::new(),
            entries: Vec::new(),
            peers: Peers::default(),
            version: 1,
            marks: Marks::default(),
            renewed_ns: 0,
            renewed_unix_ns: 0,
            overflowed: 0,
            dropped: 0,
            recorded: 0,
            bytes: 0,
        }
    }
}

impl SeriesTable {
    /// Adds an exchange, seen at `now`, nanoseconds since 1970; gives its series.
    pub fn record(
        &mut self,
        exchange: &Exchange,
        origin: Origin<'_>,
        context: &ParserContext,
        now_unix_ns: u64,
    ) -> Option<Place> {
        let peer = match exchange.side {
            // A server's peers are the short-lived ports of its clients.
            Side::Server => PeerIndex::NONE,
            Side::Client => self.peers.index(origin.peer, exchange.end.0),
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
        let labels = |key: &Key| labels::labels(key, &origin, context);
        let Some(mut place) = self.find_or_make(key, now_unix_ns, labels) else {
            self.dropped += 1;
            return None;
        };
        place.overflows |= exchange.overflowed;
        self.overflowed += u64::from(place.overflows);
        self.version += 1;
        self.recorded += 1;
        self.bytes = self.bytes.saturating_add(exchange.bytes());
        let entry = &mut self.entries[place.at];
        entry.duration.record(exchange.duration_ns());
        entry.request_bytes = entry.request_bytes.saturating_add(exchange.request_bytes);
        entry.response_bytes = entry.response_bytes.saturating_add(exchange.response_bytes);
        entry.changed = self.version;
        Some(place)
    }

    /// Exchanges of a series for which there is no room; gives their number.
    pub fn drop_exchanges(&mut self, increment: Increment<impl Iterator<Item = (i32, u64)>>) -> u64 {
        let exchanges = increment.buckets.map(|(_, count)| count).sum();
        self.dropped += exchanges;
        exchanges
    }

    /// Adds exchanges to a series; gives their number.
    pub fn add(&mut self, place: Place, increment: Increment<impl Iterator<Item = (i32, u64)>>) -> u64 {
        let Some(entry) = self.entries.get_mut(place.at) else { return 0 };
        let mut exchanges = 0;
        for (bucket, count) in increment.buckets {
            entry.duration.add(bucket, count, 0);
            exchanges += count;
        }
        entry.duration.add_sum(increment.duration_ns);
        entry.request_bytes = entry.request_bytes.saturating_add(increment.request_bytes);
        entry.response_bytes = entry.response_bytes.saturating_add(increment.response_bytes);
        self.version += 1;
        self.recorded += exchanges;
        self.bytes =
            self.bytes.saturating_add(increment.request_bytes).saturating_add(increment.response_bytes);
        entry.changed = self.version;
        if place.overflows {
            self.overflowed += exchanges;
        }
        exchanges
    }

    /// The series of a key; `labels` are written for the key that it gets when it is made.
    fn find_or_make(
        &mut self,
        key: Key,
        now_unix_ns: u64,
        labels: impl Fn(&Key) -> agent::SeriesKey,
    ) -> Option<Place> {
        let own = |at| Some(Place { at, overflows: key.peer == PeerIndex::OTHER });
        let other = |at| Some(Place { at, overflows: true });
        if let Some(&at) = self.index.get(&key) {
            return own(at as usize);
        }
        if self.entries.len() < SERIES_MAX {
            return own(self.make(key, labels(&key), now_unix_ns));
        }
        let [_, no_resource, coarsest] = key.coarser();
        for (candidate, limit) in
            [(no_resource, SERIES_MAX + SERIES_MAX / 8), (coarsest, SERIES_WITH_OVERFLOW_MAX)]
        {
            if let Some(&at) = self.index.get(&candidate) {
                return other(at as usize);
            }
            if self.entries.len() < limit {
                return other(self.make(candidate, labels(&candidate), now_unix_ns));
            }
        }
        None
    }

    fn make(&mut self, key: Key, labels: agent::SeriesKey, now_unix_ns: u64) -> usize {
        let at = self.entries.len();
        self.entries.push(Entry {
            key,
            labels,
            duration: Histogram::default(),
            request_bytes: 0,
            response_bytes: 0,
            start_unix_ns: now_unix_ns,
            changed: 0,
        });
        self.index.insert(key, u32::try_from(at).unwrap_or(u32::MAX));
        at
    }

    /// What a series is called.
    pub fn named(&self, series: usize) -> Option<NamedSeries> {
        self.entries.get(series).map(|entry| NamedSeries { key: entry.key, labels: entry.labels.clone() })
    }

    /// The series of that name, which an earlier table had; none when there is no room.
    pub fn again(&mut self, named: &NamedSeries) -> Option<Place> {
        let labels = |key: &Key| labels::coarsened(&named.labels, &named.key, key);
        self.find_or_make(named.key, self.renewed_unix_ns, labels)
    }

    /// The names of a series, and the container that has them.
    pub fn names(&self, series: usize) -> Option<SeriesNames> {
        self.entries.get(series).map(|entry| SeriesNames::of(&entry.key))
    }

    /// Whether it is crowded, while many series were not used for a while. Call it every few seconds.
    pub fn is_worth_renewal(&mut self, now_ns: u64) -> bool {
        self.marks.observe(self.version, now_ns, UNUSED_NS);
        let unused = || self.entries.iter().filter(|entry| entry.changed <= self.marks.older).count();
        self.entries.len() >= CROWDED
            && now_ns.saturating_sub(self.renewed_ns) >= RENEWAL_INTERVAL_NS
            && unused() >= UNUSED_MIN
    }

    /// Begins anew, without series: of those that are still used there will be others. Gives the table before. The counts of all
    /// exchanges and the version go on.
    #[must_use]
    pub fn renew(&mut self, now_ns: u64, now_unix_ns: u64) -> Self {
        let new = Self {
            peers: std::mem::take(&mut self.peers),
            version: self.version,
            renewed_ns: now_ns,
            renewed_unix_ns: now_unix_ns,
            overflowed: self.overflowed,
            dropped: self.dropped,
            recorded: self.recorded,
            bytes: self.bytes,
            ..Self::default()
        };
        std::mem::replace(self, new)
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
            key: MessageField::some(entry.labels.clone()),
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

    /// Bytes of requests and responses of these.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Exchanges that went into an overflow series.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Exchanges for which there was no room at all.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use porthole_l7::{Limits, Status};

    use super::*;
    use crate::recorder::{
        peer::Peer,
        testing::{exchange, origin},
    };

    #[test]
    fn equal_exchanges_are_one_series_with_its_labels() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let exchange = exchange(&mut context, Side::Client, "/a", 200);
        let peer = Peer::Internet("10.0.0.1:80".parse().expect("address"));
        for _ in 0..3 {
            table.record(&exchange, origin(&peer), &context, 77);
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
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let exchange = exchange(&mut context, Side::Server, "/a", 200);
        for port in 1..100 {
            let peer = Peer::Internet(format!("10.0.0.1:{port}").parse().expect("address"));
            table.record(&exchange, origin(&peer), &context, 0);
        }
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn only_what_changed_is_given_out() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let (a, b) = (
            exchange(&mut context, Side::Server, "/a", 200),
            exchange(&mut context, Side::Server, "/b", 200),
        );
        table.record(&a, origin(&Peer::Unknown), &context, 0);
        table.record(&b, origin(&Peer::Unknown), &context, 0);
        let version = table.version();
        assert!(table.changed_since(version, 0, 9).0.is_empty());
        table.record(&b, origin(&Peer::Unknown), &context, 0);
        let (changed, rest) = table.changed_since(version, 0, 9);
        assert_eq!((&changed[0].key.resource[..], changed.len(), rest), ("/b", 1, None));
        let (first, rest) = table.changed_since(0, 0, 1);
        let (second, end) = table.changed_since(0, rest.expect("another"), 1);
        assert_eq!((&first[0].key.resource[..], &second[0].key.resource[..], end), ("/a", "/b", None));
    }

    #[test]
    fn a_crowded_table_begins_anew_when_many_series_are_unused() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let base = exchange(&mut context, Side::Server, "/a", 200);
        let record = |table: &mut SeriesTable, code| {
            let exchange = Exchange { status: Status::Code(code), ..base };
            table.record(&exchange, origin(&Peer::Unknown), &context, 0).expect("room").at
        };
        let kept = record(&mut table, 0);
        let named = table.named(kept).expect("a series");
        for code in 1..SERIES_MAX as u32 + 9 {
            record(&mut table, code);
        }
        let before = (table.overflowed(), table.recorded(), table.bytes());
        assert_eq!(before.0, 9);
        let mut now = RENEWAL_INTERVAL_NS;
        assert!(!table.is_worth_renewal(now), "all were used just now");
        now += UNUSED_NS;
        assert!(table.is_worth_renewal(now));
        let ended = table.renew(now, 0);
        assert_eq!((ended.len(), table.len(), table.is_worth_renewal(now)), (SERIES_MAX + 9, 0, false));
        assert_eq!((table.overflowed(), table.recorded(), table.bytes()), before);
        // What the programs in the kernel still aggregate, and what is new, have series of their own.
        let again = table.again(&named).expect("room").at;
        assert_eq!(record(&mut table, 0), again);
        record(&mut table, SERIES_MAX as u32 + 9);
        let series = table.all();
        let statuses: Vec<&str> = series.iter().map(|series| &series.key.status[..]).collect();
        assert_eq!(statuses, ["0", "2057"]);
    }

    #[test]
    fn a_series_that_finds_no_room_again_is_an_overflow_series() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let base = exchange(&mut context, Side::Server, "/a", 200);
        let fill = |table: &mut SeriesTable, codes: std::ops::Range<u32>| {
            for code in codes {
                let exchange = Exchange { status: Status::Code(code), ..base };
                table.record(&exchange, origin(&Peer::Unknown), &context, 0).expect("room");
            }
        };
        fill(&mut table, 0..1);
        let named = table.named(0).expect("a series");
        let _ = table.renew(0, 0);
        fill(&mut table, 1..SERIES_MAX as u32 + 1);
        let again = table.again(&named).expect("room");
        let other = table.named(again.at).expect("a series").labels;
        assert_eq!((&other.operation[..], &other.resource[..], &other.status[..]), ("GET", "other", "0"));
        // What the programs in the kernel add to it is counted, and not that it was made.
        assert_eq!(table.overflowed(), 0);
        let buckets = [(1, 5), (2, 2)].into_iter();
        table.add(again, Increment { duration_ns: 9, request_bytes: 0, response_bytes: 0, buckets });
        assert_eq!(table.overflowed(), 7);
    }

    #[test]
    fn an_exchange_with_a_peer_and_a_series_too_many_is_counted_once() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let base = exchange(&mut context, Side::Client, "/a", 200);
        let peer = |number: u32| Peer::Internet((std::net::Ipv4Addr::from_bits(number), 80).into());
        let numbers = || (1..).zip(0..SERIES_MAX as u32 + 10);
        for (peer_number, code) in numbers() {
            let exchange = Exchange { status: Status::Code(code), ..base };
            table.record(&exchange, origin(&peer(peer_number)), &context, 0);
        }
        // Most peers are too many, and so are ten series.
        let peers = table.all().iter().filter(|series| series.key.peer != "other").count();
        let many = SERIES_MAX as u64 + 10;
        assert!(peers > 0 && table.overflowed() + peers as u64 == many, "{} of {many}", table.overflowed());
        // So is one whose names have no room either.
        let (resource, status) = (Symbol::OTHER, Status::Code(9_999));
        let exchange = Exchange { resource, status, overflowed: true, ..base };
        let before = table.overflowed();
        table.record(&exchange, origin(&peer(9_999)), &context, 0);
        assert_eq!(table.overflowed(), before + 1);
        // What the programs in the kernel add counts as the exchange before it does.
        let increment = |buckets| Increment { duration_ns: 9, request_bytes: 0, response_bytes: 0, buckets };
        let mut added = 0;
        for (peer_number, overflowed, status) in [
            (1, false, 0),
            (1, false, SERIES_MAX as u32 + 9),
            (9_999, false, 1),
            (1, true, 0),
            (9_999, true, SERIES_MAX as u32 + 8),
        ] {
            let exchange = Exchange { overflowed, status: Status::Code(status), ..base };
            let before = table.overflowed();
            let place = table.record(&exchange, origin(&peer(peer_number)), &context, 0).expect("room");
            let once = table.overflowed() - before;
            table.add(place, increment([(1, 5)].into_iter()));
            assert_eq!(table.overflowed() - before, 6 * once, "{place:?}");
            added += once;
        }
        assert_eq!(added, 4);
    }

    #[test]
    fn beyond_the_bound_exchanges_overflow_and_are_counted_and_none_is_lost() {
        let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
        let base = exchange(&mut context, Side::Server, "/a", 200);
        let many = SERIES_WITH_OVERFLOW_MAX as u32 + 500;
        for code in 0..many {
            let exchange = Exchange { status: Status::Code(code), ..base };
            table.record(&exchange, origin(&Peer::Unknown), &context, 0);
        }
        assert!(table.len() <= SERIES_WITH_OVERFLOW_MAX, "{}", table.len());
        assert_eq!(table.overflowed(), u64::from(many) - SERIES_MAX as u64);
        assert_eq!(table.dropped(), 0);
        let counted: u64 = table.all().iter().map(|series| series.duration.count).sum();
        assert_eq!(counted, u64::from(many));
        let other = table
            .all()
            .into_iter()
            .find(|series| series.key.operation == "other")
            .expect("an overflow series");
        assert_eq!((&other.key.resource[..], &other.key.status[..]), ("other", ""));
    }
}
