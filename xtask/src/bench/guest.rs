//! What Porthole costs inside guests: two guests of two processors run the same servers, one of them through the runtime
//! class, the other through its delegate alone. Clients run in the guests beside the servers, first in one guest, then
//! in the other.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Container, Launch, MICROVM, PORTHOLE},
    environment::{Environment, Settings},
    image, interrupt, scenario, wait,
};
use serde_json::{Value, json};

use crate::{
    bench::{
        load::{Load, Run},
        median,
        workload::Workload,
    },
    build, report,
    setup::{self, Need},
    workspace::{Workspace, require_root},
};

/// Without a change for so long, all batches have arrived: agents send one every 800 ms.
const QUIET: Duration = Duration::from_secs(2);

/// Options of `cargo xtask bench guest`.
#[derive(clap::Args)]
pub struct Options {
    /// Workloads to measure, rather than all; separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOADS")]
    only: Vec<Workload>,
    /// Pairs of runs of each workload
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Length of one run, seconds
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// containerd namespace, and so the tenant.
const NAMESPACE: &str = "bench";

const NGINX_PORT: u16 = 8080;
const REDIS_PORT: u16 = 6379;

/// About what an emulated guest does, commands a second.
const GUEST_REDIS_RATE: u64 = 8_000;

/// Both servers, until the container is killed.
const SERVERS: &str = "
    cat > /run/bench.conf <<CONF
worker_processes 1; daemon off; pid /run/nginx.pid; error_log stderr;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000000;
       server { listen 127.0.0.1:8080; location / { return 200 \"hello\\n\"; } } }
CONF
    redis-server --port 6379 --bind 127.0.0.1 --save '' --appendonly no --dir /run >/dev/null &
    exec nginx -c /run/bench.conf";

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let workloads = Workload::chosen(&options.only, &Workload::IN_GUEST)?;
    require_root("running containers and guests")?;
    setup::packages(Need::RUN)?;
    build::everything(workspace)?;
    interrupt::install()?;
    let dist = workspace.dist();
    let archive = image::BENCH.build(&dist.cache)?;
    let settings = Settings::default().with("microvm", "vcpus", 2);
    let environment = report::step("start containerd and the exporter", || {
        Environment::start(dist, &settings, &[], false, &report::note)
    })?;
    let environment = Arc::new(environment);
    let results = environment
        .containerd
        .import(NAMESPACE, &archive)
        .and_then(|()| measure(&environment, &workloads, options));
    let finished = Arc::into_inner(environment).context("the environment has one owner")?.finish();
    let results = results?;
    finished?;
    super::print_results("guest", &results, options.json, &COLUMNS)
}

fn measure(environment: &Arc<Environment>, workloads: &[Workload], options: &Options) -> Result<Vec<Value>> {
    let (with, without) = report::step("start two guests", || {
        Ok((start(environment, "with", PORTHOLE)?, start(environment, "without", MICROVM)?))
    })?;
    scenario::wait_watched(environment, &with.id)?;
    let mut results = Vec::new();
    for &workload in workloads {
        let load = |container: &Container, seconds| {
            let port = if workload == Workload::Nginx { NGINX_PORT } else { REDIS_PORT };
            let load = Load::new(workload, port, seconds, GUEST_REDIS_RATE);
            let words: Vec<&str> = load.command.iter().map(String::as_str).collect();
            let finished = container.exec(&words)?;
            ensure!(finished.status.success(), "{words:?}: {finished}");
            load.read(&finished.text())
        };
        load(&without, 1)?;
        load(&with, 1)?;
        let mut pairs = Vec::new();
        let before = final_counters(environment, &with)?;
        for number in 0..options.pairs {
            report::note(&format!("{}: pair {} of {}", workload.name(), number + 1, options.pairs));
            // The order alternates, so that drift favours neither.
            let off_first = if number % 2 == 0 { Some(load(&without, options.seconds)?) } else { None };
            let on = load(&with, options.seconds)?;
            let off = match off_first {
                Some(off) => off,
                None => load(&without, options.seconds)?,
            };
            pairs.push((off, on));
        }
        let after = final_counters(environment, &with)?;
        results.push(summary(workload, &pairs, &before, &after)?);
    }
    with.remove()?;
    without.remove()?;
    Ok(results)
}

fn start(environment: &Environment, name: &str, runtime: &str) -> Result<Container> {
    let id = environment.unique(&format!("bench-{name}"));
    let command = ["sh", "-c", SERVERS];
    let launch = Launch::new(NAMESPACE, &id, runtime, &command).from_image(image::BENCH);
    let container = launch.start(&environment.containerd)?;
    wait::until("the servers answer", Duration::from_mins(1), || {
        let redis = container.exec(&["redis-cli", "ping"])?.status.success();
        let nginx =
            container.exec(&["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"])?.status.success();
        Ok((redis && nginx).then_some(()))
    })?;
    Ok(container)
}

/// The exporter's entry of the watched sandbox.
fn counters(environment: &Environment, container: &Container) -> Result<Value> {
    environment.exporter()?.sandbox(&container.id)?.context("the watched sandbox is not listed")
}

/// The same when the number of exchanges no longer changes.
fn final_counters(environment: &Environment, container: &Container) -> Result<Value> {
    wait::unchanged("the counts no longer change", QUIET, Duration::from_secs(30), || {
        Ok(counters(environment, container)?["counters"]["exchanges"].clone())
    })?;
    counters(environment, container)
}

fn summary(workload: Workload, pairs: &[(Run, Run)], before: &Value, after: &Value) -> Result<Value> {
    let over =
        |value: &dyn Fn(&(Run, Run)) -> f64| median(pairs.iter().map(value).collect()).context("no pairs");
    let ratios = || pairs.iter().map(|(off, on)| on.throughput / off.throughput);
    let requests: u64 = pairs.iter().map(|(_, on)| on.requests).sum();
    #[allow(clippy::cast_precision_loss)]
    let per_request = |path: [&str; 2]| {
        let of = |value: &Value| value[path[0]][path[1]].as_u64().unwrap_or(0);
        of(after).saturating_sub(of(before)) as f64 / requests as f64
    };
    Ok(json!({
        "workload": workload.name(),
        "pairs": pairs.len(),
        "baseline_requests_per_second": over(&|(off, _)| off.throughput)?,
        "throughput_ratio": over(&|(off, on)| on.throughput / off.throughput)?,
        "throughput_ratio_lowest": ratios().fold(f64::INFINITY, f64::min),
        "throughput_ratio_highest": ratios().fold(0.0, f64::max),
        "p99_ratio": over(&|(off, on)| on.p99_ms / off.p99_ms.max(1e-6))?,
        "agent_cpu_ms_per_10k_requests": per_request(["agent", "cpu_ns"]) * 10_000.0 / 1e6,
        // Client and server run in the guest: every request is two exchanges.
        "exchanges_per_request": per_request(["counters", "exchanges"]),
        "events_lost_per_request": per_request(["counters", "events_lost"]),
        "bytes_copied_per_request": per_request(["counters", "bytes_copied"]),
        "resident_mib": after["agent"]["resident_bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20),
        "capture_mode": after["agent"]["capture_mode"],
    }))
}

const COLUMNS: [(&str, &str); 8] = [
    ("baseline/s", "baseline_requests_per_second"),
    ("ratio", "throughput_ratio"),
    ("p99 ratio", "p99_ratio"),
    ("agent ms/10k", "agent_cpu_ms_per_10k_requests"),
    ("exchanges/req", "exchanges_per_request"),
    ("lost/req", "events_lost_per_request"),
    ("bytes/req", "bytes_copied_per_request"),
    ("RSS MiB", "resident_mib"),
];
