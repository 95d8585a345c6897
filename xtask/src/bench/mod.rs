//! `cargo xtask bench`: what Porthole costs, as ratios against a baseline of the same run.
//!
//! Machines are shared and noisy: every measurement comes in pairs, with and without the agent, in alternating order,
//! and the median over the pairs is what is said. [`workload`] runs a server and its client, [`agent`] the agent,
//! [`overhead`] brings them together natively, [`guest`] in guests.

mod agent;
mod guest;
mod overhead;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::workspace::Workspace;

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask bench overhead                 nginx and redis with the agent off and on
  cargo xtask bench overhead --pairs 15 --seconds 4 --json
  sudo -E cargo xtask bench guest            the same in two guests, with Porthole and without
  cargo xtask bench l7                       parser throughput and allocations";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Throughput and p99 of servers with the agent on, relative to off, natively on this machine.
    Overhead(overhead::Options),
    /// The same in guests: one with Porthole and one without, side by side, each with server and client in it.
    Guest(guest::Options),
    /// Throughput of the parsers, and allocations per exchange.
    L7,
}

/// Runs a benchmark.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    match &options.what {
        What::Overhead(options) => overhead::run(workspace, options)?,
        What::Guest(options) => guest::run(workspace, options)?,
        What::L7 => crate::workspace::run(workspace.cargo().args([
            "run",
            "--release",
            "--package",
            "porthole-l7",
            "--example",
            "throughput",
        ]))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints results under their titles, a line each.
fn print_table(results: &[serde_json::Value], columns: &[(&str, &str)]) {
    print!("{:<38}", "workload");
    for (title, _) in columns {
        print!(" {title:>13}");
    }
    println!();
    for result in results {
        print!("{:<38}", result["workload"].as_str().unwrap_or_default());
        for (_, key) in columns {
            print!(" {:>13.3}", result[key].as_f64().unwrap_or(f64::NAN));
        }
        println!();
    }
}

/// The median; `None` of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some(f64::midpoint(*values.get(middle - 1)?, *values.get(middle)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
