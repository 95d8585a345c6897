//! What `cargo xtask test` checks beside the tests of the crates. Each check counts as one test.

use anyhow::Result;

use crate::{attack, bench, fuzz, kata, report, web, workspace::Workspace};

/// A check by its name, for the filter of `cargo xtask test`.
type Check = (&'static str, fn(&Workspace) -> Result<()>);

const CHECKS: [Check; 5] = [
    ("web", web::check),
    ("instructions", bench::check_instructions),
    ("fuzz", fuzz::check),
    ("attack", attack::check),
    ("kata_initrd_boots", kata::check),
];

/// What became of the checks.
#[derive(Default)]
pub struct Checked {
    pub passed: u64,
    /// Names with their errors.
    pub failed: Vec<(&'static str, anyhow::Error)>,
}

/// Runs the checks whose name contains the filter.
pub fn run(workspace: &Workspace, filter: Option<&str>) -> Checked {
    let mut checked = Checked::default();
    for (name, check) in CHECKS {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        match report::step(name, || check(workspace)) {
            Ok(()) => checked.passed += 1,
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                checked.failed.push((name, error));
            }
        }
    }
    checked
}
