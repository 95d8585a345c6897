//! Which instrument of OpenTelemetry's semantic conventions an exchange is recorded by, and which attribute each part
//! of its key becomes. The one table from which every metric and label name of the instance dimension derives.
//!
//! Names follow the conventions where they have one (`http.client.request.duration`, `db.client.operation.duration`,
//! `messaging.client.operation.duration`, `dns.lookup.duration`, `rpc.server.duration`) and their pattern where they
//! have none (the server's side of databases, messaging, DNS and TLS).

use std::sync::LazyLock;

use crate::protocol::{Protocol, Side};

/// How one protocol's exchanges are recorded. Attribute names are OpenTelemetry's, with dots.
#[derive(Debug)]
struct Row {
    protocol: Protocol,
    /// Instrument names, server's and client's side.
    server: &'static str,
    client: &'static str,
    /// Attribute that tells protocols of one instrument apart.
    system: Option<(&'static str, &'static str)>,
    operation: &'static str,
    resource: &'static str,
    status: &'static str,
}

const DB: Row = Row {
    protocol: Protocol::Mysql,
    server: "db.server.operation.duration",
    client: "db.client.operation.duration",
    system: None,
    operation: "db.operation.name",
    resource: "db.collection.name",
    status: "db.response.status_code",
};

const MESSAGING: Row = Row {
    protocol: Protocol::Kafka,
    server: "messaging.server.operation.duration",
    client: "messaging.client.operation.duration",
    system: None,
    operation: "messaging.operation.name",
    resource: "messaging.destination.name",
    status: "messaging.response.status_code",
};

const HTTP: Row = Row {
    protocol: Protocol::Http1,
    server: "http.server.request.duration",
    client: "http.client.request.duration",
    system: None,
    operation: "http.request.method",
    resource: "http.route",
    status: "http.response.status_code",
};

const fn db(protocol: Protocol, name: &'static str) -> Row {
    Row { protocol, system: Some(("db.system.name", name)), ..DB }
}

const fn messaging(protocol: Protocol, name: &'static str) -> Row {
    Row { protocol, system: Some(("messaging.system", name)), ..MESSAGING }
}

const TABLE: &[Row] = &[
    HTTP,
    Row { protocol: Protocol::Http2, system: Some(("network.protocol.version", "2")), ..HTTP },
    Row {
        protocol: Protocol::Grpc,
        server: "rpc.server.duration",
        client: "rpc.client.duration",
        system: Some(("rpc.system", "grpc")),
        operation: "rpc.method",
        resource: "rpc.service",
        status: "rpc.grpc.status_code",
    },
    db(Protocol::Mysql, "mysql"),
    db(Protocol::Postgresql, "postgresql"),
    db(Protocol::Redis, "redis"),
    db(Protocol::Mongodb, "mongodb"),
    db(Protocol::Memcached, "memcached"),
    messaging(Protocol::Kafka, "kafka"),
    messaging(Protocol::Amqp, "rabbitmq"),
    messaging(Protocol::Nats, "nats"),
    Row {
        protocol: Protocol::Dns,
        server: "dns.server.lookup.duration",
        client: "dns.lookup.duration",
        system: None,
        operation: "dns.question.type",
        resource: "dns.question.name",
        status: "dns.response.code",
    },
    Row {
        protocol: Protocol::Tls,
        server: "tls.server.connection.duration",
        client: "tls.client.connection.duration",
        system: None,
        operation: "tls.protocol.version",
        resource: "tls.client.server_name",
        status: "tls.status",
    },
];

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
    /// Label that tells protocols of one instrument apart.
    pub system: Option<(&'static str, &'static str)>,
    /// Label of the operation.
    pub operation: &'static str,
    /// Label of the resource.
    pub resource: &'static str,
    /// Label of the status.
    pub status: &'static str,
}

/// The Prometheus form of an OpenTelemetry name (OpenTelemetry: compatibility/prometheus, metric and attribute names).
fn prometheus_name(opentelemetry: &str) -> &'static str {
    opentelemetry.replace('.', "_").leak()
}

/// Every instrument of the instance dimension, in the order of exposition.
pub static INSTRUMENTS: LazyLock<Vec<Instrument>> = LazyLock::new(|| {
    let mut instruments: Vec<(&str, Instrument)> = Vec::new();
    for row in TABLE {
        for (name, side) in [(row.server, Side::Server), (row.client, Side::Client)] {
            let at = instruments.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                let stem = name.strip_suffix(".duration").unwrap_or(name);
                let help = format!("Duration of {}, seen from the {}", stem.replace('.', " "), side.as_str());
                instruments.push((
                    name,
                    Instrument { name: prometheus_name(name), help: help.leak(), recorded: Vec::new() },
                ));
                instruments.len() - 1
            });
            instruments[at].1.recorded.push(Recorded {
                protocol: row.protocol,
                side,
                system: row.system.map(|(attribute, value)| (prometheus_name(attribute), value)),
                operation: prometheus_name(row.operation),
                resource: prometheus_name(row.resource),
                status: prometheus_name(row.status),
            });
        }
    }
    instruments.into_iter().map(|(_, instrument)| instrument).collect()
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_protocol_has_exactly_one_row() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.protocol).collect();
        let distinct: BTreeSet<_> = rows.iter().collect();
        assert_eq!(distinct.len(), rows.len());
        assert_eq!(distinct.len(), Protocol::ALL.len());
    }

    #[test]
    fn protocols_of_one_instrument_are_told_apart() {
        for instrument in INSTRUMENTS.iter() {
            let systems: BTreeSet<_> = instrument.recorded.iter().map(|recorded| recorded.system).collect();
            assert_eq!(systems.len(), instrument.recorded.len(), "{}", instrument.name);
        }
    }

    #[test]
    fn names_are_those_of_the_conventions() {
        let names: Vec<_> = INSTRUMENTS.iter().map(|instrument| instrument.name).collect();
        for name in [
            "http_server_request_duration",
            "http_client_request_duration",
            "db_client_operation_duration",
            "messaging_client_operation_duration",
            "dns_lookup_duration",
            "rpc_server_duration",
        ] {
            assert!(names.contains(&name), "{name} not in {names:?}");
        }
        assert_eq!(INSTRUMENTS[0].recorded[0].status, "http_response_status_code");
    }
}
