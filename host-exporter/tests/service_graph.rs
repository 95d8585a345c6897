//! Edges of the service graph in a real Prometheus: of one exporter, and joined over two by the rules of `deploy/prometheus`.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod prometheus;
mod support;

use std::{net::IpAddr, process::ExitCode};

use porthole_agent_api::agent;
use porthole_exporter::{clock::unix_ms, history::step_of};
use porthole_trials::{Outcome, needs, trials};
use prometheus::{Prometheus, RULES};
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http, http_client},
    record, wait_for,
};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    porthole_trials::run(trials![edges_over_two_nodes_have_names_and_are_counted_once])
}

/// A sandbox with an address of its own.
async fn sandbox(host: &Host, tenant: &str, service: &str, address: &str) -> (TestAgent, Companion) {
    let id = format!("{service}-1");
    let socket = host.socket(&id);
    let agent = TestAgent::start(&socket, 7).await;
    let mut record = record(&id, tenant, service, &socket);
    record.addresses = vec![address.parse::<IpAddr>().expect("an address")];
    (agent, host.companion(&record))
}

fn end_step(exporter: &Exporter) {
    exporter.running.topology().record(step_of(unix_ms()) + 1, exporter.fleet());
}

fn to_database(total: u64) -> agent::Series {
    let mut series = http_client(2, "", "10.2.0.2:3306", "", total);
    series.key.as_mut().expect("key").protocol = agent::Protocol::PROTOCOL_MYSQL.into();
    series
}

fn edges_over_two_nodes_have_names_and_are_counted_once() -> Outcome {
    needs::program("prometheus")?;
    Runtime::new()?.block_on(async {
        let nodes = [Host::new(), Host::new()];
        let [first, second] = nodes.each_ref().map(Host::start);
        let (shop, _shop) = sandbox(&nodes[0], "acme", "shop", "10.2.0.1").await;
        let (db, _db) = sandbox(&nodes[1], "acme", "db", "10.2.0.2").await;
        // A tenant that has nothing to do with it has the same address in a network of its own.
        let (rival, _rival) = sandbox(&nodes[1], "rival", "web", "10.2.0.1").await;
        let prometheus = Prometheus::start_job(
            &nodes[0].socket("prometheus"),
            &format!("static_configs: [{{ targets: ['{}', '{}'] }}]", first.address(), second.address()),
            RULES,
            "",
            &[],
        );
        let mut total = 0_u32;
        // Calls as they go on, so that there is a rate; each is served by the database, which reports it too.
        let mut call_and_record = async || {
            total += 20;
            let calls = u64::from(total);
            shop.tell(vec![to_database(calls)]);
            let mut served = http(1, "", "", "", calls, 1);
            served.key.as_mut().expect("key").protocol = agent::Protocol::PROTOCOL_MYSQL.into();
            db.tell(vec![served]);
            rival.tell(vec![to_database(10 * calls)]);
            first.wait_for_requests("shop", calls).await;
            second.wait_for_requests("web", 10 * calls).await;
            end_step(&first);
            end_step(&second);
        };
        let rate = "porthole:service_graph_requests:rate5m";
        wait_for("an edge over two nodes", async || {
            call_and_record().await;
            prometheus.value(&format!("{rate}{{tenant='acme',client='shop',server='db'}}")).await > Some(0.0)
        })
        .await;
        let edges = prometheus.query(&format!("{rate}{{tenant='acme'}}")).await;
        assert_eq!(edges.len(), 1, "{edges:?}");
        let labels = &edges[0]["metric"];
        assert_eq!(
            (&labels["protocol"], &labels["connection_type"]),
            (&"mysql".into(), &serde_json::Value::Null)
        );
        let counted = "sum(traces_service_graph_request_total{tenant='acme'})";
        wait_for("the counts of the last calls", async || {
            prometheus.value(counted).await == Some(f64::from(total))
        })
        .await;
        let durations = "sum(traces_service_graph_request_server_seconds_count{tenant='acme'})";
        assert_eq!(prometheus.value(durations).await, Some(f64::from(total)));
        // On the database's own node, the rival's calls are to another tenant, and nothing more.
        let of_rival = prometheus.query("traces_service_graph_request_total{tenant='rival'}").await;
        assert_eq!(of_rival.len(), 1, "{of_rival:?}");
        assert_eq!(of_rival[0]["metric"]["server"], "another tenant");
        assert_eq!(of_rival[0]["metric"]["server_address"], serde_json::Value::Null);
        let (status, _, page) = second.get("/tenants/rival/metrics").await;
        assert!(status == 200 && page.contains("another tenant"), "{page}");
        assert!(!page.contains("acme") && !page.contains("\"db"), "{page}");
        first.stop().await;
        second.stop().await;
        Ok(())
    })
}
