//! A real Prometheus with its own configuration, port and storage, that scrapes the exporter.

use std::{
    collections::BTreeMap, fmt::Write, fs, net::SocketAddr, path::Path, process::Command, time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{daemon::Daemon, exporter, http, wait};

/// Time between two scrapes.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// The rules that users get.
const RULES: &str = include_str!("../../deploy/prometheus/porthole.rules.yml");

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    daemon: Daemon,
    /// Where it serves.
    pub address: SocketAddr,
}

/// One element of an instant vector.
#[derive(Clone, Debug)]
pub struct Element {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Element {
    /// A label's value, empty when it has none, as in `PromQL`.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Prometheus {
    /// Starts it, scraping `target`.
    pub fn start(directory: &Path, target: SocketAddr) -> Result<Self> {
        let home = directory.join("prometheus");
        fs::create_dir_all(&home).context("make Prometheus' directory")?;
        let configuration = home.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: {0}ms, scrape_timeout: {0}ms, evaluation_interval: 5s }}\n\
             rule_files: [porthole.rules.yml]\n\
             scrape_configs:\n- job_name: porthole\n  honor_labels: true\n  static_configs:\n  - targets: ['{target}']\n",
            SCRAPE_INTERVAL.as_millis()
        );
        fs::write(&configuration, text).context("write Prometheus' configuration")?;
        fs::write(home.join("porthole.rules.yml"), RULES).context("write Prometheus' rules")?;
        let address = exporter::free_address()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", home.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&home);
        let daemon = Daemon::spawn("prometheus", &mut command, &directory.join("log/prometheus.log"))?;
        let mut prometheus = Self { daemon, address };
        wait::until("Prometheus is ready", wait::SOON, || {
            prometheus.daemon.check()?;
            Ok((http::get(address, "/-/ready")?.status == 200).then_some(()))
        })?;
        Ok(prometheus)
    }

    /// Evaluates an expression now.
    pub fn query(&self, expression: &str) -> Result<Vec<Element>> {
        let answer = self.get(&format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        let elements =
            answer["data"]["result"].as_array().with_context(|| format!("no vector in {answer}"))?;
        elements.iter().map(|element| parse_element(element).context("an element")).collect()
    }

    /// The scrape target's health (`up`, `down`, `unknown`) and last error.
    pub fn target(&self) -> Result<(String, String)> {
        let answer = self.get("/api/v1/targets")?;
        let target = &answer["data"]["activeTargets"][0];
        let text = |name: &str| target[name].as_str().unwrap_or_default().to_owned();
        Ok((text("health"), text("lastError")))
    }

    /// Waits until a scrape that began after this call is stored.
    pub fn next_scrape(&self) -> Result<()> {
        let scrapes = || -> Result<f64> {
            // The time of the newest sample, in seconds.
            Ok(self.query("timestamp(up)")?.first().map_or(0.0, |element| element.value))
        };
        let before =
            wait::until("a first scrape", wait::SOON, || Ok(Some(scrapes()?).filter(|time| *time > 0.0)))?;
        // The scrape after the next began after now in any case.
        wait::until("a scrape", wait::SOON, || {
            Ok((scrapes()? >= before + 2.0 * SCRAPE_INTERVAL.as_secs_f64() - 0.1).then_some(()))
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.daemon.pid().as_raw()
    }

    fn get(&self, target: &str) -> Result<Value> {
        let response = http::get(self.address, target)?;
        ensure!(response.status == 200, "{target}: {} {}", response.status, response.text());
        serde_json::from_slice(&response.body).context("JSON from Prometheus")
    }
}

fn parse_element(element: &Value) -> Option<Element> {
    let labels = element["metric"].as_object()?.iter();
    let labels = labels
        .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect::<Option<_>>()?;
    Some(Element { labels, value: element["value"][1].as_str()?.parse().ok()? })
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
