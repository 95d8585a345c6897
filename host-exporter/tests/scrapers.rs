//! What real readers make of the exposition: a Prometheus, of sandboxes with odd names and of those that have ended, and
//! Python's OpenMetrics parser.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod prometheus;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, ExitCode, Stdio},
    time::SystemTime,
};

use porthole_access::{NewToken, Scope};
use porthole_agent_api::agent::{Batch, Counters, Span, SpanReason};
use porthole_exporter::{
    clock::{unix_ms, unix_ns},
    config,
    history::step_of,
};
use porthole_trials::{CannotRun, Outcome, needs, trials};
use prometheus::{Prometheus, RULES};
use support::{
    Host, Shop,
    agent::{TestAgent, http, of_each_protocol},
    get, record, wait_for,
};
use tls::Authority;
use tokio::runtime::Runtime;

const TENANT: &str = "te\"na\\nt\n{x=\"y\"} ünïcode \u{1F980} 漢字";

fn main() -> ExitCode {
    porthole_trials::run(trials![
        prometheus_stores_the_last_state_of_a_sandbox_with_odd_names,
        the_rules_work_with_native_histograms_and_with_classic_ones,
        prometheus_stores_the_trace_of_a_slow_request_as_an_exemplar,
        every_query_of_the_dashboards_has_an_answer_with_native_histograms_and_with_classic_ones,
        prometheus_discovers_what_a_token_admits_to_and_scrapes_it_over_tls,
        pythons_parser_reads_any_label_back
    ])
}

fn prometheus_stores_the_last_state_of_a_sandbox_with_odd_names() -> Outcome {
    needs::program("prometheus")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let socket = host.socket("s");
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, "shop-1", "/a\"b\\c", "200", 5, 1)]);
        let exporter = host.start();
        let mut odd = record("shop-1", TENANT, "shop", &socket);
        odd.k8s_pod_name = Some("po\nd\"".into());
        let companion = host.companion(&odd);
        let prometheus = Prometheus::start(&host.socket("prometheus"), exporter.address());
        let count = "http_server_request_duration_seconds_count";
        wait_for("the first five requests in Prometheus", async || {
            prometheus.value(count).await == Some(5.0)
        })
        .await;
        let stored = prometheus.query(count).await;
        let labels = &stored[0]["metric"];
        assert_eq!(labels["tenant"], TENANT);
        assert_eq!(labels["http_route"], "/a\"b\\c");
        assert_eq!(labels["k8s_pod_name"], "po\nd\"");
        assert_eq!(labels["sandbox_id"], "shop-1");

        // The last words come with the end, and no scrape falls between.
        agent.tell(vec![http(1, "shop-1", "/a\"b\\c", "200", 8, 1)]);
        agent.stop().await;
        companion.end();
        wait_for("the last value in Prometheus", async || {
            prometheus.value(&format!("max(last_over_time({count}[5m]))")).await == Some(8.0)
        })
        .await;
        wait_for("the end of the sandbox's series", async || prometheus.value(count).await.is_none()).await;
        wait_for("the total, which stays", async || {
            prometheus.value("porthole_app_requests_total").await == Some(8.0)
        })
        .await;
        exporter.stop().await;
        Ok(())
    })
}

fn the_rules_work_with_native_histograms_and_with_classic_ones() -> Outcome {
    needs::program("prometheus")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let Shop { agent, exporter, companion: _companion, .. } = host.shop().await;
        let classic = Prometheus::start(&host.socket("classic"), exporter.address());
        let native = Prometheus::start_native(&host.socket("native"), exporter.address());
        let family = "http_server_request_duration_seconds";
        for (prometheus, count) in
            [(&classic, format!("{family}_count")), (&native, format!("histogram_count({family})"))]
        {
            wait_for("five requests", async || prometheus.value(&count).await == Some(5.0)).await;
        }
        assert!(native.query(&format!("{family}_bucket")).await.is_empty(), "native histograms alone");
        assert!(classic.query(family).await.is_empty());
        // Requests after the first scrape, so that there is a rate.
        agent.tell(vec![http(1, "shop-1", "/", "200", 500, 1)]);
        for prometheus in [&classic, &native] {
            wait_for("a recorded percentile", async || {
                let p99 = prometheus.value("porthole:app_request_duration_seconds:p99_5m").await;
                p99.is_some_and(|p99| (0.0009..0.002).contains(&p99))
            })
            .await;
        }
        exporter.stop().await;
        Ok(())
    })
}

