//! `cargo xtask bench instructions`: what Porthole costs, in instructions, which have no noise.
//!
//! A guest of the project's own kernel with one processor runs under QEMU's instruction counter, where every instruction
//! takes a nanosecond of the guest's clock. [`workloads`] lists what runs there, [`image`] packs it into an initrd,
//! [`guest`] boots it; the program in the guest is `porthole-bench-guest`. [`budget`] holds the figures against those
//! that were committed.

mod budget;
mod guest;
mod image;
mod workloads;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use porthole_bench_guest::{Phase, Plan, Row};
use porthole_testbed::{interrupt, sweep::Scratch};
use porthole_vm_images::{kernel, package};
use serde_json::{Value, json};

use crate::{
    bench::instructions::{budget::Budget, guest::Outcome, image::Image, workloads::Workload},
    build, report,
    setup::{self, Need},
    workspace::Workspace,
};

/// Options of `cargo xtask bench instructions`.
#[derive(clap::Args)]
pub struct Options {
    /// Workloads to measure, rather than all; separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOADS")]
    only: Vec<Workload>,
    /// The guest's kernel
    #[arg(long, value_enum, default_value_t = Kernel::V6_1)]
    kernel: Kernel,
    /// Agent to measure in place of the one that is built from this tree
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Further arguments of the agent, separated by commas, such as `--hooks,raw-tracepoint`
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_name = "ARGUMENTS")]
    agent_arguments: Vec<String>,
    /// Print the agent's log of its start, whose writing adds to its time
    #[arg(long)]
    log: bool,
    /// Leave out the figures by program, which take a third run of every workload
    #[arg(long)]
    short: bool,
    /// What to do with the committed budget
    #[arg(long, value_enum)]
    budget: Option<BudgetUse>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What is done with the committed budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BudgetUse {
    /// Fail if a workload costs more.
    Check,
    /// Write what was measured into its file.
    Renew,
}

/// The series of kernels that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// The kernel of the project's guests.
    #[value(name = "6.1")]
    V6_1,
    /// One that has the tracepoints of sockets.
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// Memory of the guest; the initrd and a database are in it.
const MEMORY_MIB: u64 = 1536;

/// The name of the result for loading.
const LOADING: &str = "loading";

/// The first of the servers' ports.
const FIRST_PORT: u16 = 8001;

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let workloads = if options.only.is_empty() { Workload::value_variants() } else { &options.only };
    let results = measure(workspace, workloads, options)?;
    let columns = [
        ("baseline", "baseline"),
        ("added in kernel", "added_kernel"),
        ("added by agent", "added_agent"),
        ("sent", "sent"),
        ("counted", "counted"),
        ("in programs", "in_programs"),
        ("runs", "program_runs"),
    ];
    super::print_results("instructions", &results, options.json, &columns)?;
    if !options.json && !options.short {
        println!();
        for result in &results {
            print_programs(result);
        }
    }
    match options.budget {
        Some(BudgetUse::Renew) => Budget::renew(workspace, options.kernel.series(), &results),
        Some(BudgetUse::Check) => Budget::read(workspace)?.check(options.kernel.series(), &results),
        None => Ok(()),
    }
}

/// The short form for the test command: every workload of the budget on the project's kernel, held against the budget.
pub fn check(workspace: &Workspace) -> Result<()> {
    let kernel = Kernel::V6_1;
    let budget = Budget::read(workspace)?;
    let named = budget.workloads(kernel.series());
    let all = Workload::value_variants().iter().copied();
    let only: Vec<Workload> = all.filter(|workload| named.contains(&workload.name())).collect();
    ensure!(!only.is_empty(), "the budget names no workload");
    let options = Options {
        only,
        kernel,
        agent: None,
        agent_arguments: Vec::new(),
        log: false,
        short: true,
        budget: Some(BudgetUse::Check),
        json: false,
    };
    run(workspace, &options)
}

