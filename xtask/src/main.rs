//! Development commands: `cargo xtask build`, `test`, `demo`, `lint`. Each does its own set-up.
//!
//! [`setup`] brings what the machine lacks (distribution packages, build tools), [`build`] makes the parts, and the
//! rest uses them. Invariant: what is there already is not fetched again, so that everything works offline once it
//! has worked.

mod attack;
mod bench;
mod build;
mod checks;
mod coverage;
mod demo;
mod docs;
mod fuzz;
mod graph;
mod kata;
mod lint;
mod report;
mod setup;
mod tests;
mod web;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Porthole's development commands. Each sets up what it needs and prints what it is going to install.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask demo           run eight applications of three tenants and look at their metrics
  sudo -E cargo xtask demo --once    the same, check every count, leave nothing behind
  sudo -E cargo xtask test           set up, build and run all tests, the end-to-end ones too
  cargo xtask lint                   what has to pass before a commit

Root is needed where packages are installed, and where containers and guests run.";

#[derive(Subcommand)]
enum Command {
    /// Build everything into target/dist.
    #[command(after_help = build::EXAMPLES)]
    Build(build::Options),
    /// Check format, lints, licences, advisories and documentation.
    #[command(after_help = lint::EXAMPLES)]
    Lint(lint::Options),
    /// Run all tests.
    #[command(after_help = tests::EXAMPLES)]
    Test(tests::Options),
    /// Print which share of each crate's lines the tests run.
    #[command(after_help = coverage::EXAMPLES)]
    Coverage(coverage::Options),
    /// Build the fuzz targets and run each, beginning with the recordings.
    #[command(after_help = fuzz::EXAMPLES)]
    Fuzz(fuzz::Options),
    /// Draw which crates, or which modules of a crate, use which.
    #[command(after_help = graph::EXAMPLES)]
    Graph(graph::Options),
    /// Attack the exporter with hostile agents and clients, and the host from a guest, and print what others notice.
    #[command(after_help = attack::EXAMPLES)]
    Attack(attack::Options),
    /// Measure what Porthole costs.
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Options),
    /// Show Porthole at work: real containerd, guests, applications and Prometheus.
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Options),
    /// Write the generated parts of the documents.
    #[command(after_help = docs::EXAMPLES)]
    Docs,
    /// Take the documents' pictures of the dashboards of a running demo.
    #[command(after_help = web::EXAMPLES)]
    Screenshots(web::Screenshots),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Workspace::find().and_then(|workspace| match &arguments.command {
        Command::Build(options) => build::run(&workspace, options),
        Command::Lint(options) => lint::run(&workspace, options),
        Command::Test(options) => tests::run(&workspace, options),
        Command::Coverage(options) => coverage::run(&workspace, options),
        Command::Fuzz(options) => fuzz::run(&workspace, options),
        Command::Graph(options) => graph::run(&workspace, options),
        Command::Attack(options) => attack::run(&workspace, options),
        Command::Bench(options) => bench::run(&workspace, options),
        Command::Demo(options) => demo::run(&workspace, options),
        Command::Docs => docs::run(&workspace),
        Command::Screenshots(options) => web::screenshots(&workspace, options),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
