//! `cargo xtask coverage`: which share of each crate's lines the tests run.

use std::{collections::BTreeMap, fs, process::ExitCode};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    report, setup,
    workspace::{Workspace, run as execute},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask coverage           unit tests
  cargo xtask coverage --all     the tests of crates against real servers too, as root; not those in guests

Programs that run in guests, and the eBPF programs, are not instrumented.";

/// Options of `cargo xtask coverage`.
#[derive(clap::Args)]
pub struct Options {
    /// Run the tests below `tests/` of each crate too
    #[arg(long)]
    all: bool,
}

/// Lines of a crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    all: u64,
    covered: u64,
}

/// Measures and prints a table.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let tool = setup::cargo_llvm_cov(workspace)?;
    let result = workspace.target.join("coverage.json");
    report::step("run the tests", || {
        let mut command = std::process::Command::new(tool);
        command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", workspace.target.join("coverage"));
        command.args(["llvm-cov", "--quiet", "--locked", "--workspace", "--ignore-run-fail"]);
        command.args(["--json", "--summary-only", "--output-path"]).arg(&result);
        if !options.all {
            command.args(["--lib", "--bins"]);
        }
        execute(&mut command)
    })?;
    let text = fs::read_to_string(&result).with_context(|| format!("read {}", result.display()))?;
    let exported: Value = serde_json::from_str(&text).context("read the coverage")?;
    let root = workspace.root.to_string_lossy().into_owned();
    println!("| crate | lines | covered |\n|---|---:|---:|");
    for (name, lines) in by_crate(&exported, &root) {
        println!("| `{name}` | {} | {:.1} % |", lines.all, share(lines));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines by the crate's folder, of what llvm-cov exports.
fn by_crate(exported: &Value, root: &str) -> BTreeMap<String, Lines> {
    let mut crates = BTreeMap::<String, Lines>::new();
    let files = exported["data"].as_array().into_iter().flatten();
    for file in files.flat_map(|data| data["files"].as_array().into_iter().flatten()) {
        let path = file["filename"].as_str().and_then(|path| path.strip_prefix(root));
        let folder = path.and_then(|path| path.trim_start_matches('/').split_once("/src/"));
        let Some((folder, _)) = folder else { continue };
        let lines = crates.entry(folder.to_owned()).or_default();
        lines.all += file["summary"]["lines"]["count"].as_u64().unwrap_or(0);
        lines.covered += file["summary"]["lines"]["covered"].as_u64().unwrap_or(0);
    }
    crates
}

/// Covered lines, percent.
#[allow(clippy::cast_precision_loss)]
fn share(lines: Lines) -> f64 {
    if lines.all == 0 { 100.0 } else { 100.0 * lines.covered as f64 / lines.all as f64 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_summed_by_crate_and_others_left_out() {
        let file = |path: &str, count: u64, covered: u64| json!({"filename": path, "summary": {"lines": {"count": count, "covered": covered}}});
        let exported = json!({"data": [{"files": [
            file("/top/libs/l7/src/a.rs", 10, 5), file("/top/libs/l7/src/b/c.rs", 30, 25),
            file("/top/shim/src/lib.rs", 4, 0), file("/elsewhere/x/src/lib.rs", 9, 9),
        ]}]});
        let crates = by_crate(&exported, "/top");
        assert_eq!(crates.len(), 2);
        assert_eq!(crates["libs/l7"], Lines { all: 40, covered: 30 });
        assert!((share(crates["libs/l7"]) - 75.0).abs() < 1e-9);
        assert!((share(Lines::default()) - 100.0).abs() < 1e-9);
    }
}
