//! Is a container the same through `porthole` as through its delegate alone?

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    command::Finished,
    container::{Launch, MICROVM, PORTHOLE},
    environment::Environment,
    footprint, scenario, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("parity::output_and_exit_code_are_those_of_the_delegate", output_and_exit_code),
    ("parity::exec_and_signals_are_those_of_the_delegate", exec_and_signals),
    ("parity::the_shim_writes_no_byte_of_its_own", silent),
];

/// The visible result of a command: exit code, output, error output.
fn seen(finished: &Finished) -> (Option<i32>, String, String) {
    (finished.status.code(), finished.text(), finished.complaint())
}

fn output_and_exit_code(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let script = "echo out; echo err >&2; head -c 200000 /dev/zero | wc -c; id -u; pwd; cat /proc/1/cmdline | wc -c; exit 7";
    let mut outcomes = BTreeMap::new();
    for (name, runtime) in [("with", PORTHOLE), ("without", MICROVM)] {
        let id = environment.unique(&format!("parity-{name}"));
        let finished =
            Launch::new("acme", &id, runtime, &["sh", "-c", script]).run(&environment.containerd)?;
        outcomes.insert(name, seen(&finished));
    }
    ensure!(outcomes["with"] == outcomes["without"], "{outcomes:?}");
    let (code, stdout, stderr) = &outcomes["with"];
    ensure!(
        *code == Some(7) && stdout.starts_with("out\n200000\n0\n/\n") && stderr.contains("err"),
        "{outcomes:?}"
    );
    Ok(())
}

fn exec_and_signals(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let mut outcomes = BTreeMap::new();
    for (name, runtime) in [("with", PORTHOLE), ("without", MICROVM)] {
        outcomes.insert(name, exec_and_signals_of(&environment, name, runtime).context(name)?);
    }
    ensure!(outcomes["with"] == outcomes["without"], "{outcomes:#?}");
    Ok(())
}

/// Everything observable of one container's life.
fn exec_and_signals_of(environment: &Environment, name: &str, runtime: &str) -> Result<Vec<String>> {
    let id = environment.unique(&format!("signals-{name}"));
    // Ends with 43 on SIGTERM, and counts SIGUSR1.
    let script = "trap 'exit 43' TERM; trap 'echo usr1 >> /seen' USR1; echo ready > /ready; while true; do sleep 0.1; done";
    let container =
        Launch::new("acme", &id, runtime, &["sh", "-c", script]).start(&environment.containerd)?;
    if runtime == PORTHOLE {
        scenario::wait_watched(environment, &id)?;
    }
    let mut story = Vec::new();
    let until_there = |file: &str| {
        wait::until(file, wait::SOON, || Ok(container.exec(&["cat", file])?.status.success().then_some(())))
    };
    until_there("/ready")?;
    for command in [
        &["sh", "-c", "echo hello; echo there >&2; exit 3"][..],
        &["true"],
        &["false"],
        &["/nonexistent"],
        &["sh", "-c", "kill -9 $$"],
        &["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline | cut -c 1-6"],
        &["sh", "-c", "seq 1 20000 | wc -l"],
    ] {
        let finished = container.exec(command)?;
        let error = if command[0] == "/nonexistent" { "an error".to_owned() } else { finished.complaint() };
        story.push(format!("{command:?}: {:?} {:?} {error:?}", finished.status.code(), finished.text()));
    }
    ensure!(container.kill("SIGUSR1")?.status.success(), "SIGUSR1 was refused");
    until_there("/seen")?;
    ensure!(container.kill("SIGTERM")?.status.success(), "SIGTERM was refused");
    container.wait_stopped(wait::SOON)?;
    let deleted = environment.containerd.attempt("acme", &["tasks", "delete", &id])?;
    // ctr's own exit code is 0; it prints the task's.
    ensure!(deleted.complaint().contains("non-zero exit code 43"), "expected 43: {deleted}");
    container.remove()?;
    Ok(story)
}

/// A runtime that records what the shim under test prints, and prints nothing else.
const RECORDER: &str = "#!/bin/sh\n\
    call=$(mktemp -p @DIRECTORY@ call.XXXXXX)\n\
    printf '%s\\n' \"$*\" > \"$call.arguments\"\n\
    containerd-shim-porthole-v2 \"$@\" > \"$call.stdout\" 2> \"$call.stderr\"\n\
    code=$?\n\
    cat \"$call.stdout\"\n\
    exit $code\n";

fn silent(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let recordings = environment.directory().join("log/recorder");
    fs::create_dir_all(&recordings).context("make the recordings' directory")?;
    let text = RECORDER.replace("@DIRECTORY@", recordings.to_str().context("a path in UTF-8")?);
    // Where containerd looks for runtimes, and only for this environment.
    let runtime = environment.extra_programs().join("containerd-shim-recorder-v2");
    fs::write(&runtime, text).context("write the recorder")?;
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))
        .context("make the recorder executable")?;

    let id = environment.unique("silent");
    let container = Launch::new("acme", &id, "io.containerd.recorder.v2", &["sleep", "600"])
        .start(&environment.containerd)?;
    scenario::wait_watched(&environment, &id)?;
    // A process that has the recordings open after the call has not closed its standard streams.
    let holders = footprint::holders(&recordings)?;
    ensure!(holders.is_empty(), "standard streams of the shim's call are still open in {holders:?}");
    container.remove()?;

    let mut starts = 0;
    for entry in fs::read_dir(&recordings).context("list the recordings")? {
        let path = entry.context("list the recordings")?.path();
        if path.extension().is_none_or(|extension| extension != "arguments") {
            continue;
        }
        let arguments = fs::read_to_string(&path).context("read arguments")?;
        // A call behind the removal may have just begun.
        let recorded = |stream: &str| {
            wait::until("the call's streams are recorded", wait::SOON, || {
                Ok(Some(fs::read(path.with_extension(stream))?))
            })
        };
        let (stdout, stderr) = (recorded("stdout")?, recorded("stderr")?);
        ensure!(stderr.is_empty(), "`{arguments}` wrote {:?} on stderr", String::from_utf8_lossy(&stderr));
        if arguments.split_whitespace().any(|word| word == "start") {
            starts += 1;
            let answer = String::from_utf8_lossy(&stdout).into_owned();
            let socket = answer.strip_prefix("unix://");
            // The address and nothing else, not even a newline.
            ensure!(
                socket.is_some_and(|path| path.starts_with('/') && !path.contains(char::is_whitespace)),
                "{answer:?}"
            );
        }
    }
    ensure!(starts == 1, "{starts} calls of start were recorded");
    Ok(())
}
