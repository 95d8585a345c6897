//! What the agent costs a workload natively: pairs of runs without and with it.

use anyhow::{Context, Result};
use clap::ValueEnum;
use porthole_agent_api::agent::StatsResponse;
use serde_json::{Value, json};

use crate::{
    bench::{
        agent::Agent,
        load::Run,
        median,
        mode::{Way, Ways},
        native::Native,
        programs::{self, Cost},
        server::Server,
        workload::Workload,
    },
    setup,
    workspace::Workspace,
};

/// Options of `cargo xtask bench overhead`.
#[derive(clap::Args)]
pub struct Options {
    /// Workloads to measure, rather than all; separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOADS")]
    only: Vec<Workload>,
    #[command(flatten)]
    ways: Ways,
    /// Pairs of runs of each workload
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Length of one run, seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// A run with the agent, between two looks at it.
struct Watched {
    run: Run,
    before: StatsResponse,
    after: StatsResponse,
    /// Requests that the server has answered, by its own count.
    answered: u64,
    resident: u64,
}

struct Pair {
    off: Run,
    on: Watched,
}

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let workloads = Workload::chosen(&options.only, Workload::value_variants())?;
    for workload in &workloads {
        setup::packages(workload.needs())?;
    }
    let native = Native::prepare(workspace)?;
    let mut results = Vec::new();
    for workload in workloads {
        let mut server = Server::start(workload, workspace, native.directory())?;
        server.load(1)?;
        for way in options.ways.all() {
            let mut pairs = Vec::new();
            for number in 0..options.pairs {
                let of = options.pairs;
                eprintln!("{}, {}: pair {} of {of}", workload.name(), way.name(), number + 1);
                // The order alternates, so that drift favours neither.
                let off_first = if number % 2 == 0 { Some(server.load(options.seconds)?) } else { None };
                let running = native.agent(way, &[])?;
                let on = watched(&mut server, &running, options.seconds)?;
                running.stop()?;
                let off = match off_first {
                    Some(off) => off,
                    None => server.load(options.seconds)?,
                };
                pairs.push(Pair { off, on });
            }
            let cost = program_cost(&mut server, &native, way, options.seconds)?;
            results.push(summary(workload, way, &pairs, cost)?);
        }
        server.stop()?;
    }
    super::print_results("overhead", &results, options.json, &COLUMNS)
}

/// Loads the server under a running agent.
fn watched(server: &mut Server, agent: &Agent, seconds: u32) -> Result<Watched> {
    // Keys are learned in the first moments.
    server.load(1)?;
    let ((run, before, after), answered) = server.answered_during(|server| {
        let before = agent.final_stats()?;
        let run = server.load(seconds)?;
        Ok((run, before, agent.final_stats()?))
    })?;
    Ok(Watched { run, before, after, answered, resident: agent.resident_bytes()? })
}

/// What the agent's programs take for each request, in a run of its own.
fn program_cost(server: &mut Server, native: &Native, way: Way, seconds: u32) -> Result<PerRequest> {
    let running = native.agent(way, &[])?;
    server.load(1)?;
    let load = || server.answered_during(|server| server.load(seconds));
    let ((_, answered), cost) = programs::cost_during(&running, load)?;
    running.stop()?;
    Ok(PerRequest::of(cost, answered))
}

/// Runs of programs and their nanoseconds for one request.
#[derive(Clone, Copy)]
struct PerRequest {
    runs: f64,
    ns: f64,
}

impl PerRequest {
    #[allow(clippy::cast_precision_loss)]
    fn of(cost: Cost, requests: u64) -> Self {
        let each = |value: u64| value as f64 / requests as f64;
        Self { runs: each(cost.runs), ns: each(cost.ns) }
    }
}

/// How many exchanges more or fewer were counted than there were. Client and server run on this machine: every request
/// is two exchanges. A client that ends by time leaves its last requests, one on each connection, without their answer.
fn missing(on: &Watched) -> i64 {
    let counted = on.after.counters.exchanges.saturating_sub(on.before.counters.exchanges);
    (2 * on.answered).cast_signed() - counted.cast_signed()
}

/// Of those that are missing, how many are not explained by what the agent reports as lost or unparsed. A lost
/// record may have carried as many as `depth`.
fn unaccounted(on: &Watched, depth: u64) -> u64 {
    let delta = |of: fn(&StatsResponse) -> u64| of(&on.after).saturating_sub(of(&on.before));
    let explained =
        delta(|stats| stats.counters.events_lost) * depth + delta(|stats| stats.counters.unparsed);
    u64::try_from(missing(on)).unwrap_or(0).saturating_sub(explained)
}

