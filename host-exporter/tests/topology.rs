//! Who calls whom, over HTTP: connections of which both ends are observed, one end, and what a guest invents.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use std::net::IpAddr;

use porthole_agent_api::agent;
use porthole_exporter::{clock::unix_ms, history::step_of};
use serde_json::{Value, json};
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http},
    record, wait_for,
};

/// A step that the exporter has not recorded itself.
fn next_step() -> u64 {
    step_of(unix_ms()) + 1
}

/// A sandbox with an address of its own.
struct Sandbox {
    agent: TestAgent,
    companion: Companion,
}

async fn sandbox(host: &Host, tenant: &str, service: &str, address: &str) -> Sandbox {
    let id = format!("{service}-1");
    let socket = host.socket(&id);
    let agent = TestAgent::start(&socket, 7).await;
    let mut record = record(&id, tenant, service, &socket);
    record.created_unix_ms = unix_ms();
    record.addresses = vec![address.parse::<IpAddr>().expect("an address")];
    Sandbox { agent, companion: host.companion(&record) }
}

/// Requests of a protocol; to a server, unless `peer` is empty.
fn requests(id: u32, protocol: agent::Protocol, peer: &str, count: u64, failed: bool) -> agent::Series {
    let mut series = http(id, "", "/", if failed { "500" } else { "" }, count, 1);
    let key = series.key.as_mut().expect("key");
    key.protocol = protocol.into();
    key.peer = peer.into();
    let side = if peer.is_empty() { agent::Side::SIDE_SERVER } else { agent::Side::SIDE_CLIENT };
    key.side = side.into();
    let error =
        if failed { agent::ErrorClass::ERROR_CLASS_SERVER } else { agent::ErrorClass::ERROR_CLASS_NONE };
    key.error = error.into();
    series
}

fn record_step(exporter: &Exporter, step: u64) {
    let running = &exporter.running;
    running.history().record(step, &running.fleet().applications());
    running.topology().record(step, running.fleet());
}

/// Edges as (from, to, protocol, requests, errors, whose end).
fn edges(graph: &Value) -> Vec<(String, String, String, u64, u64, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let number = |value: &Value| value.as_u64().expect("a number");
    let mut edges: Vec<_> = graph["edges"]
        .as_array()
        .expect("edges")
        .iter()
        .map(|edge| {
            (
                text(&edge["from"]),
                text(&edge["to"]),
                text(&edge["protocol"]),
                number(&edge["requests"]),
                number(&edge["errors"]),
                text(&edge["counted_by"]),
            )
        })
        .collect();
    edges.sort();
    edges
}

