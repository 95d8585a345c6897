//! The exporter under test, on a port of its own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
pub use porthole_trials::ports::free_address;
use serde_json::Value;

use crate::{
    daemon::Daemon,
    exposition::{self, Sample},
    http, wait,
};

/// Prometheus' `Accept` header when it prefers OpenMetrics.
const ACCEPT: &str = "Accept: application/openmetrics-text;version=1.0.0\r\nConnection: close\r\n";

/// Its program.
pub const PROGRAM: &str = "porthole-exporter";

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

impl Exporter {
    /// Starts the exporter's program with this configuration file, which must have `listen` = `address`.
    pub fn start(
        program: PathBuf,
        directory: &Path,
        configuration: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        let mut exporter = Self {
            daemon: None,
            program,
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
        wait::until("the exporter answers", wait::SOON, || {
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

    /// Kills it, if it runs: it writes nothing more.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(Signal::SIGKILL)?;
            daemon.stop()?;
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

    /// Its list of applications.
    pub fn applications(&self) -> Result<Vec<Value>> {
        self.list("/api/v1/applications", "applications")
    }

    /// Spans, the newest first, filtered by a query string.
    pub fn spans(&self, query: &str) -> Result<Vec<Value>> {
        self.list(&format!("/api/v1/spans?{query}"), "spans")
    }

    /// Traces, the newest first, filtered by a query string.
    pub fn traces(&self, query: &str) -> Result<Vec<Value>> {
        self.list(&format!("/api/v1/traces?{query}"), "traces")
    }

    /// The spans of each of a tenant's traces with an id, depth first. Several can have one that programs propagate.
    pub fn trees(&self, tenant: &str, id: &str) -> Result<Vec<Vec<Value>>> {
        let traces = self.list(&format!("/api/v1/traces/{id}?tenant={tenant}"), "traces")?;
        let trees = traces.iter().map(|trace| trace["tree"].as_array().cloned());
        trees.map(|tree| tree.context("the tree of a trace")).collect()
    }

    /// The edges of a tenant's calls in the last hour: from, to, and requests.
    pub fn edges(&self, tenant: &str) -> Result<BTreeMap<(String, String), u64>> {
        let edges = self.list(&format!("/api/v1/topology?tenant={tenant}&seconds=3600"), "edges")?;
        let mut counts = BTreeMap::new();
        for edge in edges {
            let end = |name: &str| edge[name].as_str().map(str::to_owned).context("an edge's end");
            let requests = edge["requests"].as_u64().context("an edge's requests")?;
            *counts.entry((end("from")?, end("to")?)).or_default() += requests;
        }
        Ok(counts)
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
