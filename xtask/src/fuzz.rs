//! The fuzz targets: built by `lint`, and run for a bounded time by the test command, beginning with what was recorded
//! of real clients and servers.
//!
//! cargo-fuzz wants a nightly compiler for its sanitizers. What libFuzzer itself needs, the counters of edges, the
//! pinned stable compiler gives too; the parsers have no unsafe code for which a sanitizer would be needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use porthole_testbed::command;
use serde_json::Value;

use crate::{
    report,
    workspace::{Workspace, output, run as execute},
};

/// The workspaces with fuzz targets, from the top.
pub const FOLDERS: [&str; 2] = ["libs/l7/fuzz", "libs/packet/fuzz"];

/// Recordings of real clients and servers, from the top.
const RECORDINGS: &str = "libs/l7/captures";

/// What cargo-fuzz gives to the compiler, without a sanitizer, and with the checks of debug builds.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1";

/// How long the test command runs each target, seconds.
const SHORT: u32 = 4;

/// How long a target may take beyond its time.
const GRACE: Duration = Duration::from_mins(3);

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                 every target for a minute
  cargo xtask fuzz --seconds 600";

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
}

/// Builds every target and runs each.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    each_target(workspace, options.seconds)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that every target compiles.
pub fn compile(workspace: &Workspace) -> Result<()> {
    FOLDERS
        .iter()
        .try_for_each(|folder| execute(cargo(workspace, folder).args(["check", "--quiet", "--bins"])))
}

/// The short form for the test command.
pub fn check(workspace: &Workspace) -> Result<()> {
    each_target(workspace, SHORT)
}

/// Builds every target and runs each for this long; a finding is an error.
fn each_target(workspace: &Workspace, seconds: u32) -> Result<()> {
    let deadline = Duration::from_secs(seconds.into()) + GRACE;
    let place = workspace.target.join("fuzz");
    for folder in FOLDERS {
        let mut build = cargo(workspace, folder);
        // With a target named, the flags do not reach build scripts and procedural macros.
        build.env("RUSTFLAGS", FLAGS).args(["build", "--quiet", "--release", "--bins"]);
        build.args(["--target", &workspace.triple]);
        report::step(&format!("build the targets of {folder}"), || execute(&mut build))?;
        for target in targets(workspace, folder)? {
            let corpus = place.join("corpus").join(&target);
            fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
            let seeds = seeds(&workspace.root.join(RECORDINGS), &target, &corpus)?;
            let program = place.join(&workspace.triple).join("release").join(&target);
            let findings = place.join("findings").join(&target);
            fs::create_dir_all(&findings).with_context(|| format!("make {}", findings.display()))?;
            let mut fuzz = Command::new(program);
            fuzz.arg(format!("-max_total_time={seconds}")).args([
                "-timeout=10",
                "-rss_limit_mb=1024",
                "-max_len=65536",
            ]);
            fuzz.arg(format!("-artifact_prefix={}/", findings.display())).arg(&corpus);
            let finished = command::run(&mut fuzz, deadline)?;
            ensure!(
                finished.status.success(),
                "fuzz target {target} of {folder}: {}\n{}\nthe input is in {}",
                finished.status,
                last_lines(&finished.complaint(), 30),
                findings.display()
            );
            report::note(&format!("{target}: {seeds} recordings, {seconds} s, nothing found"));
        }
    }
    Ok(())
}

/// cargo in a workspace of fuzz targets, with a target directory for all of them.
fn cargo(workspace: &Workspace, folder: &str) -> Command {
    let mut command = workspace.cargo();
    command.current_dir(workspace.root.join(folder)).env("CARGO_TARGET_DIR", workspace.target.join("fuzz"));
    command
}

/// Names of the targets, by cargo's word.
fn targets(workspace: &Workspace, folder: &str) -> Result<Vec<String>> {
    let mut command = cargo(workspace, folder);
    let metadata = output(command.args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("read cargo metadata")?;
    let all = metadata["packages"].as_array().into_iter().flatten();
    let all = all.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let programs = all.filter(|target| target["kind"][0].as_str() == Some("bin"));
    Ok(programs.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect())
}

/// Writes the recordings of a target's protocol as inputs into its corpus; how many there are. Detection gets all.
fn seeds(recordings: &Path, target: &str, corpus: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(recordings).with_context(|| format!("read {}", recordings.display()))? {
        let path: PathBuf = entry.context("an entry of the recordings")?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let is_recording = path.extension().is_some_and(|ending| ending == "txt");
        if !is_recording || (target != "detection" && !name.starts_with(target)) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let seed = corpus.join(format!("recorded-{name}"));
        fs::write(&seed, input(&text)).with_context(|| format!("write {}", seed.display()))?;
        count += 1;
    }
    Ok(count)
}

/// A recording as an input of the targets of `libs/l7/fuzz`: of each chunk a control byte with the direction (bit 0) and
/// whether the length is in units of 16 bytes (bit 3), the length, the bytes. Lines of a recording are
/// `CONNECTION TRANSPORT DIRECTION HEX`; the connections follow each other.
fn input(recording: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in recording.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "tcp" | "udp", direction @ (">" | "<"), hex] = fields.as_slice() else { continue };
        let control = u8::from(*direction == "<");
        let bytes: Option<Vec<u8>> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()).collect();
        let mut rest = bytes.as_deref().unwrap_or_default();
        while !rest.is_empty() {
            let units = u8::try_from(rest.len() / 16).unwrap_or(u8::MAX);
            let (flag, length, taken) = match u8::try_from(rest.len()) {
                Ok(length) => (0, length, usize::from(length)),
                Err(_) => (8, units, usize::from(units) * 16),
            };
            let (chunk, tail) = rest.split_at(taken);
            out.extend_from_slice(&[control | flag, length]);
            out.extend_from_slice(chunk);
            rest = tail;
        }
    }
    out
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_become_inputs_of_chunks_with_direction_and_length() {
        let long = "ab".repeat(300);
        let recording = format!("# a server, a client\n1 tcp > 0102\n1 tcp < {long}\n");
        let input = input(&recording);
        assert_eq!(input[..4], [0, 2, 1, 2]);
        assert_eq!(input[4..6], [1 | 8, 18], "18 times 16 bytes");
        assert_eq!(input[6 + 288..6 + 288 + 2], [1, 12], "and the rest");
        assert_eq!(input.len(), 4 + 2 + 288 + 2 + 12);
    }
}
