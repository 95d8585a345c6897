//! `cargo xtask bench`: what Porthole costs, as ratios against a baseline of the same run.
//!
//! Machines are shared and noisy: every measurement comes in pairs, with and without the agent, in alternating order,
//! and the median over the pairs is the result. [`server`] runs the server of a [`workload`] and [`load`] its client,
//! [`agent`] runs the agent in one of its modes ([`mode`]), [`programs`] reads the kernel's account of its programs;
//! [`overhead`] brings them together in a place on this machine ([`native`]), [`guest`] in guests.

mod agent;
mod capacity;
mod delay;
mod exporter;
mod guest;
mod ignored;
mod instructions;
mod load;
mod memory;
mod mode;
mod native;
mod overhead;
mod programs;
mod server;
mod starts;
mod talk;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

pub use instructions::check as check_instructions;

use crate::workspace::Workspace;

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask bench overhead         servers with the agent off and on
  sudo -E cargo xtask bench overhead --only nginx,redis --mode kernel-counts,agent-counts,packets --json
  sudo -E cargo xtask bench ignored          what a connection of no interest costs
  sudo -E cargo xtask bench agent            how much the agent takes before it loses anything
  sudo -E cargo xtask bench memory           its memory with 1,000 connections and 500 keys
  sudo -E cargo xtask bench delay            from a request to its count at the exporter
  sudo -E cargo xtask bench guest            the same in two guests, with Porthole and without
  cargo xtask bench exporter                 the exporter with 100, 1,000 and 4,000 agents: memory, batches, scrapes
  sudo -E cargo xtask bench starts           sandboxes that live shortly: all requests counted; times of starts
  cargo xtask bench instructions             what a request costs, in instructions: the same figures in every run
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
    /// What ignored connections and other system calls cost, beside followed connections.
    Ignored(ignored::Options),
    /// Events a second that one core takes before any is lost, and what a loss looks like.
    Agent(capacity::Options),
    /// The agent's memory with many connections and keys.
    Memory(memory::Options),
    /// The time from a request to its count at the exporter.
    Delay(delay::Options),
    /// The exporter's memory, CPU time and scrapes with many simulated agents.
    Exporter(exporter::Options),
    /// The same as `overhead` in guests: one with Porthole and one without, side by side, each with server and client in it.
    Guest(guest::Options),
    /// Whether all requests of sandboxes that live shortly are counted, and what Porthole adds to a start.
    Starts(starts::Options),
    /// Instructions of a request without and with the agent, counted by an emulated guest: figures without noise.
    Instructions(instructions::Options),
    /// Throughput of the parsers, and allocations per exchange.
    L7(L7Options),
}

/// Options of `cargo xtask bench l7`.
#[derive(clap::Args)]
struct L7Options {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs a benchmark.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    match &options.what {
        What::Overhead(options) => overhead::run(workspace, options)?,
        What::Ignored(options) => ignored::run(workspace, options)?,
        What::Agent(options) => capacity::run(workspace, options)?,
        What::Memory(options) => memory::run(workspace, options)?,
        What::Delay(options) => delay::run(workspace, options)?,
        What::Exporter(options) => exporter::run(workspace, options)?,
        What::Guest(options) => guest::run(workspace, options)?,
        What::Starts(options) => starts::run(workspace, options)?,
        What::Instructions(options) => instructions::run(workspace, options)?,
        What::L7(options) => l7(workspace, options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn l7(workspace: &Workspace, options: &L7Options) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["run", "--release", "--package", "porthole-l7", "--example", "throughput"]);
    if options.json {
        command.args(["--", "--json"]);
    }
    crate::workspace::run(&mut command)
}

/// Prints results as one JSON object by this name, or as a table of these columns.
fn print_results(name: &str, results: &[Value], json: bool, columns: &[(&str, &str)]) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&json!({ name: results }))?);
    } else {
        print_table(results, columns);
    }
    Ok(())
}

/// Prints results under their titles, a line each, as a table of Markdown.
fn print_table(results: &[Value], columns: &[(&str, &str)]) {
    let cells = |result: &Value| -> Vec<String> {
        let figures = columns.iter().map(|(_, key)| shown(&result[key]));
        std::iter::once(shown(&result["workload"])).chain(figures).collect()
    };
    let titles = std::iter::once("workload").chain(columns.iter().map(|(title, _)| *title));
    let mut lines = vec![titles.map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(results.iter().map(cells));
    let widest =
        |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..=columns.len()).map(|at| widest(at).unwrap_or_default()).collect();
    let print = |line: &[String]| {
        let padded = line.iter().zip(&widths).enumerate();
        let padded = padded.map(|(at, (cell, &width))| match at {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(at, &width)| match at {
            0 => "-".repeat(width),
            _ => format!("{}:", "-".repeat(width - 1)),
        })
        .collect();
    for (number, line) in lines.iter().enumerate() {
        print(line);
        if number == 0 {
            print(&rule);
        }
    }
}

/// A figure with as many digits as it is worth, texts as they are, `-` for what there is not.
fn shown(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    let Some(number) = value.as_f64() else { return "-".to_owned() };
    if number.abs() < 100.0 && number.fract() != 0.0 {
        return format!("{number:.3}");
    }
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 { format!("-{text}") } else { text }
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
    use serde_json::{Value, json};

    use super::{median, shown};

    #[test]
    fn figures_are_shown_with_the_digits_that_they_are_worth() {
        for (value, expected) in [
            (json!(0.98765), "0.988"),
            (json!(2.0), "2"),
            (json!(765.4), "765"),
            (json!(-712_320), "-712,320"),
            (json!(1_745_454.5), "1,745,454"),
            (json!("text"), "text"),
            (Value::Null, "-"),
        ] {
            assert_eq!(shown(&value), expected);
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