fn measure(workspace: &Workspace, workloads: &[Workload], options: &Options) -> Result<Vec<Value>> {
    setup::packages(Need::GUEST)?;
    for workload in workloads {
        setup::packages(workload.needs())?;
    }
    let agent = match &options.agent {
        Some(path) => path.clone(),
        None => build::agent(workspace)?,
    };
    let init = build::static_package(workspace, "porthole-bench-guest", "porthole-bench-guest")?;
    interrupt::install()?;
    let scratch = Scratch::create()?;
    let kernel = kernel_image(workspace, options.kernel, scratch.path())?;
    let initrd = report::step("pack the guest", || {
        let mut image = Image::new(&init, &agent)?;
        let mut planned = Vec::new();
        let repeated =
            workloads.iter().flat_map(|workload| (0..workload.repetitions()).map(move |_| workload));
        for (workload, port) in repeated.zip(FIRST_PORT..) {
            planned.push(workload.plan(workspace, scratch.path(), port, &mut image)?);
        }
        let plan = Plan {
            agent: options.agent_arguments.clone(),
            log: options.log,
            workloads: planned,
            programs: !options.short,
        };
        let path = scratch.path().join("initrd");
        fs::write(&path, image.finish(&plan)?).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    })?;
    let outcome =
        report::step("count instructions in the guest", || guest::run(&kernel, &initrd, MEMORY_MIB))?;
    report::note(&format!("guest kernel {}", outcome.release));
    outcome.log.lines().for_each(report::note);
    let mut results = workloads
        .iter()
        .map(|workload| summary(*workload, &outcome.release, &outcome.rows))
        .collect::<Result<Vec<_>>>()?;
    results.push(loading(&outcome));
    Ok(results)
}

/// What it takes once to load and attach the programs, in the form of the workloads' results: nearly all of it is the
/// kernel's verifier, and small changes of the programs move that by a few per cent.
fn loading(outcome: &Outcome) -> Value {
    let ns = outcome.loading.as_nanos().try_into().unwrap_or(u64::MAX);
    json!({
        "workload": LOADING,
        "kernel": outcome.release,
        "requests": 1,
        "baseline": ns,
        "added_kernel": ns,
        "added_agent": 0,
        "sent": 0,
        "counted": 0,
        "noise": 0.1,
    })
}

/// The kernel's boot image, in the scratch directory.
fn kernel_image(workspace: &Workspace, kernel: Kernel, directory: &Path) -> Result<PathBuf> {
    let cache = workspace.dist().cache.join("packages");
    let package = report::step("get the guest's kernel", || {
        Ok(package::fetch_series(&cache, kernel.series(), &mut report::note)?)
    })?;
    let bzimage = package::read_kernel(&package)?;
    let path = directory.join("kernel");
    fs::write(&path, kernel::boot_image(&bzimage).bytes).context("write the kernel")?;
    Ok(path)
}

/// The phases' figures of a workload, for one request: the costs of the cheapest repetition, as chance only adds to
/// them, and the counts of all.
#[allow(clippy::cast_precision_loss)]
fn summary(workload: Workload, release: &str, rows: &[Row]) -> Result<Value> {
    let name = &workload.name();
    let all = |phase: Phase| rows.iter().filter(move |row| row.workload == *name && row.phase == phase);
    let of = |phase: Phase| all(phase).min_by_key(|row| row.elapsed_ns);
    let without = of(Phase::Without).with_context(|| format!("{name} without the agent"))?;
    let with = of(Phase::With).with_context(|| format!("{name} with the agent"))?;
    let requests: u64 = all(Phase::With).map(|row| row.requests).sum();
    let each = |row: &Row, total: u64| total as f64 / row.requests as f64;
    let baseline = each(without, without.elapsed_ns);
    let added_agent = each(with, with.agent_ns);
    let mut result = json!({
        "workload": name,
        "kernel": release,
        "requests": requests,
        "baseline": baseline,
        "added_kernel": each(with, with.elapsed_ns) - added_agent - baseline,
        "added_agent": added_agent,
        "sent": requests * workload.exchanges(),
        "counted": all(Phase::With).map(|row| row.counted).sum::<u64>(),
        "noise": workload.noise(),
    });
    if let Some(accounted) = of(Phase::Accounted) {
        let programs = accounted.programs.iter().map(|(program, cost)| {
            let figures = json!({
                "runs": each(accounted, cost.runs),
                "instructions": each(accounted, cost.ns),
            });
            (program.clone(), figures)
        });
        result["programs"] = Value::Object(programs.collect());
        let sum = |of: fn(&porthole_bench_guest::Program) -> u64| {
            each(accounted, accounted.programs.values().map(of).sum())
        };
        result["in_programs"] = json!(sum(|cost| cost.ns));
        result["program_runs"] = json!(sum(|cost| cost.runs));
    }
    Ok(result)
}

