//! Metrics about Porthole itself. Their cardinality is bounded: by states, by reasons, by tenants, never by sandboxes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::sink::{Family, Kind, Label, Sink};
use crate::{
    accumulate::{budget::TenantBudget, counters::AgentCounters},
    fleet::{
        Fleet,
        link::{AboutAgent, LinkState},
        sandbox::{Phase, Sandbox},
    },
    ledger::Durable,
    memory,
    protocol::{CaptureMode, Placement},
    rejection::Rejection,
    spans::Eviction,
};

/// Distinct reasons that are shown; the rest is `other`.
const REASONS_MAX: usize = 32;

/// Longest reason that is shown.
const REASON_BYTES_MAX: usize = 40;

/// Labels and value of a sample.
type Sample<'a> = (Vec<Label<'a>>, u64);

fn counter(sink: &mut dyn Sink, name: &str, help: &str, samples: &[Sample<'_>]) {
    write(sink, &Family { name, help, unit: None, kind: Kind::Counter }, samples);
}

fn gauge(sink: &mut dyn Sink, name: &str, help: &str, samples: &[Sample<'_>]) {
    write(sink, &Family { name, help, unit: None, kind: Kind::Gauge }, samples);
}

fn write(sink: &mut dyn Sink, family: &Family<'_>, samples: &[Sample<'_>]) {
    if samples.is_empty() {
        return;
    }
    sink.family(family);
    for (labels, value) in samples {
        sink.number(labels, *value);
    }
}

/// Encodes the agents' counts by tenant and the exporter's about itself.
pub fn encode(
    sink: &mut dyn Sink,
    fleet: &Fleet,
    tenants: &BTreeMap<String, AgentCounters>,
    sandboxes: &[Arc<Sandbox>],
) {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("contract_version", const_str(porthole_agent_api::limits::CONTRACT_VERSION)),
    ];
    gauge(
        sink,
        "porthole_build_info",
        "Always 1; the exporter's version and the contract version that it supports",
        &[(build.to_vec(), 1)],
    );
    encode_states(sink, sandboxes);
    encode_tenants(sink, &fleet.budgets(), tenants);
    for (name, help, value) in fleet.own.metrics() {
        counter(sink, name, help, &[(Vec::new(), value)]);
    }
    counter(
        sink,
        "porthole_spans",
        "Exchanges that agents sampled as spans",
        &[(Vec::new(), fleet.spans.received())],
    );
    let evicted =
        Eviction::ALL.map(|eviction| (vec![("reason", eviction.as_str())], fleet.spans.evicted(eviction)));
    counter(
        sink,
        "porthole_spans_evicted",
        "Spans that are no longer kept: newer ones of the same sandbox (sandbox_limit), of the same tenant (tenant_limit), the tenant's memory was needed (memory_limit), older than an hour (age), of a trace that was not sampled (sampling), of a trace without errors that lost another span (cut_trace)",
        &evicted,
    );
    let unreadable = u64::try_from(fleet.own.records_unreadable.get()).unwrap_or(0);
    gauge(
        sink,
        "porthole_registry_records_unreadable",
        "Files in the registry with a record's name that are not valid records",
        &[(Vec::new(), unreadable)],
    );
    if let Ok(resident) = memory::resident_bytes() {
        let name = "porthole_exporter_resident_bytes";
        gauge(sink, name, "Resident memory of the exporter", &[(Vec::new(), resident as u64)]);
    }
    let limits = fleet.budget.limits();
    for (name, help, bytes) in [
        (
            "porthole_exporter_memory_limit_bytes",
            "Memory that the exporter may take (memory_mib)",
            limits.memory,
        ),
        (
            "porthole_exporter_accounted_bytes",
            "Bytes of memory that are charged to tenants",
            fleet.budget.resident().taken(),
        ),
        (
            "porthole_exporter_accounted_bytes_limit",
            "Bytes of memory that may be charged to all tenants together: half of what the exporter may take",
            fleet.budget.resident().limit(),
        ),
        (
            "porthole_exporter_exposed_bytes",
            "Size of a scrape as text, as charged to tenants",
            fleet.budget.exposed().taken(),
        ),
        (
            "porthole_exporter_exposed_bytes_limit",
            "Largest size of a scrape as text (exposed_mib)",
            fleet.budget.exposed().limit(),
        ),
    ] {
        gauge(sink, name, help, &[(Vec::new(), bytes as u64)]);
    }
    let last = fleet.own.last_scrape_ns.get();
    if last > 0 {
        sink.family(&Family {
            name: "porthole_exporter_last_scrape_duration_seconds",
            help: "Time that the last whole exposition took to encode and send",
            unit: Some("seconds"),
            kind: Kind::Gauge,
        });
        sink.float(&[], Duration::from_nanos(u64::try_from(last).unwrap_or(0)).as_secs_f64());
    }
}

