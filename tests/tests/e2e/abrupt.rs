//! Is anything left when a program of the embedded runtime is killed, at whatever moment, and do others notice?

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use porthole_registry::SandboxKey;
use porthole_testbed::{
    command,
    container::{Container, Launch, MICROVM, PORTHOLE},
    environment::Environment,
    footprint, scenario, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("abrupt::whatever_is_killed_at_whatever_moment_nothing_is_left_and_no_other_sandbox_is_touched", killed),
    (
        "abrupt::a_guest_that_restarts_halts_hangs_or_starts_another_kernel_ends_and_leaves_nothing",
        guest_ends,
    ),
    ("abrupt::a_shim_whose_start_was_given_up_ends_by_itself", start_given_up),
];

/// When a program is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// As soon as it is there.
    Starting,
    /// When the container runs.
    Running,
}

const SHIM: &str = "containerd-shim-porthole-microvm-v2";

const KILLED: [(&str, Moment); 8] = [
    (SHIM, Moment::Starting),
    ("vhost-device-vsock", Moment::Starting),
    ("virtiofsd", Moment::Starting),
    ("qemu-system-x86_64", Moment::Starting),
    (SHIM, Moment::Running),
    ("vhost-device-vsock", Moment::Running),
    ("virtiofsd", Moment::Running),
    ("qemu-system-x86_64", Moment::Running),
];

/// Kills a program of a sandbox as soon as it is there; there is none where the host's kernel does its work.
fn kill_program(marks: &[&str], program: &str, deadline: Duration) -> Result<()> {
    wait::until(&format!("{program} runs"), deadline, || {
        let found = footprint::processes(marks)?;
        let one = found.iter().find(|process| {
            let first = process.command_line.split(' ').next().unwrap_or_default();
            // `start` of the shim's program is over before anything of a sandbox is there.
            let is_start = program == SHIM && !process.command_line.contains(" -socket ");
            first.rsplit('/').next() == Some(program) && !is_start
        });
        let Some(one) = one else { return Ok(None) };
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(one.id), Signal::SIGKILL);
        Ok(Some(()))
    })
}

fn killed(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let neighbour = environment.unique("neighbour");
    let neighbour =
        Launch::new("globex", &neighbour, MICROVM, &["sleep", "3600"]).start(&environment.containerd)?;
    for (number, (program, moment)) in KILLED.into_iter().enumerate() {
        if program == "vhost-device-vsock" && Path::new("/dev/vhost-vsock").exists() {
            continue;
        }
        let what = format!("{program} killed while {moment:?}");
        let id = environment.unique(&format!("killed{number}"));
        let digest = format!("acme@{id}").parse::<SandboxKey>().context("a key")?.digest();
        let before = environment.footprint_of(&id)?;
        let launch = Launch::new("acme", &id, MICROVM, &["sleep", "600"]);
        let marks = [id.as_str(), digest.as_str()];
        let started = if moment == Moment::Starting {
            std::thread::scope(|scope| {
                let starting = scope.spawn(|| launch.start(&environment.containerd));
                let killed = kill_program(&marks, program, wait::SOON);
                let started = starting.join().map_err(|_| anyhow::anyhow!("the start panicked"));
                killed.and(started)
            })?
        } else {
            let started = launch.start(&environment.containerd)?;
            kill_program(&marks, program, wait::SOON)?;
            Ok(started)
        };
        // A start that failed has removed what containerd had of it.
        if let Ok(container) = started {
            container.wait_stopped(wait::SOON).with_context(|| what.clone())?;
            container.remove().with_context(|| what.clone())?;
        }
        environment.wait_gone(&id, &before, wait::SOON).with_context(|| what.clone())?;
        environment.wait_gone(&digest, &before, wait::SOON).with_context(|| what.clone())?;
        let echoed = neighbour.exec(&["echo", "alive"])?;
        ensure!(echoed.text().trim() == "alive", "{what}: another sandbox does not answer: {echoed}");
    }
    neighbour.remove()
}

/// How root in a guest ends its kernel, or has it answer no call any more.
struct End {
    what: &'static str,
    script: &'static str,
    /// Whether the guest goes on, so that it has to be killed.
    goes_on: bool,
}

const ENDS: [End; 6] = [
    End { what: "restarts", script: "touch /volume/gone; echo b > /proc/sysrq-trigger", goes_on: false },
    End { what: "powers off", script: "touch /volume/gone; echo o > /proc/sysrq-trigger", goes_on: false },
    End { what: "panics", script: "touch /volume/gone; echo c > /proc/sysrq-trigger", goes_on: false },
    // `ud2` without a table of interrupts: a triple fault.
    End {
        what: "starts another kernel, which faults",
        script: "exec python3 -c \"$KEXEC\" 0f0b",
        goes_on: false,
    },
    // `cli; hlt; jmp` to itself.
    End { what: "starts another kernel", script: "exec python3 -c \"$KEXEC\" faf4ebfd", goes_on: true },
    End {
        what: "hangs",
        script: "echo -1 > /proc/sys/kernel/sched_rt_runtime_us; exec python3 -c \"$HOG\"",
        goes_on: true,
    },
];

