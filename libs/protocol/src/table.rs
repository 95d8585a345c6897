//! One row for each protocol.

use crate::{
    InFlight::{Correlated, One, Ordered},
    Offload, Part, Row,
    Transport::{DatagramAndStream, Stream},
    Value,
};

/// Defines the enumeration, the list of its values and their rows together, so that none can be missing.
macro_rules! protocols {
    ($($(#[doc = $doc:literal])+ $variant:ident = $row:expr;)+) => {
        /// An application protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Protocol {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Protocol {
            /// Every protocol, in the order of the numbers on the wire.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Everything about it.
            pub const fn row(self) -> &'static Row {
                match self {
                    $(Self::$variant => const { &$row },)+
                }
            }
        }
    };
}

/// What HTTP's versions share.
const HTTP: Row = Row {
    name: "",
    title: "",
    read_by: None,
    wire: 0,
    offload: None,
    server_instrument: "http.server.request.duration",
    client_instrument: "http.client.request.duration",
    system: None,
    operation: Part::new("http.request.method", "method"),
    resource: Part::new("http.route", "templated route"),
    status: Part::new("http.response.status_code", "exact code"),
    in_flight: Ordered,
    transport: Stream,
    client_errors_are_the_clients: true,
};

const fn database(
    name: &'static str,
    operation: &'static str,
    resource: &'static str,
    status: &'static str,
) -> Row {
    Row {
        name,
        system: Some(("db.system.name", name)),
        server_instrument: "db.server.operation.duration",
        client_instrument: "db.client.operation.duration",
        operation: Part::new("db.operation.name", operation),
        resource: Part::new("db.collection.name", resource),
        status: Part::new("db.response.status_code", status),
        client_errors_are_the_clients: false,
        ..HTTP
    }
}

const fn messaging(
    name: &'static str,
    system: &'static str,
    operation: &'static str,
    resource: &'static str,
    status: &'static str,
) -> Row {
    Row {
        name,
        system: Some(("messaging.system", system)),
        server_instrument: "messaging.server.operation.duration",
        client_instrument: "messaging.client.operation.duration",
        operation: Part::new("messaging.operation.name", operation),
        resource: Part::new("messaging.destination.name", resource),
        status: Part::new("messaging.response.status_code", status),
        in_flight: Correlated,
        client_errors_are_the_clients: false,
        ..HTTP
    }
}