/// Encodes what concerns one tenant: its sandboxes' states, its agents' counts, its budget.
pub fn encode_tenant(
    sink: &mut dyn Sink,
    fleet: &Fleet,
    tenant: &str,
    totals: &Durable,
    sandboxes: &[Arc<Sandbox>],
) {
    encode_states(sink, sandboxes);
    let counters = totals.tenant_counters.get_key_value(tenant);
    let counters = counters.map(|(tenant, counters)| (tenant.clone(), *counters)).into_iter().collect();
    let budget = fleet.budget_of(tenant).map(|budget| (tenant.to_owned(), budget));
    encode_tenants(sink, budget.as_slice(), &counters);
}

const fn const_str(version: u32) -> &'static str {
    match version {
        1 => "1",
        2 => "2",
        _ => "unknown",
    }
}

fn encode_states(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>]) {
    let mut states = BTreeMap::<(&str, String, &str), u64>::new();
    let mut links = BTreeMap::<&str, u64>::new();
    let mut modes = BTreeMap::<&str, u64>::new();
    for sandbox in sandboxes {
        match (sandbox.phase(), sandbox.record()) {
            (Phase::Live, Some(record)) => {
                let link = sandbox.link.lock();
                let (state, reason) = link.state_of(&record);
                let reason = reason.map_or_else(String::new, |reason| shown_reason(&reason.code));
                let key = (state.as_str(), reason, placement(link.agent.as_ref()));
                let known = states.len() < REASONS_MAX || states.contains_key(&key);
                let key = if known { key } else { (key.0, "other".to_owned(), key.2) };
                *states.entry(key).or_default() += 1;
                *links.entry(link.state.as_str()).or_default() += 1;
                let mode = link.agent.as_ref().and_then(|agent| agent.capture_mode);
                if link.state == LinkState::Connected {
                    *modes.entry(mode.map_or("unspecified", CaptureMode::as_str)).or_default() += 1;
                }
            }
            (Phase::Ended { .. }, _) => {
                let placement = placement(sandbox.link.lock().agent.as_ref());
                *states.entry(("ended", String::new(), placement)).or_default() += 1;
            }
            _ => {}
        }
    }
    let samples: Vec<_> = states
        .iter()
        .map(|((state, reason, placement), count)| {
            (vec![("state", *state), ("reason", reason.as_str()), ("placement", *placement)], *count)
        })
        .collect();
    gauge(
        sink,
        "porthole_sandboxes",
        "Sandboxes by how far their monitoring has come, and why not further",
        &samples,
    );
    let samples: Vec<_> = LinkState::ALL
        .iter()
        .map(|state| (vec![("state", state.as_str())], links.get(state.as_str()).copied().unwrap_or(0)))
        .collect();
    gauge(
        sink,
        "porthole_agent_connections",
        "Live sandboxes by the state of the connection to their agent",
        &samples,
    );
    let samples: Vec<_> = modes.iter().map(|(mode, count)| (vec![("mode", *mode)], *count)).collect();
    gauge(
        sink,
        "porthole_agent_capture_modes",
        "Connected agents by how they see what the guest does",
        &samples,
    );
}

/// How an agent came into its guest, as a label; none before an agent has reported it.
fn placement(agent: Option<&AboutAgent>) -> &'static str {
    agent.and_then(|agent| agent.placement).map_or("", Placement::as_str)
}

