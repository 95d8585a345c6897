//! `cargo xtask test`: set-up, build, all tests, one line at the end. An ignored test fails the command unless its reason
//! is accepted.

mod failures;
mod verdict;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result};
use porthole_testbed::dist::{CACHE_ENV, DIST_ENV};
use porthole_trials::{needs::ALL_ENV, report::REPORT_ENV};

use self::{
    failures::Failures,
    verdict::{Ignored, Totals},
};
use crate::{
    build, checks, report,
    setup::{self, Need},
    web,
    workspace::{Workspace, require_root},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask test             everything, about half an hour under emulation
  sudo -E cargo xtask test leaks       only tests whose name contains `leaks`
  sudo -E cargo xtask test --all       the slow ones too

A test that cannot run although everything was set up counts as failed, unless its reason is accepted
(libs/trials/src/reasons.rs): the slow ones without `--all`, and what this machine's kernel lacks.
Behind the output of the test programs come the slowest tests, the ignored ones with their reasons,
the failed ones with the first lines that they printed, and as the last line `N passed, N failed`, summed over all test programs.";

/// Set for tests that may use root, containerd and guests.
const E2E_ENV: &str = "PORTHOLE_E2E";

/// Names the folders with the jars of Kafka brokers, and Jedis.
const KAFKA_ENV: &str = "PORTHOLE_KAFKA_JARS";

/// Names the folder with a Collector of OpenTelemetry, and Jaeger.
const COLLECTOR_ENV: &str = "PORTHOLE_COLLECTOR";

/// Names the folder with oauth2-proxy and a mock of an `OpenID` Connect provider.
const OIDC_ENV: &str = "PORTHOLE_OIDC";

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// Run the slow tests too.
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs all tests.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    require_root("running containers and guests")?;
    setup::packages(Need::RUN)?;
    setup::packages(Need::TEST)?;
    setup::available_packages(Need::TEST_WHERE_THERE_IS_ONE)?;
    if options.all {
        setup::packages(Need::TEST_ALL)?;
    }
    build::everything(workspace)?;
    let report = workspace.target.join("test-report.jsonl");
    if report.exists() {
        fs::remove_file(&report).context("remove the last test report")?;
    }
    let mut totals = Totals::default();
    let mut failures = Failures::default();
    let succeeded = report::step("test", || test(workspace, options, &report, &mut totals, &mut failures))?;
    failures.end();
    totals.failed += failures.killed;
    if !succeeded && totals.failed == 0 {
        failures.push("build", "a test program did not build");
        totals.failed = 1;
    }
    let trials = porthole_trials::report::read(&report)?;
    let ignored = Ignored::of(&trials, totals.ignored);
    println!("The slowest tests:");
    for line in verdict::slowest(&trials).into_iter().chain(ignored.lines()) {
        println!("{line}");
    }
    totals.failed += ignored.refused();
    println!("{} ignored", totals.ignored);
    for (name, reason) in ignored.names_of_refused() {
        failures.push(name, reason);
    }
    let checked = checks::run(workspace, options.filter.as_deref());
    totals.passed += checked.passed;
    for (name, error) in checked.failed {
        failures.push(name, format!("{error:#}"));
        totals.failed += 1;
    }
    for line in failures.lines() {
        println!("{line}");
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(if succeeded && totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs cargo's tests, passing its output on; whether it succeeded.
fn test(
    workspace: &Workspace,
    options: &Options,
    report: &Path,
    totals: &mut Totals,
    failures: &mut Failures,
) -> Result<bool> {
    let dist = workspace.dist();
    let mut command = workspace.cargo();
    // Cargo prints which program runs, the programs how long they took.
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .env(E2E_ENV, "1")
        .env(DIST_ENV, &dist.root)
        .env(CACHE_ENV, &dist.cache)
        .env(REPORT_ENV, report)
        .env(web::BUNDLE_ENV, web::folder(workspace))
        .env("PORTHOLE_BPF_OBJECT", dist.root.join("bpf/porthole.bpf.o"))
        .stdout(Stdio::piped());
    if let Some(programs) = setup::go_programs(workspace, &setup::COLLECTOR)? {
        command.env(COLLECTOR_ENV, programs);
    }
    if options.all {
        command.env(ALL_ENV, "1").env(KAFKA_ENV, setup::kafka_jars(workspace)?);
        if let Some(programs) = setup::go_programs(workspace, &setup::OIDC)? {
            command.env(OIDC_ENV, programs);
        }
    }
    command.args(["--", "--quiet"]).args(&options.filter);
    let mut child = command.spawn().context("run cargo test")?;
    let stdout = child.stdout.take().context("the output of cargo test")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("read the output of cargo test")?).into_owned();
        println!("{line}");
        totals.add(&line);
        failures.add(&line);
    }
    Ok(child.wait().context("wait for cargo test")?.success())
}
