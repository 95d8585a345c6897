//! The fuzz targets: built by `lint`, run by the test command, and for longer by a command of their own; each begins with what
//! was recorded of real clients and servers.
//!
//! The test command gives each target the same inputs in each run and on each machine. Exploring lets libFuzzer look for
//! others, with another seed each time, from what earlier runs have found on.
//!
//! cargo-fuzz needs a nightly compiler for its sanitizers. What libFuzzer itself needs, the counters of edges, the
//! pinned stable compiler gives too; the parsers have no unsafe code for which a sanitizer would be needed. The targets of
//! the programs find by the choices of a generator what the programs and `l7` take differently.

mod changed;

use std::{
    ffi::OsString,
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
pub const FOLDERS: [&str; 3] = ["libs/l7/fuzz", "libs/packet/fuzz", "guest-bpf/host/fuzz"];

/// Recordings of real clients and servers, from the top.
const RECORDINGS: &str = "tests/recordings";

/// What cargo-fuzz gives to the compiler, without a sanitizer, and with the checks of debug builds.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1";

/// Inputs of each target in the test command.
const INPUTS: usize = 2_000;

/// Seed of what changes them.
const SEED: u64 = 1;

/// How long a target may take for them; most need a second.
const INPUTS_TIME: Duration = Duration::from_mins(2);

/// How long a target may take beyond its time.
const GRACE: Duration = Duration::from_mins(3);

/// For `--help`.
pub const EXAMPLES: &str = "\
Each run begins with another seed, and with the inputs that earlier runs have kept in target/fuzz/corpus. Inputs
that made a target fail are in target/fuzz/findings; to run one again:
  target/fuzz/<triple>/release/<target> <input>
The test command does without both: it runs each target on the same inputs each time.

Examples:
  cargo xtask fuzz                 every target for a minute
  cargo xtask fuzz --seconds 600
  cargo xtask fuzz --fixed         what the test command does";

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Only the inputs of the test command
    #[arg(long, conflicts_with = "seconds")]
    fixed: bool,
}

/// Builds every target and runs each.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let form = if options.fixed { Form::Repeatable } else { Form::Exploring { seconds: options.seconds } };
    each_target(workspace, form)?;
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
    each_target(workspace, Form::Repeatable)
}

/// Which inputs a target is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The same in each run.
    Repeatable,
    /// Others in each run, for so long.
    Exploring { seconds: u32 },
}

impl Form {
    /// How long a target may run.
    fn deadline(self) -> Duration {
        match self {
            Self::Repeatable => INPUTS_TIME,
            Self::Exploring { seconds } => Duration::from_secs(seconds.into()) + GRACE,
        }
    }

    /// Makes the folder of a target's inputs, below that of all about fuzzing: new ones, or the recorded ones beside what
    /// earlier runs have found.
    fn prepare(self, place: &Path, target: &str, recorded: &[(String, Vec<u8>)]) -> Result<PathBuf> {
        let folder = match self {
            Self::Repeatable => "inputs",
            Self::Exploring { .. } => "corpus",
        };
        let folder = place.join(folder).join(target);
        if self == Self::Repeatable && folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let write = |name: &str, input: &[u8]| {
            let file = folder.join(name);
            fs::write(&file, input).with_context(|| format!("write {}", file.display()))
        };
        match self {
            Self::Repeatable => {
                let recorded: Vec<Vec<u8>> = recorded.iter().map(|(_, input)| input.clone()).collect();
                let mut inputs = changed::inputs(&recorded, INPUTS, SEED).enumerate();
                inputs.try_for_each(|(index, input)| write(&format!("{index:05}"), &input))?;
            }
            Self::Exploring { .. } => {
                recorded.iter().try_for_each(|(name, input)| write(&format!("recorded-{name}"), input))?;
            }
        }
        Ok(folder)
    }

    /// Arguments of libFuzzer besides the folder of inputs.
    fn arguments(self) -> Vec<OsString> {
        let all = match self {
            // What is there, and nothing else.
            Self::Repeatable => vec!["-runs=0".to_owned(), "-seed=1".to_owned(), "-shuffle=0".to_owned()],
            Self::Exploring { seconds } => vec![format!("-max_total_time={seconds}")],
        };
        all.into_iter().map(OsString::from).collect()
    }
}

/// Builds every target and runs each; a finding is an error.
fn each_target(workspace: &Workspace, form: Form) -> Result<()> {
    let place = workspace.target.join("fuzz");
    for folder in FOLDERS {
        let mut build = cargo(workspace, folder);
        // With a target named, the flags do not reach build scripts and procedural macros.
        build.env("RUSTFLAGS", FLAGS).args(["build", "--quiet", "--release", "--bins"]);
        build.args(["--target", &workspace.triple]);
        report::step(&format!("build the targets of {folder}"), || execute(&mut build))?;
        for target in targets(workspace, folder)? {
            let recorded = recorded(&workspace.root.join(RECORDINGS), &target)?;
            let inputs = form.prepare(&place, &target, &recorded)?;
            let program = place.join(&workspace.triple).join("release").join(&target);
            let findings = place.join("findings").join(&target);
            fs::create_dir_all(&findings).with_context(|| format!("make {}", findings.display()))?;
            let mut fuzz = Command::new(program);
            fuzz.args(form.arguments()).args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536"]);
            fuzz.arg(format!("-artifact_prefix={}/", findings.display())).arg(&inputs);
            let finished = command::run(&mut fuzz, form.deadline())?;
            ensure!(
                finished.status.success(),
                "fuzz target {target} of {folder}: {}\n{}\nthe input is in {}",
                finished.status,
                last_lines(&finished.complaint(), 30),
                findings.display()
            );
            let complaint = finished.complaint();
            let runs = complaint.lines().find_map(|line| line.strip_prefix("Done ")).unwrap_or("no runs");
            report::note(&format!("{target}: {} recordings, {runs}, nothing found", recorded.len()));
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

/// The recordings of a target's protocol as inputs, with their names and in the order of these. Detection gets those of all
/// protocols, and the reader of capture files gets the captures.
fn recorded(recordings: &Path, target: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(recordings).with_context(|| format!("read {}", recordings.display()))? {
        let path: PathBuf = entry.context("an entry of the recordings")?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let of_protocol = target == "detection" || name.starts_with(target);
        let bytes = match path.extension().and_then(|ending| ending.to_str()) {
            Some("pcap") if target == "capture" => read(&path)?,
            Some("txt") if of_protocol => input(&String::from_utf8_lossy(&read(&path)?)),
            _ => continue,
        };
        all.push((name, bytes));
    }
    all.sort();
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
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

    #[test]
    fn the_test_command_gives_the_same_inputs_in_every_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let recorded = [("dns".to_owned(), b"\0\x04abcd".to_vec())];
        let read = |inputs: &Path| {
            let mut all: Vec<(OsString, Vec<u8>)> = fs::read_dir(inputs)
                .expect("a folder")
                .map(|entry| entry.expect("an entry"))
                .map(|entry| (entry.file_name(), fs::read(entry.path()).expect("an input")))
                .collect();
            all.sort();
            all
        };
        let inputs = Form::Repeatable.prepare(folder.path(), "dns", &recorded).expect("inputs");
        let first = read(&inputs);
        assert_eq!(first.len(), INPUTS);
        fs::write(inputs.join("left-over"), "an earlier run's").expect("write");
        Form::Repeatable.prepare(folder.path(), "dns", &recorded).expect("inputs again");
        assert!(first == read(&inputs), "nothing of an earlier run");
        assert!(Form::Repeatable.arguments().contains(&"-runs=0".into()), "libFuzzer looks for no others");
    }
}
