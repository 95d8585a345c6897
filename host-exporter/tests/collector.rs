//! Traces on their whole way: agents' spans, the exporter, a real Collector of OpenTelemetry by gRPC and by HTTP with TLS, a real Jaeger, and its
//! query interface. Metrics up to what the Collector sends on.

#[path = "support/otlp.rs"]
mod receiver;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use porthole_agent_api::{agent, agent::SpanReason};
use porthole_exporter::{
    clock::unix_ns,
    config::{
        self,
        otlp::{Otlp, Protocol},
    },
};
use porthole_protocol::Protocol as Spoken;
use porthole_trials::{CannotRun, Outcome, ports::free_address, reasons, trials};
use serde_json::{Value, json};
use support::{
    Companion, Host,
    agent::{TestAgent, http, http_client, of_each_protocol, span},
    exposition::Exposition,
    get, wait_for,
};
use tls::Authority;
use tokio::runtime::Runtime;

/// Names the folder with the Collector and Jaeger.
const PROGRAMS_ENV: &str = "PORTHOLE_COLLECTOR";

const MS: u64 = 1_000_000;

fn main() -> ExitCode {
    porthole_trials::run(trials![
        traces_are_found_in_jaeger_behind_a_collector_with_the_conventions_attributes,
        a_collector_sends_on_the_metrics_of_scrapes
    ])
}

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("started"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder with both programs.
fn programs() -> Result<PathBuf, CannotRun> {
    let folder = std::env::var_os(PROGRAMS_ENV).map(PathBuf::from);
    folder.ok_or_else(|| CannotRun::because(reasons::NO_COLLECTOR))
}

/// A backend of traces, in memory.
struct Jaeger {
    _program: Program,
    grpc: SocketAddr,
    http: SocketAddr,
    query: SocketAddr,
}

impl Jaeger {
    fn start(programs: &Path, addresses: [SocketAddr; 7]) -> Self {
        let [grpc, http, query, others @ ..] = addresses;
        let mut command = Command::new(programs.join("jaeger-all-in-one"));
        for (name, address) in
            [("collector.otlp.grpc", grpc), ("collector.otlp.http", http), ("query.http-server", query)]
        {
            command.arg(format!("--{name}.host-port={address}"));
        }
        // Others that it opens in any case.
        let names = ["query.grpc-server", "collector.grpc-server", "collector.http-server", "admin.http"];
        for (name, address) in names.into_iter().zip(others) {
            command.arg(format!("--{name}.host-port={address}"));
        }
        command.arg("--log-level=error").env("SPAN_STORAGE_TYPE", "memory");
        // It would send traces of its own to the usual port.
        command.env("OTEL_TRACES_SAMPLER", "always_off").stderr(Stdio::null());
        Self { _program: Program::start(&mut command), grpc, http, query }
    }

    /// What its query interface answers; nothing while it does not yet.
    async fn traces(&self, query: &str) -> Vec<Value> {
        if tokio::net::TcpStream::connect(self.query).await.is_err() {
            return Vec::new();
        }
        let (status, _, body) = get(self.query, &format!("/api/traces{query}"), "").await;
        // A trace that is not there is 404.
        assert!([200, 404].contains(&status), "{body}");
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        serde_json::from_value(answer["data"].take()).unwrap_or_default()
    }
}

/// Addresses of the loopback interface, each another one.
fn addresses<const N: usize>() -> [SocketAddr; N] {
    let mut addresses = BTreeSet::new();
    while addresses.len() < N {
        addresses.insert(free_address().expect("an address"));
    }
    let mut addresses = addresses.into_iter();
    [(); N].map(|()| addresses.next().expect("so many"))
}

/// Starts a Collector that sends on what comes, with these exporters and pipelines. It has a certificate of the authority in `ca.pem`.
fn collector(
    programs: &Path,
    host: &Host,
    [grpc, http]: [SocketAddr; 2],
    exporters: &Value,
    pipelines: &Value,
) -> Program {
    let authority = Authority::new();
    std::fs::write(host.socket("ca.pem"), authority.pem()).expect("written");
    let (certificate, key) = (host.socket("collector.pem"), host.socket("collector.key"));
    authority.server().write(&certificate, &key);
    let tls = json!({ "cert_file": certificate, "key_file": key });
    // JSON is YAML.
    let configuration = json!({
        "receivers": {
            "otlp/grpc": { "protocols": { "grpc": { "endpoint": grpc, "tls": tls } } },
            "otlp/http": { "protocols": { "http": { "endpoint": http, "tls": tls } } },
        },
        "exporters": exporters,
        "service": {
            "telemetry": { "metrics": { "level": "none" }, "logs": { "level": "error" } },
            "pipelines": pipelines,
        },
    });
    let path = host.socket("collector.yaml");
    std::fs::write(&path, configuration.to_string()).expect("written");
    let mut command = Command::new(programs.join("otelcol"));
    Program::start(command.arg("--config").arg(path))
}

fn error_span(series_id: u32, ends: [&str; 2], began: u64, (from, to): (u64, u64)) -> agent::Span {
    let times = [from, to].map(|ms| began + ms * MS);
    span(series_id, SpanReason::SPAN_REASON_ERROR, ends, times)
}

/// A call of `shop` to `catalog` of tenant `acme`, and a span of each protocol and side of tenant `rival`.
async fn calls(host: &Host, exporter: &support::Exporter) -> Vec<(TestAgent, Companion)> {
    let of_call =
        |id: &str| vec![http(1, id, "/items/{}", "503", 1, 1), http_client(2, id, "10.0.0.2:80", "503", 1)];
    // One for all: a server's span lies within its client's.
    let began = unix_ns() - 1_000 * MS;
    let every = of_each_protocol(1);
    let spans = every.iter().map(|series| {
        // Each of another connection.
        let (own, other) = (format!("10.0.0.3:{}", 5_000 + series.id), format!("10.0.0.2:{}", 80));
        error_span(series.id, [&own, &other], began, (20, 50))
    });
    let spans: Vec<_> = spans.collect();
    let all = [
        host.sandbox(["acme", "shop", "10.0.0.1"], 0, of_call("acme-shop")).await,
        host.sandbox(["acme", "catalog", "10.0.0.2"], 0, of_call("acme-catalog")).await,
        host.sandbox(["rival", "store", "10.0.0.3"], 0, every).await,
    ];
    for id in ["acme-shop", "acme-catalog", "rival-store"] {
        exporter.wait_for_sandbox(id, "a batch", |row| row["series"].as_u64() > Some(0)).await;
    }
    let context =
        |span| agent::Span { trace_id: vec![7; 16], parent_span_id: vec![8; 8], trace_sampled: true, ..span };
    let client = context(error_span(2, ["10.0.0.1:4000", "10.0.0.2:80"], began, (20, 50)));
    let server = context(error_span(1, ["10.0.0.2:80", "10.0.0.1:4000"], began, (30, 40)));
    for (at, spans) in [vec![client], vec![server], spans].into_iter().enumerate() {
        all[at].0.send(agent::Batch { spans, ..Default::default() });
    }
    all.into()
}

/// Attributes, as Jaeger lists them: each with its type.
fn tags(of: &Value) -> BTreeMap<String, Value> {
    let tags = of["tags"].as_array().expect("tags").iter();
    tags.map(|tag| (tag["key"].as_str().expect("a key").to_owned(), json!([tag["type"], tag["value"]])))
        .collect()
}

fn has(found: &BTreeMap<String, Value>, wanted: &[(&str, Value)]) {
    for (name, value) in wanted {
        let kind = if value.is_string() { "string" } else { "int64" };
        assert_eq!(found.get(*name), Some(&json!([kind, value])), "{name} in {found:?}");
    }
}

async fn call_is_found(jaeger: &Jaeger) {
    let mut of_call = Vec::new();
    wait_for("the call in Jaeger", async || {
        of_call = jaeger.traces(&format!("/{}", "07".repeat(16))).await;
        of_call.first().is_some_and(|trace| trace["spans"].as_array().map_or(0, Vec::len) == 2)
    })
    .await;
    let trace = &of_call[0];
    let one = |service: &str| {
        let is_of = |span: &&Value| {
            let process = span["processID"].as_str().expect("a process");
            trace["processes"][process]["serviceName"] == service
        };
        let span = trace["spans"].as_array().and_then(|spans| spans.iter().find(is_of)).expect("a span");
        (&trace["processes"][span["processID"].as_str().expect("a process")], span)
    };
    let ((shop, client), (_, server)) = (one("shop"), one("catalog"));
    assert_eq!(server["references"][0]["spanID"], client["spanID"], "below the client's");
    assert_eq!(server["operationName"], "GET /items/{}");
    assert_eq!(server["duration"], 10_000, "microseconds");
    has(
        &tags(shop),
        &[
            ("service.instance.id", "acme-shop".into()),
            ("k8s.pod.name", "shop-0".into()),
            ("porthole.tenant", "acme".into()),
        ],
    );
    has(
        &tags(server),
        &[
            ("span.kind", "server".into()),
            ("otel.status_code", "ERROR".into()),
            ("otel.scope.name", "porthole".into()),
            ("http.request.method", "GET".into()),
            ("http.route", "/items/{}".into()),
            ("http.response.status_code", 503.into()),
            ("error.type", "503".into()),
            ("server.address", "10.0.0.2".into()),
            ("server.port", 80.into()),
            ("network.peer.address", "10.0.0.1".into()),
            ("network.peer.port", 4000.into()),
            ("porthole.parent.certainty", "connection".into()),
        ],
    );
}

async fn spans_of_each_protocol_are_found(jaeger: &Jaeger, protocols: usize) {
    let mut of_store = Vec::new();
    wait_for("the spans of each protocol in Jaeger", async || {
        of_store = jaeger.traces("?service=store&limit=1000").await;
        of_store.len() == 2 * protocols
    })
    .await;
    let found: Vec<_> = of_store.iter().map(|trace| tags(&trace["spans"][0])).collect();
    for (of, wanted) in [
        (("network.protocol.version", "2"), vec![("http.route", "/a".into())]),
        (
            ("rpc.system.name", "grpc"),
            vec![("rpc.method", "a".into()), ("rpc.response.status_code", "503".into())],
        ),
        (
            ("db.system.name", "mysql"),
            vec![
                ("db.operation.name", "GET".into()),
                ("db.collection.name", "/a".into()),
                ("db.response.status_code", "503".into()),
            ],
        ),
        (
            ("messaging.system", "kafka"),
            vec![("messaging.operation.name", "GET".into()), ("messaging.destination.name", "/a".into())],
        ),
    ] {
        let wanted: Vec<(&str, Value)> = wanted;
        let of_protocol = found.iter().filter(|tags| tags.get(of.0) == Some(&json!(["string", of.1])));
        let of_protocol: Vec<_> = of_protocol.collect();
        assert_eq!(of_protocol.len(), 2, "a server's and a client's of {of:?} in {found:?}");
        for tags in of_protocol {
            has(tags, &wanted);
            let is_client = tags["span.kind"][1] == "client";
            has(tags, &[("server.address", if is_client { "10.0.0.2" } else { "10.0.0.3" }.into())]);
        }
    }
}

/// The Collector as a tenant's destination.
fn destination(host: &Host, protocol: Protocol, address: SocketAddr, tenant: &str) -> Otlp {
    Otlp {
        endpoint: format!("https://{address}"),
        protocol,
        tls_ca: Some(host.socket("ca.pem")),
        tenants: Some(vec![tenant.to_owned()]),
        ..Otlp::default()
    }
}

fn a_collector_sends_on_the_metrics_of_scrapes() -> Outcome {
    /// Families whose values change only when agents report something.
    const OF_WORKLOADS: [&str; 7] = ["db_", "dns_", "http_", "messaging_", "porthole_app_", "rpc_", "tls_"];
    let programs = programs()?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let addresses @ [grpc, http] = addresses();
        let receiver = receiver::Collector::default();
        let exporters = json!({
            "otlphttp": {
                "endpoint": format!("http://{}/otlp", receiver.serve_http().await),
                "headers": { "authorization": receiver::TOKEN },
                "compression": "none",
            },
        });
        let both = json!({ "receivers": ["otlp/grpc", "otlp/http"], "exporters": ["otlphttp"] });
        let _collector = collector(&programs, &host, addresses, &exporters, &json!({ "metrics": both }));
        let otlp = [(Protocol::Grpc, grpc, "acme"), (Protocol::Http, http, "rival")].map(
            |(protocol, address, tenant)| Otlp {
                traces: false,
                metrics: true,
                ..destination(&host, protocol, address, tenant)
            },
        );
        let config = config::Exporter { otlp: otlp.into(), otlp_metrics_seconds: 0.2, ..host.config() };
        let exporter = host.start_with(&config);
        let mut sandboxes = Vec::new();
        for (tenant, requests) in [("acme", 3), ("rival", 500)] {
            let mut every = of_each_protocol(requests);
            for series in &mut every {
                series.key.as_mut().expect("a key").container_id = format!("{tenant}-shop");
            }
            sandboxes.push(host.sandbox([tenant, "shop", "10.0.0.1"], 0, every).await);
        }
        exporter.wait_for_requests("shop", 2 * Spoken::ALL.len() as u64 * 503).await;
        let mut expected = BTreeMap::new();
        for tenant in ["acme", "rival"] {
            let (status, _, body) = exporter.get(&format!("/tenants/{tenant}/metrics")).await;
            assert_eq!(status, 200, "{body}");
            expected.extend(receiver::scraped(&Exposition::parse(&body), &OF_WORKLOADS));
        }
        assert!(expected.len() > 1_000, "{}", expected.len());
        wait_for("the same values", async || receiver.points().beginning(&OF_WORKLOADS) == expected).await;
        let refused = exporter.metrics().await.sum("porthole_otlp_points_refused_total", &[]);
        assert_eq!(refused.to_string(), "0", "the Collector takes every point");
        exporter.stop().await;
        Ok(())
    })
}

