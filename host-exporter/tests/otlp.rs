//! Traces sent by OTLP to doubles of a collector, over HTTP and gRPC: whole, each span once, by tenant, again after a refusal that
//! passes, and not again after one that does not.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

#[path = "support/otlp.rs"]
mod receiver;
mod support;

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use porthole_agent_api::{agent, agent::SpanReason};
use porthole_config::Location;
use porthole_exporter::{
    clock::unix_ns,
    config::{
        self,
        otlp::{Otlp, Protocol},
    },
    otlp::check,
};
use receiver::{Collector, TOKEN, scraped, texts};
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http, http_client, of_each_protocol, span},
    exposition::Exposition,
    wait_for,
};

const MS: u64 = 1_000_000;

fn destination(protocol: Protocol, endpoint: String, tenants: Option<&[&str]>) -> Otlp {
    Otlp {
        endpoint,
        protocol,
        headers: [("authorization".to_owned(), TOKEN.to_owned())].into(),
        tenants: tenants.map(|tenants| tenants.iter().map(|&tenant| tenant.to_owned()).collect()),
        ..Otlp::default()
    }
}

/// One call of `shop` to `catalog`, and a request of another tenant's `blog`.
async fn call(host: &Host, exporter: &Exporter) -> Vec<(TestAgent, Companion)> {
    let series =
        |id: &str| vec![http(1, id, "/items/{}", "503", 1, 1), http_client(2, id, "10.0.0.2:80", "503", 1)];
    let all = [
        host.sandbox(["acme", "shop", "10.0.0.1"], 0, series("acme-shop")).await,
        host.sandbox(["acme", "catalog", "10.0.0.2"], 0, series("acme-catalog")).await,
        host.sandbox(["rival", "blog", "10.0.0.1"], 0, series("rival-blog")).await,
    ];
    for id in ["acme-shop", "acme-catalog", "rival-blog"] {
        exporter.wait_for_sandbox(id, "a batch", |row| row["series"].as_u64() == Some(2)).await;
    }
    let began = unix_ns() - 100 * MS;
    let span = |series_id, ends: [&str; 2], from: u64, to: u64| agent::Span {
        trace_id: vec![7; 16],
        parent_span_id: vec![8; 8],
        trace_sampled: true,
        ..span(series_id, SpanReason::SPAN_REASON_ERROR, ends, [from, to].map(|ms| began + ms * MS))
    };
    let send = |at: usize, span| all[at].0.send(agent::Batch { spans: vec![span], ..Default::default() });
    send(0, span(2, ["10.0.0.1:4000", "10.0.0.2:80"], 20, 50));
    // Also where the trace is sent in two parts, the caller's span is there when the other one's parent is looked for.
    wait_for("the caller's span", async || exporter.get("/api/v1/spans").await.2.contains("duration_ns"))
        .await;
    send(1, span(1, ["10.0.0.2:80", "10.0.0.1:4000"], 30, 40));
    send(2, span(1, ["10.0.0.1:80", "10.0.0.9:4000"], 30, 40));
    all.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_sent_whole_once_and_to_its_tenants_destinations_alone() {
    let host = Host::new();
    let (over_http, over_grpc) = (Collector::refusing(&[429]), Collector::refusing(&[503]));
    let http = format!("http://{}/otlp", over_http.serve_http().await);
    let grpc = format!("http://{}", over_grpc.serve_grpc().await);
    let otlp =
        vec![destination(Protocol::Http, http, Some(&["acme"])), destination(Protocol::Grpc, grpc, None)];
    let exporter = host.start_with(&config::Exporter { otlp, ..host.config() });
    let _sandboxes = call(&host, &exporter).await;
    wait_for("five spans", async || {
        exporter.metrics().await.sum("porthole_otlp_spans_sent_total", &[]) == 5.0
    })
    .await;
    assert_eq!((over_http.spans().len(), over_grpc.spans().len()), (2, 3), "each once, after a refusal");
    assert!(over_http.offered.lock().len() > 2, "a span that was refused was sent again");
    let spans = over_http.spans();
    let of = |service: &str| {
        spans.iter().find(|(resource, _)| resource["service.name"] == service).expect("its span")
    };
    let ((shop, client), (_, server)) = (of("shop"), of("catalog"));
    assert_eq!((&*shop["service.instance.id"], &*shop["porthole.tenant"]), ("acme-shop", "acme"));
    assert_eq!((client.kind, server.kind), (SpanKind::Client as i32, SpanKind::Server as i32));
    assert_eq!((&client.trace_id, &server.trace_id), (&vec![7; 16], &vec![7; 16]), "the propagated one");
    assert_eq!(client.parent_span_id, [8; 8], "the program's own span");
    assert_eq!(server.parent_span_id, client.span_id);
    assert_eq!(server.name, "GET /items/{}");
    assert_eq!(server.end_time_unix_nano - server.start_time_unix_nano, 10 * MS);
    let attributes = texts(&server.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/items/{}"),
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("server.address", "10.0.0.2"),
        ("server.port", "80"),
        ("network.peer.address", "10.0.0.1"),
        ("porthole.parent.certainty", "connection"),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name} in {attributes:?}");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_or_not_delivered_in_time_is_counted_and_not_sent_again() {
    let host = Host::new();
    let refusing = Collector::refusing(&[400; 9]);
    let http = format!("http://{}/otlp", refusing.serve_http().await);
    let mut absent = destination(Protocol::Grpc, "http://127.0.0.1:1".to_owned(), Some(&["acme"]));
    absent.retry_seconds = 0.001;
    let overloaded =
        Collector { retry_after: Some("18446744073709551615"), ..Collector::refusing(&[503; 9]) };
    let later = format!("http://{}/otlp", overloaded.serve_http().await);
    let of_acme = |http| destination(Protocol::Http, http, Some(&["acme"]));
    let otlp = vec![of_acme(http), absent, of_acme(later)];
    let exporter = host.start_with(&config::Exporter { otlp, ..host.config() });
    let _sandboxes = call(&host, &exporter).await;
    wait_for("refusals", async || {
        let metrics = exporter.metrics().await;
        let of = |name: &str| metrics.sum(&format!("porthole_otlp_spans_{name}_total"), &[]);
        [of("sent"), of("refused"), of("undelivered")] == [0.0, 2.0, 4.0]
    })
    .await;
    for collector in [refusing, overloaded] {
        let offered = collector.offered.lock().clone();
        assert_eq!((offered.len(), BTreeSet::from_iter(offered).len()), (2, 2), "none again");
    }
    exporter.stop().await;
}

/// Families whose values change only when agents report something.
const OF_WORKLOADS: [&str; 12] = [
    "container_",
    "db_",
    "dns_",
    "http_",
    "messaging_",
    "porthole_app_",
    "porthole_guest_",
    "porthole_sandbox_address",
    "porthole_sandbox_start",
    "rpc_",
    "tcp_client_",
    "tls_",
];

/// What a tenant's scrape has.
async fn of_tenant(exporter: &Exporter, tenant: &str) -> Exposition {
    let (status, _, body) = exporter.get(&format!("/tenants/{tenant}/metrics")).await;
    assert_eq!(status, 200, "{body}");
    Exposition::parse(&body)
}

fn with_metrics(destination: Otlp) -> Otlp {
    Otlp { traces: false, metrics: true, ..destination }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_destinations_get_the_values_of_its_scrapes() {
    let host = Host::new();
    let (over_http, over_grpc) = (Collector::refusing(&[503]), Collector::refusing(&[429]));
    let http = format!("http://{}/otlp", over_http.serve_http().await);
    let grpc = format!("http://{}", over_grpc.serve_grpc().await);
    let otlp = vec![
        with_metrics(destination(Protocol::Http, http, Some(&["acme"]))),
        with_metrics(destination(Protocol::Grpc, grpc, Some(&["rival"]))),
    ];
    let exporter = host.start_with(&config::Exporter { otlp, otlp_metrics_seconds: 0.05, ..host.config() });
    let mut every = of_each_protocol(3);
    for series in &mut every {
        series.key.as_mut().expect("a key").container_id = "acme-shop".into();
    }
    let protocols = every.len();
    let (shop, _shop) = host.sandbox(["acme", "shop", "10.0.0.1"], 0, every).await;
    let (_blog, _companion) = host
        .sandbox(
            ["rival", "blog", "10.0.0.2"],
            0,
            vec![support::agent::http(1, "rival-blog", "/", "200", 7, 1)],
        )
        .await;
    exporter
        .wait_for_sandbox("acme-shop", "a batch", |row| row["series"].as_u64() == Some(protocols as u64))
        .await;
    shop.measure(&["", "acme-shop"], 2);
    shop.connect("acme-shop", "10.0.0.2:80", 4);
    wait_for("resources and connections", async || {
        let text = of_tenant(&exporter, "acme").await.text;
        text.contains("container_threads{") && text.contains("tcp_client_")
    })
    .await;
    let expected = scraped(&of_tenant(&exporter, "acme").await, &OF_WORKLOADS);
    assert!(expected.len() > 300, "{}", expected.len());
    wait_for("the same values", async || over_http.points().beginning(&OF_WORKLOADS) == expected).await;
    wait_for("those of the other tenant", async || {
        let of_rival = over_grpc.points().beginning(&["http_server_request_duration_seconds_count"]);
        of_rival.iter().any(|((_, labels), requests)| labels["tenant"] == "rival" && *requests == 7.0)
    })
    .await;
    for (collector, tenant) in [(over_http, "acme"), (over_grpc, "rival")] {
        let points = collector.points();
        assert!(points.samples.keys().all(|(_, labels)| labels["tenant"] == tenant), "{points:?}");
    }
    let metrics = exporter.metrics().await;
    assert!(metrics.sum("porthole_otlp_points_sent_total", &[]) > 0.0);
    assert_eq!(metrics.sum("porthole_otlp_spans_sent_total", &[]), 0.0, "they want no traces");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_have_their_start_over_a_restart_and_exemplars_their_trace() {
    let host = Host::new();
    let collector = Collector::default();
    let grpc = format!("http://{}", collector.serve_grpc().await);
    let otlp = vec![with_metrics(destination(Protocol::Grpc, grpc, None))];
    let config = config::Exporter { otlp, otlp_metrics_seconds: 0.05, ..host.config() };
    let exporter = host.start_with(&config);
    let series = vec![http(1, "acme-shop", "/items/{}", "503", 1, 30)];
    let (shop, _companion) = host.sandbox(["acme", "shop", "10.0.0.1"], 0, series).await;
    let requests = "http_server_request_duration_seconds";
    let times = |collector: &Collector| {
        let points = collector.points();
        points.times.iter().find(|((name, _), _)| name == requests).map(|(_, times)| *times)
    };
    wait_for("points", async || times(&collector).is_some_and(|(start, taken)| start < taken)).await;
    let (start, first) = times(&collector).expect("a point");
    // Then the round before has written the file.
    wait_for("a point of the next round", async || times(&collector).is_some_and(|(_, taken)| taken > first))
        .await;
    exporter.stop().await;

    let (_, last) = times(&collector).expect("a point");
    let exporter = host.start_with(&config);
    wait_for("a point of the other run", async || times(&collector).is_some_and(|(_, taken)| taken > last))
        .await;
    assert_eq!(times(&collector).expect("a point").0, start);
    exporter.wait_for_sandbox("acme-shop", "a batch", |row| row["series"].as_u64() == Some(1)).await;
    let now = unix_ns();
    let span = agent::Span {
        trace_id: vec![7; 16],
        ..span(1, SpanReason::SPAN_REASON_ERROR, ["10.0.0.1:80", "10.0.0.2:4000"], [now - 30 * MS, now])
    };
    shop.send(agent::Batch { spans: vec![span], ..Default::default() });
    wait_for("an exemplar", async || {
        collector.points().exemplars.get(requests).is_some_and(|traces| traces.contains(&vec![7; 16]))
    })
    .await;
    exporter.stop().await;
}

/// The configuration of a host whose file has these destinations.
fn from_file(host: &Host, otlp: &str) -> config::Exporter {
    let file = host.directory().join("porthole.toml");
    std::fs::write(&file, otlp).expect("written");
    let read = porthole_config::ConfigFile::load(Some(&file)).expect("read");
    let read: config::Exporter = read.section().expect("a section");
    let file = Some(Location::new(Some(&file)));
    config::Exporter { file, otlp: read.otlp, ..host.config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_of_the_file_that_changed_are_in_force_and_what_waits_is_sent_or_counted() {
    let host = Host::new();
    // Each refuses one request, and gives an hour until it is sent again.
    let refusing = || Collector { retry_after: Some("3600"), ..Collector::refusing(&[503]) };
    let (changed, removed, added) = (refusing(), refusing(), Collector::default());
    let mut endpoints = Vec::new();
    for collector in [&changed, &removed, &added] {
        endpoints.push(format!("http://{}/otlp", collector.serve_http().await));
    }
    let to = |at: usize, more: &str| {
        format!(
            "[[exporter.otlp]]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\nheaders = {{ authorization = \"{TOKEN}\" }}\nretry_seconds = 86400.0\n{more}\n",
            endpoints[at]
        )
    };
    let config = from_file(&host, &(to(0, "") + &to(1, "")));
    let exporter = host.start_with(&config);
    let sandboxes = call(&host, &exporter).await;
    wait_for("refusals", async || (*changed.requests.lock(), *removed.requests.lock()) == (1, 1)).await;

    let path = config.file.clone().expect("a file").path;
    std::fs::write(&path, "[[exporter.otlp]]\nendpoint = \"nowhere\"\n").expect("written");
    wait_for("a file that cannot be used", async || {
        exporter.metrics().await.sum("porthole_exporter_reloads_failed_total", &[]) >= 1.0
    })
    .await;
    assert_eq!((*changed.requests.lock(), *removed.requests.lock()), (1, 1), "the last ones are in force");
    std::fs::write(&path, to(0, "timeout_seconds = 20.0") + &to(2, "")).expect("written");
    exporter.running.reload();
    wait_for("what waited, at once", async || changed.spans().len() == 3 && removed.spans().len() == 3).await;
    let late = agent::Span { trace_id: vec![9; 16], ..late_span() };
    sandboxes[0].0.send(agent::Batch { spans: vec![late], ..Default::default() });
    wait_for("a span that came later", async || added.spans().len() == 1 && changed.spans().len() == 4).await;
    assert_eq!(removed.spans().len(), 3, "no longer");
    exporter.stop().await;
}

/// A request to `shop`.
fn late_span() -> agent::Span {
    let now = unix_ns();
    span(1, SpanReason::SPAN_REASON_ERROR, ["10.0.0.1:80", "10.0.0.7:4000"], [now - 30 * MS, now])
}

#[test]
fn a_destination_that_cannot_be_used_stops_the_start() {
    let host = Host::new();
    std::fs::write(host.directory().join("empty.pem"), "").expect("written");
    for (protocol, authorities) in [
        (Protocol::Http, "absent.pem"),
        (Protocol::Http, "empty.pem"),
        (Protocol::Grpc, "absent.pem"),
        (Protocol::Grpc, "empty.pem"),
    ] {
        let mut otlp = destination(protocol, "https://collector".to_owned(), None);
        otlp.tls_ca = Some(host.directory().join(authorities));
        let error = check(&[otlp]).expect_err(authorities).to_string();
        assert!(error.contains("https://collector") && error.contains(authorities), "{protocol:?}: {error}");
    }
    let mut otlp = destination(Protocol::Grpc, "http://collector".to_owned(), None);
    otlp.headers.insert("token-bin".to_owned(), "secret".to_owned());
    let error = check(std::slice::from_ref(&otlp)).expect_err("no text").to_string();
    assert!(error.contains("`token-bin` of `headers`") && !error.contains("secret"), "{error}");
    otlp.protocol = Protocol::Http;
    check(&[otlp]).expect("HTTP has no such names");
}
