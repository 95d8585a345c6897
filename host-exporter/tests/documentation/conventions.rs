//! The names of metrics and labels against the OpenTelemetry semantic conventions.
//!
//! `opentelemetry-1.44.0.tsv` has the conventions' names. What Porthole serves in their namespaces must be one of them, of the
//! same type and unit and not deprecated, or be listed here with the reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::tables::{Family, row, table};

const NAMES: &str = include_str!("opentelemetry-1.44.0.tsv");

/// A reason that several names share.
const NOT_OF_CONTAINERS: &str = "the conventions have no such metric of containers";
const OF_CLIENTS_ONLY: &str = "the conventions have the client's instrument only; it is named after that";
const NONE_OF_TLS: &str = "the conventions have no metrics of TLS";
const NONE_OF_TCP: &str = "the conventions have no metrics of TCP connections";
const OF_SANDBOX: &str = "identity of the sandbox, for which the conventions have no attribute";
const NONE_OF_PRESSURE: &str = "the conventions have nothing about pressure";

/// Metrics that the conventions do not have.
const OWN_METRICS: &[(&str, &str)] = &[
    ("container_cpu_limit_cores", NOT_OF_CONTAINERS),
    ("container_cpu_periods_total", NOT_OF_CONTAINERS),
    ("container_cpu_throttled_periods_total", NOT_OF_CONTAINERS),
    ("container_cpu_throttled_seconds_total", NOT_OF_CONTAINERS),
    ("container_disk_operations_total", NOT_OF_CONTAINERS),
    ("container_memory_limit_bytes", NOT_OF_CONTAINERS),
    ("container_memory_oom_kills_total", NOT_OF_CONTAINERS),
    ("container_network_dropped_total", NOT_OF_CONTAINERS),
    ("container_open_file_descriptors", NOT_OF_CONTAINERS),
    ("container_pressure_seconds_total", NONE_OF_PRESSURE),
    ("container_threads", NOT_OF_CONTAINERS),
    ("container_threads_limit", NOT_OF_CONTAINERS),
    ("db_server_operation_duration_seconds", OF_CLIENTS_ONLY),
    ("dns_server_lookup_duration_seconds", OF_CLIENTS_ONLY),
    ("messaging_server_operation_duration_seconds", OF_CLIENTS_ONLY),
    ("tcp_client_connect_duration_seconds", NONE_OF_TCP),
    ("tcp_client_connections_broken_total", NONE_OF_TCP),
    ("tcp_client_connections_failed_total", NONE_OF_TCP),
    ("tcp_client_retransmitted_segments_total", NONE_OF_TCP),
    ("tcp_client_round_trip_seconds", NONE_OF_TCP),
    ("tls_client_connection_duration_seconds", NONE_OF_TLS),
    ("tls_server_connection_duration_seconds", NONE_OF_TLS),
];

/// Labels that the conventions do not have, or have deprecated.
const OWN_LABELS: &[(&str, &str)] = &[
    ("containerd_namespace", OF_SANDBOX),
    ("dns_question_type", "the conventions have no attribute for the type of a question"),
    ("dns_response_code", "the conventions have no attribute for the response code"),
    ("messaging_response_status_code", "the conventions have no attribute for the status"),
    ("resource", NONE_OF_PRESSURE),
    ("sandbox_id", OF_SANDBOX),
    ("tenant", OF_SANDBOX),
    ("tls_alert_description", NONE_OF_TLS),
    (
        "tls_client_server_name",
        "deprecated in the conventions in favour of `server.address`, which is the connection's end here",
    ),
    ("waiting", NONE_OF_PRESSURE),
];

/// Values that are not among those that the conventions list for an attribute.
const OWN_VALUES: &[(&str, &str)] = &[("messaging_system", "nats")];

/// A name of the conventions.
struct Name<'a> {
    opentelemetry: &'a str,
    instrument: &'a str,
    stability: &'a str,
}

/// The names of one kind, by their form in Prometheus.
fn names(kind: &str) -> BTreeMap<String, Name<'static>> {
    let lines = NAMES.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            let [of, name, instrument, stability, _] = columns[..] else { panic!("columns of {line:?}") };
            (of == kind)
                .then(|| (prometheus(name, instrument), Name { opentelemetry: name, instrument, stability }))
        })
        .collect()
}

