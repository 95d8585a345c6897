//! Connections to one address: how many were made and how long that took, how many failed, and how they went.

use porthole_agent_api::dependencies::Failure;
use porthole_histogram::Histogram;

use crate::accumulate::{
    cost,
    golden::{Errors, Golden},
};

/// Counts by reason.
pub type Failures = [u64; Failure::ALL.len()];

/// Connections to one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Time until they were made.
    pub made: Histogram,
    /// Attempts that failed.
    pub failed: Failures,
    /// Connections that did not end by being closed.
    pub broken: Failures,
    /// Segments that were sent again.
    pub retransmitted_segments: u64,
    /// Smoothed time of a round trip of the one that ended last, microseconds; 0 before the first.
    pub round_trip_us: u32,
}

impl Connections {
    fn counts(&self) -> impl Iterator<Item = u64> {
        let single = [self.made.count(), self.retransmitted_segments];
        single.into_iter().chain(self.failed).chain(self.broken)
    }

    /// As values of calls: durations are the times until connections were made; attempts that failed got no response; connections
    /// that broke are failures of the server.
    pub(super) fn golden(&self) -> Golden {
        let sum = |counts: &Failures| counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let errors = Errors { client: 0, server: sum(&self.broken), no_response: sum(&self.failed) };
        Golden { durations: self.made.clone(), errors, ..Golden::default() }
    }

    /// Adds those of another container or sandbox to the same address; of the times of a round trip the longest stays.
    pub fn add(&mut self, other: &Self) {
        self.made.merge(&other.made);
        let both = [(&mut self.failed, &other.failed), (&mut self.broken, &other.broken)];
        for (sum, counts) in both {
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum = sum.saturating_add(*count);
            }
        }
        self.retransmitted_segments =
            self.retransmitted_segments.saturating_add(other.retransmitted_segments);
        self.round_trip_us = self.round_trip_us.max(other.round_trip_us);
    }

    /// Whether no count is smaller than an earlier one.
    pub(super) fn is_since(&self, earlier: &Self) -> bool {
        self.counts().zip(earlier.counts()).all(|(now, before)| now >= before)
    }
    /// Bytes that depend on the values.
    pub(super) fn bytes(&self) -> usize {
        cost::histogram(&self.made)
    }
}
