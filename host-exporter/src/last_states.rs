//! The last states of agents, which companions leave in the registry (`porthole_registry::last_state`): each is counted once,
//! and removed when the ledger holds what was counted.
//!
//! A last state has the values of whole epochs, so that what an agent's connection has brought before is in it, and counting it
//! again changes nothing. Where the exporter ends between counting and removing, the next one finds the sandbox with its epochs in
//! the ledger. Its batches are a guest's bytes, and go through what batches from a connection go through.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

use porthole_agent_api::{agent::Batch, limits::BATCH_BYTES_MAX};
use porthole_registry::last_state::{self, KeptBatch, LastState, LastStateError, LastStateName};
use protobuf::Message as _;

use crate::{
    agent::{inspect, session, session::Received},
    fleet::{
        Fleet,
        sandbox::{Phase, Sandbox},
    },
    metering,
    rejection::Rejection,
};

/// The last states of a registry.
#[derive(Debug)]
pub struct LastStates {
    directory: PathBuf,
    fleet: Arc<Fleet>,
    /// Those that were counted, or cannot be, and are still there; with the changes that the ledger must hold before
    /// they go.
    done: HashMap<LastStateName, u64>,
}

impl LastStates {
    /// Last states in this directory.
    pub fn new(directory: PathBuf, fleet: Arc<Fleet>) -> Self {
        Self { directory, fleet, done: HashMap::new() }
    }

    /// Counts one, if that was not done before, and ends its sandbox.
    pub async fn count(&mut self, name: &LastStateName) {
        if self.done.contains_key(name) {
            return;
        }
        let (directory, of) = (self.directory.clone(), name.clone());
        let read = tokio::task::spawn_blocking(move || LastState::read(&directory, &of)).await;
        match read {
            Ok(Ok(state)) => {
                count(&self.fleet, &state);
                self.done.insert(name.clone(), self.fleet.changes());
            }
            Ok(Err(LastStateError::Io(error))) if error.kind() == io::ErrorKind::NotFound => {}
            // It is tried again.
            Ok(Err(LastStateError::Io(error))) => {
                tracing::warn!(sandbox = %name.sandbox, %error, "an agent's last state cannot be read");
            }
            Ok(Err(error)) => {
                tracing::error!(sandbox = %name.sandbox, %error, "an agent's last state is not counted");
                self.fleet.own.last_states_unusable.inc();
                self.done.insert(name.clone(), 0);
            }
            Err(error) => tracing::error!(%error, "reading an agent's last state failed"),
        }
    }

    /// The changes that the ledger must hold before the next ones can go; none when there are none.
    pub fn next_removal(&self) -> Option<u64> {
        self.done.values().min().copied()
    }

    /// Removes those that the ledger holds, and forgets those that are gone.
    pub fn remove(&mut self, saved: u64, present: Option<&[LastStateName]>) {
        self.done.retain(|name, changes| {
            if present.is_some_and(|present| !present.contains(name)) {
                return false;
            }
            if *changes > saved {
                return true;
            }
            match last_state::remove(&self.directory, name) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => {
                    // It stays known as counted.
                    tracing::warn!(sandbox = %name.sandbox, %error, "an agent's last state cannot be removed");
                    *changes = u64::MAX;
                    true
                }
            }
        });
    }
}

/// Counts what an agent reported last.
fn count(fleet: &Fleet, state: &LastState) {
    let record = Arc::new(state.record.clone());
    let sandbox = fleet.find(&record).unwrap_or_else(|| fleet.register(&record));
    let goes_on = sandbox.created_unix_ms() != state.record.created_unix_ms;
    if !goes_on {
        sandbox.describe(&record);
    }
    // One whose series are forgotten was counted before.
    if !matches!(sandbox.phase(), Phase::Remembered { .. }) {
        let began = metering::thread_cpu_time();
        count_batches(fleet, &sandbox, &state.batches);
        // There is no agent to hold back; what the tenant's other agents may spend is less for it.
        sandbox.spend_cpu(metering::thread_cpu_time().saturating_sub(began));
        fleet.own.last_states.inc();
        if state.truncated {
            fleet.own.last_states_truncated.inc();
        }
    }
    if !goes_on {
        fleet.end(&sandbox);
    }
    fleet.changed();
    tracing::info!(sandbox = %state.record.key(), tenant = %state.record.tenant, "counted its agent's last state");
}

fn count_batches(fleet: &Fleet, sandbox: &Sandbox, batches: &[KeptBatch]) {
    let running = sandbox.accumulator.lock().epoch();
    let mut epochs = Vec::new();
    for batch in batches {
        if !epochs.contains(&batch.epoch) {
            epochs.push(batch.epoch);
        }
    }
    // The one that is known first: once another one has begun, it does not come back.
    epochs.sort_by_key(|epoch| running != Some(*epoch));
    for epoch in epochs {
        // One that was left has been counted.
        if sandbox.change(|accumulator| accumulator.begin_epoch(epoch)).is_err() {
            continue;
        }
        let mut received = Received::out_of_order();
        for batch in batches.iter().filter(|batch| batch.epoch == epoch) {
            if sandbox.misbehaves() {
                return;
            }
            sandbox.spend_ingest(batch.bytes.len());
            match decode(&batch.bytes) {
                Ok(batch) => session::take_batch(fleet, sandbox, epoch, &mut received, batch),
                Err(rejection) => sandbox.reject(rejection),
            }
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Batch, Rejection> {
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(Rejection::BatchTooLarge);
    }
    inspect::batch(bytes)?;
    Batch::parse_from_bytes(bytes).map_err(|_| Rejection::BatchMalformed)
}
