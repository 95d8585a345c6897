//! Names in OpenTelemetry's form. Those of the semantic conventions are as the conventions have them. The others have the namespace of
//! their first word. In Prometheus' form (OpenTelemetry, "Prometheus and OpenMetrics compatibility") each name is the one in scrapes.

use std::{collections::HashMap, sync::LazyLock};

use crate::protocol::Protocol;

/// Metrics of the conventions, besides the instruments of protocols.
const METRICS: [(&str, &str); 7] = [
    ("container_cpu_time_seconds", "container.cpu.time"),
    ("container_disk_io_bytes", "container.disk.io"),
    ("container_memory_rss_bytes", "container.memory.rss"),
    ("container_memory_usage_bytes", "container.memory.usage"),
    ("container_memory_working_set_bytes", "container.memory.working_set"),
    ("container_network_io_bytes", "container.network.io"),
    ("container_paging_faults", "container.paging.faults"),
];

/// Attributes of the conventions, besides those of protocols.
const ATTRIBUTES: [(&str, &str); 7] = [
    ("cpu_mode", "cpu.mode"),
    ("disk_io_direction", "disk.io.direction"),
    ("error_type", "error.type"),
    ("network_io_direction", "network.io.direction"),
    ("server_address", "server.address"),
    ("server_port", "server.port"),
    ("system_paging_fault_type", "system.paging.fault.type"),
];

/// Names that others read as they are.
const AS_THEY_ARE: &str = "traces_service_graph_";

/// Units: OpenMetrics' word, and the code that Prometheus' form of a name has the word for.
const UNITS: [(&str, &str); 3] = [("seconds", "s"), ("bytes", "By"), ("ratio", "1")];

static INSTRUMENTS: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
    let rows = Protocol::ALL.iter().map(|protocol| protocol.row());
    let names = rows.flat_map(|row| [row.server_instrument, row.client_instrument]);
    names.map(|name| (format!("{}_seconds", prometheus(name)), name)).collect()
});

static OF_PROTOCOLS: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
    let rows = Protocol::ALL.iter().map(|protocol| protocol.row());
    let parts = rows.flat_map(|row| {
        let parts = [row.operation.attribute, row.resource.attribute, row.status.attribute];
        parts.into_iter().chain([row.system.map(|(attribute, _)| attribute)])
    });
    parts.flatten().map(|name| (prometheus(name), name)).collect()
});

fn prometheus(opentelemetry: &str) -> String {
    opentelemetry.replace('.', "_")
}

/// The name and the unit of a family.
pub(super) fn metric(family: &str, unit: Option<&str>) -> (String, &'static str) {
    let unit = unit.and_then(|unit| UNITS.iter().find(|(word, _)| *word == unit));
    let code = unit.map_or("", |(_, code)| code);
    let known = METRICS.iter().find(|(name, _)| *name == family).map(|(_, name)| *name);
    if let Some(known) = known.or_else(|| INSTRUMENTS.get(family).copied()) {
        return (known.to_owned(), code);
    }
    let stem = unit.and_then(|(word, _)| family.strip_suffix(word)?.strip_suffix('_')).unwrap_or(family);
    let name = if stem.starts_with(AS_THEY_ARE) { stem.to_owned() } else { stem.replacen('_', ".", 1) };
    (name, code)
}

/// The name of the attribute that a label is.
pub(super) fn attribute(label: &'static str) -> &'static str {
    let known = ATTRIBUTES.iter().find(|(name, _)| *name == label).map(|(_, name)| *name);
    known.or_else(|| OF_PROTOCOLS.get(label).copied()).unwrap_or(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::{INSTRUMENTS, resources::FAMILIES};

    #[test]
    fn names_of_the_conventions_are_theirs_and_others_have_a_namespace() {
        for (family, unit, name, code) in [
            ("http_server_request_duration_seconds", Some("seconds"), "http.server.request.duration", "s"),
            ("container_memory_working_set_bytes", Some("bytes"), "container.memory.working_set", "By"),
            ("container_cpu_limit_cores", Some("cores"), "container.cpu_limit_cores", ""),
            ("porthole_app_requests", None, "porthole.app_requests", ""),
            ("porthole_app_objective_ratio", Some("ratio"), "porthole.app_objective", "1"),
            ("traces_service_graph_request", None, "traces_service_graph_request", ""),
        ] {
            assert_eq!(metric(family, unit), (name.to_owned(), code), "{family}");
        }
        assert_eq!(attribute("http_response_status_code"), "http.response.status_code");
        assert_eq!(attribute("side"), "side");
    }

    #[test]
    fn in_prometheus_form_names_are_those_of_scrapes() {
        let instruments = INSTRUMENTS.iter().map(|instrument| format!("{}_seconds", instrument.name));
        let of_resources = FAMILIES.iter().map(|family| (family.name.to_owned(), family.unit));
        for (family, unit) in instruments.map(|name| (name, Some("seconds"))).chain(of_resources) {
            let (name, code) = metric(&family, unit);
            let suffix = UNITS.iter().find(|(_, known)| *known == code).map(|(word, _)| format!("_{word}"));
            assert_eq!(prometheus(&name) + suffix.as_deref().unwrap_or_default(), family);
        }
        for recorded in INSTRUMENTS.iter().flat_map(|instrument| &instrument.recorded) {
            for label in [recorded.operation, recorded.resource, recorded.status] {
                assert_eq!(prometheus(attribute(label)), label);
            }
        }
    }
}
