//! What the capture loop writes and the service reads.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use porthole_agent_api::agent;
use tokio::sync::watch;

use super::epochs::{EndedEpoch, Epoch, counted_since};
use crate::{
    milestones::Milestones,
    recorder::{Recorder, SeriesTable, series::RENEWAL_INTERVAL_NS},
};

/// Exits that a slow watcher still gets one by one.
const EXITS_MAX: usize = 64;

/// Marks a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signal {
    /// [`crate::recorder::SeriesTable::version`].
    pub version: u64,
    /// Number of container exits so far.
    pub exits: u64,
    /// The agent ends: what is not sent now is lost.
    pub ending: bool,
    /// The epoch that runs.
    pub epoch: u64,
    /// How often resources were measured.
    pub samples: u64,
    /// [`crate::recorder::Dependencies::version`].
    pub dependencies: u64,
    /// [`Milestones::version`], and one: a stream begins with them.
    pub milestones: u64,
}

/// What is known at a moment.
#[derive(Debug, Default)]
pub struct State {
    /// Series and spans.
    pub recorder: Recorder,
    /// What was seen, lost and not parsed since the agent's start.
    pub counters: agent::Counters,
    epoch: Epoch,
    /// [`Self::counters`] when the epoch began.
    counters_before: agent::Counters,
    /// The last epoch before.
    ended: Option<EndedEpoch>,
    /// What the containers have reached.
    pub milestones: Milestones,
    /// Connections that are followed.
    pub connections: u64,
    /// What this kernel or configuration does not allow, one sentence each.
    pub limitations: Vec<String>,
    /// Containers that exited, with the number of the exit.
    exits: VecDeque<(u64, String)>,
    exits_seen: u64,
    ending: bool,
    /// What guest and containers took when it was measured last.
    resources: Vec<agent::Resources>,
    samples: u64,
}

/// What belongs to one epoch.
#[derive(Debug)]
pub struct OfEpoch<'a> {
    /// Which one.
    pub epoch: Epoch,
    /// It is over: nothing is added.
    pub is_over: bool,
    /// Its series and spans.
    pub recorder: &'a mut Recorder,
    /// Its counts.
    pub counters: agent::Counters,
}

impl State {
    /// Sets the first epoch.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Whether the next epoch should begin: many series are not used, and the last epoch that ended is no longer wanted. Call it
    /// every few seconds.
    pub fn wants_epoch(&mut self, now_ns: u64) -> bool {
        let lasted = |ended: &mut EndedEpoch| now_ns.saturating_sub(ended.ended_ns) >= RENEWAL_INTERVAL_NS;
        // Its other streams have had the time to send it, too.
        drop(self.ended.take_if(|ended| ended.delivered && lasted(ended)));
        self.recorder.series.is_worth_renewal(now_ns) && self.ended.is_none()
    }

    /// Begins the next epoch; gives the series of the one before.
    pub fn begin_epoch(&mut self, epoch: Epoch, now_ns: u64) -> &SeriesTable {
        let counters = counted_since(&self.counters, &self.counters_before);
        self.counters_before.clone_from(&self.counters);
        let ended = EndedEpoch {
            epoch: std::mem::replace(&mut self.epoch, epoch),
            recorder: self.recorder.renew(now_ns),
            counters,
            ended_ns: now_ns,
            delivered: false,
        };
        &self.ended.insert(ended).recorder.series
    }

    /// The epoch that a host should be sent first: the one that is over, until a host has it.
    pub fn offered(&mut self) -> OfEpoch<'_> {
        let offered = match &self.ended {
            Some(ended) if !ended.delivered => ended.epoch,
            _ => self.epoch,
        };
        self.of_epoch(offered.id).expect("it is either of the two")
    }

    /// What belongs to an epoch: the one that runs, or the one before.
    pub fn of_epoch(&mut self, id: u64) -> Option<OfEpoch<'_>> {
        if id == self.epoch.id {
            return Some(OfEpoch {
                epoch: self.epoch,
                is_over: false,
                recorder: &mut self.recorder,
                counters: counted_since(&self.counters, &self.counters_before),
            });
        }
        let ended = self.ended.as_mut().filter(|ended| ended.epoch.id == id)?;
        Some(OfEpoch {
            epoch: ended.epoch,
            is_over: true,
            recorder: &mut ended.recorder,
            counters: ended.counters.clone(),
        })
    }

    /// A host has all of an epoch that is over.
    pub fn delivered(&mut self, id: u64) {
        if let Some(ended) = self.ended.as_mut().filter(|ended| ended.epoch.id == id) {
            ended.delivered = true;
        }
    }

    /// The agent ends.
    pub fn end(&mut self) {
        self.ending = true;
    }

    /// A container's last process exits.
    pub fn container_exited(&mut self, container_id: String) {
        self.exits_seen += 1;
        if self.exits.len() >= EXITS_MAX {
            self.exits.pop_front();
        }
        self.exits.push_back((self.exits_seen, container_id));
    }

    /// Containers that exited after the exit of this number.
    pub fn exits_after(&self, number: u64) -> Vec<String> {
        self.exits.iter().filter(|(at, _)| *at > number).map(|(_, id)| id.clone()).collect()
    }

    /// Takes what guest and containers take.
    pub fn measured(&mut self, resources: Vec<agent::Resources>) {
        self.resources = resources;
        self.samples += 1;
    }

    /// What guest and containers took when it was measured last, unless that was no later than this sample.
    pub fn resources_after(&self, sample: u64) -> &[agent::Resources] {
        if self.samples > sample { &self.resources } else { &[] }
    }

    /// The current value of [`Shared::subscribe`].
    pub fn signal(&self) -> Signal {
        Signal {
            version: self.recorder.series.version(),
            exits: self.exits_seen,
            ending: self.ending,
            epoch: self.epoch.id,
            samples: self.samples,
            dependencies: self.recorder.dependencies.version(),
            milestones: self.milestones.version() + 1,
        }
    }
}

