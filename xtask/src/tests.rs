//! `cargo xtask test`: set-up, build, all tests, one line at the end.

use std::{
    io::{BufRead, BufReader},
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result};
use porthole_testbed::dist::{CACHE_ENV, DIST_ENV};

use crate::{
    build, report,
    setup::{self, Need},
    workspace::{Workspace, require_root},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask test             everything, about ten minutes under emulation
  sudo -E cargo xtask test leaks       only tests whose name contains `leaks`
  sudo -E cargo xtask test --all       the slow ones too

The last line is `N passed, N failed`, summed over all test programs.";

/// Tells tests that root, containerd and guests are theirs to use.
const E2E_ENV: &str = "PORTHOLE_E2E";

/// Tells tests that time does not matter.
const ALL_ENV: &str = "PORTHOLE_TEST_ALL";

/// Names the folder with a Kafka broker's jars, and Jedis.
const KAFKA_ENV: &str = "PORTHOLE_KAFKA_JARS";

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// Run the slow tests too.
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Sums over all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    /// Adds a program's closing line: `test result: ok. 3 passed; 0 failed; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            match (words.next().and_then(|number| number.parse::<u64>().ok()), words.next()) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed")) => self.failed += number,
                _ => {}
            }
        }
    }
}

/// Runs all tests.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    require_root("running containers and guests")?;
    setup::packages(Need::RUN)?;
    setup::packages(Need::TEST)?;
    if options.all {
        setup::packages(Need::TEST_ALL)?;
    }
    build::everything(workspace)?;
    let mut totals = Totals::default();
    let succeeded = report::step("test", || test(workspace, options, &mut totals))?;
    if !succeeded && totals.failed == 0 {
        eprintln!("error: a test program did not build, or ended without its closing line");
        totals.failed = 1;
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs cargo's tests, passing its output on; whether it succeeded.
fn test(workspace: &Workspace, options: &Options, totals: &mut Totals) -> Result<bool> {
    let dist = workspace.dist();
    let mut command = workspace.cargo();
    command
        .args(["test", "--quiet", "--locked", "--workspace", "--no-fail-fast"])
        .env(E2E_ENV, "1")
        .env(DIST_ENV, &dist.root)
        .env(CACHE_ENV, &dist.cache)
        .env("PORTHOLE_BPF_OBJECT", dist.root.join("bpf/porthole.bpf.o"))
        .stdout(Stdio::piped());
    if options.all {
        command.env(ALL_ENV, "1").env(KAFKA_ENV, setup::kafka_jars(workspace)?);
    }
    if let Some(filter) = &options.filter {
        command.args(["--", filter]);
    }
    let mut child = command.spawn().context("run cargo test")?;
    let stdout = child.stdout.take().context("the output of cargo test")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("read the output of cargo test")?).into_owned();
        println!("{line}");
        totals.add(&line);
    }
    Ok(child.wait().context("wait for cargo test")?.success())
}

#[cfg(test)]
mod unit {
    use super::Totals;

    #[test]
    fn closing_lines_are_summed_and_other_lines_ignored() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "3 passed; 4 failed",
            "test leaks::nothing_remains ... ok",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 12, failed: 2 });
    }
}
