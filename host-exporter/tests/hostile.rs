//! Guests that send wrong numbers, too many, or nothing: other tenants are not affected, and what is rejected is counted.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::{agent, limits::SANDBOX_SERIES_MAX};
use support::{
    DEADLINE, Exporter, Host, Shop,
    agent::{Manner, TestAgent, http},
    record, wait_for,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

async fn rejected(exporter: &Exporter, reason: &str) -> f64 {
    exporter.metrics().await.sum("porthole_rejected_total", &[("reason", reason)])
}

async fn wait_for_rejection(exporter: &Exporter, reason: &str) {
    wait_for(reason, async || rejected(exporter, reason).await >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lie_is_refused_under_its_name_and_the_rest_of_the_batch_counts() {
    let host = Host::new();
    let Shop { agent, exporter, companion: _companion, .. } = host.shop().await;
    let key = |series: &mut agent::Series, change: fn(&mut agent::SeriesKey)| {
        change(series.key.as_mut().expect("key"));
    };
    let mut lies = vec![("went_backwards", http(1, "shop-1", "/", "200", 4, 1))];
    lies.push(("key_changed", http(1, "shop-1", "/changed", "200", 6, 1)));
    let mut lie = http(20, "shop-1", "/", "200", 1, 1);
    key(&mut lie, |key| key.resource = "x".repeat(100_000));
    lies.push(("text_too_long", lie));
    let mut lie = http(21, "shop-1", "/", "200", 1, 1);
    key(&mut lie, |key| key.operation = "GET\n# EOF\n".into());
    lies.push(("text_characters", lie));
    let mut lie = http(22, "shop-1", "/", "200", 1, 1);
    lie.duration.as_mut().expect("histogram").count = u64::MAX;
    lies.push(("histogram_malformed", lie));
    let mut lie = http(23, "shop-1", "/", "200", 1, 1);
    key(&mut lie, |key| key.protocol = protobuf::EnumOrUnknown::from_i32(1_000));
    lies.push(("protocol_unknown", lie));
    let mut expected = 5;
    for (id, (reason, lie)) in lies.into_iter().enumerate() {
        let good = http(100 + u32::try_from(id).expect("small"), "shop-1", "/good", "200", 1, 1);
        agent.send(agent::Batch { series: vec![lie, good], ..Default::default() });
        expected += 1;
        exporter.wait_for_requests("shop", expected).await;
        assert_eq!(rejected(&exporter, reason).await, 1.0, "{reason}");
    }
    agent.send(agent::Batch {
        epoch: 8,
        series: vec![http(1, "shop-1", "/", "200", 99, 1)],
        ..Default::default()
    });
    wait_for_rejection(&exporter, "epoch_mismatch").await;
    let many = (0..513).map(|id| http(1_000 + id, "shop-1", "/", "200", 1, 1)).collect();
    agent.send(agent::Batch { series: many, ..Default::default() });
    wait_for_rejection(&exporter, "batch_too_large").await;
    assert_eq!(exporter.requests("shop").await, expected);
    assert_eq!(agent.watches(), 1, "one connection through it all");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_id_of_somebody_else_gets_no_name() {
    let host = Host::new();
    let (liar_socket, victim_socket) = (host.socket("l"), host.socket("v"));
    let liar = TestAgent::start(&liar_socket, 7).await;
    liar.tell(vec![http(1, "victim-1", "/", "200", 1_000, 1), http(2, "../../x", "/", "200", 1, 1)]);
    let victim = TestAgent::start(&victim_socket, 7).await;
    victim.tell(vec![http(1, "victim-1", "/", "200", 3, 1)]);
    let exporter = host.start();
    let _liar = host.companion(&record("liar-1", "evil", "liar", &liar_socket));
    let _victim = host.companion(&record("victim-1", "good", "victim", &victim_socket));
    exporter.wait_for_requests("liar", 1_001).await;
    exporter.wait_for_requests("victim", 3).await;
    let metrics = exporter.metrics().await;
    let count = "http_server_request_duration_seconds_count";
    assert_eq!(metrics.sum(count, &[("tenant", "good")]), 3.0);
    assert_eq!(metrics.sum(count, &[("k8s_container_name", "victim")]), 3.0);
    assert_eq!(metrics.sum(count, &[("tenant", "evil"), ("k8s_container_name", "")]), 1_001.0);
    assert_eq!(metrics.sum("porthole_series_updates_unlisted_container_total", &[]), 2.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_series_meet_the_tenants_budget_and_nobody_elses() {
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    const ALL: f64 = SANDBOX_SERIES_MAX as f64;
    let host = Host::new();
    let (flood_socket, calm_socket) = (host.socket("f"), host.socket("c"));
    let flood = TestAgent::start(&flood_socket, 7).await;
    let route = |id: u32| http(id, "flood-1", &format!("/{id}"), "200", 1, 1);
    flood.tell((0..6_000).map(route).collect());
    let calm = TestAgent::start(&calm_socket, 7).await;
    calm.tell((0..50).map(|id| http(id, "calm-1", &format!("/{id}"), "200", 1, 1)).collect());
    let mut config = host.config();
    config.series_per_tenant = 2_000;
    let exporter = host.start_with(&config);
    let _flood = host.companion(&record("flood-1", "evil", "flood", &flood_socket));
    let _calm = host.companion(&record("calm-1", "good", "calm", &calm_socket));
    exporter.wait_for_requests("calm", 50).await;
    exporter.wait_for_requests("flood", SANDBOX_SERIES_MAX as u64).await;
    wait_for("the end of the flood", async || {
        rejected(&exporter, "sandbox_series_limit").await == 6_000.0 - ALL
    })
    .await;
    let metrics = exporter.metrics().await;
    let count = "http_server_request_duration_seconds_count";
    assert_eq!(metrics.select(count, &[("tenant", "evil")]).len(), 2_001, "the budget, and other");
    assert_eq!(metrics.sum(count, &[("tenant", "evil")]), ALL, "overflowed, not lost");
    assert_eq!(metrics.select(count, &[("tenant", "good")]).len(), 50);
    assert_eq!(metrics.sum("porthole_tenant_series", &[("tenant", "evil")]), 2_001.0);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_answers_or_falls_silent_holds_up_nobody() {
    let host = Host::new();
    let sockets = [host.socket("1"), host.socket("2"), host.socket("3")];
    let _silent = TestAgent::start_as(&sockets[0], 7, Manner::Silent).await;
    let falls_silent = TestAgent::start_as(&sockets[1], 7, Manner::FallsSilent).await;
    falls_silent.tell(vec![http(1, "falls-1", "/", "200", 2, 1)]);
    let honest = TestAgent::start(&sockets[2], 7).await;
    honest.tell(vec![http(1, "honest-1", "/", "200", 3, 1)]);
    let exporter = host.start();
    let _a = host.companion(&record("silent-1", "t", "silent", &sockets[0]));
    let _b = host.companion(&record("falls-1", "t", "falls", &sockets[1]));
    let _c = host.companion(&record("honest-1", "t", "honest", &sockets[2]));
    exporter.wait_for_requests("honest", 3).await;
    exporter.wait_for_requests("falls", 2).await;
    let was_dropped = |call: &'static str| {
        move |row: &serde_json::Value| {
            row["connection"]["last_error"].as_str().is_some_and(|error| error.contains(call))
        }
    };
    exporter.wait_for_sandbox("silent-1", "Hello's deadline", was_dropped("Hello")).await;
    exporter.wait_for_sandbox("falls-1", "the idle watchdog", was_dropped("Stats")).await;
    assert_eq!(exporter.requests("falls").await, 2, "what it said stays");
    wait_for("the honest one asked while idle", async || honest.stats_calls() >= 3).await;
    assert_eq!(honest.watches(), 1);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_speaks_no_ttrpc_costs_no_memory() {
    let host = Host::new();
    let socket = host.socket("s");
    let listener = UnixListener::bind(&socket).expect("bound");
    // Frames of zeroes, as fast as they are taken; counts what was taken within one connection.
    let flood = tokio::spawn(async move {
        let mut most = 0_usize;
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut taken = 0;
            let mut frame = vec![0; 10 + 1_000_000];
            frame[..4].copy_from_slice(&1_000_000_u32.to_be_bytes());
            while stream.write_all(&frame).await.is_ok() {
                taken += frame.len();
            }
            most = most.max(taken);
        }
        most
    });
    let exporter = host.start();
    let _companion = host.companion(&record("flood-1", "evil", "flood", &socket));
    let most = tokio::time::timeout(DEADLINE, flood).await.expect("let go").expect("joined");
    assert!(most < 4_000_000, "{most} bytes were taken from one connection");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hybrid_handshake_leads_to_the_agent() {
    let host = Host::new();
    let (agent_socket, vm_socket) = (host.socket("a"), host.socket("vm"));
    let agent = TestAgent::start(&agent_socket, 7).await;
    agent.tell(vec![http(1, "shop-1", "/", "200", 4, 1)]);
    let listener = UnixListener::bind(&vm_socket).expect("bound");
    // What Firecracker and vhost-device-vsock do: CONNECT, OK, then bytes both ways.
    let proxy = tokio::spawn(async move {
        let (mut host_side, _) = listener.accept().await.expect("accepted");
        let mut request = Vec::new();
        while !request.ends_with(b"\n") {
            request.push(host_side.read_u8().await.expect("request"));
        }
        assert_eq!(request, b"CONNECT 10260\n");
        host_side.write_all(b"OK 1073741824\n").await.expect("answered");
        let mut guest_side = tokio::net::UnixStream::connect(&agent_socket).await.expect("agent");
        let _ = tokio::io::copy_bidirectional(&mut host_side, &mut guest_side).await;
    });
    let exporter = host.start();
    let mut record = record("shop-1", "acme", "shop", &vm_socket);
    record.channel = Some(porthole_registry::channel::Channel::Hybrid { path: vm_socket, port: 10_260 });
    let _companion = host.companion(&record);
    exporter.wait_for_requests("shop", 4).await;
    exporter.stop().await;
    proxy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_sends_what_grows_in_memory_is_refused_before_it_is_decoded_and_then_left_alone() {
    let host = Host::new();
    let (bomb_socket, honest_socket) = (host.socket("b"), host.socket("h"));
    let bomb = TestAgent::start(&bomb_socket, 7).await;
    let honest = TestAgent::start(&honest_socket, 7).await;
    honest.tell(vec![http(1, "honest-1", "/", "200", 3, 1)]);
    let exporter = host.start();
    let _bomb = host.companion(&record("bomb-1", "evil", "bomb", &bomb_socket));
    let _honest = host.companion(&record("honest-1", "good", "honest", &honest_socket));
    exporter.wait_for_requests("honest", 3).await;
    wait_for("a watcher", async || bomb.watches() == 1).await;
    // A hundred thousand empty series: two bytes each on the wire, hundreds once decoded.
    let quarantined = |row: &serde_json::Value| row["connection"]["state"] == "quarantined";
    wait_for("quarantine", async || {
        bomb.send(agent::Batch { series: vec![agent::Series::default(); 100_000], ..Default::default() });
        exporter.sandbox("bomb-1").await.is_some_and(|row| quarantined(&row))
    })
    .await;
    let row = exporter.sandbox("bomb-1").await.expect("listed");
    assert!(row["rejected"]["batch_too_large"].as_u64() >= Some(10), "{row}");
    assert!(row["connection"]["batches"].as_u64() <= Some(1), "none of them was decoded: {row}");
    let metrics = exporter.metrics().await;
    assert!(metrics.sum("porthole_rejected_total", &[("tenant", "evil")]) >= 10.0);
    assert_eq!(metrics.sum("porthole_rejected_total", &[("tenant", "good")]), 0.0);
    assert_eq!(metrics.sum("porthole_agent_quarantines_total", &[]), 1.0);
    assert_eq!(bomb.watches(), 1, "it is not dialled again at once");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_says_went_wrong_is_cut_to_size() {
    let host = Host::new();
    let socket = host.socket("s");
    let _agent = TestAgent::start_as(&socket, 7, Manner::Complains).await;
    let exporter = host.start();
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter
        .wait_for_sandbox("shop-1", "its words, cut", |row| {
            row["connection"]["last_error"]
                .as_str()
                .is_some_and(|error| error.len() <= 256 && !error.contains(char::is_control))
        })
        .await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_would_overflow_every_sum_are_refused() {
    let host = Host::new();
    let Shop { agent, exporter, companion: _companion, .. } = host.shop().await;
    let mut lie = http(2, "shop-1", "/", "200", 1, 1);
    let histogram = lie.duration.as_mut().expect("histogram");
    (histogram.count, histogram.bucket) = (u64::MAX, vec![u64::MAX]);
    agent.send(agent::Batch { series: vec![lie], ..Default::default() });
    wait_for_rejection(&exporter, "count_too_large").await;
    assert_eq!(exporter.requests("shop").await, 5);
    exporter.stop().await;
}
