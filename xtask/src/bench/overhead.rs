//! What the agent costs a workload natively: pairs of runs without and with it.

use std::process::Command;

use anyhow::{Context, Result};
use porthole_proto::agent::StatsResponse;
use serde_json::json;

use crate::{
    bench::{
        agent::Agent,
        median,
        workload::{Run, Workload},
    },
    build,
    setup::{self, Need},
    workspace::{Workspace, output},
};

/// The ways in which exchanges are counted: a name, and the agent's arguments.
const WAYS: [(&str, &[&str]); 2] = [("kernel", &[]), ("agent", &["--no-kernel-counts"])];

/// Options of `cargo xtask bench overhead`.
#[derive(clap::Args)]
pub struct Options {
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

struct Pair {
    off: Run,
    on: Run,
    before: StatsResponse,
    after: StatsResponse,
    resident: u64,
}

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::packages(Need::BENCH)?;
    let agent = build::agent(workspace)?;
    let directory = workspace.target.join("bench");
    std::fs::create_dir_all(&directory).context("make target/bench")?;
    let mut results = Vec::new();
    for workload in Workload::ALL {
        let mut server = workload.serve(&directory)?;
        server.load(1)?;
        for way in WAYS {
            let mut pairs = Vec::new();
            for number in 0..options.pairs {
                eprintln!(
                    "{}, counted by the {}: pair {} of {}",
                    workload.name(),
                    way.0,
                    number + 1,
                    options.pairs
                );
                // The order alternates, so that drift favours neither.
                let off_first = if number % 2 == 0 { Some(server.load(options.seconds)?) } else { None };
                let running = Agent::start(&agent, &directory, way.1)?;
                // Keys are learned in the first moments.
                server.load(1)?;
                let before = running.stats()?;
                let on = server.load(options.seconds)?;
                let after = running.stats()?;
                let resident = running.resident_bytes()?;
                running.stop()?;
                let off = match off_first {
                    Some(off) => off,
                    None => server.load(options.seconds)?,
                };
                pairs.push(Pair { off, on, before, after, resident });
            }
            let running = Agent::start(&agent, &directory, way.1)?;
            let programs = program_cost(|| server.load(options.seconds))?;
            running.stop()?;
            results.push(summary(workload, way.0, &pairs, programs)?);
        }
        server.stop()?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "overhead": results }))?);
    } else {
        table(&results);
    }
    Ok(())
}

/// The kernel's own accounting of the eBPF programs over one run: runs and nanoseconds for each request. The accounting
/// itself slows the programs down, so it is never on while throughput is measured.
fn program_cost(load: impl FnOnce() -> Result<Run>) -> Result<(f64, f64)> {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let before = std::fs::read_to_string(SWITCH).context(SWITCH)?;
    std::fs::write(SWITCH, "1").context(SWITCH)?;
    let measured = (|| {
        let start = program_totals()?;
        let run = load()?;
        let end = program_totals()?;
        #[allow(clippy::cast_precision_loss)]
        let per_request = |value: u64| value as f64 / run.requests as f64;
        Ok((per_request(end.0.saturating_sub(start.0)), per_request(end.1.saturating_sub(start.1))))
    })();
    std::fs::write(SWITCH, before.trim()).context(SWITCH)?;
    measured
}

/// Runs and nanoseconds of all programs that count.
fn program_totals() -> Result<(u64, u64)> {
    let text = output(Command::new("bpftool").args(["-j", "prog", "show"]))?;
    let programs: serde_json::Value = serde_json::from_str(&text).context("bpftool's list")?;
    let sum = |key: &str| {
        programs.as_array().into_iter().flatten().filter_map(|program| program[key].as_u64()).sum::<u64>()
    };
    Ok((sum("run_cnt"), sum("run_time_ns")))
}

#[allow(clippy::cast_precision_loss)]
fn summary(workload: Workload, way: &str, pairs: &[Pair], programs: (f64, f64)) -> Result<serde_json::Value> {
    let over = |value: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(value).collect()).context("no pairs");
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| pair.on.throughput / pair.off.throughput).collect();
    ratios.sort_by(f64::total_cmp);
    let delta = |pair: &Pair, value: fn(&StatsResponse) -> u64| {
        value(&pair.after).saturating_sub(value(&pair.before)) as f64 / pair.on.requests as f64
    };
    Ok(json!({
        "workload": format!("{}, by the {way}", workload.name()),
        "pairs": pairs.len(),
        "baseline_requests_per_second": over(&|pair| pair.off.throughput)?,
        "throughput_ratio": over(&|pair| pair.on.throughput / pair.off.throughput)?,
        "throughput_ratio_lowest": ratios.first(),
        "throughput_ratio_highest": ratios.last(),
        "p99_ratio": over(&|pair| pair.on.p99_ms / pair.off.p99_ms.max(1e-6))?,
        "agent_cpu_ms_per_10k_requests": over(&|pair| delta(pair, |stats| stats.cpu_ns) * 10_000.0 / 1e6)?,
        // Client and server run on this machine: every request is two exchanges.
        "exchanges_per_request": over(&|pair| delta(pair, |stats| stats.counters.exchanges))?,
        "events_lost_per_request": over(&|pair| delta(pair, |stats| stats.counters.events_lost))?,
        "bytes_copied_per_request": over(&|pair| delta(pair, |stats| stats.counters.bytes_copied))?,
        "events_per_core_second": over(&events_per_core_second)?,
        "program_runs_per_request": programs.0,
        "program_ns_per_request": programs.1,
        "resident_mib": over(&|pair| pair.resident as f64 / f64::from(1 << 20))?,
    }))
}

/// Records that the agent takes in a second of one core.
#[allow(clippy::cast_precision_loss)]
fn events_per_core_second(pair: &Pair) -> f64 {
    let events = pair.after.counters.events_captured.saturating_sub(pair.before.counters.events_captured);
    let cpu_ns = pair.after.cpu_ns.saturating_sub(pair.before.cpu_ns);
    events as f64 * 1e9 / cpu_ns.max(1) as f64
}

fn table(results: &[serde_json::Value]) {
    let columns: [(&str, &str); 10] = [
        ("baseline/s", "baseline_requests_per_second"),
        ("ratio", "throughput_ratio"),
        ("p99 ratio", "p99_ratio"),
        ("agent ms/10k", "agent_cpu_ms_per_10k_requests"),
        ("exchanges/req", "exchanges_per_request"),
        ("lost/req", "events_lost_per_request"),
        ("bytes/req", "bytes_copied_per_request"),
        ("events/core s", "events_per_core_second"),
        ("bpf ns/req", "program_ns_per_request"),
        ("RSS MiB", "resident_mib"),
    ];
    super::print_table(results, &columns);
}
