//! Traces end to end on the host's side: joined by what two sandboxes of a tenant report, shown to that tenant, and unchanged by what
//! others report.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::{agent, agent::SpanReason};
use porthole_exporter::{clock::unix_ns, config::Exporter as Config};
use serde_json::Value;
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http, http_client, span},
    wait_for,
};

const MS: u64 = 1_000_000;

/// A sandbox whose agent's double serves `/items/{}` and calls it elsewhere.
struct Sandbox {
    agent: TestAgent,
    _companion: Companion,
    /// By how much its clock is ahead of the host's, nanoseconds.
    ahead_ns: u64,
}

/// The series of a sandbox.
const SERVES: u32 = 1;
const CALLS: u32 = 2;

async fn sandbox(host: &Host, tenant: &str, service: &str, address: &str, ahead_ns: u64) -> Sandbox {
    let id = format!("{tenant}-{service}");
    let series = vec![
        http(SERVES, &id, "/items/{}", "200", 1, 1),
        http_client(CALLS, &id, "catalog.example", "200", 1),
    ];
    let (agent, companion) = host.sandbox([tenant, service, address], ahead_ns, series).await;
    Sandbox { agent, _companion: companion, ahead_ns }
}

impl Sandbox {
    /// One span from `from` to `to`, by the host's clock.
    fn span(&self, series_id: u32, ends: [&str; 2], from: u64, to: u64) -> agent::Span {
        let times = [from, to].map(|time| time + self.ahead_ns);
        let span = span(series_id, SpanReason::SPAN_REASON_RATE, ends, times);
        agent::Span { process_id: 1, thread_id: 7, ..span }
    }

    fn send(&self, spans: Vec<agent::Span>) {
        self.agent.send(agent::Batch { spans, ..Default::default() });
    }
}

async fn traces(exporter: &Exporter, query: &str) -> Vec<Value> {
    exporter.json(&format!("/api/v1/traces{query}")).await["traces"].as_array().expect("a list").clone()
}

