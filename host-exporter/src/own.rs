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
    series_updates_overflowed, "porthole_series_updates_overflowed", "Series in batches that were counted in an overflow series because the tenant's budget is used up";
    /// Of those, with a container that the record does not list.
    series_updates_unlisted, "porthole_series_updates_unlisted_container", "Series in batches that name a container which the sandbox's record does not list";
    /// Connections or attempts that failed or ended.
    link_failures, "porthole_agent_connection_failures", "Connections to agents, or attempts, that failed or ended";
    /// Agents that were left alone for a while.
    quarantines, "porthole_agent_quarantines", "Times an agent was quarantined because it broke the contract";
    /// Connections after the first one of a sandbox.
    reconnects, "porthole_agent_reconnects", "Connections to agents after the first one of a sandbox";
    /// Tasks of links that ended unexpectedly.
    task_failures, "porthole_exporter_task_failures", "Tasks of sandboxes that ended unexpectedly and were started again";
    /// Last states of agents that were counted.
    last_states, "porthole_last_states", "Last states of agents, left by companions at the end of their sandboxes, that were counted";
    /// Of those, cut.
    last_states_truncated, "porthole_last_states_truncated", "Last states with less than the agent had: a file holds 2 MiB, and all of a host 64 MiB";
    /// Last states that could not be read.
    last_states_unusable, "porthole_last_states_unusable", "Last states of agents that could not be read and were removed";
    /// Sandboxes that ended without their agent's last state.
    abrupt_ends, "porthole_sandbox_abrupt_ends", "Sandboxes that ended without their agent's last state";
    /// Spans that OTLP's destinations took.
    otlp_spans_sent, "porthole_otlp_spans_sent", "Spans that were sent by OTLP and taken, once for each destination";
    /// Spans that they refused for good.
    otlp_spans_refused, "porthole_otlp_spans_refused", "Spans that a destination of OTLP refused for good";
    /// Spans for which a queue had no room, or whose time was over.
    otlp_spans_undelivered, "porthole_otlp_spans_undelivered", "Spans for which the queue of a destination of OTLP had no room, or that could not be delivered in time";
    /// Points of metrics that OTLP's destinations took.
    otlp_points_sent, "porthole_otlp_points_sent", "Points of metrics that were sent by OTLP and taken, once for each destination";
    /// Points that they refused for good.
    otlp_points_refused, "porthole_otlp_points_refused", "Points of metrics that a destination of OTLP refused for good";
    /// Points for which a queue had no room, or whose time was over.
    otlp_points_undelivered, "porthole_otlp_points_undelivered", "Points of metrics for which the queue of a destination of OTLP had no room, or that could not be delivered in time";
    /// Records that changed their identity.
    identity_changes, "porthole_registry_identity_changes", "Sandboxes whose tenant, application, pod or container the host gave another name while they ran";
    /// Whole expositions sent.
    scrapes, "porthole_exporter_scrapes", "Expositions that were sent whole";
    /// Expositions that were refused or cut off.
    scrapes_failed, "porthole_exporter_scrapes_failed", "Expositions that could not be encoded, or that were cut off because the client did not read them";
    /// Expositions of one tenant sent.
    tenant_scrapes, "porthole_exporter_tenant_scrapes", "Expositions of one tenant that were sent whole";
    /// Expositions of one tenant that were refused or cut off.
    tenant_scrapes_failed, "porthole_exporter_tenant_scrapes_failed", "Expositions of one tenant that could not be encoded, or that were cut off because the client did not read them";
    /// Requests without a valid token, or with one for something else.
    requests_denied, "porthole_exporter_requests_denied", "Requests without a valid token, or with one for something else";
    /// Files that could not be read again.
    reloads_failed, "porthole_exporter_reloads_failed", "Times that tokens, certificates, names of addresses or destinations of OTLP had changed and could not be used; the last ones stay in force";
    /// Lists and watches of the cluster's API that failed.
    kubernetes_failures, "porthole_kubernetes_failures", "Lists and watches of the cluster's API that failed; names that cannot be renewed for ten minutes are dropped";
    /// Applications whose totals were dropped.
    applications_forgotten, "porthole_applications_forgotten", "Applications whose totals were dropped: without a sandbox for application_idle_seconds, or to make room for others of their tenant";
    /// Entries of the ledger that could not be read.
    ledger_entries_dropped, "porthole_exporter_ledger_entries_dropped", "Entries of the ledger that could not be read at the start and were left out";
    /// Ledgers written.
    ledger_writes, "porthole_exporter_ledger_writes", "Times the ledger was written";
    /// Ledgers that could not be written.
    ledger_failures, "porthole_exporter_ledger_failures", "Writes of the ledger that failed; the totals then live in memory only";
}
