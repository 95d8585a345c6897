//! One count for each protocol.

use std::collections::BTreeMap;

use porthole_protocol::Protocol;
use serde::{Deserialize, Serialize};

/// Number of counts: one for each protocol, and one of what has none.
const COUNTS: usize = Protocol::ALL.len() + 1;

/// The name of what has no protocol.
const UNKNOWN: &str = "unknown";

/// The names, in the order of the counts.
fn names() -> impl Iterator<Item = &'static str> {
    Protocol::ALL.iter().map(|protocol| protocol.row().name).chain([UNKNOWN])
}

/// Cumulative counts by protocol; stored and shown by name, those that are not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct ByProtocol([u64; COUNTS]);

impl ByProtocol {
    /// The counts by the protocols' numbers on the wire, where 0 stands for none.
    pub fn from_wire(counts: &[u64]) -> Self {
        let numbers = Protocol::ALL.iter().map(|protocol| protocol.row().wire).chain([0]);
        let mut all = Self::default();
        for (to, number) in all.0.iter_mut().zip(numbers) {
            let count = usize::try_from(number).ok().and_then(|number| counts.get(number));
            *to = count.copied().unwrap_or(0);
        }
        all
    }

    /// Names of protocols and their counts, of those that have any.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        names().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// All together.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds the counts of another agent.
    pub fn add(&mut self, other: &Self) {
        for (to, count) in self.0.iter_mut().zip(other.0) {
            *to = to.saturating_add(count);
        }
    }

    /// What becomes of both, count by count.
    pub(super) fn zipped(&self, other: &Self, of: fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|at| of(self.0[at], other.0[at])))
    }

    /// Whether any count is smaller than before.
    pub fn went_backwards_since(&self, earlier: &Self) -> bool {
        self.0.iter().zip(earlier.0).any(|(now, before)| *now < before)
    }
}

impl From<BTreeMap<String, u64>> for ByProtocol {
    /// Of names that no protocol has any more nothing is kept.
    fn from(counts: BTreeMap<String, u64>) -> Self {
        let mut all = Self::default();
        for (to, name) in all.0.iter_mut().zip(names()) {
            *to = counts.get(name).copied().unwrap_or(0);
        }
        all
    }
}

impl From<ByProtocol> for BTreeMap<String, u64> {
    fn from(counts: ByProtocol) -> Self {
        counts.iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_by_number_and_are_kept_by_name() {
        let counts = ByProtocol::from_wire(&[9, 1, 0, 0, 0, 0, 6]);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [("http1", 1), ("redis", 6), ("unknown", 9)]);
        let text = serde_json::to_string(&counts).expect("written");
        assert_eq!(text, r#"{"http1":1,"redis":6,"unknown":9}"#);
        assert_eq!(serde_json::from_str::<ByProtocol>(&text).expect("read"), counts);
        let unknown = serde_json::from_str::<ByProtocol>(r#"{"gopher":3}"#).expect("read");
        assert_eq!(unknown, ByProtocol::default());
    }

    #[test]
    fn counts_grow_each_by_itself() {
        let (small, large) = (ByProtocol::from_wire(&[0, 1, 5]), ByProtocol::from_wire(&[0, 2, 3]));
        assert!(large.went_backwards_since(&small) && small.went_backwards_since(&large));
        assert_eq!(small.zipped(&large, u64::max), ByProtocol::from_wire(&[0, 2, 5]));
        let mut sum = small;
        sum.add(&large);
        assert_eq!((sum, sum.sum()), (ByProtocol::from_wire(&[0, 3, 8]), 11));
    }
}
