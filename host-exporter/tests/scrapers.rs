//! What real readers make of the exposition: a Prometheus, of sandboxes with odd names and of those that have ended, and
//! Python's OpenMetrics parser.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use porthole_trials::{CannotRun, Outcome, needs, trials};
use support::{
    Host,
    agent::{TestAgent, http},
    get, record, wait_for,
};
use tokio::runtime::Runtime;

const TENANT: &str = "te\"na\\nt\n{x=\"y\"} ünïcode \u{1F980} 漢字";

fn main() -> ExitCode {
    porthole_trials::run(trials![
        prometheus_stores_the_last_state_of_a_sandbox_with_odd_names,
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
        wait_for("the end of the sandbox's series", async || prometheus.value(count).await.is_none()).await;
        let last = prometheus.value(&format!("max(last_over_time({count}[5m]))")).await;
        assert_eq!(last, Some(8.0), "the last value was stored before the series went");
        assert_eq!(prometheus.value("porthole_app_requests_total").await, Some(8.0), "the total stays");
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

/// A running Prometheus.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(directory: &Path, target: SocketAddr) -> Self {
        std::fs::create_dir(directory).expect("directory");
        let configuration = directory.join("prometheus.yml");
        let text = format!(
            "scrape_configs:\n- {{ job_name: porthole, honor_labels: true, scrape_interval: 500ms, scrape_timeout: \
             500ms, static_configs: [{{ targets: ['{target}'] }}] }}\n"
        );
        std::fs::write(&configuration, text).expect("written");
        let free = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = free.local_addr().expect("its number");
        drop(free);
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Self { process, address }
    }

    /// The elements of an instant vector; none while Prometheus does not answer yet.
    async fn query(&self, expression: &str) -> Vec<serde_json::Value> {
        if tokio::net::TcpStream::connect(self.address).await.is_err() {
            return Vec::new();
        }
        let encoded = expression.bytes().fold(String::new(), |mut encoded, byte| {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
            encoded
        });
        let (status, _, body) = get(self.address, &format!("/api/v1/query?query={encoded}"), "").await;
        if status != 200 {
            return Vec::new();
        }
        let mut answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        serde_json::from_value(answer["data"]["result"].take()).expect("a vector")
    }

    /// The value of the only element.
    async fn value(&self, expression: &str) -> Option<f64> {
        let elements = self.query(expression).await;
        assert!(elements.len() <= 1, "{elements:?}");
        elements.first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