/// OpenTelemetry, "Prometheus and OpenMetrics compatibility": names of metrics have their unit, counters `_total`.
fn prometheus(name: &str, instrument: &str) -> String {
    let unit = match instrument.split_once(' ') {
        Some((_, "s")) => "_seconds",
        Some((_, "By")) => "_bytes",
        Some(("gauge", "1")) => "_ratio",
        _ => "",
    };
    let total = if instrument.starts_with("counter ") { "_total" } else { "" };
    name.replace('.', "_") + unit + total
}

/// Whether a family is one that the conventions could have.
fn is_compared(family: &Family) -> bool {
    !family.name.starts_with("porthole_") && !family.name.starts_with("traces_service_graph_")
}

fn labels(families: &[Family]) -> BTreeSet<&str> {
    let compared = families.iter().filter(|family| is_compared(family));
    compared.flat_map(|family| family.labels.iter().map(String::as_str)).collect()
}

/// Fails for a name that is neither in the conventions nor listed here, or is in both.
pub fn compare(families: &[Family], exposition: &str) {
    let metrics = names("metric");
    for family in families.iter().filter(|family| is_compared(family)) {
        check(&family.name, &metrics, OWN_METRICS);
        let Some(metric) = metrics.get(&family.name) else { continue };
        let kind = match metric.instrument.split_once(' ').expect("instrument and unit").0 {
            "updowncounter" => "gauge",
            kind => kind,
        };
        assert_eq!(family.kind, kind, "{}", family.name);
    }
    let attributes = names("attribute");
    let labels = labels(families);
    for label in &labels {
        check(label, &attributes, OWN_LABELS);
    }
    for (name, _) in OWN_METRICS {
        assert!(families.iter().any(|family| family.name == *name), "{name} is not served");
    }
    for (name, _) in OWN_LABELS {
        assert!(labels.contains(name), "{name} is not served");
    }
    compare_values(exposition);
}

fn check(name: &str, names: &BTreeMap<String, Name<'_>>, own: &[(&str, &str)]) {
    let is_own = own.iter().any(|(known, _)| *known == name);
    match names.get(name) {
        Some(known) if known.stability == "deprecated" => {
            assert!(is_own, "{name}: {} is deprecated in the conventions", known.opentelemetry);
        }
        Some(known) => assert!(!is_own, "{name}: the conventions have {}", known.opentelemetry),
        None => assert!(is_own, "{name}: not in the conventions"),
    }
}

/// Attributes whose values the conventions list have no others.
fn compare_values(exposition: &str) {
    let values = names("value");
    let listed: BTreeSet<_> =
        values.keys().filter_map(|value| Some(value.split_once('=')?.0.to_owned())).collect();
    assert!(listed.len() >= 7, "{listed:?}");
    for label in listed {
        let samples = exposition.lines().filter(|line| !line.starts_with('#'));
        let used = samples.filter_map(|line| line.split_once(&format!("{label}=\""))?.1.split('"').next());
        let used: BTreeSet<_> = used.collect();
        assert!(!used.is_empty(), "{label} is not served");
        for value in used {
            let known =
                values.get(&format!("{label}={value}")).is_some_and(|it| it.stability != "deprecated");
            assert_ne!(known, OWN_VALUES.contains(&(&label, value)), "{label}=\"{value}\"");
        }
    }
}

/// The tables of the comparison, by the names of their parts.
pub fn tables(families: &[Family]) -> [(&'static str, String); 2] {
    let compared = families.iter().filter(|family| is_compared(family)).map(|family| family.name.as_str());
    [
        ("conventions of metrics", compared_table("metric", compared, &names("metric"), OWN_METRICS)),
        ("conventions of labels", compared_table("label", labels(families), &names("attribute"), OWN_LABELS)),
    ]
}

fn compared_table<'a>(
    head: &str,
    used: impl IntoIterator<Item = &'a str>,
    names: &BTreeMap<String, Name<'_>>,
    own: &[(&str, &str)],
) -> String {
    let rows = used.into_iter().map(|name| {
        let meaning = match (own.iter().find(|(known, _)| *known == name), names.get(name)) {
            (Some((_, reason)), _) => format!("own name: {reason}"),
            (None, Some(known)) => {
                format!("`{}`, {}", known.opentelemetry, known.stability.replace('_', " "))
            }
            (None, None) => "unknown".to_owned(),
        };
        row(&[format!("`{name}`"), meaning])
    });
    table(&[head, "in the conventions"], rows)
}