fn edge(
    from: &str,
    to: &str,
    protocol: &str,
    counts: (u64, u64),
    counted_by: &str,
) -> (String, String, String, u64, u64, String) {
    (from.into(), to.into(), protocol.into(), counts.0, counts.1, counted_by.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_in_the_graph_by_the_attempts_of_the_time() {
    let host = Host::new();
    let exporter = host.start().with_steps_by_hand().await;
    let step = next_step();
    let shop = sandbox(&host, "acme", "shop", "10.1.0.1").await;
    let _db = sandbox(&host, "acme", "db", "10.1.0.2").await;
    // Nothing is counted of it that could be waited for.
    exporter.wait_for_sandbox("db-1", "the record with its address", |_| true).await;
    let attempts = async |graph: &str| {
        let graph = exporter.json(graph).await;
        let of =
            |of: &Value| (of["to"].clone(), of["made"].clone(), of["failed"].clone(), of["broken"].clone());
        graph["connections"].as_array().expect("connections").iter().map(of).collect::<Vec<_>>()
    };
    let connected = async |times: u32| {
        for peer in ["10.1.0.2:5432", "192.0.2.9:80"] {
            shop.agent.connect("shop-1", peer, times.into());
        }
        wait_for("connections", async || {
            exporter.metrics().await.sum("tcp_client_connect_duration_seconds_count", &[])
                == 2.0 * f64::from(times)
        })
        .await;
    };
    connected(2).await;
    record_step(&exporter, step);
    connected(5).await;
    record_step(&exporter, step + 1);
    let to = |to: &str, made: u64| (json!(to), json!(made), json!(2 * made), json!(made));
    let whole = [to("address/acme/192.0.2.9:80", 5), to("application/acme/db", 5)];
    assert_eq!(attempts("/api/v1/topology?tenant=acme&seconds=600").await, whole);
    assert_eq!(attempts("/api/v1/topology?tenant=rival").await, []);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_seen_from_both_ends_is_one_edge_and_no_guest_changes_another_tenants() {
    use agent::Protocol::{PROTOCOL_DNS, PROTOCOL_HTTP1, PROTOCOL_MYSQL, PROTOCOL_REDIS};
    let host = Host::new();
    let exporter = host.start().with_steps_by_hand().await;
    let step = next_step();
    let shop = sandbox(&host, "acme", "shop", "10.1.0.1").await;
    let db = sandbox(&host, "acme", "db", "10.1.0.2").await;
    let rival = sandbox(&host, "rival", "web", "10.1.0.3").await;
    shop.agent.tell(vec![
        // Called from outside.
        requests(1, PROTOCOL_HTTP1, "", 20, false),
        requests(2, PROTOCOL_MYSQL, "10.1.0.2:3306", 5, false),
        requests(3, PROTOCOL_MYSQL, "10.1.0.2:3306", 2, true),
        requests(4, PROTOCOL_HTTP1, "10.1.0.3:80", 4, false),
        requests(5, PROTOCOL_REDIS, "192.0.2.9:6379", 6, false),
        requests(6, PROTOCOL_DNS, "[::1]:53", 3, false),
    ]);
    // The seven of the shop, and three of callers that are not observed.
    db.agent.tell(vec![requests(1, PROTOCOL_MYSQL, "", 8, false), requests(2, PROTOCOL_MYSQL, "", 2, true)]);
    rival.agent.tell(vec![requests(1, PROTOCOL_HTTP1, "", 4, false)]);
    exporter.wait_for_requests("shop", 40).await;
    exporter.wait_for_requests("db", 10).await;
    exporter.wait_for_requests("web", 4).await;
    record_step(&exporter, step);
    // A step later, what was served in the last one cannot be a call that is still to be reported.
    record_step(&exporter, step + 1);

    let graph = exporter.json("/api/v1/topology?tenant=acme&seconds=600").await;
    assert_eq!(graph["window_seconds"], json!(600));
    let shop_to =
        |to: &str, protocol: &str, counts| edge("application/acme/shop", to, protocol, counts, "client");
    assert_eq!(
        edges(&graph),
        [
            shop_to("address/acme/192.0.2.9:6379", "redis", (6, 0)),
            shop_to("another-tenant/acme", "http1", (4, 0)),
            shop_to("application/acme/db", "mysql", (7, 2)),
            shop_to("application/acme/shop", "dns", (3, 0)),
            edge("callers/acme", "application/acme/db", "mysql", (3, 0), "server"),
            edge("callers/acme", "application/acme/shop", "http1", (20, 0), "server"),
        ]
    );
    let kinds: Vec<_> = graph["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| {
            (
                node["id"].as_str().expect("id"),
                node["kind"].as_str().expect("kind"),
                node["monitored"] == json!(true),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("application/acme/db", "database", true),
            ("application/acme/shop", "application", true),
            ("address/acme/192.0.2.9:6379", "database", false),
            ("another-tenant/acme", "another-tenant", false),
            ("callers/acme", "outside", false),
        ]
    );
    assert!(!graph.to_string().contains("web") && !graph.to_string().contains("10.1.0.3"), "{graph}");
    let to_db = graph["edges"].as_array().expect("edges").iter();
    let to_db = to_db.clone().find(|edge| edge["protocol"] == "mysql" && edge["counted_by"] == "client");
    let to_db = to_db.expect("an edge");
    assert!(to_db["seconds"]["p99"].as_f64().is_some_and(|p99| (0.001..0.0011).contains(&p99)), "{to_db}");
    assert_eq!(to_db["rate"], json!(7.0 / 600.0));

    // A guest invents calls to the other tenant's database, from and to names and addresses that are not its own.
    rival.agent.tell(vec![
        requests(2, PROTOCOL_MYSQL, "10.1.0.2:3306", 1_000_000, true),
        requests(3, PROTOCOL_HTTP1, "10.1.0.1:80", 1_000_000, false),
        requests(4, PROTOCOL_HTTP1, "application/acme/shop", 1_000_000, false),
        requests(5, PROTOCOL_HTTP1, "db:80", 1_000_000, false),
    ]);
    exporter.wait_for_requests("web", 4_000_004).await;
    record_step(&exporter, step + 1);
    let after = exporter.json("/api/v1/topology?tenant=acme&seconds=600").await;
    assert_eq!(after, graph);
    let rivals = exporter.json("/api/v1/topology?tenant=rival&seconds=600").await;
    let web_to =
        |to: &str, protocol: &str, counts| edge("application/rival/web", to, protocol, counts, "client");
    assert_eq!(
        edges(&rivals),
        [
            web_to("address/rival/application%2Facme%2Fshop", "http1", (1_000_000, 0)),
            web_to("address/rival/db:80", "http1", (1_000_000, 0)),
            web_to("another-tenant/rival", "http1", (1_000_000, 0)),
            web_to("another-tenant/rival", "mysql", (1_000_000, 1_000_000)),
            edge("callers/rival", "application/rival/web", "http1", (4, 0), "server"),
        ]
    );
    let of_all = exporter.json("/api/v1/topology?seconds=600").await;
    assert_eq!(edges(&of_all).len(), 11);
    for (agent, companion) in [shop, db, rival].map(|sandbox| (sandbox.agent, sandbox.companion)) {
        agent.stop().await;
        companion.end();
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_reports_again_after_a_restart_of_the_exporter_is_no_call_of_now() {
    use agent::Protocol::PROTOCOL_MYSQL;
    let host = Host::new();
    let exporter = host.start().with_steps_by_hand().await;
    let shop = sandbox(&host, "acme", "shop", "10.1.0.1").await;
    shop.agent.tell(vec![requests(1, PROTOCOL_MYSQL, "10.1.0.2:3306", 500, false)]);
    exporter.wait_for_requests("shop", 500).await;
    exporter.stop().await;
    let exporter = host.start().with_steps_by_hand().await;
    let step = next_step();
    record_step(&exporter, step);
    wait_for("the agent's connection", async || {
        exporter.sandbox("shop-1").await.is_some_and(|row| row["connection"]["batches"].as_u64() > Some(0))
    })
    .await;
    shop.agent.tell(vec![requests(1, PROTOCOL_MYSQL, "10.1.0.2:3306", 503, false)]);
    exporter.wait_for_requests("shop", 503).await;
    record_step(&exporter, step + 1);
    let graph = exporter.json("/api/v1/topology").await;
    let to = "address/acme/10.1.0.2:3306";
    assert_eq!(edges(&graph), [edge("application/acme/shop", to, "mysql", (3, 0), "client")]);
    shop.agent.stop().await;
    shop.companion.end();
    exporter.stop().await;
}
