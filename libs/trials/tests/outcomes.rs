//! What a program of trials prints and reports, by running one: this program itself, as its own child.

use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, ensure};
use porthole_trials::{
    CannotRun, Outcome, Trial,
    report::{self, Entry, REPORT_ENV},
    trials,
};

/// Makes this program the one that is tested.
const CHILD_ENV: &str = "PORTHOLE_TRIALS_CHILD";

fn main() -> ExitCode {
    if std::env::var_os(CHILD_ENV).is_some() {
        return tested();
    }
    porthole_trials::run(trials![
        a_trial_that_cannot_run_is_ignored_with_its_reason,
        a_trial_that_fails_or_panics_fails_the_program,
        the_report_has_every_trial_that_ended,
    ])
}

/// The program that is tested: a trial for each outcome.
fn tested() -> ExitCode {
    porthole_trials::run([
        Trial::new("passes", || Ok(())),
        Trial::new("lacks", || Err(CannotRun::because("no such server").into())),
        Trial::new("lacks_deep_down", || Err(CannotRun::because("no root")).context("start the agent")),
        Trial::new("fails", || anyhow::bail!("two is not three")),
        Trial::new("panics", || panic!("at the disco")),
    ])
}

/// Runs the tested program on the trials whose name contains a word.
fn child(filter: &str, report: Option<&std::path::Path>) -> anyhow::Result<(Output, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(filter).env(CHILD_ENV, "1").env_remove(REPORT_ENV);
    if let Some(report) = report {
        command.env(REPORT_ENV, report);
    }
    let output = command.output()?;
    let text = String::from_utf8(output.stdout.clone())?;
    Ok((output, text))
}

fn a_trial_that_cannot_run_is_ignored_with_its_reason() -> Outcome {
    let (output, text) = child("s", None)?;
    ensure!(!output.status.success());
    let (output, lacking) = child("lacks", None)?;
    ensure!(output.status.success(), "{lacking}");
    ensure!(
        lacking.contains("ignored (no such server)") && lacking.contains("ignored (no root)"),
        "{lacking}"
    );
    ensure!(text.contains("1 passed; 2 failed; 2 ignored"), "{text}");
    Ok(())
}

fn a_trial_that_fails_or_panics_fails_the_program() -> Outcome {
    for (name, message) in [("fails", "two is not three"), ("panics", "at the disco")] {
        let (output, text) = child(name, None)?;
        ensure!(!output.status.success() && text.contains("0 passed; 1 failed; 0 ignored"), "{text}");
        ensure!(text.contains(message), "{text}");
    }
    Ok(())
}

fn the_report_has_every_trial_that_ended() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("report");
    for filter in ["passes", "lacks", "fails"] {
        child(filter, Some(&path))?;
    }
    let entries = report::read(&path)?;
    let found: Vec<_> =
        entries.iter().map(|Entry { name, ignored, .. }| (&**name, ignored.as_deref())).collect();
    let expected = [
        ("passes", None),
        ("lacks", Some("no such server")),
        ("lacks_deep_down", Some("no root")),
        ("fails", None),
    ];
    ensure!(found == expected, "{found:?}");
    Ok(())
}