/// A reason as a label: the record's word when it is one.
fn shown_reason(code: &str) -> String {
    let word = (1..=REASON_BYTES_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if word { code.to_owned() } else { "other".to_owned() }
}

/// Only what there is: a reason that no sandbox of the tenant had is absent.
fn encode_unattached(sink: &mut dyn Sink, tenants: &BTreeMap<String, AgentCounters>) {
    let times = tenants.iter().flat_map(|(tenant, counters)| {
        let met = counters.unattached_ns().filter(|(_, ns)| *ns > 0);
        met.map(move |(reason, ns)| (tenant.as_str(), reason, Duration::from_nanos(ns)))
    });
    let mut times = times.peekable();
    if times.peek().is_none() {
        return;
    }
    sink.family(&Family {
        name: "porthole_agent_unattached_seconds",
        help: "Time for which containers ran before an agent was attached, since the start of the oldest of their processes that still ran then: start of the sandbox, or restart of an agent that ended",
        unit: Some("seconds"),
        kind: Kind::Counter,
    });
    for (tenant, reason, time) in times {
        sink.float(&[("tenant", tenant), ("reason", reason)], time.as_secs_f64());
    }
}

/// The same of bytes by protocol.
fn encode_unaccounted(sink: &mut dyn Sink, tenants: &BTreeMap<String, AgentCounters>) {
    let samples: Vec<_> = tenants
        .iter()
        .flat_map(|(tenant, counters)| {
            let of_tenant =
                move |(protocol, bytes)| (vec![("tenant", tenant.as_str()), ("protocol", protocol)], bytes);
            counters.bytes_unaccounted.iter().map(of_tenant)
        })
        .collect();
    counter(
        sink,
        "porthole_unaccounted_bytes",
        "Bytes of connections whose protocol is known that no exchange accounts for: lost, not captured, or no messages; as protocol unknown, those of connections on which bytes moved both ways and none was captured",
        &samples,
    );
}

fn encode_tenants(
    sink: &mut dyn Sink,
    budgets: &[(String, Arc<TenantBudget>)],
    tenants: &BTreeMap<String, AgentCounters>,
) {
    let by_tenant = |tenant| vec![("tenant", tenant)];
    if !tenants.is_empty() {
        for (at, (name, help, _)) in AgentCounters::default().metrics().enumerate() {
            let samples: Vec<_> = tenants
                .iter()
                .filter_map(|(tenant, counters)| {
                    Some((by_tenant(tenant.as_str()), counters.metrics().nth(at)?.2))
                })
                .collect();
            counter(sink, name, help, &samples);
        }
    }
    encode_unattached(sink, tenants);
    encode_unaccounted(sink, tenants);
    let complete: Vec<_> = tenants
        .iter()
        .filter_map(|(tenant, counters)| Some((tenant.as_str(), counters.completeness()?)))
        .collect();
    if !complete.is_empty() {
        sink.family(&Family {
            name: "porthole_capture_completeness_ratio",
            help: "Share of what moved that whole exchanges account for",
            unit: None,
            kind: Kind::Gauge,
        });
        for (tenant, ratio) in complete {
            sink.float(&[("tenant", tenant)], ratio);
        }
    }
    let rejected: Vec<_> = budgets
        .iter()
        .flat_map(|(tenant, budget)| {
            let of_tenant = move |(reason, count): (Rejection, u64)| {
                (vec![("tenant", tenant.as_str()), ("reason", reason.as_str())], count)
            };
            budget.rejections.met().map(of_tenant)
        })
        .collect();
    counter(sink, "porthole_rejected", "Things that agents sent and that were not counted", &rejected);
    if budgets.is_empty() {
        return;
    }
    for (name, help, time) in TENANT_TIMES {
        sink.family(&Family { name, help, unit: Some("seconds"), kind: Kind::Counter });
        for (tenant, budget) in budgets {
            sink.float(&[("tenant", tenant)], time(budget).as_secs_f64());
        }
    }
    let of_budgets = |value: fn(&TenantBudget) -> u64| -> Vec<Sample<'_>> {
        budgets.iter().map(|(tenant, budget)| (by_tenant(tenant.as_str()), value(budget))).collect()
    };
    counter(
        sink,
        "porthole_tenant_ingest_bytes",
        "Bytes that the agents of a tenant sent",
        &of_budgets(TenantBudget::ingested),
    );
    for (name, help, value) in TENANT_GAUGES {
        gauge(sink, name, help, &of_budgets(*value));
    }
}

/// Times of a tenant's budget: name, help, value.
type TenantTime = (&'static str, &'static str, fn(&TenantBudget) -> Duration);

const TENANT_TIMES: &[TenantTime] = &[
    (
        "porthole_agent_throttled_seconds",
        "Time for which agents were held back because their batches took more CPU time than they may",
        TenantBudget::throttled,
    ),
    (
        "porthole_tenant_ingest_cpu_seconds",
        "CPU time of the exporter that the batches of a tenant's agents took",
        TenantBudget::cpu_time,
    ),
];

/// Gauges of a tenant's budget: name, help, value.
type TenantGauge = (&'static str, &'static str, fn(&TenantBudget) -> u64);

const TENANT_GAUGES: &[TenantGauge] = &[
    ("porthole_tenant_series", "Series that a tenant exposes", |budget| budget.exposed_series() as u64),
    ("porthole_tenant_series_limit", "Series that a tenant may expose (series_per_tenant)", |budget| {
        budget.series_max() as u64
    }),
    (
        "porthole_tenant_resident_bytes",
        "Bytes of the exporter's memory that are charged to a tenant",
        |budget| budget.resident.taken() as u64,
    ),
    (
        "porthole_tenant_resident_bytes_limit",
        "Bytes of memory that may be charged to a tenant (memory_mib_per_tenant)",
        |budget| budget.resident.tenant_limit() as u64,
    ),
    ("porthole_tenant_exposed_bytes", "Bytes of a scrape as text that are charged to a tenant", |budget| {
        budget.exposed.taken() as u64
    }),
    (
        "porthole_tenant_exposed_bytes_limit",
        "Bytes of a scrape as text that may be charged to a tenant (exposed_mib_per_tenant)",
        |budget| budget.exposed.tenant_limit() as u64,
    ),
];
