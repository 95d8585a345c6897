//! The golden values of an application: requests, errors and durations by side and protocol.

use porthole_histogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{
    cost,
    values::{histogram_at_least, histogram_since},
};
use crate::protocol::{ErrorClass, Protocol, Side};

/// Values of one side of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Golden {
    /// Durations of all requests; their number is the number of requests.
    pub durations: Histogram,
    /// Failed requests.
    pub errors: Errors,
    /// Requests of which it is not known whether they failed: their status is missing.
    pub unknown: u64,
}

impl Golden {
    /// Adds requests of one class of outcome; none when it is not known.
    pub fn count(&mut self, error: Option<ErrorClass>, durations: &Histogram) {
        self.durations.merge(durations);
        match error {
            Some(class) => self.errors.add(class, durations.count()),
            None => self.unknown = self.unknown.saturating_add(durations.count()),
        }
    }

    /// Requests of which it is known whether they failed: a rate of errors is a share of these.
    pub fn known(&self) -> u64 {
        self.durations.count().saturating_sub(self.unknown)
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.durations.merge(&other.durations);
        for class in ErrorClass::ALL {
            self.errors.add(class, other.errors.of(class));
        }
        self.unknown = self.unknown.saturating_add(other.unknown);
    }

    /// What came since `earlier`; `None` when anything went backwards.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            durations: histogram_since(&self.durations, &earlier.durations)?,
            errors: Errors {
                client: self.errors.client.checked_sub(earlier.errors.client)?,
                server: self.errors.server.checked_sub(earlier.errors.server)?,
                no_response: self.errors.no_response.checked_sub(earlier.errors.no_response)?,
            },
            unknown: self.unknown.checked_sub(earlier.unknown)?,
        })
    }
}

/// Failed requests, by whose fault it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// The request's.
    pub client: u64,
    /// The server's.
    pub server: u64,
    /// No response came.
    pub no_response: u64,
}

impl Errors {
    /// All failed requests.
    pub fn total(self) -> u64 {
        self.client.saturating_add(self.server).saturating_add(self.no_response)
    }

    /// Adds `count` failures of a class.
    pub fn add(&mut self, class: ErrorClass, count: u64) {
        let slot = match class {
            ErrorClass::None => return,
            ErrorClass::Client => &mut self.client,
            ErrorClass::Server => &mut self.server,
            ErrorClass::NoResponse => &mut self.no_response,
        };
        *slot = slot.saturating_add(count);
    }

    /// The failures of a class.
    pub fn of(self, class: ErrorClass) -> u64 {
        match class {
            ErrorClass::None => 0,
            ErrorClass::Client => self.client,
            ErrorClass::Server => self.server,
            ErrorClass::NoResponse => self.no_response,
        }
    }

    fn at_least(self, floor: Self) -> Self {
        Self {
            client: self.client.max(floor.client),
            server: self.server.max(floor.server),
            no_response: self.no_response.max(floor.no_response),
        }
    }
}

/// Golden values by side and protocol, in the order of both. Bounded: two sides of the known protocols. Most tables have one
/// entry or two, and each sandbox has a table: a map would take the nodes of eleven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoldenTable(Vec<Row>);

/// Side, protocol and their values.
type Row = ((Side, Protocol), Golden);

impl GoldenTable {
    /// Memory that a table takes for one side of one protocol, bytes.
    pub const ROW_BYTES: usize = size_of::<Row>();

    /// Adds requests of one class of outcome; none when it is not known.
    pub fn record(
        &mut self,
        side: Side,
        protocol: Protocol,
        error: impl Into<Option<ErrorClass>>,
        durations: &Histogram,
    ) {
        self.entry((side, protocol)).count(error.into(), durations);
    }

    /// Adds a whole table.
    pub fn add(&mut self, other: &Self) {
        for (key, values) in &other.0 {
            self.insert_added(*key, values);
        }
    }

    /// Adds the values of one side of one protocol.
    pub fn insert_added(&mut self, key: (Side, Protocol), values: &Golden) {
        self.entry(key).add(values);
    }

    /// The larger of both everywhere: what is known of an epoch while its agent sends it again.
    #[must_use]
    pub fn at_least(&self, floor: &Self) -> Self {
        let mut larger = self.clone();
        for (key, floor) in &floor.0 {
            let golden = larger.entry(*key);
            golden.durations = histogram_at_least(&golden.durations, &floor.durations);
            golden.errors = golden.errors.at_least(floor.errors);
            golden.unknown = golden.unknown.max(floor.unknown);
        }
        larger
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let rows = cost::block(self.0.capacity() * size_of::<Row>());
        rows + self.0.iter().map(|(_, golden)| cost::histogram(&golden.durations)).sum::<usize>()
    }

    /// Sides of protocols that have values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one side of one protocol has values.
    pub fn has(&self, side: Side, protocol: Protocol) -> bool {
        self.place((side, protocol)).is_ok()
    }

    /// Every side of every protocol that has values.
    pub fn iter(&self) -> impl Iterator<Item = (Side, Protocol, &Golden)> {
        self.0.iter().map(|((side, protocol), golden)| (*side, *protocol, golden))
    }

    fn place(&self, key: (Side, Protocol)) -> Result<usize, usize> {
        self.0.binary_search_by_key(&key, |(known, _)| *known)
    }

    fn entry(&mut self, key: (Side, Protocol)) -> &mut Golden {
        let at = self.place(key).unwrap_or_else(|at| {
            self.0.reserve_exact(1);
            self.0.insert(at, (key, Golden::default()));
            at
        });
        &mut self.0[at].1
    }

    /// Whether nothing was ever counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
