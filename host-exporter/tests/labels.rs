//! The labels of every protocol's series, names and values: what `l7` makes of an exchange, and what Prometheus gets.

mod support;

use std::collections::BTreeMap;

use porthole_protocol::{ErrorClass, Protocol, Side};
use protobuf::EnumOrUnknown;
use support::{
    Host,
    agent::{TestAgent, http},
    record,
};

/// Operation, resource and status as `l7` gives them, and the labels of both sides.
struct Case {
    protocol: Protocol,
    exchange: [&'static str; 3],
    error: ErrorClass,
    family: [&'static str; 2],
    labels: &'static [(&'static str, &'static str)],
    /// `error_type` of the server's side and of the client's.
    error_type: [&'static str; 2],
}

const DB: [&str; 2] = ["db_server_operation_duration_seconds", "db_client_operation_duration_seconds"];
const HTTP: [&str; 2] = ["http_server_request_duration_seconds", "http_client_request_duration_seconds"];
const MESSAGING: [&str; 2] =
    ["messaging_server_operation_duration_seconds", "messaging_client_operation_duration_seconds"];
const RPC: [&str; 2] = ["rpc_server_call_duration_seconds", "rpc_client_call_duration_seconds"];

const CASES: &[Case] = &[
    Case {
        protocol: Protocol::Http1,
        exchange: ["GET", "/items/{}", "404"],
        error: ErrorClass::Client,
        family: HTTP,
        labels: &[
            ("http_request_method", "GET"),
            ("http_route", "/items/{}"),
            ("http_response_status_code", "404"),
        ],
        error_type: ["", "404"],
    },
    Case {
        protocol: Protocol::Http2,
        exchange: ["POST", "/items", "503"],
        error: ErrorClass::Server,
        family: HTTP,
        labels: &[
            ("http_request_method", "POST"),
            ("http_route", "/items"),
            ("http_response_status_code", "503"),
            ("network_protocol_version", "2"),
        ],
        error_type: ["503", "503"],
    },
    Case {
        protocol: Protocol::Grpc,
        exchange: ["POST", "/shop.Cart/Add", "0"],
        error: ErrorClass::None,
        family: RPC,
        labels: &[
            ("rpc_system_name", "grpc"),
            ("rpc_method", "shop.Cart/Add"),
            ("rpc_response_status_code", "OK"),
        ],
        error_type: ["", ""],
    },
    Case {
        protocol: Protocol::Grpc,
        exchange: ["POST", "/shop.Cart/Missing", "5"],
        error: ErrorClass::Client,
        family: RPC,
        labels: &[
            ("rpc_system_name", "grpc"),
            ("rpc_method", "shop.Cart/Missing"),
            ("rpc_response_status_code", "NOT_FOUND"),
        ],
        error_type: ["", "NOT_FOUND"],
    },
    Case {
        protocol: Protocol::Grpc,
        exchange: ["POST", "/shop.Cart/Slow", "4"],
        error: ErrorClass::Server,
        family: RPC,
        labels: &[
            ("rpc_system_name", "grpc"),
            ("rpc_method", "shop.Cart/Slow"),
            ("rpc_response_status_code", "DEADLINE_EXCEEDED"),
        ],
        error_type: ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"],
    },
    Case {
        protocol: Protocol::Mysql,
        exchange: ["SELECT", "orders", "1146"],
        error: ErrorClass::Client,
        family: DB,
        labels: &[
            ("db_system_name", "mysql"),
            ("db_operation_name", "SELECT"),
            ("db_collection_name", "orders"),
            ("db_response_status_code", "1146"),
        ],
        error_type: ["1146", "1146"],
    },
    Case {
        protocol: Protocol::Postgresql,
        exchange: ["INSERT", "orders", "23505"],
        error: ErrorClass::Client,
        family: DB,
        labels: &[
            ("db_system_name", "postgresql"),
            ("db_operation_name", "INSERT"),
            ("db_collection_name", "orders"),
            ("db_response_status_code", "23505"),
        ],
        error_type: ["23505", "23505"],
    },
    Case {
        protocol: Protocol::Redis,
        exchange: ["GET", "", "WRONGTYPE"],
        error: ErrorClass::Client,
        family: DB,
        labels: &[
            ("db_system_name", "redis"),
            ("db_operation_name", "GET"),
            ("db_response_status_code", "WRONGTYPE"),
        ],
        error_type: ["WRONGTYPE", "WRONGTYPE"],
    },
    Case {
        protocol: Protocol::Kafka,
        exchange: ["Produce", "orders", "NOT_LEADER_OR_FOLLOWER"],
        error: ErrorClass::Server,
        family: MESSAGING,
        labels: &[
            ("messaging_system", "kafka"),
            ("messaging_operation_name", "Produce"),
            ("messaging_destination_name", "orders"),
            ("messaging_response_status_code", "NOT_LEADER_OR_FOLLOWER"),
        ],
        error_type: ["NOT_LEADER_OR_FOLLOWER", "NOT_LEADER_OR_FOLLOWER"],
    },
    Case {
        protocol: Protocol::Dns,
        exchange: ["A", "example.com", "NXDOMAIN"],
        error: ErrorClass::Client,
        family: ["dns_server_lookup_duration_seconds", "dns_lookup_duration_seconds"],
        labels: &[
            ("dns_question_type", "A"),
            ("dns_question_name", "example.com"),
            ("dns_response_code", "NXDOMAIN"),
        ],
        error_type: ["NXDOMAIN", "NXDOMAIN"],
    },
    Case {
        protocol: Protocol::Mongodb,
        exchange: ["insert", "orders", "11000"],
        error: ErrorClass::Client,
        family: DB,
        labels: &[
            ("db_system_name", "mongodb"),
            ("db_operation_name", "insert"),
            ("db_collection_name", "orders"),
            ("db_response_status_code", "11000"),
        ],
        error_type: ["11000", "11000"],
    },
    Case {
        protocol: Protocol::Memcached,
        exchange: ["get", "session", "MISS"],
        error: ErrorClass::None,
        family: DB,
        labels: &[
            ("db_system_name", "memcached"),
            ("db_operation_name", "get"),
            ("db_collection_name", "session"),
            ("db_response_status_code", "MISS"),
        ],
        error_type: ["", ""],
    },
    Case {
        protocol: Protocol::Amqp,
        exchange: ["basic.publish", "orders", "312"],
        error: ErrorClass::Client,
        family: MESSAGING,
        labels: &[
            ("messaging_system", "rabbitmq"),
            ("messaging_operation_name", "basic.publish"),
            ("messaging_destination_name", "orders"),
            ("messaging_response_status_code", "312"),
        ],
        error_type: ["312", "312"],
    },
    Case {
        protocol: Protocol::Nats,
        exchange: ["REQUEST", "orders.{}", ""],
        error: ErrorClass::NoResponse,
        family: MESSAGING,
        labels: &[
            ("messaging_system", "nats"),
            ("messaging_operation_name", "REQUEST"),
            ("messaging_destination_name", "orders.{}"),
        ],
        error_type: ["no_response", "no_response"],
    },
    Case {
        protocol: Protocol::Tls,
        exchange: ["ClientHello", "example.com", "70"],
        error: ErrorClass::Server,
        family: ["tls_server_connection_duration_seconds", "tls_client_connection_duration_seconds"],
        labels: &[("tls_client_server_name", "example.com"), ("tls_alert_description", "70")],
        error_type: ["70", "70"],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_has_the_labels_of_the_conventions_with_their_values() {
    for protocol in Protocol::ALL {
        assert!(CASES.iter().any(|case| case.protocol == *protocol), "no case of {protocol:?}");
    }
    let host = Host::new();
    let socket = host.socket("a");
    let agent = TestAgent::start(&socket, 7).await;
    let both = CASES.iter().flat_map(|case| Side::ALL.map(|side| (case, side)));
    let series = both.zip(1..).map(|((case, side), id)| {
        let mut series = http(id, "shop-1", "", "", u64::from(id), 1);
        let key = series.key.as_mut().expect("key");
        key.protocol = EnumOrUnknown::from_i32(case.protocol.wire());
        key.side = EnumOrUnknown::from_i32(side.wire());
        key.error = EnumOrUnknown::from_i32(case.error.wire());
        [key.operation, key.resource, key.status] = case.exchange.map(str::to_owned);
        if side == Side::Client {
            key.peer = "10.0.0.2:80".into();
        }
        series
    });
    agent.tell(series.collect());
    let exporter = host.start();
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    let requests = (1..=2 * CASES.len() as u64).sum();
    exporter.wait_for_requests("shop", requests).await;
    let served = exporter.metrics().await;
    for (case, number) in CASES.iter().zip(0_u32..) {
        for (at, side) in Side::ALL.into_iter().enumerate() {
            let mut expected: BTreeMap<String, String> = BTreeMap::new();
            let mut expect = |name: &str, value: &str| {
                if !value.is_empty() {
                    expected.insert(name.to_owned(), value.to_owned());
                }
            };
            for (name, value) in case.labels {
                expect(name, value);
            }
            for (name, value) in [
                ("tenant", "acme"),
                ("service_name", "shop"),
                ("containerd_namespace", "default"),
                ("sandbox_id", "shop-1"),
            ] {
                expect(name, value);
            }
            expect("error_type", case.error_type[at]);
            if side == Side::Client {
                expect("server_address", "10.0.0.2");
                expect("server_port", "80");
            }
            let id = f64::from(2 * number + u32::try_from(at).expect("small") + 1);
            let samples = served.select(&format!("{}_count", case.family[at]), &[]);
            let found = samples.iter().find(|(_, value)| (value - id).abs() < 0.1);
            let Some((labels, _)) = found else { panic!("{:?} {side:?}: no series", case.protocol) };
            let mut labels = (*labels).clone();
            labels.remove("k8s_container_name");
            assert_eq!(labels, expected, "{:?} {side:?}", case.protocol);
        }
    }
    exporter.stop().await;
}