fn traces_are_found_in_jaeger_behind_a_collector_with_the_conventions_attributes() -> Outcome {
    let programs = programs()?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let [grpc, http, of_jaeger @ ..] = addresses::<9>();
        let jaeger = Jaeger::start(&programs, of_jaeger);
        // What comes by gRPC goes on by gRPC, and what comes by HTTP by HTTP.
        let exporters = json!({
            "otlp": { "endpoint": jaeger.grpc, "tls": { "insecure": true } },
            "otlphttp": { "endpoint": format!("http://{}", jaeger.http) },
        });
        let pipelines = json!({
            "traces/grpc": { "receivers": ["otlp/grpc"], "exporters": ["otlp"] },
            "traces/http": { "receivers": ["otlp/http"], "exporters": ["otlphttp"] },
        });
        let _collector = collector(&programs, &host, [grpc, http], &exporters, &pipelines);
        let otlp = vec![
            destination(&host, Protocol::Grpc, grpc, "acme"),
            destination(&host, Protocol::Http, http, "rival"),
        ];
        let exporter = host.start_with(&config::Exporter { otlp, ..host.config() });
        let _sandboxes = calls(&host, &exporter).await;
        let protocols = Spoken::ALL.len();

        call_is_found(&jaeger).await;
        spans_of_each_protocol_are_found(&jaeger, protocols).await;
        let sent = exporter.metrics().await.sum("porthole_otlp_spans_sent_total", &[]);
        assert_eq!(sent.to_string(), (2 + 2 * protocols).to_string(), "each once");
        exporter.stop().await;
        Ok(())
    })
}
