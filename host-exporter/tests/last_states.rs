//! The last states of agents, which companions leave when sandboxes end: each is counted exactly once, whatever the exporter does
//! meanwhile, and whatever is in it.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::agent::{Batch, Counters};
use porthole_registry::{
    SandboxRecord, SandboxState,
    last_state::{self, KeptBatch, LastStateName},
};
use protobuf::Message as _;
use support::{
    Exporter, Host, Shop,
    agent::{TestAgent, http},
    leave, leave_bytes, record, wait_for,
};

const APP: &str = "porthole_app_requests_total";
const INSTANCE: &str = "http_server_request_duration_seconds_count";
const OF_SHOP: &[(&str, &str)] = &[("service_name", "shop")];

/// A batch of one series.
fn batch(epoch: u64, container: &str, requests: u64) -> Batch {
    let counters = Counters { messages_seen: requests, exchanges: requests, ..Counters::default() };
    Batch {
        epoch,
        sequence: 1,
        series: vec![http(1, container, "/", "200", requests, 1)],
        counters: Some(counters).into(),
        ..Batch::default()
    }
}

/// A record of a sandbox that cannot be reached.
fn ended(host: &Host, id: &str) -> SandboxRecord {
    record(id, "acme", "shop", &host.socket("none"))
}

async fn wait_until_removed(host: &Host) {
    wait_for("the last states to be removed", async || {
        last_state::list(&host.registry()).expect("listed").is_empty()
    })
    .await;
}

