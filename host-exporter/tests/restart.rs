//! The exporter restarts: the counts stay right.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::agent::Counters;
use support::{
    Host, Shop,
    agent::{TestAgent, http},
    record, wait_for,
};

const APP: &str = "porthole_app_requests_total";
const INSTANCE: &str = "http_server_request_duration_seconds_count";

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_neither_doubles_nor_loses() {
    let host = Host::new();
    let (live_socket, gone_socket) = (host.socket("l"), host.socket("g"));
    let live = TestAgent::start(&live_socket, 1).await;
    let gone = TestAgent::start(&gone_socket, 1).await;
    live.set_counters(Counters { messages_seen: 5, exchanges: 5, ..Default::default() });
    live.tell(vec![http(1, "live-1", "/", "200", 5, 1)]);
    gone.tell(vec![http(1, "gone-1", "/", "200", 3, 1)]);
    let exporter = host.start();
    let _live = host.companion(&record("live-1", "acme", "shop", &live_socket));
    let gone_companion = host.companion(&record("gone-1", "acme", "shop", &gone_socket));
    exporter.wait_for_requests("shop", 8).await;
    exporter.stop().await;

    // While the exporter is down one sandbox ends, the other serves on.
    gone_companion.end();
    gone.stop().await;
    live.set_counters(Counters { messages_seen: 9, exchanges: 9, ..Default::default() });
    live.tell(vec![http(1, "live-1", "/", "200", 9, 1)]);

    let exporter = host.start();
    assert!(exporter.requests("shop").await >= 8, "from the first moment");
    exporter.wait_for_requests("shop", 12).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(APP, &[]), 12.0);
    assert_eq!(metrics.sum(INSTANCE, &[]), 9.0, "the live one as its agent tells it");
    assert_eq!(metrics.sum("porthole_exchanges_total", &[("tenant", "acme")]), 9.0);
    exporter.stop().await;

    // And once more, with nothing new.
    let exporter = host.start();
    exporter.wait_for_sandbox("live-1", "connected", |row| row["series"] == 1).await;
    assert_eq!(exporter.requests("shop").await, 12);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_nothing_that_the_ledger_had_or_agents_tell_again() {
    let host = Host::new();
    let Shop { agent, exporter, companion, .. } = host.shop().await;
    wait_for("a ledger", async || {
        exporter.metrics().await.sum("porthole_exporter_ledger_writes_total", &[]) >= 1.0
    })
    .await;
    let ledger = host.state().join("ledger");
    wait_for("the requests in it", async || {
        let buckets = b"\"buckets\"";
        std::fs::read(&ledger).is_ok_and(|bytes| bytes.windows(buckets.len()).any(|some| some == buckets))
    })
    .await;
    let as_of_crash = std::fs::read(&ledger).expect("ledger");
    exporter.stop().await;
    std::fs::write(&ledger, as_of_crash).expect("written");
    companion.end();
    agent.stop().await;
    let exporter = host.start();
    exporter.wait_for_requests("shop", 5).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_ledger_does_not_keep_the_exporter_from_starting() {
    let host = Host::new();
    std::fs::create_dir_all(host.state()).expect("state directory");
    std::fs::write(host.state().join("ledger"), "porthole-ledger 99 2 0\n{}").expect("written");
    let exporter = host.start();
    assert_eq!(exporter.get("/healthz").await.0, 200);
    let names: Vec<_> = std::fs::read_dir(host.state())
        .expect("listing")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("ledger.unusable-")), "{names:?}");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_sandbox_that_was_not_scraped_is_still_exposed_after_a_restart() {
    let host = Host::new();
    let Shop { agent, exporter, companion, .. } = host.shop().await;
    companion.end();
    agent.stop().await;
    exporter.wait_for_sandbox("shop-1", "ended", |row| row["state"] == "ended").await;
    exporter.stop().await;
    let exporter = host.start();
    for _ in 0..2 {
        assert_eq!(exporter.metrics().await.sum(INSTANCE, &[("sandbox_id", "shop-1")]), 5.0);
    }
    let metrics = exporter.metrics().await;
    assert!(metrics.select(INSTANCE, &[]).is_empty());
    assert_eq!(metrics.sum(APP, &[]), 5.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_live_sandbox_keep_what_earlier_runs_of_its_agent_counted() {
    let host = Host::new();
    let Shop { agent, socket, exporter, companion: _companion } = host.shop().await;
    agent.stop().await;
    let agent = TestAgent::start(&socket, 8).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 3, 1)]);
    exporter.wait_for_requests("shop", 8).await;
    assert_eq!(exporter.metrics().await.sum(INSTANCE, &[]), 8.0);
    exporter.stop().await;
    let exporter = host.start();
    wait_for("the agent's values", async || {
        let shown = exporter.metrics().await.sum(INSTANCE, &[]);
        // Three alone would look like a reset, and be counted once more.
        assert!(shown == 0.0 || shown == 8.0, "{shown}");
        shown == 8.0
    })
    .await;
    assert_eq!(exporter.requests("shop").await, 8);
    exporter.stop().await;
}
