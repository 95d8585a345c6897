//! Epochs: values are comparable within one.
//!
//! ```text
//! the agent starts ─► epoch ─ its table of series is crowded with unused ones ─► the next epoch
//!                       └─ is over ─► kept until a host has all of it
//! ```
//!
//! The table of series begins anew with an epoch, so that series that are not used make room. What the last epoch came to is kept
//! until one stream of `Watch` has sent all of it; before that there is no further epoch. Series, spans and counters of a stream are
//! all of one epoch.

use std::hash::{BuildHasher, RandomState};

use porthole_agent_api::agent::Counters;

use crate::recorder::Recorder;

/// One epoch of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Random.
    pub id: u64,
    /// When it began, nanoseconds since 1970.
    pub start_unix_ns: u64,
}

impl Epoch {
    /// One that begins at that time, nanoseconds since 1970. No other epoch of an agent has its id: the standard library's random
    /// state does not wait for the kernel's random numbers to be of full quality, which takes seconds early in a guest's life, so
    /// the time goes in as well.
    pub fn beginning_at(start_unix_ns: u64) -> Self {
        Self { id: RandomState::new().hash_one(start_unix_ns), start_unix_ns }
    }
}

/// What an epoch came to.
#[derive(Debug)]
pub struct EndedEpoch {
    /// Which one.
    pub epoch: Epoch,
    /// Its series, and its spans that were not taken.
    pub recorder: Recorder,
    /// Its counts.
    pub counters: Counters,
    /// When it ended, nanoseconds of the monotonic clock.
    pub ended_ns: u64,
    /// A host has all of it.
    pub delivered: bool,
}

/// What was counted since `before`.
pub fn counted_since(counters: &Counters, before: &Counters) -> Counters {
    let mut counters = counters.clone();
    let Counters {
        events_captured,
        events_lost,
        messages_seen,
        exchanges,
        unparsed,
        overflowed,
        connections_seen,
        connections_ignored,
        bytes_copied,
        spans_dropped,
        unattached_start_ns,
        unattached_restart_ns,
        exchanges_incomplete,
        bytes_accounted,
        bytes_unaccounted,
        special_fields: _,
    } = before;
    for (now, before) in [
        (&mut counters.events_captured, events_captured),
        (&mut counters.events_lost, events_lost),
        (&mut counters.messages_seen, messages_seen),
        (&mut counters.exchanges, exchanges),
        (&mut counters.unparsed, unparsed),
        (&mut counters.overflowed, overflowed),
        (&mut counters.connections_seen, connections_seen),
        (&mut counters.connections_ignored, connections_ignored),
        (&mut counters.bytes_copied, bytes_copied),
        (&mut counters.spans_dropped, spans_dropped),
        (&mut counters.unattached_start_ns, unattached_start_ns),
        (&mut counters.unattached_restart_ns, unattached_restart_ns),
        (&mut counters.exchanges_incomplete, exchanges_incomplete),
        (&mut counters.bytes_accounted, bytes_accounted),
    ]
    .into_iter()
    .chain(counters.bytes_unaccounted.iter_mut().zip(bytes_unaccounted))
    {
        *now = now.saturating_sub(*before);
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_an_epoch_begin_at_zero() {
        let before = Counters { exchanges: 7, bytes_unaccounted: vec![0, 5], ..Counters::default() };
        let now = Counters { exchanges: 9, unparsed: 1, bytes_unaccounted: vec![1, 6, 2], ..before.clone() };
        let since = counted_since(&now, &before);
        assert_eq!((since.exchanges, since.unparsed), (2, 1));
        assert_eq!(since.bytes_unaccounted, [1, 1, 2]);
        assert_eq!(counted_since(&before, &before).bytes_unaccounted, [0, 0]);
    }

    #[test]
    fn two_epochs_differ() {
        assert_ne!(Epoch::beginning_at(1).id, Epoch::beginning_at(1).id);
    }
}
