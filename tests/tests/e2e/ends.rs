//! Ends of containers that are reported in time, whatever the container was doing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use porthole_testbed::container::{Launch, MICROVM};

use crate::{
    Test,
    isolation::{file_server, state_directory},
    stage::Stage,
};

pub const TESTS: &[Test] =
    &[("ends::a_container_that_ends_while_it_reads_ahead_is_reported_and_removed", reading_ahead)];

const NAMESPACE: &str = "acme";

/// Containers that end, one after another.
const CONTAINERS: u32 = 6;

/// How long each may take, from its start to its removal; one that is not reported takes for ever.
const LIFE: Duration = Duration::from_mins(5);

/// How long the process that serves the guest's files is stopped, and how long it runs in between.
const STOPPED: Duration = Duration::from_millis(12);
const RUNS: Duration = Duration::from_millis(1);

/// Stops a process and lets it go on, in turns, until it is over.
fn stutter(process: Pid, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        for (signal, time) in [(Signal::SIGSTOP, STOPPED), (Signal::SIGCONT, RUNS)] {
            // It may have ended.
            let _ = kill(process, signal);
            thread::sleep(time);
        }
    }
}

/// What a container has read ahead of its root file system is often under way when its last process ends, since the process that
/// serves the guest's files is slow.
fn reading_ahead(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let sandbox = environment.unique("ahead");
    let (kind, of_sandbox) =
        ("io.kubernetes.cri.container-type", ("io.kubernetes.cri.sandbox-id", &*sandbox));
    let own = [(kind, "sandbox"), of_sandbox];
    let pause = Launch::new(NAMESPACE, &sandbox, MICROVM, &["sleep", "3600"]).annotated(&own);
    let pause = pause.start(&environment.containerd)?;
    let server =
        i32::try_from(file_server(&state_directory(NAMESPACE, &sandbox)?)?).context("a process id")?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| stutter(Pid::from_raw(server), &over));
        let ran = (0..CONTAINERS).try_for_each(|number| {
            let (id, joined) = (format!("{sandbox}-{number}"), [(kind, "container"), of_sandbox]);
            let launch = Launch::new(NAMESPACE, &id, MICROVM, &["sh", "-c", "exit 3"]).annotated(&joined);
            let finished = launch.run_within(LIFE, &environment.containerd)?;
            ensure!(finished.status.code() == Some(3), "{id}: {finished}");
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        ran
    })?;
    pause.remove()
}
