//! The host gives sandboxes other names while they run: what was counted stays with the names before, and nothing is counted twice.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::agent::Counters;
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http},
    record, wait_for,
};

const INSTANCE: &str = "http_server_request_duration_seconds_count";
const APP: &str = "porthole_app_requests_total";
const EXCHANGES: &str = "porthole_exchanges_total";

/// `requests` of two routes in all, and the agent's counts of them.
fn report(agent: &TestAgent, container: &str, requests: u64) {
    let counters = Counters { messages_seen: requests, exchanges: requests, ..Default::default() };
    agent.set_counters(counters);
    agent.tell(vec![http(1, container, "/", "200", requests - 2, 1), http(2, container, "/b", "500", 2, 1)]);
}

/// Waits until a tenant's applications, instances and agents have these counts, and all tenants' these.
async fn counted(exporter: &Exporter, what: &str, tenant: &str, own: f64, all: f64) {
    let found = async || {
        let metrics = exporter.metrics().await;
        let of = |name: &str| (metrics.sum(name, &[("tenant", tenant)]), metrics.sum(name, &[]));
        (of(APP), of(EXCHANGES), metrics.sum(INSTANCE, &[("tenant", tenant)]))
    };
    let wanted = ((own, all), (own, all), own);
    let mut last = None;
    wait_for(&format!("{what}: {wanted:?}"), async || {
        let now = found().await;
        if last != Some(now) {
            eprintln!("{what}: {now:?}");
            last = Some(now);
        }
        now == wanted
    })
    .await;
}

fn rename(companion: &mut Companion, tenant: &str, container: &str) {
    companion.rewrite(|record| {
        record.tenant = tenant.into();
        record.service_name = format!("{tenant}-shop");
        for named in record.containers.values_mut() {
            named.name = container.into();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sandboxes_renamed_while_they_run_keep_their_counts_and_nothing_is_counted_twice() {
    let host = Host::new();
    let (first_socket, second_socket) = (host.socket("1"), host.socket("2"));
    let (first, second) =
        (TestAgent::start(&first_socket, 1).await, TestAgent::start(&second_socket, 1).await);
    let exporter = host.start();
    let mut companions = [
        host.companion(&record("shop-1", "acme", "shop", &first_socket)),
        host.companion(&record("shop-2", "acme", "shop", &second_socket)),
    ];
    report(&first, "shop-1", 5);
    report(&second, "shop-2", 7);
    counted(&exporter, "before", "acme", 12.0, 12.0).await;

    rename(&mut companions[0], "red", "web");
    rename(&mut companions[1], "blue", "web");
    for (id, tenant) in [("shop-1", "red"), ("shop-2", "blue")] {
        exporter
            .wait_for_sandbox(id, "named anew", |row| row["tenant"] == tenant && row["agent"].is_object())
            .await;
    }
    report(&first, "shop-1", 15);
    report(&second, "shop-2", 107);
    counted(&exporter, "after", "red", 10.0, 122.0).await;
    counted(&exporter, "after", "blue", 100.0, 122.0).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(APP, &[("tenant", "acme"), ("service_name", "shop")]), 12.0);
    assert_eq!(metrics.sum(INSTANCE, &[("tenant", "red"), ("k8s_container_name", "web")]), 10.0);
    assert_eq!(metrics.sum("porthole_registry_identity_changes_total", &[]), 2.0);

    // The ledger has what was counted under which name: a restart changes nothing, nor does another name meanwhile.
    exporter.stop().await;
    rename(&mut companions[1], "green", "web");
    let exporter = host.start();
    counted(&exporter, "after a restart", "red", 10.0, 122.0).await;
    exporter
        .wait_for_sandbox("shop-2", "named anew", |row| row["tenant"] == "green" && row["agent"].is_object())
        .await;
    report(&second, "shop-2", 110);
    report(&first, "shop-1", 16);
    counted(&exporter, "after another name", "green", 3.0, 126.0).await;
    counted(&exporter, "after another name", "red", 11.0, 126.0).await;

    // A name that comes back begins at zero as well, and appears once.
    rename(&mut companions[0], "acme", "shop");
    companions[0].rewrite(|record| record.service_name = "shop".into());
    exporter.wait_for_sandbox("shop-1", "named anew", |row| row["tenant"] == "acme").await;
    report(&first, "shop-1", 20);
    wait_for("the requests of both times", async || {
        let metrics = exporter.metrics().await;
        metrics.sum(APP, &[("tenant", "acme")]) == 16.0 && metrics.sum(APP, &[]) == 130.0
    })
    .await;
    exporter.stop().await;
    let exporter = host.start();
    wait_for("the same after a restart", async || {
        let metrics = exporter.metrics().await;
        metrics.sum(APP, &[("tenant", "acme")]) == 16.0 && metrics.sum(APP, &[]) == 130.0
    })
    .await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_gets_another_name_goes_on_under_it_from_zero() {
    let host = Host::new();
    let mut shop = host.shop().await;
    shop.companion.rewrite(|record| {
        for container in record.containers.values_mut() {
            container.name = "web".into();
        }
    });
    let named = |row: &serde_json::Value| row["containers"]["shop-1"] == "web" && row["agent"].is_object();
    shop.exporter.wait_for_sandbox("shop-1", "named anew", named).await;
    shop.agent.tell(vec![http(1, "shop-1", "/", "200", 8, 1)]);
    shop.exporter.wait_for_requests("shop", 8).await;
    wait_for("the series of the container", async || {
        let metrics = shop.exporter.metrics().await;
        metrics.sum(INSTANCE, &[("k8s_container_name", "web")]) == 3.0 && metrics.sum(INSTANCE, &[]) == 3.0
    })
    .await;
    shop.exporter.stop().await;
}