fn prometheus_stores_the_trace_of_a_slow_request_as_an_exemplar() -> Outcome {
    needs::program("prometheus")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        // Prometheus 2.42 takes exemplars of native histograms from their classic buckets.
        let exporter = host.start_with(&config::Exporter { classic_with_native: true, ..host.config() });
        let socket = host.socket("s");
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
        let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
        exporter.wait_for_requests("shop", 5).await;
        let with = |name, features: &str| {
            let features = [&*format!("--enable-feature={features}")];
            Prometheus::start_with(&host.socket(name), exporter.address(), RULES, "", &features)
        };
        let classic = with("classic", "exemplar-storage");
        let native = with("native", "exemplar-storage,native-histograms");
        let span = Span {
            series_id: 1,
            start_unix_ns: unix_ns() - 1_000_000_000,
            duration_ns: 700_000_000,
            reason: SpanReason::SPAN_REASON_SLOW.into(),
            ..Default::default()
        };
        agent.send(Batch { spans: vec![span], ..Default::default() });
        let family = "http_server_request_duration_seconds";
        for (prometheus, series, bound) in [
            (&classic, format!("{family}_bucket"), "1.0".into()),
            (&native, family.to_owned(), serde_json::Value::Null),
        ] {
            let query = format!("/api/v1/query_exemplars?query={series}&start=0&end=9999999999");
            let mut stored = serde_json::Value::Null;
            wait_for("the exemplar in Prometheus", async || {
                if tokio::net::TcpStream::connect(prometheus.address()).await.is_ok() {
                    // It answers in plain text while it starts.
                    let (_, _, body) = get(prometheus.address(), &query, "").await;
                    let mut answer = serde_json::from_str::<serde_json::Value>(&body).unwrap_or_default();
                    stored = answer.pointer_mut("/data/0").map(serde_json::Value::take).unwrap_or_default();
                }
                !stored.is_null()
            })
            .await;
            let trace = exporter.json("/api/v1/traces").await["traces"][0]["trace_id"].clone();
            assert_eq!(stored["seriesLabels"]["le"], bound);
            let exemplar = &stored["exemplars"][0];
            assert_eq!((&exemplar["labels"]["trace_id"], &exemplar["value"]), (&trace, &"0.7".into()));
        }
        let older = get(exporter.address(), "/metrics", "Accept: text/plain;version=0.0.4\r\n").await.2;
        assert!(!older.contains("trace_id"), "the older text form has no exemplars");
        exporter.stop().await;
        Ok(())
    })
}

/// Name and text of each dashboard of `deploy/grafana`.
fn dashboards() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/dashboards");
    let files = std::fs::read_dir(folder).expect("dashboards");
    let paths = files.map(|file| file.expect("a file").path());
    let dashboards: Vec<_> = paths
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("text")))
        .collect();
    assert!(dashboards.len() >= 6, "{dashboards:?}");
    dashboards
}

/// Metrics without a sample as long as nothing of the kind has happened.
const RARE: [&str; 2] = ["porthole_rejected_total", "porthole_agent_unattached_seconds_total"];

/// Title and expression of each query of a dashboard, with its variables replaced.
fn queries(dashboard: &str) -> Vec<(String, String)> {
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (&panel["title"], &target["expr"]))
    });
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let variables = dashboard["templating"]["list"].as_array().expect("variables").iter();
    let variables = variables.filter(|variable| variable["type"] == "query").map(|variable| {
        let query = text(&variable["query"]["query"]);
        let of_label = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = of_label.and_then(|query| query.rsplit_once(", ")).expect("values of a label");
        (format!("variable {label}"), format!("group by ({label}) ({series})"))
    });
    targets
        .map(|(title, expression)| (text(title), text(expression)))
        .chain(variables)
        .map(|(title, expression)| {
            let expression = expression
                .replace("$__rate_interval", "1m")
                .replace("$tenant", "acme")
                .replace("$service_name", "shop")
                .replace("$instance_id", ".*")
                .replace("$instance", ".*");
            assert!(!expression.contains('$'), "an unknown variable: {expression}");
            (title, expression)
        })
        .collect()
}

