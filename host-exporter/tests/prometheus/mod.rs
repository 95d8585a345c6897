//! A real Prometheus.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use porthole_trials::ports::free_address;

use crate::support::get;

/// The rules of the repository.
pub const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/porthole.rules.yml");

/// A running Prometheus.
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    pub fn start(directory: &Path, target: SocketAddr) -> Self {
        Self::start_with(directory, target, RULES, "", &[])
    }

    pub fn start_native(directory: &Path, target: SocketAddr) -> Self {
        Self::start_with(directory, target, RULES, "", &["--enable-feature=native-histograms"])
    }

    /// With these rules, further text of the configuration and further arguments.
    pub fn start_with(
        directory: &Path,
        target: SocketAddr,
        rules: &str,
        further: &str,
        arguments: &[&str],
    ) -> Self {
        let job = format!("static_configs: [{{ targets: ['{target}'] }}]");
        Self::start_job(directory, &job, rules, further, arguments)
    }

    /// The same of what the job's configuration names.
    pub fn start_job(directory: &Path, job: &str, rules: &str, further: &str, arguments: &[&str]) -> Self {
        let text = format!(
            "global: {{ evaluation_interval: 500ms }}\nrule_files: ['{rules}']\nscrape_configs:\n- {{ job_name: porthole, honor_labels: true, scrape_interval: 1s, scrape_timeout: 1s, {job} }}\n{further}"
        );
        let storage = format!("--storage.tsdb.path={}", directory.join("data").display());
        Self::run(directory, &text, &[arguments, &[&storage]].concat())
    }

    /// In agent mode, with this configuration.
    pub fn start_agent(directory: &Path, configuration: &str) -> Self {
        let help = Command::new("prometheus").arg("--help").output().expect("started");
        let help = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).into_owned();
        // An argument of its own from 3.0 on.
        let has_own = help.split_whitespace().any(|word| ["--agent", "--[no-]agent"].contains(&word));
        let mode = if has_own { "--agent" } else { "--enable-feature=agent" };
        let storage = format!("--storage.agent.path={}", directory.join("data").display());
        Self::run(directory, configuration, &[mode, &storage])
    }

    fn run(directory: &Path, configuration: &str, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(directory).expect("directory");
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, configuration).expect("written");
        let address = free_address().expect("an address");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--web.listen-address={address}"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Self { process, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The elements of an instant vector; none while Prometheus does not answer yet.
    pub async fn query(&self, expression: &str) -> Vec<serde_json::Value> {
        if tokio::net::TcpStream::connect(self.address).await.is_err() {
            return Vec::new();
        }
        self.evaluate(expression).await.unwrap_or_default()
    }

    /// The elements of an instant vector, or Prometheus' answer when it is an error.
    pub async fn evaluate(&self, expression: &str) -> Result<Vec<serde_json::Value>, String> {
        let encoded = expression.bytes().fold(String::new(), |mut encoded, byte| {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
            encoded
        });
        let (status, _, body) = get(self.address, &format!("/api/v1/query?query={encoded}"), "").await;
        if status != 200 {
            return Err(body);
        }
        let mut answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        Ok(serde_json::from_value(answer["data"]["result"].take()).expect("a vector"))
    }

    /// The value of the only element.
    pub async fn value(&self, expression: &str) -> Option<f64> {
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
