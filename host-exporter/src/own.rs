//! The exporter's counts about itself.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

macro_rules! own_counts {
    ($($(#[$meta:meta])* $name:ident, $metric:literal, $help:literal;)+) => {
        /// The exporter's counts about itself.
        #[derive(Debug, Default)]
        pub struct OwnCounts {
            $($(#[$meta])* pub $name: Counter,)+
            /// Files in the registry that are named like records and are none.
            pub records_unreadable: Gauge,
            /// Nanoseconds that the last whole exposition took to encode and send.
            pub last_scrape_ns: Gauge,
        }

        impl OwnCounts {
            /// Name of each counter without `_total`, its help, and its value.
            pub fn metrics(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($metric, $help, self.$name.get())),+].into_iter()
            }
        }
    };
}

own_counts! {
    /// Batches received.
    batches, "porthole_agent_batches", "Batches received from agents";
    /// Batches whose numbers were skipped.
    batches_missing, "porthole_agent_batches_missing", "Batches that agents sent, by their numbers, and that did not come; their values come with the next";
    /// Series in batches that were counted.
    series_updates, "porthole_series_updates", "Series in batches that were counted";
    /// Of those, counted in `other`.
    series_updates_folded, "porthole_series_updates_folded", "Series in batches that were counted in other because the tenant's budget is used up";
    /// Of those, with a container that the record does not list.
    series_updates_unlisted, "porthole_series_updates_unlisted_container", "Series in batches that name a container which the sandbox's record does not list";
    /// Connections or attempts that failed or ended.
    link_failures, "porthole_agent_connection_failures", "Connections to agents, or attempts, that failed or ended";
    /// Agents that were left alone for a while.
    quarantines, "porthole_agent_quarantines", "Times an agent was left alone for a while because it did not keep to the contract";
    /// Connections after the first one of a sandbox.
    reconnects, "porthole_agent_reconnects", "Connections to agents after the first one of a sandbox";
    /// Tasks of links that ended unexpectedly.
    task_failures, "porthole_exporter_task_failures", "Tasks of sandboxes that ended unexpectedly and were started again";
    /// Records that changed their identity.
    identity_changes, "porthole_registry_identity_changes", "Times a record changed whose sandbox it is, which was ignored";
    /// Whole expositions sent.
    scrapes, "porthole_exporter_scrapes", "Expositions that were sent whole";
    /// Expositions that were refused or cut off.
    scrapes_failed, "porthole_exporter_scrapes_failed", "Expositions that could not be encoded, or that were cut off because the client did not read them";
    /// Applications whose totals were dropped.
    applications_forgotten, "porthole_applications_forgotten", "Applications whose totals were dropped, because they had no sandbox for long or made room for others";
    /// Entries of the ledger that could not be read.
    ledger_entries_dropped, "porthole_exporter_ledger_entries_dropped", "Entries of the ledger that could not be read at the start and were left out";
    /// Ledgers written.
    ledger_writes, "porthole_exporter_ledger_writes", "Times the ledger was written";
    /// Ledgers that could not be written.
    ledger_failures, "porthole_exporter_ledger_failures", "Times the ledger could not be written";
}
