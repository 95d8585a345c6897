//! A real Prometheus scrapes the exporter: what it stores of sandboxes with odd names, and of those that have ended.

mod support;

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{
    Host,
    agent::{TestAgent, http},
    get, not_run, record, wait_for,
};

const TENANT: &str = "te\"na\\nt\n{x=\"y\"} ünïcode \u{1F980} 漢字";

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_stores_what_an_odd_sandbox_said_last() {
    if Command::new("prometheus").arg("--version").output().is_err() {
        not_run("no prometheus in PATH. `cargo xtask test` installs it");
        return;
    }
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
    wait_for("the first five requests in Prometheus", async || prometheus.value(count).await == Some(5.0))
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
