//! Sandboxes that live shortly: whether every request of theirs is counted, and what Porthole adds to the start of a container.
//!
//! The counts are exact or the command fails; times are measured in pairs, with Porthole and without.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use porthole_testbed::{
    environment::{Environment, Settings},
    interrupt,
    starts::{self, Counted, loops, pod, sequence, times},
};
use serde_json::{Value, json};

use crate::{
    build, report,
    setup::{self, Need},
    workspace::{Workspace, require_root},
};

/// Options of `cargo xtask bench starts`.
#[derive(clap::Args)]
pub struct Options {
    /// What to run, rather than all; separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Sandboxes one after another, with the exporter up and with the exporter down
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sandboxes: u32,
    /// The same where the exporter is killed and started again
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    killed: u32,
    /// Sandboxes at one time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=i64::from(loops::SANDBOXES_MAX)))]
    at_once: u8,
    /// Requests to each of them
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Starts of containers in one sandbox
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
    crashes: u32,
    /// Pairs of starts that are timed
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Of the times at which the exporter is killed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use the programs in this directory, which is laid out as `target/dist` is, rather than build them
    #[arg(long, value_name = "DIRECTORY")]
    dist: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Sandboxes one after another, each of which serves one request, with the exporter up
    Up,
    /// The same with the exporter down until after the last one
    Down,
    /// The same with the exporter killed and started again at random
    Killed,
    /// Requests from the first accepted connection on, to sandboxes at one time
    Loops,
    /// Containers that serve one request and crash, in one sandbox
    Crashes,
    /// Times of starts, with Porthole and without
    Times,
}

/// Runs, checks and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    require_root("running containers and guests")?;
    setup::packages(Need::RUN)?;
    let mut dist = workspace.dist();
    match &options.dist {
        Some(root) => {
            dist.root = root.canonicalize().with_context(|| format!("find {}", root.display()))?;
        }
        None => build::everything(workspace)?,
    }
    interrupt::install()?;
    // Where many guests are emulated at one time, each is slow to load its programs and to boot.
    let settings = Settings::default().with("microvm", "agent_wait_ms", 20_000).with(
        "microvm",
        "boot_timeout_seconds",
        300,
    );
    let environment = report::step("start containerd and the exporter", || {
        Environment::start(dist, &settings, &[starts::NAMESPACE], false, &report::note)
    })?;
    let environment = Arc::new(environment);
    let mut results = Results::default();
    results.measure(&environment, options);
    let finished = Arc::into_inner(environment).context("the environment has one owner")?.finish();
    // Before any error: what was measured took long.
    let Results { counts, times, failures } = &results;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "counts": counts, "times": times }))?);
    } else {
        if !counts.is_empty() {
            super::print_table(counts, &COUNTS);
        }
        if !times.is_empty() {
            super::print_table(times, &TIMES);
        }
    }
    finished?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

const COUNTS: [(&str, &str); 6] = [
    ("sandboxes", "sandboxes"),
    ("failed starts", "failed"),
    ("sent", "sent"),
    ("counted by servers", "server"),
    ("by clients", "client"),
    ("under their name", "named"),
];

const TIMES: [(&str, &str); 4] =
    [("starts", "starts"), ("median ms", "median_ms"), ("p99 ms", "p99_ms"), ("largest ms", "largest_ms")];

fn line(name: &str, sandboxes: u32, counted: Counted) -> Value {
    json!({
        "workload": name,
        "sandboxes": sandboxes,
        "sent": counted.sent,
        "server": counted.server,
        "client": counted.client,
        "exact": counted.is_exact(),
    })
}

/// What was measured.
#[derive(Debug, Default)]
struct Results {
    counts: Vec<Value>,
    times: Vec<Value>,
    /// Parts that could not be measured, and counts that are not exact.
    failures: Vec<String>,
}