protocols! {
    /// HTTP/1.0 and HTTP/1.1 (RFC 9112).
    Http1 = Row { name: "http1", title: "HTTP/1.0, 1.1", wire: 1, offload: Some(Offload::Http1), ..HTTP };
    /// HTTP/2 (RFC 9113).
    Http2 = Row {
        name: "http2",
        title: "HTTP/2",
        wire: 2,
        system: Some(("network.protocol.version", "2")),
        in_flight: Correlated,
        ..HTTP
    };
    /// gRPC over HTTP/2.
    Grpc = Row {
        name: "grpc",
        title: "gRPC",
        read_by: Some(Protocol::Http2),
        wire: 3,
        server_instrument: "rpc.server.call.duration",
        client_instrument: "rpc.client.call.duration",
        system: Some(("rpc.system.name", "grpc")),
        operation: Part::unlabelled("HTTP method"),
        resource: Part {
            attribute: Some("rpc.method"),
            meaning: "`/service/method`",
            value: Value::GrpcMethod,
        },
        status: Part {
            attribute: Some("rpc.response.status_code"),
            meaning: "`grpc-status` of the trailers",
            value: Value::GrpcStatus,
        },
        in_flight: Correlated,
        ..HTTP
    };
    /// MySQL and MariaDB.
    Mysql = Row {
        title: "MySQL, MariaDB",
        wire: 4,
        offload: Some(Offload::Mysql),
        in_flight: One,
        ..database("mysql", "`SELECT`, … or the command", "table", "error number")
    };
    /// PostgreSQL's frontend/backend protocol 3.
    Postgresql = Row {
        title: "PostgreSQL",
        wire: 5,
        offload: Some(Offload::Postgresql),
        ..database("postgresql", "`SELECT`, …", "table", "SQLSTATE, or `PIPELINE_ABORTED`")
    };
    /// RESP2 and RESP3.
    Redis = Row {
        title: "Redis (RESP2, RESP3, inline)",
        wire: 6,
        offload: Some(Offload::Redis),
        ..database("redis", "command", "-", "error prefix (`WRONGTYPE`, `MOVED`, …)")
    };
    /// Apache Kafka.
    Kafka = Row {
        title: "Kafka",
        wire: 7,
        ..messaging(
            "kafka",
            "kafka",
            "API (`Fetch (long poll)` where the broker was allowed to wait)",
            "topic",
            "first error code, by name",
        )
    };
    /// DNS over UDP and TCP (RFC 1035).
    Dns = Row {
        name: "dns",
        title: "DNS over UDP and TCP",
        wire: 8,
        server_instrument: "dns.server.lookup.duration",
        client_instrument: "dns.lookup.duration",
        operation: Part::new("dns.question.type", "type"),
        resource: Part::new("dns.question.name", "name, converged"),
        status: Part::new("dns.response.code", "response code"),
        in_flight: Correlated,
        transport: DatagramAndStream,
        client_errors_are_the_clients: false,
        ..HTTP
    };
    /// MongoDB's `OP_MSG`.
    Mongodb = Row {
        title: "MongoDB (`OP_MSG`)",
        wire: 9,
        in_flight: Correlated,
        ..database("mongodb", "command", "collection", "error code")
    };
    /// Memcached's text, meta and binary protocols.
    Memcached = Row {
        title: "Memcached (text, meta, binary)",
        wire: 10,
        ..database(
            "memcached",
            "command",
            "key class: the word before the first `:`",
            "first word of the answer, `HIT`, `MISS`",
        )
    };
    /// AMQP 0-9-1.
    Amqp = Row {
        title: "AMQP 0-9-1",
        wire: 11,
        ..messaging("amqp", "rabbitmq", "method", "queue, exchange or routing key", "reply code")
    };
    /// NATS.
    Nats = Row {
        title: "NATS",
        wire: 12,
        ..messaging("nats", "nats", "`REQUEST`, `PUB`, `MSG`", "subject", "-")
    };
    /// TLS records (RFC 8446): recognised, never looked into.
    Tls = Row {
        name: "tls",
        title: "TLS",
        wire: 13,
        server_instrument: "tls.server.connection.duration",
        client_instrument: "tls.client.connection.duration",
        operation: Part::unlabelled("`ClientHello`"),
        resource: Part::new("tls.client.server_name", "server name, converged"),
        status: Part::new("tls.alert.description", "alert's description (RFC 8446 section 6), when the handshake is refused"),
        in_flight: One,
        client_errors_are_the_clients: false,
        ..HTTP
    };
}

impl Protocol {
    /// In labels, listings, file names and the names of fuzz targets.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The protocol whose parser reads it.
    #[must_use]
    pub const fn parser(self) -> Self {
        match self.row().read_by {
            Some(other) => other,
            None => self,
        }
    }

    /// The protocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| protocol.name() == name)
    }

    /// Number in the agent's contract.
    pub const fn wire(self) -> i32 {
        self.row().wire
    }

    /// The protocol of a number in the contract; `None` for one that this build does not know.
    pub fn from_wire(wire: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| protocol.wire() == wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_distinct_and_lead_back() {
        for (at, &protocol) in Protocol::ALL.iter().enumerate() {
            let row = protocol.row();
            assert_eq!(usize::try_from(row.wire), Ok(at + 1), "{protocol:?}: numbers ascend without a gap");
            assert_eq!(Protocol::from_wire(row.wire), Some(protocol));
            assert_eq!(Protocol::from_name(row.name), Some(protocol));
            assert!(!row.title.is_empty(), "{protocol:?}");
        }
        assert_eq!(Protocol::from_wire(0), None);
        assert_eq!(Protocol::from_name(""), None);
    }

    #[test]
    fn protocols_of_one_instrument_differ_in_their_system() {
        for &one in Protocol::ALL {
            for &other in Protocol::ALL {
                let (a, b) = (one.row(), other.row());
                assert_ne!(
                    a.server_instrument, b.client_instrument,
                    "{one:?} {other:?}: sides have instruments"
                );
                if one != other && a.server_instrument == b.server_instrument {
                    assert_eq!(a.client_instrument, b.client_instrument, "{one:?} {other:?}");
                    assert_ne!(a.system, b.system, "{one:?} {other:?}");
                }
            }
        }
    }
}
