//! `porthole`: the operator's command line.
//!
//! Each subcommand is a module: [`replay`] shows what Porthole makes of a capture file.

mod replay;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  porthole replay capture.pcap            every exchange of a capture file, and a summary
  porthole replay --json capture.pcapng   the same for programs
  tcpdump -i lo -w - | porthole replay -  what is captured now

Exit codes:
  0  done
  1  could not be done; the reason is on standard error
  2  wrong arguments";

/// Porthole's command line.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the requests and responses in a capture file.
    Replay(replay::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Replay(options) => replay::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("porthole: {error:#}");
            ExitCode::FAILURE
        }
    }
}