fn every_query_of_the_dashboards_has_an_answer_with_native_histograms_and_with_classic_ones() -> Outcome {
    needs::program("prometheus")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let (socket, refused_socket) = (host.socket("s"), host.socket("none"));
        let agent = TestAgent::start(&socket, 7).await;
        agent.set_counters(Counters { messages_seen: 20, exchanges: 15, ..Default::default() });
        agent.tell(of_each_protocol(5));
        agent.measure(&["", "shop-1"], 1);
        agent.connect("shop-1", "10.0.0.2:5432", 1);
        let exporter = host.start();
        // Created after the exporter began: of older ones no times are shown.
        let mut created = record("shop-1", "acme", "shop", &socket);
        created.created_unix_ms = unix_ms();
        created.watching_unix_ms = Some(created.created_unix_ms + 2_000);
        let _companion = host.companion(&created);
        let mut refused = record("blog-1", "acme", "blog", &refused_socket);
        refused.state = porthole_registry::SandboxState::Unmonitored;
        refused.reason =
            Some(porthole_registry::Reason { code: "create_refused".into(), message: "no".into() });
        let _refused = host.companion(&refused);
        let classic = Prometheus::start(&host.socket("classic"), exporter.address());
        let native = Prometheus::start_native(&host.socket("native"), exporter.address());
        for prometheus in [&classic, &native] {
            wait_for("a scrape", async || !prometheus.query("porthole_app_requests_total").await.is_empty())
                .await;
        }
        // Requests after the first scrape, so that there are rates. The edges come at the end of a step.
        let end_step = || exporter.running.topology().record(step_of(unix_ms()) + 1, exporter.fleet());
        end_step();
        let edges = "traces_service_graph_request_total";
        for prometheus in [&classic, &native] {
            wait_for("edges", async || !prometheus.query(edges).await.is_empty()).await;
        }
        agent.tell(of_each_protocol(500));
        agent.measure(&["", "shop-1"], 2);
        agent.connect("shop-1", "10.0.0.2:5432", 2);
        let series = of_each_protocol(1).len() as u64;
        exporter.wait_for_requests("shop", 500 * series).await;
        end_step();
        for (form, prometheus) in [("classic", &classic), ("native", &native)] {
            for (name, dashboard) in dashboards() {
                for (title, expression) in queries(&dashboard) {
                    if RARE.iter().any(|rare| expression.contains(rare)) {
                        prometheus.evaluate(&expression).await.unwrap_or_else(|error| panic!("{error}"));
                        continue;
                    }
                    let what = format!("{name}, {title}, {form} histograms: {expression}");
                    wait_for(&what, async || {
                        let elements = prometheus.evaluate(&expression).await;
                        !elements.unwrap_or_else(|error| panic!("{what}: {error}")).is_empty()
                    })
                    .await;
                }
            }
        }
        exporter.stop().await;
        Ok(())
    })
}

/// Reads an exposition with Python's OpenMetrics parser and prints the tenants that it found.
const PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
tenants = set()
samples = 0
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        samples += 1
        tenants.add(sample.labels.get('tenant'))
assert samples > 50, samples
sys.stdout.write('\\0'.join(sorted(t for t in tenants if t is not None)))
";

