//! Stands in for Kata's agent in a guest that boots an initrd of Kata with Porthole's agent in it: the initrd's own first
//! process, beside which there is no other program and no shell. It looks at what was started before it, does what Kata's agent
//! does for it (mounts, modules), waits until Porthole's agent serves, prints what it found, and ends the machine.
//!
//! As [`STAND_IN_WITH_VSOCK`] it loads the modules and becomes the first process of Porthole's agent: so the guest's vsock is
//! there from the start on, as in Kata's kernels.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        socket::{AddressFamily, SockFlag, SockType, VsockAddr, bind, socket},
    },
};
use porthole_agent_api::limits::AGENT_VSOCK_PORT;
use porthole_bench_guest::{STAND_IN_MARK as MARK, STAND_IN_WITH_VSOCK};

/// The agent's program in the initrd.
const AGENT: &str = "/porthole-agent";

/// `VMADDR_CID_ANY` of vsock(7).
const CID_ANY: u32 = u32::MAX;

/// How long the agent may take to load its programs under emulation.
const DEADLINE: Duration = Duration::from_mins(2);

/// The first process of Porthole's agent.
const FIRST_PROCESS: &str = "/porthole-init";

fn main() {
    let loads_vsock = std::env::args_os().next().is_some_and(|name| name == STAND_IN_WITH_VSOCK);
    let examined = if loads_vsock { become_first_process() } else { examine() };
    match examined {
        Ok(()) => println!("{MARK}done"),
        Err(error) => println!("{MARK}failed: {error:#}"),
    }
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    // The kernel panics at the exit of the first process, and resets.
    println!("reboot: {error}");
}

/// Returns only if that fails.
fn become_first_process() -> Result<()> {
    load_modules()?;
    Err(Command::new(FIRST_PROCESS).exec()).context(FIRST_PROCESS)
}

fn examine() -> Result<()> {
    ensure!(std::process::id() == 1, "not the guest's first process");
    ensure!(!Path::new("/proc/self").exists(), "something is mounted on /proc that nobody here has mounted");
    for (kind, path) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("cgroup2", "/sys/fs/cgroup")]
    {
        fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
        mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {path}"))?;
    }
    let supervisor = child_of(1)?.context("no supervisor was started before")?;
    println!("{MARK}the supervisor runs before the image's own first process");
    load_modules()?;
    wait("the agent's port is taken", port_is_taken)?;
    let agent = wait("the supervisor has started the agent", || child_of(supervisor))?;
    // It gives its capabilities up when its programs are attached and it serves.
    wait("the agent serves without capabilities", || {
        let status = fs::read_to_string(format!("/proc/{agent}/status")).context("the agent's status")?;
        Ok(status.lines().any(|line| line == "CapEff:\t0000000000000000").then_some(()))
    })?;
    println!("{MARK}the agent serves");
    for process in [supervisor, agent] {
        let group = fs::read_to_string(format!("/proc/{process}/cgroup")).context("the control group")?;
        ensure!(group.trim_end() == "0::/.porthole", "process {process} is in {group}");
    }
    Ok(())
}

/// A process of the agent's program whose parent is this one.
fn child_of(parent: u32) -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let of_parent = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        if of_parent
            && fs::read_link(entry.path().join("exe")).is_ok_and(|program| program == Path::new(AGENT))
        {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// Whether a process listens on the agent's port; an error before the guest has a vsock.
fn port_is_taken() -> Result<Option<()>> {
    let probe = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    match bind(probe.as_raw_fd(), &VsockAddr::new(CID_ANY, AGENT_VSOCK_PORT)) {
        Err(Errno::EADDRINUSE) => Ok(Some(())),
        other => other.map(|()| None).context("bind"),
    }
}

/// Loads what the initrd brings, in its order.
fn load_modules() -> Result<()> {
    let order = fs::read_to_string("/modules/order").context("the list of modules")?;
    for name in order.lines() {
        let file = File::open(format!("/modules/{name}.ko")).with_context(|| format!("module {name}"))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => bail!("module {name}: {error}"),
        }
    }
    Ok(())
}

/// Looks until the probe gives a value.
fn wait<T>(what: &str, probe: impl Fn() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let last = probe();
        if let Ok(Some(found)) = last {
            return Ok(found);
        }
        if begin.elapsed() > DEADLINE {
            last.context(what.to_owned())?;
            bail!("{what}: not within {DEADLINE:?}");
        }
        sleep(Duration::from_millis(20));
    }
}
