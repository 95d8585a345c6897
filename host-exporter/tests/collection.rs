//! From agents to numbers: exact values, labels, reconnects, epochs, the ends of sandboxes.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::agent::Counters;
use porthole_registry::{ContainerRecord, SandboxState};
use serde_json::{Value, json};
use support::{
    Host, Shop,
    agent::{TestAgent, http, http_client},
    clock_ahead, record, starting, wait_for,
};

#[tokio::test(flavor = "multi_thread")]
async fn starts_are_timed_by_the_hosts_clock_listed_and_counted_once_by_application() {
    let host = Host::new();
    let (new_socket, old_socket) = (host.socket("n"), host.socket("o"));
    let (new, old) = (TestAgent::start(&new_socket, 7).await, TestAgent::start(&old_socket, 7).await);
    let mut older = starting(record("shop-0", "acme", "shop", &old_socket), &old);
    older.created_unix_ms -= 1_000;
    let exporter = host.start();
    let record = starting(record("shop-1", "acme", "shop", &new_socket), &new);
    let (mut companion, _older) = (host.companion(&record), host.companion(&older));
    let starts = async |id: &str| {
        let row = exporter.sandbox(id).await.unwrap_or_default();
        [
            "agent_seconds",
            "first_request_seconds",
            "machine_seconds",
            "first_process_seconds",
            "first_listen_seconds",
        ]
        .map(|key| row["start"][key].as_f64())
    };
    wait_for("the agents", async || starts("shop-1").await[0] == Some(2.0)).await;
    wait_for("the agents", async || starts("shop-0").await[0] == Some(3.0)).await;
    wait_for("a stream of batches", async || new.watches() == 1).await;
    assert_eq!(starts("shop-1").await[1], None, "nothing was served");
    let by_guest = clock_ahead();
    // What it calls is nothing that it serves.
    let mut called = http_client(1, "shop-1", "10.0.0.2:8080", "200", 4);
    called.start_unix_ns = by_guest;
    new.tell(vec![called]);
    exporter.wait_for_requests("shop", 4).await;
    assert_eq!(starts("shop-1").await[1], None, "nothing was served");
    new.has_started();
    for (id, requests) in [(2, 1), (3, 5)] {
        let mut served = http(id, "shop-1", &format!("/{id}"), "200", requests, 1);
        served.start_unix_ns = by_guest + u64::from(id - 2) * 1_000_000;
        new.tell(vec![served]);
    }
    exporter.wait_for_requests("shop", 10).await;
    wait_for("the first request", async || starts("shop-1").await[1].is_some()).await;
    let first = starts("shop-1").await[1].expect("it is known");
    assert!((0.0..3_000.0).contains(&first), "the hour between the clocks is none of it: {first}");
    wait_for("the other phases", async || starts("shop-1").await[2..].iter().all(Option::is_some)).await;
    let before = starts("shop-1").await;
    for reached in &before[2..] {
        assert!(reached.is_some_and(|reached| (0.0..3_000.0).contains(&reached)), "{before:?}");
    }
    // A clock that was set since the last call is measured anew before what it shows is taken.
    old.set_clock(0);
    old.has_started();
    wait_for("its phases", async || {
        let [.., machine, process, listen] = starts("shop-0").await;
        [machine, process, listen]
            .iter()
            .all(|reached| reached.is_some_and(|it| (0.0..3_000.0).contains(&it)))
    })
    .await;
    // Other names change nothing of it, and count it no second time.
    companion.rewrite(|record| record.service_name = "store".into());
    exporter.wait_for_sandbox("shop-1", "named anew", |row| row["service_name"] == "store").await;
    assert_eq!(starts("shop-1").await, before);
    let metrics = exporter.metrics().await;
    let count =
        |phase| metrics.sum("porthole_sandbox_start_seconds_count", &[("tenant", "acme"), ("phase", phase)]);
    assert_eq!(
        ["machine", "agent", "first_process", "first_listen", "first_request"].map(count),
        [1.0; 5],
        "the older one may have been counted before"
    );
    assert_eq!(metrics.sum("porthole_sandbox_start_seconds_sum", &[("phase", "agent")]), 2.0);
    let listed = exporter.json("/api/v1/starts?tenant=acme&service_name=shop").await;
    let phases = listed["applications"][0]["phases"].as_array().cloned().unwrap_or_default();
    let reached: Vec<_> = phases.iter().map(|times| (&times["phase"], times["sandboxes"].as_u64())).collect();
    let expected = ["machine", "agent", "first_process", "first_listen", "first_request"].map(Value::from);
    assert_eq!(reached, expected.iter().map(|phase| (phase, Some(1))).collect::<Vec<_>>());
    let agent = phases[1]["p99_seconds"].as_f64().expect("a quantile");
    assert!((2.0..2.2).contains(&agent), "the upper bound of its bucket: {agent}");
    let of_others = exporter.json("/api/v1/starts?tenant=acme&service_name=store").await;
    assert_eq!(of_others["applications"], json!([]), "none was created under this name");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_exact_and_under_their_own_tenant() {
    let host = Host::new();
    let (shop_socket, blog_socket) = (host.socket("s"), host.socket("b"));
    let shop = TestAgent::start(&shop_socket, 7).await;
    let blog = TestAgent::start(&blog_socket, 7).await;
    shop.set_counters(Counters { messages_seen: 20, exchanges: 15, events_lost: 2, ..Default::default() });
    shop.tell(vec![
        http(1, "shop-1", "/", "200", 9, 4),
        http(2, "shop-1", "/missing", "404", 2, 1),
        http_client(3, "shop-1", "10.0.0.2:8080", "503", 4),
        http(4, "shop-1", "/", "other", 3, 1),
    ]);
    blog.tell(vec![http(1, "blog-1", "/", "200", 6, 2)]);
    let exporter = host.start();
    let _shop = host.companion(&record("shop-1", "acme", "shop", &shop_socket));
    let _blog = host.companion(&record("blog-1", "globex", "blog", &blog_socket));
    exporter.wait_for_requests("shop", 18).await;
    exporter.wait_for_requests("blog", 6).await;

    let metrics = exporter.metrics().await;
    let server = "http_server_request_duration_seconds_count";
    let shop_labels = [("tenant", "acme"), ("service_name", "shop"), ("k8s_container_name", "shop")];
    let with = |more: &[(&'static str, &'static str)]| [&shop_labels[..], more].concat();
    assert_eq!(metrics.sum(server, &with(&[("http_route", "/"), ("http_response_status_code", "200")])), 9.0);
    assert_eq!(metrics.sum(server, &with(&[("http_response_status_code", "404"), ("error_type", "")])), 2.0);
    assert_eq!(metrics.sum(server, &[("tenant", "globex")]), 6.0);
    assert_eq!(metrics.sum(server, &[]), 20.0, "nothing under another tenant");
    let client = with(&[("server_address", "10.0.0.2"), ("server_port", "8080"), ("error_type", "503")]);
    assert_eq!(metrics.sum("http_client_request_duration_seconds_count", &client), 4.0);

    // 4 ms is above 2^-8 s = 3.9 ms and below 2^-7 s = 7.8 ms.
    let bucket = |le| {
        metrics.sum("http_server_request_duration_seconds_bucket", &with(&[("http_route", "/"), ("le", le)]))
    };
    assert_eq!((bucket("0.00390625"), bucket("0.0078125"), bucket("+Inf")), (3.0, 12.0, 12.0));
    let sum = metrics.sum("http_server_request_duration_seconds_sum", &with(&[("http_route", "/")]));
    assert!((sum - 0.039).abs() < 1e-9, "{sum}");

    let app = [("tenant", "acme"), ("service_name", "shop"), ("side", "server"), ("protocol", "http1")];
    assert_eq!(metrics.sum("porthole_app_requests_total", &app), 14.0);
    assert_eq!(metrics.sum("porthole_app_errors_total", &app), 2.0);
    assert_eq!(metrics.sum("porthole_app_requests_unknown_total", &app), 3.0);
    assert_eq!(
        metrics.sum("porthole_app_errors_total", &[("side", "client"), ("error_class", "server")]),
        4.0
    );
    assert_eq!(metrics.sum("porthole_app_request_duration_seconds_count", &app), 14.0);
    // Of 20 messages, and 2 lost records that may have held one each.
    assert_eq!(metrics.sum("porthole_capture_completeness_ratio", &[("tenant", "acme")]), 15.0 / 22.0);
    assert_eq!(metrics.sum("porthole_agent_events_lost_total", &[]), 2.0);
    assert_eq!(metrics.sum("porthole_sandboxes", &[("state", "watching")]), 2.0);
    // What intake costs is shown by tenant, and by sandbox.
    let listed = exporter.sandbox("shop-1").await.expect("listed");
    for (metric, member) in [
        ("porthole_tenant_ingest_bytes_total", "ingest_bytes"),
        ("porthole_tenant_ingest_cpu_seconds_total", "ingest_cpu_seconds"),
        ("porthole_tenant_resident_bytes", "resident_bytes"),
        ("porthole_tenant_exposed_bytes", "exposed_bytes"),
    ] {
        assert!(metrics.sum(metric, &[("tenant", "acme")]) > 0.0, "{metric}");
        assert!(listed[member].as_f64().is_some_and(|value| value > 0.0), "{member}: {listed}");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_much_to_say_is_asked_about_itself_all_the_same() {
    let host = Host::new();
    let socket = host.socket("1");
    let agent = TestAgent::start(&socket, 7).await;
    let exporter = host.start();
    let _companion = host.companion(&record("busy-1", "t", "busy", &socket));
    let mut requests = 0;
    wait_for("the question comes between the batches", async || {
        requests += 1;
        agent.tell(vec![http(1, "busy-1", "/", "200", requests, 1)]);
        agent.stats_calls() >= 3
    })
    .await;
    assert_eq!(agent.watches(), 1);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_tells_everything_again_and_changes_nothing() {
    let host = Host::new();
    let Shop { agent, exporter, companion: _companion, socket } = host.shop().await;
    agent.stop().await;
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1), http(2, "shop-1", "/b", "200", 1, 1)]);
    exporter.wait_for_requests("shop", 6).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum("http_server_request_duration_seconds_count", &[]), 6.0);
    assert_eq!(metrics.sum("porthole_agent_reconnects_total", &[]), 0.0, "counted when the connection ends");
    assert!(metrics.sum("porthole_agent_connection_failures_total", &[]) >= 1.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_restart_adds_to_what_was_counted() {
    let host = Host::new();
    let socket = host.socket("s");
    let exporter = host.start();
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    let mut expected = 0;
    for epoch in 1..=3 {
        let agent = TestAgent::start(&socket, epoch).await;
        agent.tell(vec![http(1, "shop-1", "/", "200", 5 * epoch, 1)]);
        expected += 5 * epoch;
        exporter.wait_for_requests("shop", expected).await;
        agent.stop().await;
    }
    // An epoch that comes back is not counted a second time.
    let agent = TestAgent::start(&socket, 1).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 1_000, 1)]);
    wait_for("the refusal", async || {
        exporter.metrics().await.sum("porthole_rejected_total", &[("reason", "epoch_returned")]) >= 1.0
    })
    .await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum("http_server_request_duration_seconds_count", &[]), 30.0);
    assert_eq!(metrics.sum("porthole_app_requests_total", &[]), 30.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_sandbox_stays_for_two_scrapes_and_in_the_totals_for_good() {
    let host = Host::new();
    let Shop { agent, exporter, companion, .. } = host.shop().await;
    // Sent just before the end: still counted.
    agent.tell(vec![http(1, "shop-1", "/", "200", 8, 1)]);
    companion.end();
    agent.stop().await;
    exporter.wait_for_sandbox("shop-1", "ended", |row| row["state"] == "ended").await;
    let series = "http_server_request_duration_seconds_count";
    for _ in 0..2 {
        let metrics = exporter.metrics().await;
        assert_eq!(metrics.sum(series, &[("sandbox_id", "shop-1")]), 8.0);
        assert_eq!(metrics.sum("porthole_sandboxes", &[("state", "ended")]), 1.0);
    }
    let metrics = exporter.metrics().await;
    assert!(metrics.select(series, &[]).is_empty(), "gone after two scrapes");
    assert_eq!(metrics.sum("porthole_app_requests_total", &[]), 8.0);
    assert_eq!(metrics.sum("porthole_tenant_series", &[("tenant", "acme")]), 0.0, "the budget is free again");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_last_is_counted() {
    const SANDBOXES: u64 = 60;
    let host = Host::new();
    let exporter = host.start();
    let mut sandboxes = Vec::new();
    for number in 0..SANDBOXES {
        let (id, socket) = (format!("shop-{number}"), host.socket(&number.to_string()));
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, &id, "/", "200", 1, 1)]);
        let companion = host.companion(&record(&id, "acme", "shop", &socket));
        sandboxes.push((id, agent, companion));
    }
    exporter.wait_for_requests("shop", SANDBOXES).await;
    // The last batch and the end of the connection come together.
    for (id, agent, companion) in sandboxes {
        agent.tell(vec![http(1, &id, "/", "200", 2, 1)]);
        agent.stop().await;
        companion.end();
    }
    wait_for("the ends of all", async || {
        exporter.metrics().await.sum("porthole_sandboxes", &[("state", "watching")]) == 0.0
    })
    .await;
    assert_eq!(exporter.requests("shop").await, 2 * SANDBOXES);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_used_again_goes_on_under_the_same_labels() {
    let host = Host::new();
    let (first_socket, second_socket) = (host.socket("1"), host.socket("2"));
    let first = TestAgent::start(&first_socket, 1).await;
    first.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
    let second = TestAgent::start(&second_socket, 2).await;
    second.tell(vec![http(1, "shop-1", "/", "200", 3, 1)]);
    let exporter = host.start();
    let companion = host.companion(&record("shop-1", "acme", "shop", &first_socket));
    exporter.wait_for_requests("shop", 5).await;
    companion.end();
    let mut again = record("shop-1", "acme", "shop", &second_socket);
    again.created_unix_ms = 2;
    let _companion = host.companion(&again);
    exporter.wait_for_requests("shop", 8).await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum("http_server_request_duration_seconds_count", &[]), 8.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_record_lists_later_gets_its_name() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1), http(2, "side-1", "/", "200", 2, 1)]);
    let exporter = host.start();
    let mut companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter.wait_for_requests("shop", 7).await;
    let count = "http_server_request_duration_seconds_count";
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(count, &[("k8s_container_name", "")]), 2.0);
    assert_eq!(metrics.sum("porthole_series_updates_unlisted_container_total", &[]), 1.0);
    companion.rewrite(|record| {
        record.containers.insert("side-1".parse().expect("id"), ContainerRecord { name: "sidecar".into() });
    });
    wait_for("the name", async || {
        exporter.metrics().await.sum(count, &[("k8s_container_name", "sidecar")]) == 2.0
    })
    .await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum(count, &[]), 7.0, "moved, not doubled");
    assert_eq!(metrics.sum("porthole_app_requests_total", &[]), 7.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_and_reasons_of_sandboxes_without_agent_are_shown() {
    let host = Host::new();
    let exporter = host.start();
    let mut injecting = record("a-1", "acme", "a", &host.socket("none"));
    injecting.state = SandboxState::Injecting;
    injecting.channel = None;
    let mut refused = record("b-1", "acme", "b", &host.socket("none"));
    refused.state = SandboxState::Unmonitored;
    refused.channel = None;
    refused.reason =
        Some(porthole_registry::Reason { code: "create_refused".into(), message: "policy".into() });
    let _injecting = host.companion(&injecting);
    let _refused = host.companion(&refused);
    exporter.wait_for_sandbox("b-1", "its reason", |row| row["reason"]["code"] == "create_refused").await;
    exporter.wait_for_sandbox("a-1", "no connection", |row| row["connection"]["state"] == "none").await;
    let metrics = exporter.metrics().await;
    assert_eq!(metrics.sum("porthole_sandboxes", &[("state", "injecting"), ("reason", "")]), 1.0);
    assert_eq!(
        metrics.sum("porthole_sandboxes", &[("state", "unmonitored"), ("reason", "create_refused")]),
        1.0
    );
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_companion_left_is_counted_and_removed() {
    let host = Host::new();
    let Shop { agent, exporter, companion, .. } = host.shop().await;
    companion.die();
    // As long as the agent sends, the sandbox is watched.
    agent.tell(vec![http(1, "shop-1", "/", "200", 6, 1)]);
    exporter.wait_for_requests("shop", 6).await;
    agent.stop().await;
    wait_for("an empty registry", async || std::fs::read_dir(host.registry()).expect("listing").count() == 0)
        .await;
    exporter.wait_for_sandbox("shop-1", "ended", |row| row["state"] == "ended").await;
    assert_eq!(exporter.requests("shop").await, 6);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kept_an_agent_from_being_heard_is_no_error_once_it_is_heard() {
    let host = Host::new();
    let socket = host.socket("s");
    let exporter = host.start();
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter
        .wait_for_sandbox("shop-1", "no agent listens", |row| row["connection"]["last_error"].is_string())
        .await;
    let _agent = TestAgent::start(&socket, 7).await;
    exporter.wait_for_sandbox("shop-1", "it is heard", |row| row["connection"]["state"] == "connected").await;
    let row = exporter.sandbox("shop-1").await.expect("listed");
    assert!(row["connection"]["last_error"].is_null(), "{row}");
    exporter.stop().await;
}