async fn requests(exporter: &Exporter) -> f64 {
    exporter.metrics().await.sum(APP, OF_SHOP)
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_that_lived_without_an_exporter_are_counted_once_also_after_a_crash_before_the_removal() {
    let host = Host::new();
    let names = ["shop-1", "shop-2"];
    let leave_all = || {
        for name in names {
            leave(&host, &ended(&host, name), &[batch(7, name, 2), batch(7, name, 3)]);
        }
    };
    leave_all();
    let exporter = host.start();
    wait_until_removed(&host).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(APP, OF_SHOP), 6.0);
    let of_first = [("sandbox_id", "shop-1"), ("k8s_container_name", "shop")];
    assert_eq!(metrics.sum(INSTANCE, &of_first), 3.0, "with the container's name");
    assert_eq!(metrics.sum("porthole_exchanges_total", &[("tenant", "acme")]), 6.0);
    assert_eq!(metrics.sum("porthole_last_states_total", &[]), 2.0);
    exporter.stop().await;

    // As after a crash between the ledger's write and the removal; again and again, until the series are forgotten.
    for _ in 0..4 {
        leave_all();
        let exporter = host.start();
        wait_until_removed(&host).await;
        assert_eq!(requests(&exporter).await, 6.0);
        exporter.metrics().await;
        exporter.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_connection_brought_and_what_was_left_are_counted_once_whichever_has_more() {
    for (of_connection, left, counted) in [(5, 8, 8), (5, 5, 5), (5, 3, 5)] {
        let host = Host::new();
        let Shop { agent, exporter, companion, .. } = host.shop().await;
        agent.tell(vec![http(1, "shop-1", "/", "200", of_connection, 1)]);
        leave(&host, &companion.record, &[batch(7, "shop-1", left)]);
        companion.end();
        agent.stop().await;
        wait_until_removed(&host).await;
        let row = exporter.sandbox("shop-1").await.expect("listed");
        assert_eq!((&row["state"], &row["rejected"]), (&"ended".into(), &serde_json::json!({})), "{row}");
        assert_eq!(requests(&exporter).await, f64::from(counted));
        exporter.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_record_still_says_that_it_runs_is_counted_when_its_connection_is_over() {
    let host = Host::new();
    let Shop { agent, exporter, mut companion, .. } = host.shop().await;
    leave(&host, &companion.record, &[batch(7, "shop-1", 9)]);
    // The connection is behind what was left.
    for requests in 6..=8 {
        agent.tell(vec![http(1, "shop-1", "/", "200", requests, 1)]);
        exporter.wait_for_requests("shop", requests).await;
    }
    companion.rewrite(|record| {
        record.state = SandboxState::Ended;
        record.abrupt_end = true;
    });
    wait_until_removed(&host).await;
    exporter.wait_for_requests("shop", 9).await;
    let row = exporter.sandbox("shop-1").await.expect("listed");
    assert_eq!(row["rejected"], serde_json::json!({}));
    companion.end();
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abrupt_end_is_listed_and_counted_with_a_last_state_and_without() {
    let host = Host::new();
    let Shop { agent, exporter, mut companion, .. } = host.shop().await;
    let gone = SandboxRecord { abrupt_end: true, ..ended(&host, "shop-2") };
    leave(&host, &gone, &[batch(7, "shop-2", 2)]);
    companion.rewrite(|record| {
        record.state = SandboxState::Ended;
        record.abrupt_end = true;
    });
    for id in ["shop-1", "shop-2"] {
        exporter
            .wait_for_sandbox(id, "ended abruptly", |row| {
                row["state"] == "ended" && row["abrupt_end"] == true
            })
            .await;
    }
    assert_eq!(exporter.metrics().await.sum("porthole_sandbox_abrupt_ends_total", &[]), 2.0);
    companion.end();
    agent.stop().await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_companion_left_before_it_was_killed_is_counted() {
    let host = Host::new();
    let Shop { agent, exporter, companion, .. } = host.shop().await;
    leave(&host, &companion.record, &[batch(7, "shop-1", 6)]);
    companion.die();
    agent.stop().await;
    wait_until_removed(&host).await;
    exporter.wait_for_requests("shop", 6).await;
    wait_for("record and lock to be removed", async || {
        std::fs::read_dir(host.registry()).expect("listing").count() == 0
    })
    .await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_epochs_count_also_those_before_the_exporters_first_connection() {
    let host = Host::new();
    // The exporter was connected in the agent's second epoch only.
    let Shop { agent, exporter, companion, .. } = host.shop().await;
    exporter.stop().await;
    leave(
        &host,
        &companion.record,
        &[batch(6, "shop-1", 10), batch(7, "shop-1", 8), batch(5, "shop-1", 100)],
    );
    companion.end();
    agent.stop().await;
    let exporter = host.start();
    wait_until_removed(&host).await;
    assert_eq!(requests(&exporter).await, 118.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_again_before_its_last_state_was_read_counts_for_both_uses() {
    let host = Host::new();
    let Shop { agent, socket, exporter, companion } = host.shop().await;
    exporter.stop().await;
    let first = companion.record.clone();
    leave(&host, &first, &[batch(7, "shop-1", 6)]);
    companion.end();
    agent.stop().await;
    let agent = TestAgent::start(&socket, 8).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 10, 1)]);
    let _companion = host.companion(&SandboxRecord { created_unix_ms: 2, ..first.clone() });
    let exporter = host.start();
    wait_until_removed(&host).await;
    exporter.wait_for_requests("shop", 16).await;
    exporter.stop().await;
    // As after a crash before the removal: the sandbox is known as its second use by now.
    leave(&host, &first, &[batch(7, "shop-1", 6)]);
    let exporter = host.start();
    wait_until_removed(&host).await;
    exporter.wait_for_requests("shop", 16).await;
    exporter.wait_for_sandbox("shop-1", "runs on", |row| row["state"] == "watching").await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_are_refused_and_cost_their_own_tenant_only() {
    let host = Host::new();
    let Shop { agent: _agent, exporter, companion: _companion, .. } = host.shop().await;
    let kept = |epoch, bytes| KeptBatch { epoch, bytes };
    let encoded = |batch: Batch| batch.write_to_bytes().expect("encoded");
    let mut control = batch(7, "evil-1", 1);
    control.series[0].key.as_mut().expect("key").operation = "\u{1b}[2J".into();
    let batches = vec![
        kept(7, vec![0xff; 30]),
        kept(7, [0x1a, 0].repeat(60_000)),
        kept(7, vec![0; 300 << 10]),
        kept(7, encoded(control)),
        kept(7, encoded(batch(8, "evil-1", 50))),
        kept(7, encoded(batch(7, "evil-1", 2))),
    ];
    let evil = record("evil-1", "globex", "evil", &host.socket("none"));
    leave_bytes(&host, &evil, batches);
    // What is no last state at all.
    let name = LastStateName { sandbox: "default@evil-2".parse().expect("key"), created_unix_ms: 1 };
    std::fs::write(host.registry().join(name.file_name()), "{}\n").expect("written");
    wait_until_removed(&host).await;
    let row = exporter.sandbox("evil-1").await.expect("listed");
    let rejected = &row["rejected"];
    for (reason, times) in
        [("batch_malformed", 1), ("batch_too_large", 2), ("text_characters", 1), ("epoch_mismatch", 1)]
    {
        assert_eq!(rejected[reason], times, "{reason}: {rejected}");
    }
    assert_eq!(exporter.requests("evil").await, 2, "what is good counts");
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum("porthole_last_states_unusable_total", &[]), 1.0);
    assert_eq!(metrics.sum(APP, OF_SHOP), 5.0);

    // One that is refused all the time is not read to its end.
    let garbage = (0..1_000).map(|_| kept(7, vec![0xff; 100])).collect();
    leave_bytes(&host, &SandboxRecord { created_unix_ms: 2, ..evil.clone() }, garbage);
    wait_until_removed(&host).await;
    assert!(exporter.metrics().await.sum("porthole_rejected_total", &[("tenant", "globex")]) < 50.0);
    exporter.stop().await;
}
