//! `porthole doctor`: what this host needs to run sandboxes and to watch them, a line each with what to do about it.
//!
//! [`configuration`] reads the file, [`host`] looks at devices, programs and images, [`kata`] at Kata where it is the
//! delegate, [`containerd`] at containerd, [`device`] at devices, [`program`] finds and runs programs. Checks look and
//! change nothing.

mod configuration;
mod containerd;
mod device;
mod host;
mod kata;
mod program;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
pub use containerd::RUNTIME_TYPE;
use serde::Serialize;

use crate::table::{self, printable};

/// Options of `porthole doctor`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Configuration file; default: `PORTHOLE_CONFIG`, else /etc/porthole/porthole.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of containerd
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// Configuration file of containerd
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    containerd_config: PathBuf,
    /// Print one JSON object with `checks`
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// As it should be.
    Ok,
    /// It works, less well, or not for everything.
    Warn,
    /// It cannot work.
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    /// What was looked at; a fixed set of words.
    name: &'static str,
    outcome: Outcome,
    /// What was found.
    found: String,
    /// What to do, unless it is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
}

/// Runs every check and prints the results; fails when something cannot work.
pub fn run(options: &Options) -> Result<()> {
    let mut checks = Vec::new();
    let settings = configuration::check(options.config.as_deref(), &mut checks);
    host::check(&settings, &mut checks);
    containerd::check(&options.containerd, &options.containerd_config, &mut checks);
    host::exporter(&settings, &mut checks);
    let failed = checks.iter().filter(|check| check.outcome == Outcome::Fail).count();
    let report = Report { checks };
    let printed =
        if options.json { table::json(&report) } else { table::to_stdout(|out| print(&report, out)) };
    printed.context("print")?;
    if failed > 0 {
        bail!("{failed} of {} checks failed", report.checks.len());
    }
    Ok(())
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let word = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        writeln!(out, "{word:4}  {:width$}  {}", check.name, printable(&check.found))?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "      {:width$}  -> {}", "", printable(remedy))?;
        }
    }
    Ok(())
}
