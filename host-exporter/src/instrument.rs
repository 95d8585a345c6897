//! The instruments of the instance dimension in Prometheus' form: which histogram an exchange is recorded in, and which
//! label each part of its key becomes. Everything derives from the table of protocols.

pub mod resources;

use std::sync::LazyLock;

use porthole_protocol::Value;

use crate::protocol::{Protocol, Side};

/// An instrument, in Prometheus form.
#[derive(Debug)]
pub struct Instrument {
    /// Metric name without its unit, which the encoder appends.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// What it records.
    pub recorded: Vec<Recorded>,
}

/// One protocol's side within an instrument: the label names for the parts of a series' key.
#[derive(Debug)]
pub struct Recorded {
    /// The protocol.
    pub protocol: Protocol,
    /// The side.
    pub side: Side,
    /// Label that distinguishes the protocols of one instrument.
    pub system: Option<(&'static str, &'static str)>,
    /// Label of the operation; empty when it is no label.
    pub operation: &'static str,
    /// Label of the resource.
    pub resource: &'static str,
    /// Label of the status.
    pub status: &'static str,
}

/// Names of the labels of a series, in the order of [`SeriesKey::texts`](crate::accumulate::series::SeriesKey::texts).
pub fn label_names(protocol: Protocol, side: Side) -> [&'static str; 7] {
    let recorded = INSTRUMENTS
        .iter()
        .flat_map(|instrument| &instrument.recorded)
        .find(|recorded| (recorded.protocol, recorded.side) == (protocol, side));
    let [operation, resource, status] =
        recorded.map_or([""; 3], |recorded| [recorded.operation, recorded.resource, recorded.status]);
    ["k8s_container_name", operation, resource, status, "error_type", "server_address", "server_port"]
}

/// The values of the labels that the parts of a key become. A part that is no label has no value, so that keys which
/// differ in it alone are one series.
pub fn label_values(protocol: Protocol, key: [&str; 3]) -> [&str; 3] {
    let row = protocol.row();
    let mut values = [""; 3];
    for ((value, part), text) in values.iter_mut().zip([row.operation, row.resource, row.status]).zip(key) {
        *value = match (part.attribute, part.value) {
            (None, _) => "",
            (Some(_), Value::Verbatim) => text,
            (Some(_), other) => other.of(text),
        };
    }
    values
}

/// The Prometheus form of an OpenTelemetry name (OpenTelemetry: compatibility/prometheus, metric and attribute names).
fn prometheus_name(opentelemetry: &str) -> &'static str {
    opentelemetry.replace('.', "_").leak()
}

/// Every instrument of the instance dimension, in the order of exposition.
pub static INSTRUMENTS: LazyLock<Vec<Instrument>> = LazyLock::new(|| {
    let mut instruments: Vec<(&str, Instrument)> = Vec::new();
    for &protocol in Protocol::ALL {
        let row = protocol.row();
        for (name, side) in [(row.server_instrument, Side::Server), (row.client_instrument, Side::Client)] {
            let at = instruments.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                let stem = name.strip_suffix(".duration").unwrap_or(name);
                let help = format!("Duration of {}, seen from the {}", stem.replace('.', " "), side.name());
                instruments.push((
                    name,
                    Instrument { name: prometheus_name(name), help: help.leak(), recorded: Vec::new() },
                ));
                instruments.len() - 1
            });
            instruments[at].1.recorded.push(Recorded {
                protocol,
                side,
                system: row.system.map(|(attribute, value)| (prometheus_name(attribute), value)),
                operation: row.operation.attribute.map_or("", prometheus_name),
                resource: row.resource.attribute.map_or("", prometheus_name),
                status: row.status.attribute.map_or("", prometheus_name),
            });
        }
    }
    instruments.into_iter().map(|(_, instrument)| instrument).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_conventions() {
        let names: Vec<_> = INSTRUMENTS.iter().map(|instrument| instrument.name).collect();
        for name in [
            "http_server_request_duration",
            "http_client_request_duration",
            "db_client_operation_duration",
            "messaging_client_operation_duration",
            "dns_lookup_duration",
            "rpc_server_call_duration",
            "rpc_client_call_duration",
        ] {
            assert!(names.contains(&name), "{name} not in {names:?}");
        }
        assert_eq!(INSTRUMENTS[0].recorded[0].status, "http_response_status_code");
    }
}