/// The state, shared within one thread; the lock only satisfies the service's bounds and is never contended.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    signal: watch::Sender<Signal>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), signal: watch::Sender::new(Signal::default()) }
    }
}

impl Shared {
    /// The state. Must not be held across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left sums that are still sums.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies the watchers of a change.
    pub fn publish(&self, signal: Signal) {
        self.signal.send_if_modified(|last| std::mem::replace(last, signal) != signal);
    }

    /// Waits until no stream is open any more; each ends when it has sent what there was when the agent began to end.
    pub async fn streams_closed(&self) {
        self.signal.closed().await;
    }

    /// Whether a host has a stream open.
    pub fn is_watched(&self) -> bool {
        self.signal.receiver_count() > 0
    }

    /// Is notified of changes.
    pub fn subscribe(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use porthole_l7::{Exchange, Limits, ParserContext, Side, Status};

    use super::*;
    use crate::recorder::{
        peer::Peer,
        series::{SERIES_MAX, SERIES_WITH_OVERFLOW_MAX},
        testing::{exchange, origin},
    };

    #[test]
    fn exits_go_once_to_each_watcher_and_are_bounded() {
        let mut state = State::default();
        for n in 0..100 {
            state.container_exited(format!("c{n}"));
        }
        assert_eq!(state.exits_after(0).len(), EXITS_MAX);
        assert_eq!(state.exits_after(98), ["c98", "c99"].map(String::from)[..].to_vec());
        assert!(state.exits_after(state.signal().exits).is_empty());
    }

    #[test]
    fn subscribers_wake_only_for_changes() {
        let shared = Shared::default();
        let mut subscriber = shared.subscribe();
        shared.publish(Signal::default());
        assert!(!subscriber.has_changed().expect("open"));
        shared.publish(Signal { version: 2, ..Signal::default() });
        assert!(subscriber.has_changed().expect("open"));
        assert_eq!(subscriber.borrow_and_update().version, 2);
    }

    /// Exchanges in series, and those of them in overflow series.
    fn counted(recorder: &Recorder) -> [u64; 2] {
        let all = recorder.series.all();
        assert!(all.len() <= SERIES_WITH_OVERFLOW_MAX, "{}", all.len());
        let count = |is_counted: fn(&agent::Series) -> bool| {
            all.iter().filter(|series| is_counted(series)).map(|series| series.duration.count).sum()
        };
        [count(|_| true), count(|series| series.key.resource == "other")]
    }

    /// Every ten seconds some series are no longer used and others are new, and more are in use than have room.
    #[test]
    fn over_epochs_with_too_many_series_in_use_every_exchange_is_in_one_series() {
        const STEP_NS: u64 = 10_000_000_000;
        let in_use = u32::try_from(SERIES_MAX).expect("few") + 600;
        let (mut state, mut context) = (State::default(), ParserContext::new(Limits::default()));
        state.set_epoch(Epoch::beginning_at(1));
        let base = exchange(&mut context, Side::Server, "/a", 200);
        let (mut sent, mut epochs, mut sums) = (0, 0, [0; 2]);
        for (step, now) in (0..40).zip((1..).map(|number| number * STEP_NS)) {
            for code in step * 200..step * 200 + in_use {
                let exchange = Exchange { status: Status::Code(code), ..base };
                state.recorder.record(&exchange, origin(&Peer::Unknown), &context);
                sent += 1;
            }
            if !state.wants_epoch(now) {
                continue;
            }
            epochs += 1;
            state.begin_epoch(Epoch::beginning_at(now), now);
            let ended = state.offered();
            assert!(ended.is_over);
            let of_epoch = counted(ended.recorder);
            let id = ended.epoch.id;
            sums = [0, 1].map(|which| sums[which] + of_epoch[which]);
            state.delivered(id);
        }
        let rest = counted(&state.recorder);
        let sums = [0, 1].map(|which| sums[which] + rest[which]);
        let series = &state.recorder.series;
        assert!(epochs >= 5, "{epochs} epochs");
        assert_eq!(sums, [sent, series.overflowed()]);
        assert_eq!((series.recorded(), series.dropped()), (sent, 0));
    }
}
