//! What the exporter costs with many agents: memory, CPU time of batches, time and size of scrapes.
//!
//! The real program runs beside [`agents`] that serve the real contract over unix sockets. Its memory and CPU time are
//! those that the kernel accounts to its process ([`process`]), so what the agents and this program take does not count.

mod agents;
mod process;
mod scrape;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::{
    agents::{Agents, Content},
    process::Exporter,
    scrape::{FORMS, Form},
};
use crate::workspace::Workspace;

/// Options of `cargo xtask bench exporter`.
#[derive(clap::Args)]
pub struct Options {
    /// Numbers of agents
    #[arg(long, value_delimiter = ',', default_value = "100,1000,4000")]
    agents: Vec<u32>,
    /// Histograms of each agent
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    histograms: u32,
    /// How many of them are of calls to other agents; with any, agents also send resources, connections and spans
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=9))]
    edges: u32,
    /// Seconds for which CPU time of batches is measured; steps of history and topology end every 15 seconds
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Scrapes of each form; the median is shown
    #[arg(long, default_value_t = 7)]
    scrapes: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Options {
    fn content(&self) -> Result<Content> {
        ensure!(self.edges < self.histograms, "calls are a part of the histograms, and one is of requests");
        Ok(Content { histograms: self.histograms, edges: self.edges })
    }
}

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["build", "--release", "--locked", "--package", "porthole-exporter"]);
    crate::workspace::run(&mut command)?;
    let program = workspace.root.join("target/release/porthole-exporter");
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut results = Vec::new();
    for &agents in &options.agents {
        eprintln!("{agents} agents");
        results.push(runtime.block_on(measure(&program, agents, options))?);
    }
    let mut columns = vec![
        ("series".to_owned(), "series".to_owned()),
        ("resident MiB".to_owned(), "resident_mib".to_owned()),
        ("bytes/histogram".to_owned(), "bytes_per_histogram".to_owned()),
        ("MiB after batches".to_owned(), "after_mib".to_owned()),
        ("accounted/histogram".to_owned(), "accounted_per_histogram".to_owned()),
        ("peak MiB".to_owned(), "peak_mib".to_owned()),
        ("CPU µs/batch".to_owned(), "cpu_us_per_batch".to_owned()),
    ];
    for Form { name, .. } in FORMS {
        columns.push((format!("{name} CPU ms"), format!("{name}_cpu_ms")));
        columns.push((format!("{name} ms"), format!("{name}_ms")));
        columns.push((format!("{name} MB"), format!("{name}_mb")));
    }
    let columns: Vec<_> = columns.iter().map(|(title, key)| (title.as_str(), key.as_str())).collect();
    super::print_results("exporter", &results, options.json, &columns)
}

#[allow(clippy::cast_precision_loss)]
async fn measure(program: &Path, agents: u32, options: &Options) -> Result<Value> {
    let directory = tempfile::tempdir().context("a directory")?;
    let registry = directory.path().join("r");
    fs::create_dir(&registry).context("the registry")?;
    let exporter = Exporter::start(program, directory.path(), &registry)?;
    exporter.ready().await?;
    let at_rest = exporter.resident_bytes()?;
    let running = Agents::start(directory.path(), &registry, agents, options.content()?).await?;
    running.all_watched().await?;
    let series = f64::from(agents) * f64::from(options.histograms);
    exporter.settled().await?;
    let resident = exporter.resident_bytes()?;

    running.send_each_second(true);
    running.batches_sent(u64::from(agents)).await?;
    let (sent, cpu) = (running.sent(), exporter.cpu_time()?);
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let (sent, cpu) = (running.sent() - sent, exporter.cpu_time()?.saturating_sub(cpu));
    running.send_each_second(false);
    ensure!(sent > 0, "no batch was sent");
    exporter.settled().await?;
    let after = exporter.resident_bytes()?;

    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut result = json!({
        "workload": format!("{agents} x {}", options.histograms),
        "series": series,
        "resident_mib": mib(resident),
        "bytes_per_histogram": resident.saturating_sub(at_rest) as f64 / series,
        "after_mib": mib(after),
        "batches_per_second": sent as f64 / options.seconds as f64,
        "cpu_us_per_batch": cpu.as_secs_f64() * 1e6 / sent as f64,
    });
    for form in FORMS {
        let scraped = form.scrape(&exporter, options.scrapes).await?;
        result[format!("{}_cpu_ms", form.name)] = json!(scraped.cpu_ms);
        result[format!("{}_ms", form.name)] = json!(scraped.ms);
        result[format!("{}_mb", form.name)] = json!(scraped.bytes as f64 / 1e6);
    }
    let own = scrape::own(&exporter).await?;
    let value = |name: &str| scrape::sum(&own, name);
    ensure!(
        (value("porthole_tenant_series") - series).abs() < 0.5,
        "series are missing: {}",
        value("porthole_tenant_series")
    );
    result["accounted_per_histogram"] = json!(value("porthole_exporter_accounted_bytes") / series);
    result["peak_mib"] = json!(mib(exporter.peak_bytes()?));
    drop(exporter);
    running.stop().await;
    Ok(result)
}
