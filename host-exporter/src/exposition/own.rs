//! Metrics about Porthole itself. Their cardinality is bounded: by states, by reasons, by tenants, never by sandboxes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::labels::Labels;
use crate::{
    accumulate::counters::AgentCounters,
    fleet::{
        Fleet,
        link::LinkState,
        sandbox::{Phase, Sandbox},
    },
    protocol::CaptureMode,
    rejection::Rejection,
    spans::Eviction,
};

/// Distinct reasons that are shown; the rest is `other`.
const REASONS_MAX: usize = 32;

/// Longest reason that is shown.
const REASON_BYTES_MAX: usize = 40;

/// A count.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Level(AtomicUsize);

impl Level {
    /// Sets the number.
    pub fn set(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! own_counts {
    ($($(#[$meta:meta])* $name:ident, $metric:literal, $help:literal;)+) => {
        /// The exporter's counts about itself.
        #[derive(Debug, Default)]
        pub struct OwnCounts {
            $($(#[$meta])* pub $name: Count,)+
            /// Files in the registry that are named like records and are none.
            pub records_unreadable: Level,
            /// Nanoseconds that the last whole exposition took to encode and send.
            pub last_scrape_ns: Count,
        }

        impl OwnCounts {
            fn metrics(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
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
    scrapes_failed, "porthole_exporter_scrapes_failed", "Expositions that were refused because too many ran, or cut off because the client did not read";
    /// Ledgers written.
    ledger_writes, "porthole_exporter_ledger_writes", "Times the ledger was written";
    /// Ledgers that could not be written.
    ledger_failures, "porthole_exporter_ledger_failures", "Times the ledger could not be written";
}

impl Count {
    /// More of it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Replaces the count: for a last value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

type Sample<'a> = (Vec<(&'static str, &'a str)>, u64);

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, samples: &[Sample]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            family.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
        } else {
            family.encode_family(&Labels(labels))?.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
        }
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, samples: &[Sample]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            family.encode_gauge(value)?;
        } else {
            family.encode_family(&Labels(labels))?.encode_gauge(value)?;
        }
    }
    Ok(())
}

/// Encodes the agents' counts by tenant and the exporter's about itself.
pub fn encode(encoder: &mut DescriptorEncoder, fleet: &Fleet, sandboxes: &[Arc<Sandbox>]) -> fmt::Result {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("contract_version", const_str(porthole_agent_api::limits::CONTRACT_VERSION)),
    ];
    gauge(
        encoder,
        "porthole_build_info",
        "The exporter's version and the contract version that it speaks",
        &[(build.to_vec(), 1)],
    )?;
    encode_states(encoder, sandboxes)?;
    encode_tenants(encoder, fleet)?;
    for (name, help, value) in fleet.own.metrics() {
        counter(encoder, name, help, &[(Vec::new(), value)])?;
    }
    counter(
        encoder,
        "porthole_spans",
        "Exchanges that agents sampled as spans",
        &[(Vec::new(), fleet.spans.received())],
    )?;
    let evicted =
        Eviction::ALL.map(|eviction| (vec![("reason", eviction.as_str())], fleet.spans.evicted(eviction)));
    counter(encoder, "porthole_spans_evicted", "Spans that made room for newer ones, or grew old", &evicted)?;
    let unreadable = fleet.own.records_unreadable.get() as u64;
    gauge(
        encoder,
        "porthole_registry_records_unreadable",
        "Files in the registry that are named like records and are none",
        &[(Vec::new(), unreadable)],
    )?;
    let last = fleet.own.last_scrape_ns.get();
    if last > 0 {
        encoder
            .encode_descriptor(
                "porthole_exporter_last_scrape_duration",
                "Time that the last whole exposition took to encode and send",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&Duration::from_nanos(last).as_secs_f64())?;
    }
    Ok(())
}

const fn const_str(version: u32) -> &'static str {
    match version {
        1 => "1",
        2 => "2",
        _ => "unknown",
    }
}

fn encode_states(encoder: &mut DescriptorEncoder, sandboxes: &[Arc<Sandbox>]) -> fmt::Result {
    let mut states = BTreeMap::<(&str, String), u64>::new();
    let mut links = BTreeMap::<&str, u64>::new();
    let mut modes = BTreeMap::<&str, u64>::new();
    for sandbox in sandboxes {
        match (sandbox.phase(), sandbox.record()) {
            (Phase::Live, Some(record)) => {
                let reason =
                    record.reason.as_ref().map_or(String::new(), |reason| shown_reason(&reason.code));
                let key = (record.state.as_str(), reason);
                let known = states.len() < REASONS_MAX || states.contains_key(&key);
                let key = if known { key } else { (key.0, "other".to_owned()) };
                *states.entry(key).or_default() += 1;
                let link = sandbox.link.lock();
                *links.entry(link.state.as_str()).or_default() += 1;
                let mode = link.agent.as_ref().and_then(|agent| agent.capture_mode);
                if link.state == LinkState::Connected {
                    *modes.entry(mode.map_or("unspecified", CaptureMode::as_str)).or_default() += 1;
                }
            }
            (Phase::Ended { .. }, _) => *states.entry(("ended", String::new())).or_default() += 1,
            _ => {}
        }
    }
    let samples: Vec<_> = states
        .iter()
        .map(|((state, reason), count)| (vec![("state", *state), ("reason", reason.as_str())], *count))
        .collect();
    gauge(
        encoder,
        "porthole_sandboxes",
        "Sandboxes by how far their monitoring has come, and why not further",
        &samples,
    )?;
    let samples: Vec<_> = LinkState::ALL
        .iter()
        .map(|state| (vec![("state", state.as_str())], links.get(state.as_str()).copied().unwrap_or(0)))
        .collect();
    gauge(
        encoder,
        "porthole_agent_connections",
        "Live sandboxes by the state of the connection to their agent",
        &samples,
    )?;
    let samples: Vec<_> = modes.iter().map(|(mode, count)| (vec![("mode", *mode)], *count)).collect();
    if samples.is_empty() {
        return Ok(());
    }
    gauge(
        encoder,
        "porthole_agent_capture_modes",
        "Connected agents by how they see what the guest does",
        &samples,
    )
}

/// A reason as a label: the record's word when it is one.
fn shown_reason(code: &str) -> String {
    let word = (1..=REASON_BYTES_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if word { code.to_owned() } else { "other".to_owned() }
}

fn encode_tenants(encoder: &mut DescriptorEncoder, fleet: &Fleet) -> fmt::Result {
    let tenants = fleet.tenant_counters();
    let by_tenant = |tenant| vec![("tenant", tenant)];
    if !tenants.is_empty() {
        for (at, (name, help, _)) in AgentCounters::default().metrics().enumerate() {
            let samples: Vec<_> = tenants
                .iter()
                .filter_map(|(tenant, counters)| {
                    Some((by_tenant(tenant.as_str()), counters.metrics().nth(at)?.2))
                })
                .collect();
            counter(encoder, name, help, &samples)?;
        }
    }
    let complete: Vec<_> = tenants
        .iter()
        .filter_map(|(tenant, counters)| Some((tenant.as_str(), counters.completeness()?)))
        .collect();
    if !complete.is_empty() {
        let mut family = encoder.encode_descriptor(
            "porthole_capture_completeness_ratio",
            "Exchanges understood over message starts seen",
            None,
            MetricType::Gauge,
        )?;
        for (tenant, ratio) in complete {
            family.encode_family(&Labels(&[("tenant", tenant)]))?.encode_gauge(&ratio)?;
        }
    }
    let budgets = fleet.budgets();
    let rejected: Vec<_> = budgets
        .iter()
        .flat_map(|(tenant, budget)| {
            let of_tenant = move |(reason, count): (Rejection, u64)| {
                (vec![("tenant", tenant.as_str()), ("reason", reason.as_str())], count)
            };
            budget.rejections.met().map(of_tenant)
        })
        .collect();
    if !rejected.is_empty() {
        counter(
            encoder,
            "porthole_rejected",
            "Things that agents sent and that were not counted",
            &rejected,
        )?;
    }
    let mut throttled = encoder.encode_descriptor(
        "porthole_agent_throttled",
        "Time for which agents were held back because their batches took more CPU time than they may",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for (tenant, budget) in &budgets {
        throttled
            .encode_family(&Labels(&[("tenant", tenant.as_str())]))?
            .encode_counter::<NoLabelSet, f64, f64>(&budget.throttled().as_secs_f64(), None)?;
    }
    let used: Vec<_> = budgets
        .iter()
        .map(|(tenant, budget)| (by_tenant(tenant.as_str()), budget.exposed() as u64))
        .collect();
    let limits: Vec<_> =
        budgets.iter().map(|(tenant, budget)| (by_tenant(tenant.as_str()), budget.limit() as u64)).collect();
    if budgets.is_empty() {
        return Ok(());
    }
    gauge(encoder, "porthole_tenant_series", "Series that a tenant exposes", &used)?;
    gauge(encoder, "porthole_tenant_series_limit", "Series that a tenant may expose", &limits)
}