impl Results {
    /// Runs the chosen parts. One that fails does not keep the others from running, unless the user interrupts.
    fn measure(&mut self, environment: &Arc<Environment>, options: &Options) {
        let is_chosen = |part| options.only.is_empty() || options.only.contains(&part);
        let sequences = [
            (Part::Up, "exporter up", options.sandboxes, sequence::Exporter::Up),
            (Part::Down, "exporter down", options.sandboxes, sequence::Exporter::Down),
            (
                Part::Killed,
                "exporter killed",
                options.killed,
                sequence::Exporter::Killed { seed: options.seed },
            ),
        ];
        for (part, name, count, exporter) in sequences {
            if is_chosen(part) {
                self.count(name, || {
                    let service = environment.unique(&name.replace(' ', "-"));
                    let ran = sequence::run(environment, &service, count, exporter, &report::note)?;
                    let mut line = line(name, count, ran.counted);
                    line["failed"] = json!(ran.failed.len());
                    line["exact"] = json!(ran.is_exact());
                    Ok(line)
                });
            }
        }
        if is_chosen(Part::Loops) {
            self.count("loops at one time", || {
                let (service, count) = (environment.unique("loops"), options.at_once);
                let counted = loops::run(environment, &service, count, options.requests, &report::note)?;
                Ok(line("loops at one time", count.into(), counted))
            });
        }
        if is_chosen(Part::Crashes) {
            for (name, down) in [("crashes", false), ("crashes, exporter down", true)] {
                self.count(name, || {
                    let service = environment.unique(if down { "crash-down" } else { "crash" });
                    let pod = pod::run(environment, &service, options.crashes, down, &report::note)?;
                    let mut line = line(name, 1, pod.counted);
                    line["named"] = json!(pod.named);
                    line["exact"] = json!(pod.counted.is_exact() && pod.named == pod.counted.sent);
                    Ok(line)
                });
            }
        }
        if is_chosen(Part::Times) {
            self.run("times", |results| {
                let service = environment.unique("times");
                let pairs = times::run(environment, &service, options.pairs, &report::note)?;
                let of = |time: fn(&times::Pair) -> f64| pairs.iter().map(time).collect::<Vec<_>>();
                let difference = of(|pair| milliseconds(pair.with) - milliseconds(pair.without));
                results.times.push(figures("without", of(|pair| milliseconds(pair.without))));
                results.times.push(figures("with", of(|pair| milliseconds(pair.with))));
                results.times.push(figures("difference", difference));
                Ok(())
            });
        }
    }

    /// Counts; what was counted is printed at once.
    fn count(&mut self, name: &str, count: impl FnOnce() -> Result<Value>) {
        self.run(name, |results| {
            let line = count()?;
            report::note(&format!("{name}: {line}"));
            let is_exact = line["exact"] == true;
            results.counts.push(line);
            ensure!(is_exact, "a start failed, or the counts are not exact");
            Ok(())
        });
    }

    fn run(&mut self, name: &str, part: impl FnOnce(&mut Self) -> Result<()>) {
        let ran = interrupt::check().and_then(|()| report::step(name, || part(self)));
        if let Err(error) = ran {
            report::note(&format!("{name}: {error:#}"));
            self.failures.push(format!("{name}: {error:#}"));
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn figures(name: &str, mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get((values.len() * share).div_ceil(100).saturating_sub(1)).copied();
    let rounded = |value: Option<f64>| value.map(f64::round);
    json!({
        "workload": name,
        "starts": values.len(),
        "median_ms": rounded(super::median(values.clone())),
        "p99_ms": rounded(at(99)),
        "largest_ms": rounded(values.last().copied()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_fails_or_counts_wrongly_fails_the_whole_and_the_others_run() {
        let (wrong, right) =
            (Counted { sent: 2, server: 1, client: None }, Counted { sent: 2, server: 2, client: None });
        let mut results = Results::default();
        results.count("wrong", || Ok(line("wrong", 2, wrong)));
        results.count("broken", || anyhow::bail!("no guest"));
        results.count("right", || Ok(line("right", 2, right)));
        let names: Vec<_> = results.counts.iter().map(|line| &line["workload"]).collect();
        assert_eq!(names, ["wrong", "right"]);
        assert_eq!(
            results.failures,
            ["wrong: a start failed, or the counts are not exact", "broken: no guest"]
        );
    }

    #[test]
    fn the_percentile_is_one_of_the_values_and_the_median_between_two() {
        let line = figures("x", (1..=200).rev().map(f64::from).collect());
        assert_eq!(
            (&line["median_ms"], &line["p99_ms"], &line["largest_ms"]),
            (&json!(101.0), &json!(198.0), &json!(200.0))
        );
        assert_eq!(figures("x", vec![3.0])["p99_ms"], 3.0);
        assert_eq!(figures("x", Vec::new())["p99_ms"], Value::Null);
    }
}