/// A Python that has the parser: the one that is named, the user's, the distribution's.
fn python_with_parser() -> Result<String, CannotRun> {
    let named = std::env::var("PORTHOLE_PYTHON").ok();
    let known = ["python3", "/usr/bin/python3"].map(str::to_owned);
    let mut all = named.into_iter().chain(known);
    let found = all.find(|python| {
        Command::new(python)
            .args(["-c", "import prometheus_client.openmetrics.parser"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    found.ok_or_else(|| {
        CannotRun::because(
            "no Python with prometheus_client: `pip install prometheus_client`, or name a Python that has it in \
             PORTHOLE_PYTHON",
        )
    })
}

fn pythons_parser_reads_any_label_back() -> Outcome {
    let python = python_with_parser()?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let socket = host.socket("s");
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![
            http(1, "shop-1", "/a\"b\\c ü 漢", "200", 5, 1),
            http(2, "shop-1", "/", "404", 1, 60_000),
        ]);
        let exporter = host.start();
        let mut named = record("shop-1", TENANT, "shop", &socket);
        named.k8s_pod_name = Some("po\nd\"".into());
        let _companion = host.companion(&named);
        exporter.wait_for_requests("shop", 6).await;
        let metrics = exporter.metrics().await;
        assert_eq!(metrics.sum("porthole_app_requests_total", &[("tenant", TENANT)]), 6.0);
        let mut parser = Command::new(&python)
            .args(["-c", PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        parser.stdin.take().expect("stdin").write_all(metrics.text.as_bytes()).expect("written");
        let output = parser.wait_with_output().expect("ended");
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).expect("text"), TENANT);
        exporter.stop().await;
        Ok(())
    })
}

/// A tenant whose name has what must be escaped in a path.
const ESCAPED: &str = "a %2F?#\"ü\u{1F980}";

fn prometheus_discovers_what_a_token_admits_to_and_scrapes_it_over_tls() -> Outcome {
    needs::program("prometheus")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let mut config = host.config();
        config.loopback_without_token = false;
        Authority::new().configure(&mut config, host.directory());
        for (name, scope) in [
            ("tenant", Scope::Tenant(ESCAPED.to_owned())),
            ("operator", Scope::Operator),
            ("whole", Scope::Operator),
        ] {
            let made = NewToken::make(name, scope, SystemTime::now(), None).expect("made");
            porthole_access::update(&config.access_file, |grants| grants.add(made.token.clone()))
                .expect("added");
            std::fs::write(host.directory().join(format!("{name}.token")), made.expose()).expect("written");
        }
        let exporter = host.start_with(&config);
        let mut kept = Vec::new();
        for tenant in [ESCAPED, "acme/b"] {
            let socket = host.socket(if tenant == ESCAPED { "s" } else { "t" });
            let agent = TestAgent::start(&socket, 7).await;
            agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
            let name = if tenant == ESCAPED { "shop-1" } else { "blog-1" };
            let companion = host.companion(&record(name, tenant, "shop", &socket));
            kept.push((agent, companion));
        }
        let server = Server { address: exporter.address(), config: &config };
        let of_tenant = server.prometheus(&host, "tenant", "");
        let by_tenant = server.prometheus(&host, "operator", "?by=tenant");
        let whole = server.prometheus(&host, "whole", "");
        let tenants = "count by (tenant) (porthole_app_requests_total)";
        for (prometheus, expected) in
            [(&of_tenant, &[ESCAPED][..]), (&by_tenant, &[ESCAPED, "acme/b"]), (&whole, &[ESCAPED, "acme/b"])]
        {
            wait_for(&format!("{expected:?}"), async || {
                let stored = prometheus.query(tenants).await;
                let mut stored: Vec<_> =
                    stored.iter().filter_map(|one| one["metric"]["tenant"].as_str()).collect();
                stored.sort_unstable();
                stored == expected
            })
            .await;
        }
        let own = "porthole_build_info";
        assert!(of_tenant.query(own).await.is_empty() && by_tenant.query(own).await.is_empty());
        assert_eq!(whole.query(own).await.len(), 1);
        exporter.stop().await;
        Ok(())
    })
}

/// An exporter with TLS that takes tokens.
struct Server<'a> {
    address: SocketAddr,
    config: &'a config::Exporter,
}

impl Server<'_> {
    /// A Prometheus that has the token of this name and discovers its targets.
    fn prometheus(&self, host: &Host, name: &str, query: &str) -> Prometheus {
        let token = host.directory().join(format!("{name}.token"));
        let (token, address) = (token.display(), self.address);
        let ca = self.config.tls_client_ca.as_ref().expect("an authority").display();
        // Without the type, `http_sd_configs` of Prometheus 2.42 sends the token alone.
        let client = format!(
            "authorization: {{ type: Bearer, credentials_file: '{token}' }}, tls_config: {{ ca_file: '{ca}' }}"
        );
        let job = format!(
            "scheme: https, {client}, http_sd_configs: [{{ url: 'https://{address}/api/v1/http_sd{query}', \
             refresh_interval: 1s, {client} }}]"
        );
        Prometheus::start_job(&host.socket(name), &job, RULES, "", &[])
    }
}
