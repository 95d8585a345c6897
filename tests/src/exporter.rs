//! The exporter under test, on a port of its own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    daemon::Daemon,
    dist::Dist,
    exposition::{self, Sample},
    http, wait,
};

/// What Prometheus asks for when it prefers OpenMetrics.
const ACCEPT: &str = "Accept: application/openmetrics-text;version=1.0.0\r\nConnection: close\r\n";

/// A running exporter, or one that was stopped and can be started again at the same address.
#[derive(Debug)]
pub struct Exporter {
    daemon: Option<Daemon>,
    program: PathBuf,
    configuration: PathBuf,
    log: PathBuf,
    /// Where it serves.
    pub address: SocketAddr,
}

/// A port that was free a moment ago.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("address of a listener")
}

impl Exporter {
    /// Starts the exporter with this configuration file, which must tell it to listen at `address`.
    pub fn start(dist: &Dist, directory: &Path, configuration: &Path, address: SocketAddr) -> Result<Self> {
        let mut exporter = Self {
            daemon: None,
            program: dist.program("porthole-exporter"),
            configuration: configuration.to_owned(),
            log: directory.join("log/exporter.log"),
            address,
        };
        exporter.restart()?;
        Ok(exporter)
    }

    /// Stops it if it runs, and starts it.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.configuration);
        let mut daemon = Daemon::spawn("porthole-exporter", &mut command, &self.log)?;
        let address = self.address;
        wait::until("the exporter answers", Duration::from_secs(10), || {
            daemon.check()?;
            Ok((http::get(address, "/healthz")?.status == 200).then_some(()))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Stops it as a service manager does.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.stop()?;
            ensure!(status.success(), "the exporter ended with {status}:\n{}", self.log_text());
        }
        Ok(())
    }

    /// An error when it does not run any more.
    pub fn check(&mut self) -> Result<()> {
        self.daemon.as_mut().context("the exporter is stopped")?.check()
    }

    /// The exposition as text.
    pub fn text(&self) -> Result<String> {
        let mut connection = http::Connection::open(self.address)?;
        connection.send("GET", "/metrics", ACCEPT)?;
        let response = connection.receive("GET")?;
        ensure!(response.status == 200, "/metrics answered {}: {}", response.status, response.text());
        String::from_utf8(response.body).context("the exposition in UTF-8")
    }

    /// The exposition's samples.
    pub fn samples(&self) -> Result<Vec<Sample>> {
        exposition::parse(&self.text()?)
    }

    /// Its list of sandboxes.
    pub fn sandboxes(&self) -> Result<Vec<Value>> {
        self.list("/api/v1/sandboxes", "sandboxes")
    }

    /// Spans, the newest first, filtered by a query string.
    pub fn spans(&self, query: &str) -> Result<Vec<Value>> {
        self.list(&format!("/api/v1/spans?{query}"), "spans")
    }

    fn list(&self, path: &str, name: &str) -> Result<Vec<Value>> {
        let response = http::get(self.address, path)?;
        ensure!(response.status == 200, "{path} answered {}: {}", response.status, response.text());
        let listing: Value =
            serde_json::from_slice(&response.body).with_context(|| format!("JSON of {path}"))?;
        listing[name].as_array().cloned().with_context(|| format!("a list of {name}"))
    }

    /// One sandbox of the list.
    pub fn sandbox(&self, id: &str) -> Result<Option<Value>> {
        Ok(self.sandboxes()?.into_iter().find(|sandbox| sandbox["sandbox_id"] == id))
    }

    /// What it logged so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.as_ref().map(|daemon| daemon.pid().as_raw())
    }
}
