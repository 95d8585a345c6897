//! Connections that containers make: from the agent to `/metrics`.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::agent::{Batch, Dependency};
use serde_json::json;
use support::{Exporter, Host, Neighbours, agent::TestAgent, record, wait_for};

const FAILED: &str = "tcp_client_connections_failed_total";
const MADE: &str = "tcp_client_connect_duration_seconds_count";

async fn wait_for_refused(exporter: &Exporter, address: &str, count: f64) {
    wait_for("attempts", async || {
        let labels = [("server_address", address), ("error_type", "refused")];
        exporter.metrics().await.sum(FAILED, &labels) == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_is_down_shows_at_its_client_and_goes_on_after_a_restart() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    agent.connect("shop-1", "10.0.0.2:5432", 3);
    let exporter = host.start();
    wait_for_refused(&exporter, "10.0.0.2", 6.0).await;
    let metrics = exporter.metrics().await;
    let labels = [
        ("tenant", "acme"),
        ("service_name", "shop"),
        ("sandbox_id", "shop-1"),
        ("server_address", "10.0.0.2"),
        ("server_port", "5432"),
    ];
    assert_eq!(metrics.sum(MADE, &labels), 3.0);
    assert_eq!(metrics.sum("tcp_client_connections_broken_total", &labels), 3.0);
    assert_eq!(metrics.sum("tcp_client_retransmitted_segments_total", &labels), 9.0);
    assert_eq!(metrics.sum("tcp_client_round_trip_seconds", &labels), 0.000_15);
    let timed_out = metrics.select(FAILED, &[("error_type", "timed_out")]);
    assert_eq!(timed_out[0].1, 0.0, "there before the first, so that it is an increase");
    let (_, _, of_tenant) = exporter.get("/tenants/acme/metrics").await;
    assert!(of_tenant.contains(FAILED));
    let listed = exporter.json("/api/v1/connections?tenant=acme&service_name=shop").await;
    let [row] = listed["applications"].as_array().expect("a list").as_slice() else { panic!("{listed}") };
    let [to] = row["connections"].as_array().expect("a list").as_slice() else { panic!("{row}") };
    assert_eq!((&to["peer"], &to["made"]), (&json!("10.0.0.2:5432"), &json!(3)));
    assert_eq!((&to["failed"], &to["broken"]), (&json!({"refused": 6}), &json!({"reset": 3})));
    assert_eq!((&to["retransmitted_segments"], &to["round_trip_seconds"]), (&json!(9), &json!(0.000_15)));
    assert!(to["p50_seconds"].as_f64().is_some_and(|seconds| (0.002..0.0022).contains(&seconds)), "{to}");
    exporter.stop().await;

    agent.connect("shop-1", "10.0.0.2:5432", 4);
    let exporter = host.start();
    wait_for_refused(&exporter, "10.0.0.2", 8.0).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_guest_makes_up_are_refused_or_stay_its_own() {
    let host = Host::new();
    let Neighbours { evil: agent, honest, exporter, companions: _companions } = host.neighbours().await;
    honest.connect("shop-1", "10.0.0.2:80", 1);
    agent.connect("shop-1", "10.0.0.2:80", 5);
    let send = |of: Vec<Dependency>| agent.send(Batch { dependencies: of, ..Default::default() });
    let of = |peer: String, failed| Dependency {
        container_id: "evil-1".into(),
        peer,
        failed,
        ..Default::default()
    };
    send(vec![of("a:1".into(), vec![u64::MAX])]);
    send(vec![of("x".repeat(300), vec![1])]);
    send(vec![of("a\n".into(), vec![1])]);
    send(vec![Dependency::default(); 65]);
    for batch in 0..10 {
        send((0..60).map(|number| of(format!("10.9.{batch}.{number}:80"), vec![1])).collect());
    }
    wait_for("refusals", async || {
        let metrics = exporter.metrics().await;
        let count =
            |reason| metrics.sum("porthole_rejected_total", &[("tenant", "evil"), ("reason", reason)]);
        ["count_too_large", "text_too_long", "text_characters", "batch_too_large"].map(count) == [1.0; 4]
            && count("sandbox_series_limit") == 600.0 - 256.0
    })
    .await;
    wait_for_refused(&exporter, "10.0.0.2", 2.0).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(FAILED, &[("tenant", "evil"), ("error_type", "refused")]), 256.0);
    assert_eq!(metrics.sum(MADE, &[("tenant", "acme")]), 1.0);
    assert_eq!(metrics.sum("porthole_rejected_total", &[("tenant", "acme")]), 0.0);
    exporter.stop().await;
}
