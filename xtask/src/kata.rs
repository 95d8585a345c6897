//! Boots an initrd that `porthole image kata` has made, under emulation, with a stand-in for Kata's agent in it.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use porthole_bench_guest::{STAND_IN_MARK, STAND_IN_WITH_VSOCK};
use porthole_testbed::{command, sweep::Scratch};
use porthole_vm_images::cpio::Archive;

use crate::{build, report, workspace::Workspace};

/// How long the guest may take; under load the emulation is a few times slower.
const DEADLINE: Duration = Duration::from_mins(5);

/// The stand-in's program, and the package that has it.
const STAND_IN: &str = "porthole-stand-in";
const PACKAGE: &str = "porthole-bench-guest";

/// As in the guests of the embedded runtime; a panic ends the machine.
const MACHINE: [&str; 11] = [
    "-nographic",
    "-nodefaults",
    "-no-reboot",
    "-serial",
    "stdio",
    "-cpu",
    "max",
    "-m",
    "512M",
    "-machine",
    "q35,accel=tcg,sata=off,smbus=off,usb=off,vmport=off",
];

/// What the first process of Porthole's agent prints when it has waited.
const WAITED: &str = "porthole-init: the agent";

/// The agent runs before the image's own first process, and serves although nothing in the image knows of it.
pub fn check(workspace: &Workspace) -> Result<()> {
    build::everything(workspace)?;
    let stand_in = build::static_package(workspace, PACKAGE, STAND_IN)?;
    let scratch = Scratch::create()?;
    let (input, output) = (scratch.path().join("initrd"), scratch.path().join("initrd-porthole"));
    let dist = workspace.dist();
    fs::write(&input, own_initrd(&dist.initrd(), &stand_in)?).context("write the initrd")?;
    let agent = dist.sidecar().join("porthole-agent");
    let mut image = Command::new(dist.program("porthole"));
    image
        .args(["image", "kata", "--initrd"])
        .arg(&input)
        .arg("--output")
        .arg(&output)
        .arg("--agent")
        .arg(&agent);
    let settings = command::succeed(&mut image, DEADLINE)?.text();
    let parameters = settings.lines().find_map(|line| line.strip_prefix("kernel_params = "));
    let parameters = parameters.context("no kernel parameters are printed")?.trim_matches('"');
    let boot = |step: &str, parameters: &str| {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(MACHINE).arg("-kernel").arg(dist.kernel()).arg("-initrd").arg(&output);
        qemu.arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on {parameters}"));
        let console = report::step(step, || command::succeed(&mut qemu, DEADLINE))?.text();
        let mut said = console.lines().filter_map(|line| line.trim_end().strip_prefix(STAND_IN_MARK));
        ensure!(said.next_back() == Some("done"), "the guest's console:\n{console}");
        Ok::<_, anyhow::Error>(console)
    };
    // The agent cannot be started before the guest's vsock is there, whose module the image's own first process loads.
    let console = boot("boot Kata's initrd with the agent", parameters)?;
    ensure!(!console.contains(WAITED), "it was waited for the agent before its vsock was there:\n{console}");
    // With it, as in Kata's kernels, the image's own first process waits for the agent, no longer than the limit.
    let set = |wait_ms: u32| {
        let first = parameters.replace("rdinit=/porthole-init", &format!("rdinit={STAND_IN_WITH_VSOCK}"));
        format!("{first} porthole.agent_wait_ms={wait_ms}")
    };
    for (wait_ms, outcome) in [(20_000, "is attached after"), (1, "is not attached within 1ms")] {
        let console = boot("boot it with vsock from the start on", &set(wait_ms))?;
        let before = console.split_once(STAND_IN_MARK).map_or("", |(before, _)| before);
        ensure!(before.contains(&format!("{WAITED} {outcome}")), "not {outcome}:\n{console}");
    }
    Ok(())
}

/// An initrd that has the modules of the embedded runtime's guests, and the stand-in as its first process.
fn own_initrd(guests: &Path, stand_in: &Path) -> Result<Vec<u8>> {
    let mut initrd = fs::read(guests).with_context(|| format!("read {}", guests.display()))?;
    let mut archive = Archive::default();
    let program = fs::read(stand_in).with_context(|| format!("read {}", stand_in.display()))?;
    archive.file(STAND_IN_WITH_VSOCK.trim_start_matches('/'), 0o755, program.clone());
    archive.file("init", 0o755, program);
    // One archive after the other is unpacked; files of the later one replace those of the earlier.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(archive.into_bytes());
    Ok(initrd)
}
