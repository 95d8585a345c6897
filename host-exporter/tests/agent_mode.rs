//! Prometheus in agent mode with the repository's example, from a running exporter to a real `VictoriaMetrics`, and to receivers that
//! separate tenants by a header.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod prometheus;
mod support;
mod victoria_metrics;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, StatusCode, Uri},
};
use porthole_trials::{Outcome, needs, trials};
use prometheus::Prometheus;
use support::{
    Host,
    agent::{TestAgent, http},
    record, wait_for,
};
use tokio::runtime::Runtime;
use victoria_metrics::VictoriaMetrics;

/// The example.
const EXAMPLE: &str = include_str!("../../deploy/prometheus/agent.yml");

/// Paths and headers of what a receiver got.
type Received = Arc<Mutex<BTreeSet<(String, String)>>>;

fn main() -> ExitCode {
    porthole_trials::run(trials![agent_mode_writes_exact_counts_of_each_tenant])
}

/// Stands for Mimir and for Thanos Receive: takes what is written under their paths with the tenant in the header, and passes it on
/// to a server that answers queries.
async fn start_receiver(to: SocketAddr) -> (SocketAddr, Received) {
    let received = Received::default();
    let log = Arc::clone(&received);
    let handler = move |uri: Uri, headers: HeaderMap, body: Bytes| {
        let header = match uri.path() {
            "/api/v1/push" => "x-scope-orgid",
            "/api/v1/receive" => "thanos-tenant",
            other => panic!("nothing is written to {other}"),
        };
        let tenant = headers.get(header).map_or("", |value| value.to_str().expect("text"));
        log.lock().expect("unpoisoned").insert((uri.path().to_owned(), tenant.to_owned()));
        async move {
            victoria_metrics::write(to, &body).await;
            StatusCode::NO_CONTENT
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new().fallback(axum::routing::post(handler));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, received)
}

/// The example with addresses and times of this test.
fn configuration(exporter: SocketAddr, all: SocketAddr, by_header: SocketAddr) -> String {
    let mut text = EXAMPLE.to_owned();
    for (found, other) in [
        ("127.0.0.1:9464", exporter.to_string()),
        ("victoriametrics.example.com:8428", all.to_string()),
        ("mimir.example.com:8080", by_header.to_string()),
        ("thanos.example.com:19291", by_header.to_string()),
        ("scrape_interval: 15s", "scrape_interval: 1s\n  scrape_timeout: 1s".to_owned()),
    ] {
        assert!(text.contains(found), "the example has no {found}");
        text = text.replace(found, &other);
    }
    assert!(!text.contains("example.com"), "an address that is not replaced: {text}");
    text
}

/// Whether the installed Prometheus sends the headers of `remote_write`. Debian 12's does not: the patch that takes tracing out of its
/// client takes them out too.
fn sends_headers() -> bool {
    let version = Command::new("prometheus").arg("--version").output().expect("started");
    let version = String::from_utf8_lossy(&[version.stdout, version.stderr].concat()).into_owned();
    !version.contains("version 2.42.0+ds")
}

/// Requests by tenant, as a server has them now.
async fn by_tenant(server: &VictoriaMetrics) -> BTreeMap<String, f64> {
    let elements = server.query("sum by (tenant) (porthole_app_requests_total)").await;
    let of = |element: &serde_json::Value| {
        let tenant = element["metric"]["tenant"].as_str()?.to_owned();
        Some((tenant, element["value"][1].as_str()?.parse().ok()?))
    };
    elements.iter().map(|element| of(element).expect("a tenant's count")).collect()
}

fn agent_mode_writes_exact_counts_of_each_tenant() -> Outcome {
    needs::program("prometheus")?;
    victoria_metrics::is_there()?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let exporter = host.start();
        let mut kept = Vec::new();
        for tenant in ["acme", "globex"] {
            let socket = host.socket(tenant);
            let agent = TestAgent::start(&socket, 7).await;
            let companion = host.companion(&record(&format!("{tenant}-1"), tenant, "shop", &socket));
            kept.push((agent, companion));
        }
        let all = VictoriaMetrics::start(&host.socket("all")).await;
        let separate = VictoriaMetrics::start(&host.socket("separate")).await;
        let (receiver, arrived) = start_receiver(separate.address()).await;
        let text = configuration(exporter.address(), all.address(), receiver);
        let _agent = Prometheus::start_agent(&host.socket("agent"), &text);

        for (acme, globex) in [(5, 3), (25, 40)] {
            for ((agent, companion), (answered, failed)) in kept.iter().zip([(acme, 2), (globex, 1)]) {
                let id = companion.record.key().id.to_string();
                agent.tell(vec![http(1, &id, "/", "200", answered, 1), http(2, &id, "/", "500", failed, 1)]);
            }
            let expected = BTreeMap::from([("acme", acme + 2), ("globex", globex + 1)]);
            #[allow(clippy::cast_precision_loss, reason = "counts are small")]
            let expected: BTreeMap<String, f64> =
                expected.into_iter().map(|(tenant, count)| (tenant.to_owned(), count as f64)).collect();
            wait_for("the counts in VictoriaMetrics", async || by_tenant(&all).await == expected).await;
            let acme = BTreeMap::from([("acme".to_owned(), expected["acme"])]);
            wait_for("the counts of one tenant", async || by_tenant(&separate).await == acme).await;
        }
        let tenant = if sends_headers() { "acme" } else { "" };
        let expected = ["/api/v1/push", "/api/v1/receive"].map(|path| (path.to_owned(), tenant.to_owned()));
        // Each of the two has a queue of its own: what one has written has both in the database.
        let paths = || arrived.lock().expect("unpoisoned").clone();
        wait_for("requests to both", async || paths().len() >= expected.len()).await;
        assert_eq!(paths(), BTreeSet::from(expected));
        let others = separate.query("count({tenant!='acme'})").await;
        assert!(others.is_empty(), "of another tenant, or of none: {others:?}");
        exporter.stop().await;
        Ok(())
    })
}
