//! What containers and guests take: from the agent to `/metrics`.

#![allow(clippy::float_cmp, reason = "values are exact in f64")]

mod support;

use porthole_agent_api::agent::{Batch, Resources};
use serde_json::json;
use support::{Exporter, Host, Neighbours, agent::TestAgent, record, wait_for};

const CPU: &str = "container_cpu_time_seconds_total";
const GUEST: &str = "porthole_guest_memory_bytes";

async fn wait_for_cpu(exporter: &Exporter, seconds: f64) {
    wait_for("CPU time", async || exporter.metrics().await.sum(CPU, &[("cpu_mode", "user")]) == seconds)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_have_the_labels_of_their_container_and_go_on_after_a_restart() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    agent.measure(&["", "shop-1", "not-of-this-sandbox"], 3);
    let exporter = host.start();
    wait_for_cpu(&exporter, 3.0).await;
    let metrics = exporter.metrics().await;
    let of_shop = [("tenant", "acme"), ("service_name", "shop"), ("sandbox_id", "shop-1")];
    let (labels, value) = metrics.select(CPU, &of_shop)[1];
    assert_eq!((labels["cpu_mode"].as_str(), value), ("system", 6.0));
    let container = labels["k8s_container_name"].clone();
    assert_eq!(
        metrics.select("container_threads", &of_shop).len(),
        1,
        "and none of a container that is not listed"
    );
    assert_eq!(metrics.select("container_threads", &[("k8s_container_name", &container)]).len(), 1);
    let (of_guest, _) = metrics.select(GUEST, &of_shop)[0];
    assert!(!of_guest.contains_key("k8s_container_name"));
    let (_, _, of_tenant) = exporter.get("/tenants/acme/metrics").await;
    assert!(of_tenant.contains(CPU) && of_tenant.contains(GUEST));
    let listed = exporter.json("/api/v1/resources?tenant=acme&service_name=shop").await;
    let [row] = listed["sandboxes"].as_array().expect("sandboxes").as_slice() else { panic!("{listed}") };
    let [of_shop] = row["containers"].as_array().expect("containers").as_slice() else { panic!("{row}") };
    assert_eq!((&row["sandbox_id"], &of_shop["name"]), (&json!("shop-1"), &json!(container)));
    // Each resource is three times its number.
    assert_eq!((&of_shop["cpu_seconds"], &of_shop["memory_oom_kills"]), (&json!(9.0), &json!(33)));
    assert_eq!((&of_shop["cpu_limit_cores"], &of_shop["memory_bytes"]), (&json!(18.0), &json!(24)));
    assert_eq!(row["guest"]["memory_used_bytes"], json!(96));
    assert_eq!(of_shop["cpu_cores"], json!(null), "no rate of what was measured once");
    let of_others = exporter.json("/api/v1/resources?tenant=acme&service_name=cart").await;
    assert_eq!(of_others["sandboxes"], json!([]));
    exporter.stop().await;

    agent.measure(&["", "shop-1"], 4);
    let exporter = host.start();
    wait_for_cpu(&exporter, 4.0).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_makes_up_is_refused_or_stays_its_own() {
    let host = Host::new();
    let Neighbours { evil: agent, honest, exporter, companions: _companions } = host.neighbours().await;
    honest.measure(&["", "shop-1"], 3);
    // Of its neighbour's container, of none that there is, and each form of nonsense.
    agent.measure(&["shop-1", "evil-1"], 2);
    let send = |id: &str, measured, values: Vec<u64>| {
        let resources = Resources { container_id: id.into(), measured, values, ..Default::default() };
        agent.send(Batch { resources: vec![resources], ..Default::default() });
    };
    send("evil-1", 1, vec![u64::MAX]);
    send("evil-1", 1, vec![]);
    send("evil-1", 0, vec![1; 5_000]);
    send(&"x".repeat(300), 1, vec![1]);
    agent.send(Batch { resources: vec![Resources::default(); 66], ..Default::default() });
    agent.measure(&["evil-1"], 1);
    let rejected = [
        ("count_too_large", 1.0),
        ("resources_malformed", 2.0),
        ("text_too_long", 1.0),
        ("batch_too_large", 1.0),
    ];
    wait_for("refusals", async || {
        let metrics = exporter.metrics().await;
        rejected.iter().all(|(reason, count)| {
            metrics.sum("porthole_rejected_total", &[("tenant", "evil"), ("reason", reason)]) == *count
        })
    })
    .await;
    wait_for("both", async || exporter.metrics().await.sum(CPU, &[("cpu_mode", "user")]) == 5.0).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(CPU, &[("tenant", "evil"), ("cpu_mode", "user")]), 2.0, "not less than before");
    assert_eq!(metrics.sum(CPU, &[("tenant", "acme"), ("cpu_mode", "user")]), 3.0);
    assert_eq!(metrics.sum("porthole_rejected_total", &[("tenant", "acme")]), 0.0);
    exporter.stop().await;
}
