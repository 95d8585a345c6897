//! What the exporter must not forget over a restart: the applications' totals, and of every sandbox what it has
//! contributed to them, by epoch.
//!
//! A live agent tells its whole epoch again after a restart; the ledger's values of that epoch are then only a floor,
//! under which the totals do not fall while it does. An agent that ended meanwhile tells nothing: its last known values
//! stay. So a restart neither doubles nor loses.

pub mod file;
mod form;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    accumulate::sandbox::{Accumulator, Totals},
    fleet::{
        Fleet, Folded,
        sandbox::{Phase, Sandbox},
    },
};

pub use self::file::LedgerError;

/// Name of the ledger in the state directory.
pub const FILE: &str = "ledger";

/// Version of the ledger's form.
pub const VERSION: u32 = 1;

/// Restores the fleet. A ledger that cannot be used is moved aside, with the reason in the log.
pub fn restore(fleet: &Fleet, directory: &std::path::Path) -> Result<(), LedgerError> {
    let Some(form) = file::load(directory)? else { return Ok(()) };
    let mut folded = Folded::default();
    for application in form.applications {
        let (application, table) = application.restore();
        folded.applications.entry(application).or_default().add(&table);
    }
    for tenant in form.tenants {
        folded.tenant_counters.entry(tenant.tenant).or_default().add(&tenant.counters);
    }
    fleet.restore_folded(folded);
    let sandboxes = form.sandboxes.len();
    for entry in form.sandboxes {
        let totals = Totals {
            closed: form::table(entry.closed),
            floor: form::table(entry.current),
            closed_counters: entry.closed_counters,
            floor_counters: entry.current_counters,
            ..Totals::default()
        };
        let carried = entry.carried.into_iter().map(form::CarriedSeries::restore);
        let budget = fleet.budget(&entry.identity.tenant);
        let has_ended = entry.ended_unix_ms.is_some();
        let accumulator =
            Accumulator::restored(budget, entry.epoch, entry.closed_epochs, totals, carried, has_ended);
        let phase = match (entry.ended_unix_ms, entry.remembered) {
            (None, _) => Phase::Live,
            (Some(at_unix_ms), false) => Phase::Ended { at_unix_ms, scrapes: entry.scrapes },
            (Some(at_unix_ms), true) => Phase::Remembered { at_unix_ms },
        };
        fleet.restore(Sandbox::restored(entry.identity, entry.created_unix_ms, phase, accumulator));
    }
    tracing::info!(sandboxes, "ledger restored");
    Ok(())
}

/// Writes the ledger.
pub fn save(fleet: &Fleet, directory: &std::path::Path) -> Result<(), LedgerError> {
    let form = fleet.snapshot(form::Ledger::of);
    file::save(directory, &form)
}

/// Writes the ledger whenever something changed, at most every `interval`, until told to stop; then once more.
pub async fn keep(
    fleet: Arc<Fleet>,
    directory: PathBuf,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut written = fleet.changes();
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(interval) => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        let now = fleet.changes();
        if now != written {
            let (fleet_to_save, directory) = (Arc::clone(&fleet), directory.clone());
            let saved = tokio::task::spawn_blocking(move || save(&fleet_to_save, &directory)).await;
            match saved {
                Ok(Ok(())) => {
                    written = now;
                    fleet.own.ledger_writes.inc();
                }
                Ok(Err(error)) => {
                    fleet.own.ledger_failures.inc();
                    tracing::error!(%error, "the ledger was not written; a restart now would lose counts");
                }
                Err(error) => {
                    fleet.own.ledger_failures.inc();
                    tracing::error!(%error, "writing the ledger failed");
                }
            }
        }
        if stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
