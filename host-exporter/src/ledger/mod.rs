//! What the exporter must not forget over a restart: the applications' totals, and of every sandbox what it has
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
    accumulate::{
        sandbox::{Accumulator, Totals},
        series::OTHER,
    },
    fleet::{
        Fleet, Folded,
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
    let mut folded = Folded::default();
    for application in read.applications {
        let (application, table) = application.restore();
        folded.applications.entry(application).or_default().add(&table);
    }
    for tenant in read.tenants {
        folded.tenant_counters.entry(tenant.tenant).or_default().add(&tenant.counters);
    }
    fleet.restore_folded(folded);
    let sandboxes = read.sandboxes.len();
    for (entry, series) in read.sandboxes {
        let totals = Totals {
            closed: form::table(entry.closed),
            floor: form::table(entry.current),
            closed_counters: entry.closed_counters,
            floor_counters: entry.current_counters,
            ..Totals::default()
        };
        let carried = series.into_iter().map(form::CarriedSeries::restore);
        let budget = fleet.budget(&entry.identity.tenant);
        let has_ended = entry.ended_unix_ms.is_some();
        let accumulator =
            Accumulator::restored(budget, entry.epoch, entry.closed_epochs, totals, carried, has_ended);
        let phase = match (entry.ended_unix_ms, entry.remembered) {
            (None, _) => Phase::Live,
            (Some(at_unix_ms), false) => Phase::Ended { at_unix_ms, scrapes: entry.scrapes },
            (Some(at_unix_ms), true) => Phase::Remembered { at_unix_ms },
        };
        let mut application = entry.identity.application();
        if entry.counted_for_other {
            OTHER.clone_into(&mut application.service_name);
        }
        let sandbox = Sandbox::restored(entry.identity, entry.created_unix_ms, phase, accumulator);
        fleet.restore(sandbox.counted_for(application));
    }
    tracing::info!(sandboxes, dropped = read.dropped, "ledger restored");
    Ok(store)
}

/// Writes what changed, counts it, and gives the totals as of then. Where writing fails the totals live on in memory.
pub fn save(fleet: &Fleet, store: &Store) -> Durable {
    let (durable, written) = store.save(fleet);
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
    durable
}

/// Writes the ledger whenever something changed, at most every `interval`, until stopped; then once more.
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
            return;
        }
    }
}

#[cfg(test)]
mod tests;