/// Starts another kernel.
const KEXEC: &str = include_str!("kexec.py");

/// Takes every processor from all other processes.
const HOG: &str = "HOG=import os
for _ in range(os.cpu_count() - 1):
    if os.fork() == 0: break
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
open('/volume/gone', 'w').close()
while True: pass";

/// What its kernel does is the guest's choice. The container has ended for containerd, at the latest when it is killed. The
/// guests that go on are killed beside the others, since that takes its time.
fn guest_ends(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let all = |goes_on: bool| -> Result<()> {
        for (number, end) in ENDS.iter().enumerate().filter(|(_, end)| end.goes_on == goes_on) {
            let id = environment.unique(&format!("ends{number}"));
            guest_ends_so(&environment, &id, end).with_context(|| format!("a guest that {}", end.what))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let going_on = scope.spawn(|| all(true));
        let ended = all(false);
        going_on.join().map_err(|_| anyhow::anyhow!("a test of those that go on panicked"))?.and(ended)
    })
}

fn guest_ends_so(environment: &Environment, id: &str, end: &End) -> Result<()> {
    let before = environment.footprint_of(id)?;
    let volume = environment.directory().join(format!("volume-{id}"));
    fs::create_dir(&volume).context("make a volume")?;
    let mount = format!("type=bind,src={},dst=/volume,options=rbind:rw", volume.display());
    let script = format!("until test -e /volume/go; do sleep 0.1; done; {}", end.script);
    let kexec = format!("KEXEC={KEXEC}");
    let container = Launch::new("acme", id, PORTHOLE, &["sh", "-c", &script])
        .with_options(&["--mount", &mount, "--env", HOG, "--env", &kexec])
        .privileged()
        .start(&environment.containerd)?;
    scenario::wait_watched(environment, id)?;
    std::thread::scope(|scope| {
        // The row goes some time after the end.
        let listed = scope.spawn(|| wait_listed_as_abrupt(environment, id));
        ends(container, &volume, end)?;
        fs::remove_dir_all(&volume).context("remove the volume")?;
        environment.wait_gone(id, &before, wait::SOON)?;
        listed.join().map_err(|_| anyhow::anyhow!("the look at the listing panicked"))?
    })
}

/// Has the guest begin, and waits until containerd has seen the end.
fn ends(container: Container, volume: &Path, end: &End) -> Result<()> {
    fs::write(volume.join("go"), "").context("have it begin")?;
    wait::until("it begins", wait::SOON, || Ok(volume.join("gone").exists().then_some(())))?;
    if end.goes_on {
        // One that is killed too early ends as any other.
        let heartbeat = || Ok(fs::metadata(volume.join("heartbeat")).ok().map(|found| found.len()));
        // Emulated guests on a busy machine do nothing for seconds.
        let (quiet, deadline) = (Duration::from_secs(10), wait::SOON);
        wait::unchanged("its first kernel does nothing any more", quiet, deadline, heartbeat)?;
        // containerd's CRI sends the second one only when the first was accepted.
        for signal in ["SIGTERM", "SIGKILL"] {
            let killed = container.kill(signal)?;
            ensure!(killed.status.success(), "{signal}: {killed}");
        }
    }
    container.wait_stopped(wait::SOON)?;
    container.remove()
}

fn wait_listed_as_abrupt(environment: &Environment, id: &str) -> Result<()> {
    wait::until("the sandbox is listed as ended abruptly", Duration::from_mins(3), || {
        let row = environment.exporter()?.sandbox(id)?.context("it is not listed")?;
        ensure!(row["state"] == "ended" && row["abrupt_end"] == true, "{row}");
        Ok(Some(()))
    })
}

/// containerd gives a start up by killing it and removing the bundle; it calls no `delete`.
fn start_given_up(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let id = environment.unique("given-up");
    let before = environment.footprint_of(&id)?;
    let bundle = environment.directory().join(&id);
    fs::create_dir(&bundle).context("make a bundle")?;
    fs::write(bundle.join("config.json"), "{}").context("write its specification")?;
    let mut start = Command::new(environment.dist.program(SHIM));
    let address = environment.containerd.address();
    start.args(["-namespace", "acme", "-id", &id, "-address", &address.to_string_lossy(), "start"]);
    start.env("TTRPC_ADDRESS", environment.containerd.ttrpc_address());
    start.env("PORTHOLE_CONFIG", &environment.configuration).current_dir(&bundle);
    command::succeed(&mut start, wait::SOON)?;
    let shim = || footprint::processes(&[&id]).map(|found| found.first().map(|process| process.id));
    let left = shim()?.context("no shim was left behind")?;
    fs::remove_dir_all(&bundle).context("remove the bundle")?;
    wait::until("the shim ends", wait::SOON, || Ok((shim()? != Some(left)).then_some(())))?;
    environment.wait_gone(&id, &before, wait::SOON)
}
