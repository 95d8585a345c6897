//! `docs/metrics.md` and `docs/operations.md` match the exporter: what is generated is current, and names, alerts and keys exist.

mod conventions;
#[path = "../../../libs/config/tests/support/reference.rs"]
mod reference;
#[path = "../support/mod.rs"]
mod support;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use porthole_agent_api::{agent, agent::Counters};
use porthole_exporter::{clock::unix_ms, history::step_of, rejection::Rejection};
use protobuf::Enum as _;
use support::{
    Exporter, Host,
    agent::{TestAgent, of_each_protocol},
    clock_ahead, record, starting, wait_for,
};

const METRICS: &str = include_str!("../../../docs/metrics.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// The file that `METRICS` was read from.
const METRICS_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

/// Set by `cargo xtask docs`: the document is written.
const WRITE: &str = "PORTHOLE_WRITE_DOCS";

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_of_metrics_is_generated_from_what_is_served() {
    let exposition = everything().await;
    let families = tables::families(&exposition);
    let mut others: BTreeMap<_, _> = conventions::tables(&families).into();
    others.insert("rejections", rejections());
    let generated = tables::generated(METRICS, &families, &others);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(METRICS_FILE, generated).expect("docs/metrics.md is written");
        return;
    }
    for (written, generated) in METRICS.lines().zip(generated.lines()) {
        assert_eq!(written, generated, "docs/metrics.md is not current: cargo xtask docs");
    }
    assert_eq!(METRICS.len(), generated.len(), "docs/metrics.md is not current: cargo xtask docs");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_those_of_the_conventions_or_have_a_reason() {
    let exposition = everything().await;
    conventions::compare(&tables::families(&exposition), &exposition);
}

/// The reasons for which something is rejected.
fn rejections() -> String {
    let rows = Rejection::ALL.iter().map(|rejection| {
        tables::row(&[
            format!("`{}`", rejection.as_str()),
            rejection.meaning().trim().trim_end_matches('.').to_owned(),
        ])
    });
    tables::table(&["reason", "what was refused"], rows)
}

/// An exposition with every family and all of its labels.
async fn everything() -> String {
    let host = Host::new();
    let (seen_socket, refused_socket) = (host.socket("s"), host.socket("none"));
    let agent = TestAgent::start(&seen_socket, 7).await;
    agent.set_counters(Counters {
        messages_seen: 20,
        exchanges: 15,
        unattached_start_ns: 1_000_000,
        bytes_unaccounted: vec![0, 1],
        ..Default::default()
    });
    agent.measure(&["", "shop-1"], 1);
    agent.connect("shop-1", "10.0.0.2:80", 1);
    // Else a quarter of a minute may end before the step that is recorded below.
    let exporter = host.start().with_steps_by_hand().await;
    let mut seen = starting(record("shop-1", "acme", "shop", &seen_socket), &agent);
    seen.k8s_namespace_name = Some("acme".into());
    seen.k8s_pod_name = Some("shop-0".into());
    seen.addresses = vec!["10.0.0.1".parse().expect("an address")];
    let _seen = host.companion(&seen);
    wait_for("a stream of batches", async || agent.watches() == 1).await;
    let mut series = of_each_protocol(1);
    for series in &mut series {
        series.start_unix_ns = clock_ahead();
    }
    agent.tell(series);
    let mut refused = record("blog-1", "acme", "blog", &refused_socket);
    refused.state = porthole_registry::SandboxState::Unmonitored;
    refused.channel = None;
    refused.reason = Some(porthole_registry::Reason { code: "create_refused".into(), message: "no".into() });
    let _refused = host.companion(&refused);
    exporter.wait_for_requests("shop", 2 * (agent::Protocol::VALUES.len() as u64 - 1)).await;
    exporter.wait_for_sandbox("blog-1", "its reason", |row| row["reason"].is_object()).await;
    // Something that is refused, so that its family is there.
    agent.send(agent::Batch { epoch: 99, ..Default::default() });
    wait_for("a refusal", async || exporter.metrics().await.text.contains("porthole_rejected_total")).await;
    wait_for("resources", async || exporter.metrics().await.text.contains("container_threads{")).await;
    wait_for("a scrape that shows the one before", async || has_last_scrape(&exporter).await).await;
    exporter.running.topology().record(step_of(unix_ms()) + 1, exporter.fleet());
    let exposition = exporter.metrics().await.text;
    exporter.stop().await;
    exposition
}

#[test]
fn the_rules_ask_for_metrics_that_exist() {
    let rules = include_str!("../../../deploy/prometheus/porthole.rules.yml");
    let known = documented();
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let mut asked: BTreeSet<_> = words.filter(|word| asks_for_metric(word)).collect();
    // Names of rule groups.
    asked.retain(|word| !rules.contains(&format!("- name: {word}\n")));
    assert!(asked.len() >= 6, "{asked:?}");
    for word in asked {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
        assert!(known.contains(family.unwrap_or(word)), "{word}");
    }
}

fn asks_for_metric(word: &str) -> bool {
    ["porthole_", "container_", "tcp_client_"].iter().any(|prefix| word.starts_with(prefix))
}

#[test]
fn every_alert_is_documented() {
    let rules = include_str!("../../../deploy/prometheus/porthole.rules.yml");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let (_, table) = OPERATIONS.split_once("\n## Dashboards and alerts").expect("section");
    let table = table.split("\n## ").next().expect("at least one part");
    let documented: Vec<_> = reference::rows(table).into_iter().map(|row| reference::code(&row[0])).collect();
    assert_eq!(documented, alerts);
}

#[test]
fn every_key_of_the_exporter_is_documented_with_its_default() {
    use porthole_exporter::{config::Exporter, objectives::Objectives};
    assert_eq!(reference::section::<Exporter>(OPERATIONS), Exporter::default());
    assert_eq!(reference::section::<Objectives>(OPERATIONS), Objectives::default());
}

async fn has_last_scrape(exporter: &Exporter) -> bool {
    exporter.metrics().await.text.contains("porthole_exporter_last_scrape_duration_seconds")
}

/// The names of the tables of families.
fn documented() -> BTreeSet<String> {
    let rows = reference::rows(METRICS).into_iter().filter(|row| row.len() >= 3 && row[0].starts_with('`'));
    rows.map(|row| reference::code(&row[0])).collect()
}