/// Prints what each eBPF program takes of a request, by the kernel's accounting.
fn print_programs(result: &Value) {
    let Some(programs) = result["programs"].as_object() else { return };
    let parts = programs.iter().map(|(name, cost)| {
        format!("{name} {} in {} runs", super::shown(&cost["instructions"]), super::shown(&cost["runs"]))
    });
    let parts: Vec<String> = parts.collect();
    let shown = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    println!("- {}: {shown}", super::shown(&result["workload"]));
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use porthole_bench_guest::Program;

    use super::*;

    fn row(phase: Phase, elapsed_ns: u64, agent_ns: u64, counted: u64) -> Row {
        let programs = BTreeMap::from([("hook".to_owned(), Program { runs: 40, ns: 4_000 })]);
        let workload = "redis".to_owned();
        Row { workload, phase, requests: 10, elapsed_ns, agent_ns, counted, programs }
    }

    #[test]
    fn what_is_added_is_shared_between_kernel_and_agent() {
        let rows = [
            row(Phase::Without, 1_000, 0, 0),
            row(Phase::With, 1_700, 200, 20),
            row(Phase::Accounted, 2_000, 200, 20),
        ];
        let result = summary(Workload::Redis, "6.1", &rows).unwrap();
        assert_eq!(result["baseline"], json!(100.0));
        assert_eq!(result["added_kernel"], json!(50.0));
        assert_eq!(result["added_agent"], json!(20.0));
        assert_eq!((&result["sent"], &result["counted"]), (&json!(20), &json!(20)));
        assert_eq!(result["programs"]["hook"], json!({"runs": 4.0, "instructions": 400.0}));
    }

    #[test]
    fn the_cheapest_repetition_is_the_cost_and_all_are_counted() {
        let rows = [
            row(Phase::Without, 1_000, 0, 0),
            row(Phase::Without, 1_200, 0, 0),
            row(Phase::With, 1_700, 200, 20),
            row(Phase::With, 2_100, 400, 20),
            row(Phase::Accounted, 2_000, 200, 20),
            row(Phase::Accounted, 2_000, 200, 20),
        ];
        let result = summary(Workload::Redis, "6.1", &rows).unwrap();
        assert_eq!((&result["requests"], &result["baseline"]), (&json!(20), &json!(100.0)));
        assert_eq!((&result["added_kernel"], &result["added_agent"]), (&json!(50.0), &json!(20.0)));
        assert_eq!((&result["sent"], &result["counted"]), (&json!(40), &json!(40)));
        assert_eq!(result["programs"]["hook"], json!({"runs": 4.0, "instructions": 400.0}));
    }

    #[test]
    fn loading_is_a_result_beside_those_of_the_workloads() {
        let loading = loading(&Outcome {
            release: "6.1".to_owned(),
            loading: Duration::from_millis(4),
            log: String::new(),
            rows: Vec::new(),
        });
        assert_eq!((&loading["workload"], &loading["added_kernel"]), (&json!("loading"), &json!(4_000_000)));
    }

    #[test]
    fn a_phase_that_is_missing_is_an_error() {
        assert!(summary(Workload::Redis, "6.1", &[row(Phase::Without, 1, 0, 0)]).is_err());
    }
}