#[allow(clippy::cast_precision_loss)]
fn summary(workload: Workload, way: Way, pairs: &[Pair], programs: PerRequest) -> Result<Value> {
    let over = |value: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(value).collect()).context("no pairs");
    let ratio = |pair: &Pair| pair.on.run.throughput / pair.off.throughput;
    let ratios = || pairs.iter().map(ratio);
    let delta = |pair: &Pair, value: fn(&StatsResponse) -> u64| {
        value(&pair.on.after).saturating_sub(value(&pair.on.before)) as f64 / pair.on.answered as f64
    };
    Ok(json!({
        "workload": format!("{}, {}", workload.name(), way.name()),
        "mode": way.mode.name(),
        "pairs": pairs.len(),
        "baseline_requests_per_second": over(&|pair| pair.off.throughput)?,
        "throughput_ratio": over(&ratio)?,
        "throughput_ratio_lowest": ratios().fold(f64::INFINITY, f64::min),
        "throughput_ratio_highest": ratios().fold(0.0, f64::max),
        "baseline_p99_ms": over(&|pair| pair.off.p99_ms)?,
        "p99_ratio": over(&|pair| pair.on.run.p99_ms / pair.off.p99_ms.max(1e-6))?,
        "agent_cpu_ms_per_10k_requests": over(&|pair| delta(pair, |stats| stats.cpu_ns) * 10_000.0 / 1e6)?,
        "exchanges_per_request": over(&|pair| delta(pair, |stats| stats.counters.exchanges))?,
        "exchanges_missing_worst": pairs.iter().map(|pair| missing(&pair.on)).max_by_key(|missing| missing.abs()),
        "unparsed_per_request": over(&|pair| delta(pair, |stats| stats.counters.unparsed))?,
        "exchanges_unaccounted_worst": pairs.iter().map(|pair| unaccounted(&pair.on, workload.depth())).max(),
        "events_lost_per_request_worst": pairs
            .iter()
            .map(|pair| delta(pair, |stats| stats.counters.events_lost))
            .fold(0.0, f64::max),
        "bytes_copied_per_request": over(&|pair| delta(pair, |stats| stats.counters.bytes_copied))?,
        "events_per_core_second": over(&events_per_core_second)?,
        "program_runs_per_request": programs.runs,
        "program_ns_per_request": programs.ns,
        "resident_mib": over(&|pair| pair.on.resident as f64 / f64::from(1 << 20))?,
    }))
}

/// Records that the agent takes in a second of one core.
#[allow(clippy::cast_precision_loss)]
fn events_per_core_second(pair: &Pair) -> f64 {
    let (before, after) = (&pair.on.before, &pair.on.after);
    let events = after.counters.events_captured.saturating_sub(before.counters.events_captured);
    let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns);
    events as f64 * 1e9 / cpu_ns.max(1) as f64
}

const COLUMNS: [(&str, &str); 12] = [
    ("baseline/s", "baseline_requests_per_second"),
    ("ratio", "throughput_ratio"),
    ("p99 ratio", "p99_ratio"),
    ("agent ms/10k", "agent_cpu_ms_per_10k_requests"),
    ("exchanges/req", "exchanges_per_request"),
    ("missing", "exchanges_missing_worst"),
    ("lost/req", "events_lost_per_request_worst"),
    ("unaccounted", "exchanges_unaccounted_worst"),
    ("bytes/req", "bytes_copied_per_request"),
    ("events/core s", "events_per_core_second"),
    ("bpf ns/req", "program_ns_per_request"),
    ("RSS MiB", "resident_mib"),
];

#[cfg(test)]
mod tests {
    use porthole_agent_api::agent::Counters;

    use super::*;
    use crate::bench::mode::Mode;

    fn stats(exchanges: u64, cpu_ns: u64, events_captured: u64) -> StatsResponse {
        let counters = Counters { exchanges, events_captured, ..Counters::default() };
        StatsResponse { counters: Some(counters).into(), cpu_ns, ..StatsResponse::default() }
    }

    fn pair(off: f64, on: f64, exchanges: u64) -> Pair {
        let run = |throughput| Run { throughput, p99_ms: 1e3 / throughput, requests: 0 };
        let (before, after) = (stats(7, 1_000_000, 10), stats(7 + exchanges, 3_000_000, 1010));
        Pair {
            off: run(off),
            on: Watched { run: run(on), before, after, answered: 10_000, resident: 3 << 20 },
        }
    }

    #[test]
    fn a_summary_has_the_medians_over_the_pairs_and_the_worst_of_what_is_missing() {
        let pairs = [pair(100.0, 90.0, 20_000), pair(1000.0, 500.0, 19_990), pair(10.0, 8.0, 20_003)];
        let cost = PerRequest::of(Cost { runs: 40, ns: 900 }, 10);
        let summary = summary(Workload::Nginx, Way::usual(Mode::KernelCounts), &pairs, cost).unwrap();
        let number = |key: &str| summary[key].as_f64().unwrap();
        for (key, expected) in [
            ("throughput_ratio", 0.8),
            ("throughput_ratio_lowest", 0.5),
            ("throughput_ratio_highest", 0.9),
            ("baseline_requests_per_second", 100.0),
            ("p99_ratio", 1.25),
            ("agent_cpu_ms_per_10k_requests", 2.0),
            ("exchanges_per_request", 2.0),
            ("exchanges_missing_worst", 10.0),
            ("exchanges_unaccounted_worst", 10.0),
            ("events_per_core_second", 500_000.0),
            ("program_runs_per_request", 4.0),
            ("program_ns_per_request", 90.0),
            ("resident_mib", 3.0),
        ] {
            assert!((number(key) - expected).abs() < 1e-9, "{key}: {}", number(key));
        }
    }
}
