//! The golden values of an application: requests, errors and durations by side and protocol.

use std::collections::BTreeMap;

use porthole_histogram::Histogram;
use serde::{Deserialize, Serialize};

use super::values::histogram_at_least;
use crate::protocol::{ErrorClass, Protocol, Side};

/// Values of one side of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Golden {
    /// Durations of all requests; their number is the number of requests.
    pub durations: Histogram,
    /// Failed requests.
    pub errors: Errors,
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

/// Golden values by side and protocol. Bounded: two sides of the known protocols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoldenTable(BTreeMap<(Side, Protocol), Golden>);

impl GoldenTable {
    /// Adds requests of one class of outcome.
    pub fn record(&mut self, side: Side, protocol: Protocol, error: ErrorClass, durations: &Histogram) {
        let golden = self.0.entry((side, protocol)).or_default();
        golden.durations.merge(durations);
        golden.errors.add(error, durations.count());
    }

    /// Adds a whole table.
    pub fn add(&mut self, other: &Self) {
        for (&key, values) in &other.0 {
            self.insert_added(key, values);
        }
    }

    /// Adds the values of one side of one protocol.
    pub fn insert_added(&mut self, key: (Side, Protocol), values: &Golden) {
        let golden = self.0.entry(key).or_default();
        golden.durations.merge(&values.durations);
        for class in ErrorClass::ALL {
            golden.errors.add(class, values.errors.of(class));
        }
    }

    /// The larger of both everywhere: what is known of an epoch while its agent is telling it again.
    #[must_use]
    pub fn at_least(&self, floor: &Self) -> Self {
        let mut larger = self.clone();
        for (&key, floor) in &floor.0 {
            let golden = larger.0.entry(key).or_default();
            golden.durations = histogram_at_least(&golden.durations, &floor.durations);
            golden.errors = golden.errors.at_least(floor.errors);
        }
        larger
    }

    /// Every side of every protocol that has values.
    pub fn iter(&self) -> impl Iterator<Item = (Side, Protocol, &Golden)> {
        self.0.iter().map(|(&(side, protocol), golden)| (side, protocol, golden))
    }

    /// Whether nothing was ever counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
