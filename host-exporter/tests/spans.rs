//! Spans end to end on the host's side: labelled by the host, filtered, bounded, rejected when they contradict
//! themselves.

#![allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use porthole_agent_api::{agent, agent::SpanReason};
use porthole_exporter::spans::SANDBOX_SPANS_MAX;
use serde_json::Value;
use support::{
    Exporter, Host, Shop,
    agent::{TestAgent, http},
    record, wait_for,
};

fn span(series_id: u32, reason: SpanReason, ms: u64) -> agent::Span {
    agent::Span {
        series_id,
        start_unix_ns: 1_700_000_000_000_000_000,
        duration_ns: ms * 1_000_000,
        request_bytes: 100,
        response_bytes: 1_000,
        reason: reason.into(),
        process_id: 42,
        thread_id: 43,
        local: "10.0.0.1:80".into(),
        remote: "10.0.0.2:40000".into(),
        ..Default::default()
    }
}

fn tell(agent: &TestAgent, spans: Vec<agent::Span>) {
    agent.send(agent::Batch { spans, ..Default::default() });
}

async fn listed(exporter: &Exporter, query: &str) -> Vec<Value> {
    let (status, _, body) = exporter.get(&format!("/api/v1/spans{query}")).await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    answer["spans"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_carry_the_hosts_labels_and_are_filtered() {
    let host = Host::new();
    let (shop_socket, blog_socket) = (host.socket("s"), host.socket("b"));
    let shop = TestAgent::start(&shop_socket, 7).await;
    shop.tell(vec![http(1, "shop-1", "/pay", "503", 1, 1), http(2, "shop-1", "/items/{}", "200", 1, 1)]);
    let blog = TestAgent::start(&blog_socket, 7).await;
    blog.tell(vec![http(1, "shop-1", "/posts", "200", 1, 1)]);
    let exporter = host.start();
    let _shop = host.companion(&record("shop-1", "acme", "shop", &shop_socket));
    let _blog = host.companion(&record("blog-1", "other", "blog", &blog_socket));
    exporter.wait_for_requests("shop", 2).await;
    exporter.wait_for_requests("blog", 1).await;
    tell(&shop, vec![span(1, SpanReason::SPAN_REASON_ERROR, 3), span(2, SpanReason::SPAN_REASON_SLOW, 700)]);
    tell(&blog, vec![span(1, SpanReason::SPAN_REASON_RATE, 1)]);
    wait_for("three spans", async || listed(&exporter, "").await.len() == 3).await;

    let errors = listed(&exporter, "?tenant=acme&errors=true").await;
    let [error] = &errors[..] else { panic!("{errors:?}") };
    for (field, expected) in [
        ("tenant", Value::from("acme")),
        ("service_name", "shop".into()),
        ("sandbox_id", "shop-1".into()),
        ("k8s_container_name", "shop".into()),
        ("operation", "GET".into()),
        ("resource", "/pay".into()),
        ("status", "503".into()),
        ("error", "server".into()),
        ("reason", "error".into()),
        ("duration_ns", 3_000_000.into()),
        ("request_bytes", 100.into()),
        ("process_id", 42.into()),
        ("local", "10.0.0.1:80".into()),
        ("remote", "10.0.0.2:40000".into()),
    ] {
        assert_eq!(error[field], expected, "{field} of {error}");
    }
    assert_eq!(listed(&exporter, "?tenant=other").await[0]["k8s_container_name"], "", "of another tenant");
    assert_eq!(listed(&exporter, "?duration_ms_min=500").await[0]["resource"], "/items/{}");
    assert_eq!(listed(&exporter, "?service_name=shop").await.len(), 2);
    assert_eq!(listed(&exporter, "?limit=1").await.len(), 1);
    assert_eq!(exporter.get("/api/v1/spans?tennant=acme").await.0, 400);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_refused_and_floods_are_bounded() {
    let host = Host::new();
    let Shop { agent, exporter, companion: _companion, .. } = host.shop().await;
    let rate = SpanReason::SPAN_REASON_RATE;
    let mut long = span(1, rate, 1);
    long.remote = "x".repeat(100_000);
    let mut nasty = span(1, rate, 1);
    nasty.local = "a\nb".into();
    let mut odd = span(1, rate, 1);
    odd.reason = protobuf::EnumOrUnknown::from_i32(99);
    let extreme = agent::Span {
        start_unix_ns: u64::MAX,
        duration_ns: u64::MAX,
        request_bytes: u64::MAX,
        ..span(1, rate, 1)
    };
    tell(&agent, vec![long, nasty, odd, span(4_000_000, rate, 1), extreme]);
    tell(&agent, vec![span(1, rate, 1); 257]);
    for reason in
        ["text_too_long", "text_characters", "span_reason_unknown", "span_series_unknown", "batch_too_large"]
    {
        wait_for(reason, async || {
            exporter.metrics().await.sum("porthole_rejected_total", &[("reason", reason)]) == 1.0
        })
        .await;
    }
    assert_eq!(listed(&exporter, "").await.len(), 1, "the extreme one is the guest's word");
    let requests = exporter.requests("shop").await;
    for _ in 0..10 {
        tell(&agent, vec![span(1, rate, 1); 256]);
    }
    wait_for("the flood", async || exporter.metrics().await.sum("porthole_spans_total", &[]) == 2_561.0)
        .await;
    assert_eq!(listed(&exporter, "?limit=1000000").await.len(), SANDBOX_SPANS_MAX[1]);
    let evicted =
        exporter.metrics().await.sum("porthole_spans_evicted_total", &[("reason", "sandbox_limit")]);
    assert_eq!(evicted, 2_561.0 - SANDBOX_SPANS_MAX[1] as f64);
    assert_eq!(exporter.requests("shop").await, requests, "spans count nothing");
    exporter.stop().await;
}
