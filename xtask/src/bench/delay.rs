//! How long it takes from a request to its count at the exporter: agent and exporter on this machine, a unix socket between.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use porthole_registry as registry;
use porthole_registry::{
    ContainerId, ContainerRecord, Namespace, SandboxKey, SandboxRecord, SandboxState, channel::Channel,
};
use porthole_testbed::{
    exporter::{self, Exporter},
    exposition, wait,
};
use serde_json::{Value, json};

use crate::{
    bench::{
        median,
        mode::{Way, Ways},
        native::Native,
        talk::{Talk, Words},
    },
    build,
    workspace::Workspace,
};

/// Options of `cargo xtask bench delay`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    ways: Ways,
    /// Requests whose way is timed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tries: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How long a count may take to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// The path of the requests, and the route as which it is counted.
const ROUTE: &str = "/delay";

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    build::host_programs(workspace)?;
    let native = Native::prepare(workspace)?;
    let mut results = Vec::new();
    for way in options.ways.all() {
        results.push(measure(workspace, &native, way, options.tries)?);
    }
    let columns = [
        ("tries", "tries"),
        ("new key ms", "new_key_ms"),
        ("median ms", "median_ms"),
        ("longest ms", "longest_ms"),
    ];
    super::print_results("delay", &results, options.json, &columns)
}

fn measure(workspace: &Workspace, native: &Native, way: Way, tries: u32) -> Result<Value> {
    let directory = native.directory();
    let agent = native.agent(way, &[])?;
    let address = exporter::free_address()?;
    let configuration = directory.join("exporter.toml");
    let shown = directory.display();
    let text = format!(
        "[registry]\ndirectory = \"{shown}/registry\"\n[exporter]\nlisten = \"{address}\"\n\
         state_directory = \"{shown}/exporter\"\n"
    );
    fs::write(&configuration, text).context("write the configuration")?;
    let mut exporter =
        Exporter::start(workspace.dist().program(exporter::PROGRAM), directory, &configuration, address)?;
    let container = native.container();
    let _registered = Registered::new(&directory.join("registry"), container, agent.socket())?;
    wait::until("the exporter watches the agent", PATIENCE, || {
        let sandbox = exporter.sandbox(container.as_str())?;
        Ok(sandbox.filter(|sandbox| sandbox["agent"]["capture_mode"].is_string()).map(drop))
    })?;
    let mut talk = Talk::tcp()?;
    let words = Words::http("GET", ROUTE, 1);
    let mut delays = Vec::new();
    for number in 0..=tries {
        eprintln!("{}: request {number} of {tries}", way.name());
        // The golden section spreads the requests over the second in which the agent sends one batch.
        wait::hold(Duration::from_secs_f64((f64::from(number) * 0.618_034).fract()))?;
        let start = Instant::now();
        talk.round(&words)?;
        wait::until("the request is counted", PATIENCE, || {
            let text = exporter.text()?;
            Ok((served(&text)? > f64::from(number)).then_some(()))
        })?;
        delays.push(start.elapsed().as_secs_f64() * 1e3);
    }
    exporter.stop()?;
    agent.stop()?;
    let new_key = delays.remove(0);
    Ok(json!({
        "workload": way.name(),
        "tries": delays.len(),
        "new_key_ms": new_key,
        "longest_ms": delays.iter().copied().fold(0.0, f64::max),
        "median_ms": median(delays),
    }))
}

/// Requests of the route in the exporter's metrics.
fn served(exposition: &str) -> Result<f64> {
    let samples = exposition::parse(exposition)?;
    let name = "http_server_request_duration_seconds_count";
    Ok(exposition::sum(&samples, name, &[("http_route", ROUTE)]).unwrap_or_default())
}

/// A sandbox of one container in the registry, until it is dropped.
struct Registered {
    record: PathBuf,
    lock: PathBuf,
    _locked: File,
}

impl Registered {
    fn new(directory: &Path, container: &ContainerId, agent: &Path) -> Result<Self> {
        let namespace: Namespace = "bench".parse().context("a namespace")?;
        let key = SandboxKey { namespace, id: container.clone() };
        let lock = registry::lock_path(directory, &key);
        let locked = File::create(&lock).context("make a record's lock")?;
        locked.lock().context("lock a record")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
        let record = SandboxRecord {
            containers: [(container.clone(), ContainerRecord { name: "bench".to_owned() })].into(),
            channel: Some(Channel::Unix { path: agent.to_owned() }),
            state: SandboxState::Watching,
            ..SandboxRecord::new(
                key.clone(),
                "bench",
                "bench",
                "none",
                u64::try_from(now.as_millis()).context("the clock")?,
            )
        };
        record.write(directory).context("write a record")?;
        Ok(Self { record: registry::record_path(directory, &key), lock, _locked: locked })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for path in [&self.record, &self.lock] {
            if let Err(error) = fs::remove_file(path) {
                eprintln!("warning: {} stays: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_routes_own_count_is_read() {
        let text = "http_server_request_duration_seconds_count{http_route=\"/delay\",tenant=\"a\"} 3\n\
                    http_server_request_duration_seconds_count{http_route=\"/other\",tenant=\"a\"} 5\n\
                    http_server_request_duration_seconds_sum{http_route=\"/delay\",tenant=\"a\"} 7\n";
        assert!((served(text).unwrap() - 3.0).abs() < 1e-9);
        assert!(served("").unwrap().abs() < 1e-9, "before the first request");
    }
}
