//! Agents' epochs: what is carried over from one to the next, and what is not.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use porthole_agent_api::limits::SANDBOX_SERIES_MAX;

use super::{Accumulator, CLOSED_EPOCHS_MAX, exposed_entry};
use crate::{
    accumulate::{cost, exposed::Exposed, predecessor::Predecessor},
    rejection::Rejection,
};

impl Accumulator {
    /// Begins an agent's epoch, unless it runs already. An epoch that was left does not come back.
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<(), Rejection> {
        if self.epoch == Some(epoch) {
            if std::mem::take(&mut self.carried_is_final) {
                // The agent will report again what is among the carried values.
                self.forget_series();
            }
            return Ok(());
        }
        if self.closed_epochs.contains(&epoch) {
            return Err(Rejection::EpochReturned);
        }
        if let Some(before) = self.epoch.replace(epoch) {
            if self.closed_epochs.len() == CLOSED_EPOCHS_MAX {
                self.closed_epochs.pop_front();
            }
            self.closed_epochs.push_back(before);
            self.close_epoch();
        }
        Ok(())
    }

    fn close_epoch(&mut self) {
        if !self.caught_up() {
            // What an earlier run exposed of this epoch is lost: going on from the values of the epochs before it would
            // look like requests of now, starting over is what Prometheus takes for what it is.
            self.forget_series();
        }
        self.carried_is_final = false;
        self.reports_again = false;
        self.totals.close_epoch();
        if self.is_crowded() {
            self.forget_unused();
        }
        self.series_bytes = 0;
        for (key, exposed) in self.exposed.values_mut().flat_map(BTreeMap::iter_mut) {
            let mut values = exposed.values(&self.by_id).map(Cow::into_owned).unwrap_or_default();
            values.durations.shrink();
            *exposed = Exposed::carrying(values);
            self.series_bytes += exposed_entry(key) + exposed.bytes();
        }
        self.budget().release_tracked(self.by_id.len());
        self.by_id = HashMap::new();
        self.unlisted = BTreeMap::new();
        self.predecessor = Predecessor::default();
        self.carried_is_unwritten = self.exposed_count > 0;
        self.settle();
    }

    /// Whether series of the next epoch might find no room.
    fn is_crowded(&self) -> bool {
        let has_room = self.budget().take_exposed();
        if has_room {
            self.budget().release_exposed(1);
        }
        !has_room || self.exposed_count > SANDBOX_SERIES_MAX / 2
    }

    /// Forgets the exposed series of which the epoch that ends had nothing. One that comes back begins at zero, which Prometheus
    /// takes for a counter's reset.
    fn forget_unused(&mut self) {
        let before = self.exposed_count;
        let Self { exposed, exposed_bytes, exposed_count, identity_labels, .. } = self;
        for group in exposed.values_mut() {
            group.retain(|key, exposed| {
                let is_used = exposed.members > 0;
                if !is_used {
                    *exposed_bytes -= cost::exposed_series(key, *identity_labels);
                    *exposed_count -= 1;
                }
                is_used
            });
        }
        self.budget().release_exposed(before - self.exposed_count);
    }

    /// The carried values are in the ledger, as of this epoch. Where they cannot be written they are shown all the same.
    pub fn carried_written(&mut self, epoch: Option<u64>) {
        if self.epoch == epoch {
            self.carried_is_unwritten = false;
        }
    }
}
