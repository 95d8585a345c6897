//! `porthole`: the operator's command line.
//!
//! Each subcommand is a module: [`replay`] shows what Porthole makes of a capture file, [`sandboxes`], [`top`], [`topology`] and
//! [`traces`] what the [`exporter`] has, [`doctor`] what a host lacks, [`install`] puts the parts in place and takes them away,
//! [`image`] adds the agent to guest images of other runtimes, [`token`] makes tokens for readers of the exporter.

mod doctor;
mod exporter;
mod image;
mod install;
mod replay;
mod sandboxes;
mod table;
mod tls;
mod token;
mod top;
mod topology;
mod traces;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use porthole_config::LOG_ENV;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  porthole doctor                         what this host lacks, and what to do about it
  porthole install --dist target/dist     put programs, images and configuration in place
  porthole image kata --help              the agent in a guest image of Kata
  porthole sandboxes                      every sandbox, its state, and why
  porthole top                            rate, errors and latency by application
  porthole topology                       who calls whom
  porthole traces                         the newest traces; with an id the calls of one
  porthole token create NAME --operator   a bearer token for who reads the exporter
  porthole replay capture.pcap            every exchange of a capture file, and a summary
  porthole replay --json capture.pcapng   the same for programs
  porthole replay --compare tshark DIR    where Wireshark's dissectors count otherwise
  tcpdump -i lo -w - | porthole replay -  what is captured until tcpdump ends

Environment:
  PORTHOLE_CONFIG  configuration file
  PORTHOLE_LOG     log filter, for example `debug`; the log goes to standard error

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
    /// Check what this host needs to run sandboxes and to watch them
    Doctor(doctor::Options),
    /// Put Porthole's parts in place
    Install(install::Options),
    /// Remove exactly what `install` put in place
    Uninstall(install::UninstallOptions),
    /// Add the agent to guest images of other runtimes
    Image(image::Options),
    /// Show the requests and responses in a capture file
    Replay(replay::Options),
    /// List the exporter's sandboxes
    Sandboxes(sandboxes::Options),
    /// Show rate, errors and latency by application, refreshed
    Top(top::Options),
    /// Show who calls whom
    Topology(topology::Options),
    /// List traces, or show the calls of one
    Traces(traces::Options),
    /// Make, list and revoke tokens for those who read the exporter
    Token(token::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("warn"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let result = match arguments.command {
        Command::Doctor(options) => doctor::run(&options),
        Command::Install(options) => install::run(&options),
        Command::Uninstall(options) => install::uninstall(&options),
        Command::Image(options) => image::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Sandboxes(options) => sandboxes::run(&options),
        Command::Top(options) => top::run(&options),
        Command::Topology(options) => topology::run(&options),
        Command::Traces(options) => traces::run(&options),
        Command::Token(options) => token::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("porthole: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