async fn connected(exporter: &Exporter, ids: &[&str]) {
    for id in ids {
        exporter.wait_for_sandbox(id, "a batch", |row| row["series"].as_u64() == Some(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_between_two_sandboxes_is_one_trace_and_no_other_tenants_reports_change_it() {
    let host = Host::new();
    let exporter = host.start();
    let shop = sandbox(&host, "acme", "shop", "10.0.0.1", 0).await;
    let catalog = sandbox(&host, "acme", "catalog", "10.0.0.2", 3_600_000 * MS).await;
    let rival = sandbox(&host, "rival", "catalog", "10.0.0.2", 0).await;
    connected(&exporter, &["acme-shop", "acme-catalog", "rival-catalog"]).await;
    let began = unix_ns() - 100 * MS;
    let at = |ms: u64| began + ms * MS;
    let (to_catalog, from_shop) = (["10.0.0.1:4000", "10.0.0.2:80"], ["10.0.0.2:80", "10.0.0.1:4000"]);
    catalog.send(vec![catalog.span(SERVES, from_shop, at(32), at(48))]);
    // Of another tenant, with the same addresses: one that it has, and one that it has not.
    rival.send(vec![
        rival.span(SERVES, from_shop, at(32), at(48)),
        rival.span(CALLS, to_catalog, at(30), at(50)),
    ]);
    shop.send(vec![
        shop.span(CALLS, to_catalog, at(30), at(50)),
        shop.span(SERVES, ["10.0.0.1:80", "10.0.0.9:3000"], at(10), at(90)),
    ]);
    wait_for("the trace", async || {
        traces(&exporter, "?tenant=acme&spans_min=3").await.len() == 1
            && traces(&exporter, "?tenant=rival").await.len() == 2
    })
    .await;

    let listed = traces(&exporter, "?tenant=acme").await;
    let [trace] = &listed[..] else { panic!("{listed:?}") };
    for (field, expected) in [
        ("service_name", Value::from("shop")),
        ("side", "server".into()),
        ("resource", "/items/{}".into()),
        ("duration_ns", (80 * MS).into()),
        ("spans", 3.into()),
        ("errors", 0.into()),
        ("services", vec!["catalog", "shop"].into()),
    ] {
        assert_eq!(trace[field], expected, "{field} of {trace}");
    }
    let id = trace["trace_id"].as_str().expect("an id");
    let whole = traces(&exporter, &format!("/{id}")).await;
    let tree = whole[0]["tree"].as_array().expect("a tree");
    let part = |field: &str| tree.iter().map(|node| node[field].clone()).collect::<Vec<_>>();
    assert_eq!(part("sandbox_id"), ["acme-shop", "acme-shop", "acme-catalog"]);
    assert_eq!(part("certainty"), [Value::Null, "thread".into(), "connection".into()]);
    assert_eq!(part("depth"), [0, 1, 2]);
    assert_eq!(tree[2]["parent_span_id"], tree[1]["span_id"]);
    for (node, expected) in tree.iter().zip([10, 30, 32]) {
        let [start, error] =
            ["start_unix_ns", "clock_error_ns"].map(|field| node[field].as_u64().expect("ns"));
        let error = error + whole[0]["clock_error_ns"].as_u64().expect("ns");
        assert!(start.abs_diff(at(expected)) <= error, "{node}");
    }

    // Each on its own, and for the tenant whose they are.
    assert!(traces(&exporter, "?tenant=rival").await.iter().all(|trace| trace["spans"] == 1));
    assert_eq!(traces(&exporter, &format!("/{id}?tenant=rival")).await, Vec::<Value>::new());
    for (query, found) in [
        ("?service_name=catalog&tenant=acme", 1),
        ("?service_name=blog", 0),
        ("?route=/items/{}&tenant=acme", 1),
        ("?route=/other", 0),
        ("?duration_ms_min=80&tenant=acme", 1),
        ("?duration_ms_min=81", 0),
        ("?errors=true", 0),
        ("?limit=1", 1),
    ] {
        assert_eq!(traces(&exporter, query).await.len(), found, "{query}");
    }
    assert_eq!(exporter.get("/api/v1/traces?tennant=acme").await.0, 400);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_makes_up_spans_changes_no_trace_of_its_neighbours() {
    let host = Host::new();
    let exporter = host.start();
    let shop = sandbox(&host, "acme", "shop", "10.0.0.1", 0).await;
    let catalog = sandbox(&host, "acme", "catalog", "10.0.0.2", 0).await;
    let evil = sandbox(&host, "acme", "evil", "10.0.0.66", 0).await;
    connected(&exporter, &["acme-shop", "acme-catalog", "acme-evil"]).await;
    let began = unix_ns() - 100 * MS;
    let at = |ms: u64| began + ms * MS;
    let (to_catalog, from_shop) = (["10.0.0.1:4000", "10.0.0.2:80"], ["10.0.0.2:80", "10.0.0.1:4000"]);
    shop.send(vec![shop.span(CALLS, to_catalog, at(30), at(50))]);
    catalog.send(vec![catalog.span(SERVES, from_shop, at(32), at(48))]);
    let mut lies = vec![
        evil.span(SERVES, from_shop, at(32), at(48)),
        evil.span(CALLS, to_catalog, at(30), at(50)),
        evil.span(SERVES, ["10.0.0.66:80", "10.0.0.1:4000"], at(32), at(48)),
        evil.span(CALLS, ["10.0.0.66:4000", "10.0.0.2:80"], at(30), at(50)),
    ];
    lies.extend([0, u64::MAX, began].map(|time| agent::Span {
        start_unix_ns: time,
        duration_ns: u64::MAX,
        ..evil.span(SERVES, from_shop, 0, 0)
    }));
    assert_eq!(lies.len(), 7);
    evil.send(lies);
    wait_for("all spans", async || exporter.metrics().await.sum("porthole_spans_total", &[]) == 9.0).await;
    let all = traces(&exporter, "").await;
    assert_eq!(all.len(), 8, "{all:?}");
    let calls: Vec<_> = all.iter().filter(|trace| trace["spans"] == 2).collect();
    assert_eq!(calls[0]["services"], Value::from(vec!["catalog", "shop"]));
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_sampled_whole_and_those_with_an_error_are_kept() {
    const CALLS_MADE: u32 = 8;
    let host = Host::new();
    let config = Config { trace_ratio: 0.0, trace_reservoir_per_minute: 1.0, ..host.config() };
    let exporter = host.start_with(&config);
    let shop = sandbox(&host, "acme", "shop", "10.0.0.1", 0).await;
    let catalog = sandbox(&host, "acme", "catalog", "10.0.0.2", 0).await;
    connected(&exporter, &["acme-shop", "acme-catalog"]).await;
    let began = unix_ns() - 1_000 * MS;
    let mut of_shop = Vec::new();
    let mut of_catalog = Vec::new();
    for call in 0..CALLS_MADE {
        let client = format!("10.0.0.1:{}", 4_000 + call);
        let from = began + 50 * u64::from(call) * MS;
        let reason = if call == 0 { SpanReason::SPAN_REASON_ERROR } else { SpanReason::SPAN_REASON_RATE };
        let of_call = |span: agent::Span| agent::Span { reason: reason.into(), ..span };
        of_shop.push(of_call(shop.span(CALLS, [&client, "10.0.0.2:80"], from, from + 30 * MS)));
        let (from, to) = (from + 10 * MS, from + 20 * MS);
        // The server's end of the failed one is a sample.
        of_catalog.push(catalog.span(SERVES, ["10.0.0.2:80", &client], from, to));
    }
    shop.send(of_shop);
    catalog.send(of_catalog);
    let evicted =
        async |reason| exporter.metrics().await.sum("porthole_spans_evicted_total", &[("reason", reason)]);
    wait_for("the decision", async || evicted("sampling").await > 0.0).await;
    let listed = traces(&exporter, "").await;
    assert_eq!(listed.len(), 2, "the failed one and one of the others: {listed:?}");
    assert!(listed.iter().all(|trace| trace["spans"] == 2), "{listed:?}");
    assert_eq!(evicted("sampling").await, 2.0 * f64::from(CALLS_MADE - 2));
    assert_eq!(evicted("cut_trace").await, 0.0);
    exporter.stop().await;
}
