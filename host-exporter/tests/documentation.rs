//! What `docs/metrics.md` and `docs/operations.md` say is what the exporter has: names, types, labels, reasons, keys.

#[path = "../../libs/config/tests/support/reference.rs"]
mod reference;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use porthole_agent_api::{agent, agent::Counters};
use porthole_exporter::rejection::Rejection;
use protobuf::Enum;
use support::{
    Exporter, Host,
    agent::{TestAgent, http},
    exposition::Exposition,
    record, wait_for,
};

const METRICS: &str = include_str!("../../docs/metrics.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Labels that every series of the instance dimension may have; the table lists the others.
const OF_INSTANCES: [&str; 10] = [
    "tenant",
    "service_name",
    "k8s_namespace_name",
    "k8s_pod_name",
    "k8s_container_name",
    "containerd_namespace",
    "sandbox_id",
    "error_type",
    "server_address",
    "server_port",
];

/// Type and labels of a family.
type Family = (String, BTreeSet<String>);

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_served_is_documented_and_the_other_way_round() {
    let host = Host::new();
    let (seen_socket, refused_socket) = (host.socket("s"), host.socket("none"));
    let agent = TestAgent::start(&seen_socket, 7).await;
    agent.set_counters(Counters { messages_seen: 20, exchanges: 15, ..Default::default() });
    agent.tell(one_of_each());
    let exporter = host.start();
    let mut seen = record("shop-1", "acme", "shop", &seen_socket);
    seen.k8s_namespace_name = Some("acme".into());
    seen.k8s_pod_name = Some("shop-0".into());
    let _seen = host.companion(&seen);
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
    wait_for("a scrape that shows the one before", async || has_last_scrape(&exporter).await).await;
    let served = families(&exporter.metrics().await);
    let documented = documented();
    let names = |families: &BTreeMap<String, Family>| families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&served), names(&documented));
    for (name, family) in &served {
        assert_eq!(family, &documented[name], "{name}");
    }
    exporter.stop().await;
}

#[test]
fn the_rules_ask_for_metrics_that_exist() {
    let rules = include_str!("../../deploy/prometheus/porthole.rules.yml");
    let known = documented();
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let mut asked: BTreeSet<_> = words.filter(|word| word.starts_with("porthole_")).collect();
    // Names of rule groups.
    asked.retain(|word| !rules.contains(&format!("- name: {word}\n")));
    assert!(asked.len() >= 6, "{asked:?}");
    for word in asked {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
        assert!(known.contains_key(family.unwrap_or(word)), "{word}");
    }
}

#[test]
fn every_rejection_is_documented() {
    let (_, table) = METRICS.split_once("\n## Why something was rejected").expect("section");
    let documented: Vec<_> = reference::rows(table).into_iter().map(|row| reference::code(&row[0])).collect();
    let known: Vec<_> = Rejection::ALL.iter().map(|rejection| rejection.as_str().to_owned()).collect();
    assert_eq!(documented, known);
}

#[test]
fn every_key_of_the_exporter_is_documented_with_its_default() {
    use porthole_exporter::config::Exporter;
    assert_eq!(reference::section::<Exporter>(OPERATIONS), Exporter::default());
}

async fn has_last_scrape(exporter: &Exporter) -> bool {
    exporter.metrics().await.text.contains("porthole_exporter_last_scrape_duration_seconds")
}

/// An exchange of each protocol and side, with everything that an exchange can have.
fn one_of_each() -> Vec<agent::Series> {
    let protocols =
        agent::Protocol::VALUES.iter().filter(|protocol| **protocol != agent::Protocol::PROTOCOL_UNSPECIFIED);
    let sides = [agent::Side::SIDE_SERVER, agent::Side::SIDE_CLIENT];
    let both = protocols.flat_map(|protocol| sides.map(|side| (*protocol, side)));
    both.zip(1..)
        .map(|((protocol, side), id)| {
            let mut series = http(id, "shop-1", "/a", "503", 1, 1);
            let key = series.key.as_mut().expect("key");
            (key.protocol, key.side) = (protocol.into(), side.into());
            key.peer = if side == agent::Side::SIDE_CLIENT { "10.0.0.2:80".into() } else { String::new() };
            series
        })
        .collect()
}

/// Families of an exposition, by the name of their samples.
fn families(exposition: &Exposition) -> BTreeMap<String, Family> {
    let types = exposition.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let (shown, sample) = match kind {
                "counter" => (format!("{name}_total"), format!("{name}_total")),
                "histogram" => (name.to_owned(), format!("{name}_count")),
                _ => (name.to_owned(), name.to_owned()),
            };
            let samples = exposition.select(&sample, &[]);
            let labels = samples.iter().flat_map(|(labels, _)| labels.keys().cloned()).collect();
            (shown, (kind.to_owned(), labels))
        })
        .collect()
}

/// Families as the tables say.
fn documented() -> BTreeMap<String, Family> {
    let rows = reference::rows(METRICS).into_iter().filter(|row| row.len() >= 3);
    rows.map(|row| {
        let mut labels: BTreeSet<_> = row[2].split(',').map(reference::code).collect();
        labels.remove("");
        let name = reference::code(&row[0]);
        if !name.starts_with("porthole_") {
            // Servers are not told from where they are called.
            let is_client = !name.contains("_server_");
            let common = if is_client { &OF_INSTANCES[..] } else { &OF_INSTANCES[..8] };
            labels.extend(common.iter().map(ToString::to_string));
        }
        (name, (row[1].clone(), labels))
    })
    .collect()
}
