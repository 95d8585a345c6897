//! `cargo xtask docs`: writes the generated parts of the documents.
//!
//! They are made by the test that compares them, from what a running exporter serves.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::{Workspace, run as execute};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask docs    after a metric, a label or a description has changed";

/// The test that writes `docs/metrics.md` where it is set to.
const TEST: &str = "the_reference_of_metrics_is_generated_from_what_is_served";

/// Writes them.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut command = workspace.cargo();
    command.args(["test", "--quiet", "--package", "porthole-exporter", "--test", "documentation", TEST]);
    execute(command.env("PORTHOLE_WRITE_DOCS", "1"))?;
    Ok(ExitCode::SUCCESS)
}
