//! Metrics about Porthole itself. Their cardinality is bounded: by states, by reasons, by tenants, never by sandboxes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::sink::{Family, Kind, Label, Sink};
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
        "The exporter's version and the contract version that it supports",
        &[(build.to_vec(), 1)],
    );
    encode_states(sink, sandboxes);
    encode_tenants(sink, fleet, tenants);
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
    counter(sink, "porthole_spans_evicted", "Spans that made room for newer ones, or grew old", &evicted);
    let unreadable = u64::try_from(fleet.own.records_unreadable.get()).unwrap_or(0);
    gauge(
        sink,
        "porthole_registry_records_unreadable",
        "Files in the registry that are named like records and are none",
        &[(Vec::new(), unreadable)],
    );
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

const fn const_str(version: u32) -> &'static str {
    match version {
        1 => "1",
        2 => "2",
        _ => "unknown",
    }
}

fn encode_states(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>]) {
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

/// A reason as a label: the record's word when it is one.
fn shown_reason(code: &str) -> String {
    let word = (1..=REASON_BYTES_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if word { code.to_owned() } else { "other".to_owned() }
}

fn encode_tenants(sink: &mut dyn Sink, fleet: &Fleet, tenants: &BTreeMap<String, AgentCounters>) {
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
    let complete: Vec<_> = tenants
        .iter()
        .filter_map(|(tenant, counters)| Some((tenant.as_str(), counters.completeness()?)))
        .collect();
    if !complete.is_empty() {
        sink.family(&Family {
            name: "porthole_capture_completeness_ratio",
            help: "Exchanges understood over message starts seen",
            unit: None,
            kind: Kind::Gauge,
        });
        for (tenant, ratio) in complete {
            sink.float(&[("tenant", tenant)], ratio);
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
    counter(sink, "porthole_rejected", "Things that agents sent and that were not counted", &rejected);
    if budgets.is_empty() {
        return;
    }
    sink.family(&Family {
        name: "porthole_agent_throttled_seconds",
        help: "Time for which agents were held back because their batches took more CPU time than they may",
        unit: Some("seconds"),
        kind: Kind::Counter,
    });
    for (tenant, budget) in &budgets {
        sink.float(&[("tenant", tenant)], budget.throttled().as_secs_f64());
    }
    let used: Vec<_> = budgets
        .iter()
        .map(|(tenant, budget)| (by_tenant(tenant.as_str()), budget.exposed() as u64))
        .collect();
    let limits: Vec<_> =
        budgets.iter().map(|(tenant, budget)| (by_tenant(tenant.as_str()), budget.limit() as u64)).collect();
    gauge(sink, "porthole_tenant_series", "Series that a tenant exposes", &used);
    gauge(sink, "porthole_tenant_series_limit", "Series that a tenant may expose", &limits);
}
