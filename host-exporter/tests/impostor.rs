//! Only the agent that holds the sandbox's secret is counted, and only while its companion vouches for
//! its channel.

mod support;

use porthole_agent_api::proof;
use porthole_registry::{AgentSecret, SandboxState, record_path};
use support::{
    Exporter, Host,
    agent::{TestAgent, http},
    record, wait_for,
};

fn secret() -> AgentSecret {
    AgentSecret::random().expect("random numbers")
}

/// The listing names the impostor, and nothing that it sent was counted.
async fn is_refused(exporter: &Exporter, id: &str, service: &str) {
    exporter
        .wait_for_sandbox(id, "the impostor is named", |row| {
            row["reason"]["code"] == "agent_impostor" && row["state"] == "unmonitored"
        })
        .await;
    let unmonitored = [("state", "unmonitored"), ("reason", "agent_impostor")];
    assert!(
        exporter.metrics().await.sum("porthole_sandboxes", &unmonitored) >= 1.0,
        "the metric says so, too"
    );
    assert_eq!(exporter.requests(service).await, 0);
    let row = exporter.sandbox(id).await.expect("listed");
    assert!(row["agent"].is_null(), "nothing that it says about itself is taken: {row}");
    assert!(!row.to_string().contains("secret\":"), "the listing does not show the secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_hold_the_secret_is_not_counted() {
    let host = Host::new();
    let (held, other) = (secret(), secret());
    let exporter = host.start();
    let mut companions = Vec::new();
    let mut agents = Vec::new();
    // A proof that was right on another connection, whose host had another nonce.
    let replayed = proof::prove(held.bytes(), &[1; 32], &[9; 32]).expect("proof");
    for (name, prepare) in [
        ("silent", Box::new(|_: &TestAgent| {}) as Box<dyn Fn(&TestAgent)>),
        ("wrong", Box::new(|agent: &TestAgent| agent.hold(&other))),
        ("replays", Box::new(|agent: &TestAgent| agent.replay(replayed.clone()))),
        ("long", Box::new(|agent: &TestAgent| agent.replay(vec![0; 10_000]))),
    ] {
        let (id, socket) = (format!("{name}-1"), host.socket(name));
        let agent = TestAgent::start(&socket, 7).await;
        prepare(&agent);
        agent.tell(vec![http(1, &id, "/", "200", 5, 1)]);
        let mut record = record(&id, "acme", name, &socket);
        record.secret = Some(held.clone());
        companions.push(host.companion(&record));
        is_refused(&exporter, &id, name).await;
        agents.push(agent);
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_that_holds_the_secret_is_counted_also_after_an_impostor() {
    let host = Host::new();
    let (held, socket) = (secret(), host.socket("s"));
    let mut record = record("shop-1", "acme", "shop", &socket);
    record.secret = Some(held.clone());
    let impostor = TestAgent::start(&socket, 1).await;
    let exporter = host.start();
    let _companion = host.companion(&record);
    is_refused(&exporter, "shop-1", "shop").await;
    impostor.stop().await;
    let agent = TestAgent::start(&socket, 7).await;
    agent.hold(&held);
    agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
    exporter.wait_for_requests("shop", 5).await;
    let row = exporter.sandbox("shop-1").await.expect("listed");
    assert_eq!((&row["state"], row["reason"].is_null()), (&"watching".into(), true), "{row}");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_with_the_state_that_says_that_there_is_an_agent() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
    let exporter = host.start();
    let mut companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter.wait_for_requests("shop", 5).await;
    companion.rewrite(|record| record.state = SandboxState::Unmonitored);
    exporter
        .wait_for_sandbox("shop-1", "the link is closed", |row| row["connection"]["state"] == "closed")
        .await;
    let watches = agent.watches();
    agent.tell(vec![http(1, "shop-1", "/", "200", 500, 1)]);
    // Its companion brings it back: it is connected again, once.
    assert_eq!(exporter.requests("shop").await, 5, "nothing of it counts");
    companion.rewrite(|record| record.state = SandboxState::Watching);
    exporter.wait_for_requests("shop", 500).await;
    assert_eq!(agent.watches(), watches + 1);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channel_of_a_dead_companion_is_not_dialled_again() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
    let config = porthole_exporter::config::Exporter { orphan_grace_seconds: 2.0, ..host.config() };
    let exporter = host.start_with(&config);
    let companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter.wait_for_requests("shop", 5).await;
    companion.die();
    exporter
        .wait_for_sandbox("shop-1", "the death is seen", |row| row["connection"]["orphaned"] == true)
        .await;
    assert_eq!(exporter.sandbox("shop-1").await.expect("listed")["connection"]["state"], "connected");
    agent.stop().await;
    // Another tenant's guest gets the same address.
    let other = TestAgent::start(&socket, 8).await;
    other.tell(vec![http(1, "shop-1", "/", "200", 720, 1)]);
    exporter.wait_for_sandbox("shop-1", "it is over", |row| row["state"] == "ended").await;
    assert_eq!((other.watches(), exporter.requests("shop").await), (0, 5));
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_in_two_namespaces_is_two_sandboxes() {
    let host = Host::new();
    let exporter = host.start();
    let mut kept = Vec::new();
    for (namespace, requests) in [("acme", 3), ("globex", 4)] {
        let socket = host.socket(namespace);
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, "shop-1", "/", "200", requests, 1)]);
        let mut record = record("shop-1", namespace, namespace, &socket);
        record.containerd_namespace = namespace.parse().expect("namespace");
        kept.push((host.companion(&record), agent));
    }
    exporter.wait_for_requests("acme", 3).await;
    exporter.wait_for_requests("globex", 4).await;
    let (companion, _agent) = kept.remove(0);
    companion.end();
    wait_for("acme's has ended", async || {
        let listing = exporter.json("/api/v1/sandboxes").await;
        let rows = listing["sandboxes"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["containerd_namespace"] == "acme" && row["state"] == "ended")
            && rows.iter().any(|row| row["containerd_namespace"] == "globex" && row["state"] == "watching")
    })
    .await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_for_a_while_ends_nothing() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
    let exporter = host.start();
    let record = record("shop-1", "acme", "shop", &socket);
    let _companion = host.companion(&record);
    exporter.wait_for_requests("shop", 5).await;
    let path = record_path(&host.registry(), &record.key());
    std::fs::write(&path, "{").expect("spoiled");
    wait_for("it is seen to be unreadable", async || {
        exporter.metrics().await.sum("porthole_registry_records_unreadable", &[]) > 0.0
    })
    .await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 6, 1)]);
    exporter.wait_for_requests("shop", 6).await;
    assert_eq!(exporter.sandbox("shop-1").await.expect("listed")["state"], "watching");
    assert_eq!(agent.watches(), 1, "its link was kept");
    exporter.stop().await;
}
