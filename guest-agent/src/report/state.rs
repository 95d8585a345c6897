//! What the capture loop writes and the service reads.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use porthole_agent_api::agent;
use tokio::sync::watch;

use crate::recorder::Recorder;

/// Exits that a slow watcher still gets one by one.
const EXITS_MAX: usize = 64;

/// Says that something changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signal {
    /// [`crate::recorder::SeriesTable::version`].
    pub version: u64,
    /// Number of container exits so far.
    pub exits: u64,
    /// The agent ends: what is not sent now is lost.
    pub ending: bool,
}

/// What is known at a moment.
#[derive(Debug, Default)]
pub struct State {
    /// Series and spans.
    pub recorder: Recorder,
    /// What was seen, lost and not parsed.
    pub counters: agent::Counters,
    /// Connections that are followed.
    pub connections: u64,
    /// What this kernel or configuration does not allow, one sentence each.
    pub limitations: Vec<String>,
    /// Containers that exited, with the number of the exit.
    exits: VecDeque<(u64, String)>,
    exits_seen: u64,
    ending: bool,
}

impl State {
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

    /// What [`Shared::subscribe`] would say now.
    pub fn signal(&self) -> Signal {
        Signal { version: self.recorder.series.version(), exits: self.exits_seen, ending: self.ending }
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

    /// Tells the watchers if something changed.
    pub fn publish(&self, signal: Signal) {
        self.signal.send_if_modified(|last| std::mem::replace(last, signal) != signal);
    }

    /// Waits until no stream is open any more; each ends when it has sent what there was when the agent began to end.
    pub async fn streams_closed(&self) {
        self.signal.closed().await;
    }

    /// Hears of changes.
    pub fn subscribe(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
