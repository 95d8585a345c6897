//! `cargo xtask attack`: hostile agents and hostile clients against the exporter, a hostile guest against the host.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use porthole_attack::{Options as Attacking, Outcome, attack::Attack, guest};
use porthole_testbed::{exporter, interrupt};
use serde_json::{Value, json};

use crate::{
    build,
    setup::{self, Need},
    workspace::{Workspace, require_root},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask attack                      every attack for ten seconds; times are goals too
  sudo -E cargo xtask attack --short              what the test command runs: half a second each, times are only shown
  sudo -E cargo xtask attack --only churn,flood --seed 7 --json

In each attack 100 hostile sandboxes of 50 tenants do the same at once, beside 20 honest ones, with default limits.
Exit code 1 if a goal is missed: an honest count that is not exact, a series or a span of another tenant,
more than 512 MiB of memory, and but for --short a scrape of more than a second or more than two seconds behind.
`hostile-guest` is root in a real guest; there the goals are that nothing of the host changes and nothing remains.";

/// How long each attack lasts.
const DURATION: Duration = Duration::from_secs(10);

/// The same in the short form.
const SHORT: Duration = Duration::from_millis(500);

/// Attacks of agents and clients that are made together, under one name.
type Named<'a> = (&'a str, Vec<Attack>);

/// Name of all attacks at the same time.
const TOGETHER: &str = "all-at-once";

/// Options of `cargo xtask attack`.
#[derive(clap::Args)]
pub struct Options {
    /// What all random numbers follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these attacks, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Half a second for each attack, and times that are no goals
    #[arg(long)]
    short: bool,
    /// Exporter to attack in place of the one that is built from this tree
    #[arg(long, value_name = "FILE")]
    exporter: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Attacks and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let (agents, guest) = chosen(&options.only)?;
    require_root("the registry of sandboxes")?;
    if guest {
        setup::packages(Need::RUN)?;
        build::everything(workspace)?;
    } else if options.exporter.is_none() {
        build::host_programs(workspace)?;
    }
    interrupt::install()?;
    raise_descriptor_limit()?;
    let mut findings = Findings::default();
    let agents = from_agents(workspace, &agents, options, &mut findings)?;
    let guest = if guest { Some(from_guest(workspace, options, &mut findings)?) } else { None };
    if options.json {
        let report = json!({ "seed": options.seed, "attacks": agents, guest::NAME: guest });
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(if findings.0 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The short form for the test command, which has built everything.
pub fn check(workspace: &Workspace) -> Result<()> {
    let options = Options { seed: 1, only: Vec::new(), short: true, exporter: None, json: false };
    raise_descriptor_limit()?;
    let mut findings = Findings::default();
    from_agents(workspace, &chosen(&[])?.0, &options, &mut findings)?;
    from_guest(workspace, &options, &mut findings)?;
    ensure!(findings.0 == 0, "{} goals were missed", findings.0);
    Ok(())
}

/// How many goals were missed.
#[derive(Default)]
struct Findings(usize);

impl Findings {
    fn print(&mut self, attack: &str, findings: &[String]) {
        for finding in findings {
            eprintln!("{attack}: {finding}");
        }
        self.0 += findings.len();
    }
}

/// The attacks of hostile agents and clients, each reported when it is over.
fn from_agents(
    workspace: &Workspace,
    chosen: &[Named],
    options: &Options,
    findings: &mut Findings,
) -> Result<Vec<Value>> {
    let attacking = Attacking {
        seed: options.seed,
        duration: if options.short { SHORT } else { DURATION },
        timed: !options.short,
    };
    let exporter = options.exporter.clone();
    let exporter = exporter.unwrap_or_else(|| workspace.dist().program(exporter::PROGRAM));
    if !options.json && !chosen.is_empty() {
        println!("{}", Outcome::titles());
    }
    let mut reports = Vec::new();
    for (name, attacks) in chosen {
        let outcome = porthole_attack::run(&exporter, name, attacks, &attacking)?;
        if !options.json {
            println!("{}", outcome.line());
        }
        findings.print(name, &outcome.findings);
        reports.push(outcome.json());
    }
    Ok(reports)
}

/// The attack from a guest.
fn from_guest(workspace: &Workspace, options: &Options, findings: &mut Findings) -> Result<Value> {
    let environment = guest::environment(workspace.dist())?;
    let outcome = guest::run(&environment, options.seed, if options.short { 20 } else { 200 });
    let finished = environment.finish();
    let outcome = outcome?;
    finished?;
    if !options.json {
        println!("{}", outcome.line());
    }
    findings.print(guest::NAME, &outcome.findings);
    Ok(outcome.json())
}

/// The attacks of agents and clients by these names, and whether the guest's is among them; all, and all agents at once,
/// without any name.
fn chosen(names: &[String]) -> Result<(Vec<Named<'_>>, bool)> {
    let all = Attack::ALL.iter().map(|&attack| (attack.name(), vec![attack]));
    let all: Vec<_> = all.chain([(TOGETHER, Attack::ALL.to_vec())]).collect();
    for name in names {
        let known: Vec<_> = all.iter().map(|(known, _)| *known).chain([guest::NAME]).collect();
        ensure!(known.contains(&name.as_str()), "no attack `{name}`; there are {}", known.join(", "));
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    Ok((all.into_iter().filter(|(name, _)| wanted(name)).collect(), wanted(guest::NAME)))
}

/// Thousands of connections have both ends here.
fn raise_descriptor_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_chosen_by_name_and_all_without_one() {
        let (agents, guest) = chosen(&[]).expect("all");
        assert_eq!((agents.len(), guest), (Attack::ALL.len() + 1, true));
        let two = [TOGETHER.to_owned(), "churn".to_owned()];
        let (agents, guest) = chosen(&two).expect("two");
        let names: Vec<_> = agents.into_iter().map(|(name, _)| name).collect();
        assert_eq!((names, guest), (vec!["churn", TOGETHER], false));
        assert!(chosen(&[guest::NAME.to_owned()]).is_ok_and(|(agents, guest)| agents.is_empty() && guest));
        assert!(chosen(&["kindness".to_owned()]).is_err());
    }
}
