//! What the exporter keeps over a restart: the applications' totals, and of every sandbox what it has
//! contributed to them, by epoch.
//!
//! A live agent reports its whole epoch again after a restart; the ledger's values of that epoch are then only a floor,
//! under which the totals do not fall while it does. An agent that ended meanwhile reports nothing: its last known values
//! stay. So a restart neither doubles nor loses. A scrape shows the totals that were written before it ([`store`]), so
//! that not even a crash takes back what was shown.

pub mod file;
mod form;
pub mod store;

use std::{path::Path, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    accumulate::{packed::Packed, predecessor::Predecessor, series::OTHER, totals::Totals},
    clock,
    fleet::{
        Fleet, Retired,
        sandbox::{Phase, Sandbox},
    },
};

pub use self::{
    file::LedgerError,
    store::{Durable, Store},
};

/// Name of the ledger in the state directory.
pub const FILE: &str = "ledger";

/// Opens the ledger and restores the fleet from it. A file that cannot be used is moved aside, with the reason in the log.
pub fn restore(fleet: &Fleet, directory: &Path) -> Result<Store, LedgerError> {
    let store = Store::open(directory)?;
    let read = store.read()?;
    fleet.own.ledger_entries_dropped.inc_by(read.dropped);
    let mut retired = Retired::default();
    for application in read.applications {
        application.restore(&mut retired);
    }
    for tenant in read.tenants {
        tenant.restore(&mut retired);
    }
    fleet.restore_retired(retired);
    let sandboxes = read.sandboxes.len();
    for (entry, series) in read.sandboxes {
        let totals = Totals {
            closed: form::table(entry.closed),
            floor: form::table(entry.current),
            closed_counters: entry.closed_counters,
            floor_counters: entry.current_counters,
            ..Totals::default()
        };
        let (mut carried, mut before) = (Vec::new(), Vec::new());
        for (key, id, values) in series.into_iter().map(form::CarriedSeries::restore) {
            if let Some(key) = key {
                carried.push((key, values));
            } else if let Some(id) = id {
                before.push((id, Packed::from(&values)));
            }
        }
        let predecessor = Predecessor::new(before, entry.counters_before);
        let (names_before, is_former) = (entry.names_before, entry.is_former);
        let budget = fleet.tenant_budget(&entry.identity.tenant);
        let has_ended = entry.ended_unix_ms.is_some();
        let phase = match (entry.ended_unix_ms.map(not_later), entry.remembered) {
            (None, _) => Phase::Live,
            (Some(at_unix_ms), false) => Phase::Ended { at_unix_ms, scrapes: entry.scrapes },
            (Some(at_unix_ms), true) => Phase::Remembered { at_unix_ms },
        };
        let mut application = entry.identity.application();
        if entry.counted_for_other {
            OTHER.clone_into(&mut application.service_name);
        }
        let (epoch, closed_epochs) = (entry.epoch, entry.closed_epochs);
        let sandbox =
            Sandbox::restored(entry.identity, entry.created_unix_ms, phase, budget, |accumulator| {
                accumulator.restored(epoch, closed_epochs, totals, carried, has_ended).after(predecessor)
            });
        fleet.restore(sandbox.counted_for(application).named(names_before, is_former));
    }
    tracing::info!(sandboxes, dropped = read.dropped, "ledger restored");
    Ok(store)
}

/// A moment of an earlier run. A machine that has lost its clock begins in the past: what lies ahead would never be over.
fn not_later(unix_ms: u64) -> u64 {
    unix_ms.min(clock::unix_ms())
}

/// Writes what changed, counts it, and gives the totals as of then; `None` once the store is closed. Where writing fails
/// the totals live on in memory.
pub fn save(fleet: &Fleet, store: &Store) -> Option<Durable> {
    let changes = fleet.changes();
    let (durable, written) = store.save(fleet)?;
    if written.is_ok() {
        fleet.saved(changes);
    }
    fleet.charge_exposed(&durable.applications);
    match written {
        Ok(true) => {
            fleet.own.ledger_writes.inc();
        }
        Ok(false) => {}
        Err(error) => {
            fleet.own.ledger_failures.inc();
            tracing::error!(%error, "the ledger was not written; a restart now would lose counts");
        }
    }
    Some(durable)
}

/// Writes the ledger whenever something changed, at most every `interval`, until stopped; then once more, and closes it:
/// an encoding that still runs may hold the store for longer.
pub async fn keep(fleet: Arc<Fleet>, store: Arc<Store>, interval: Duration, mut stop: watch::Receiver<bool>) {
    let mut written = 0;
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(interval) => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        let now = fleet.changes();
        if now != written || stopping {
            let (fleet, store) = (Arc::clone(&fleet), Arc::clone(&store));
            match tokio::task::spawn_blocking(move || drop(save(&fleet, &store))).await {
                Ok(()) => written = now,
                Err(error) => tracing::error!(%error, "writing the ledger failed"),
            }
        }
        if stopping {
            store.close();
            return;
        }
    }
}

#[cfg(test)]
mod tests;
