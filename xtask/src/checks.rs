//! What `cargo xtask test` checks beside the tests of the crates. Each check counts as one test.

use anyhow::Result;

use crate::{bench, fuzz, report, workspace::Workspace};

/// A check by its name, for the filter of `cargo xtask test`.
type Check = (&'static str, fn(&Workspace) -> Result<()>);

const CHECKS: [Check; 2] = [("instructions", bench::check_instructions), ("fuzz", fuzz::check)];

/// Runs the checks whose name contains the filter; how many passed, and how many failed.
pub fn run(workspace: &Workspace, filter: Option<&str>) -> (u64, u64) {
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in CHECKS {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        match report::step(name, || check(workspace)) {
            Ok(()) => passed += 1,
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                failed += 1;
            }
        }
    }
    (passed, failed)
}
