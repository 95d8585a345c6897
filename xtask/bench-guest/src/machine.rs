//! The guest itself: file systems, the loopback interface, control groups, the end.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

/// What is mounted where.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Environment of every program: nothing is decided by chance, and no garbage is collected now in one run and now in the
/// other.
pub const ENVIRONMENT: [(&str, &str); 4] =
    [("PATH", "/bin:/usr/bin:/usr/sbin"), ("GOGC", "off"), ("GOMAXPROCS", "1"), ("PYTHONHASHSEED", "0")];

/// Makes the machine ready for programs.
pub fn set_up() -> Result<()> {
    for (kind, path) in MOUNTS {
        fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
        mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {path}"))?;
    }
    // The tracepoints' directory, in which the agent looks.
    mount(Some("tracefs"), "/sys/kernel/tracing", Some("tracefs"), MsFlags::empty(), None::<&str>)
        .context("mount /sys/kernel/tracing")?;
    // Whether a process that is woken preempts the one that woke it depends on what both ran before, and costs a
    // request some hundred instructions more or less. Here it never does (kernel: `kernel/sched/features.h`).
    mount(Some("debugfs"), "/sys/kernel/debug", Some("debugfs"), MsFlags::empty(), None::<&str>)
        .context("mount /sys/kernel/debug")?;
    fs::write("/sys/kernel/debug/sched/features", "NO_WAKEUP_PREEMPTION")
        .context("switch off preemption by processes that are woken")?;
    let loopback = std::process::Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status();
    ensure!(loopback.context("run ip")?.success(), "the loopback interface does not come up");
    // In a control group of its own, as the processes of a container are.
    enter(&group("c11e")?, std::process::id())
}

/// A control group with the name of a container: 64 hexadecimal digits that end with these.
pub fn group(digits: &str) -> Result<PathBuf> {
    let path = Path::new("/sys/fs/cgroup").join(format!("{digits:0>64}"));
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

/// Moves a process into a control group.
pub fn enter(group: &Path, process: u32) -> Result<()> {
    fs::write(group.join("cgroup.procs"), process.to_string())
        .with_context(|| format!("move a process into {}", group.display()))
}

/// Freezes or thaws the processes of a control group, and waits until they are.
pub fn freeze(group: &Path, frozen: bool) -> Result<()> {
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" }).context("freeze or thaw")?;
    for _ in 0..1000 {
        let events = fs::read_to_string(group.join("cgroup.events")).context("read cgroup.events")?;
        if events.lines().any(|line| line == wanted) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    bail!("{} does not become `{wanted}`", group.display())
}

/// For how long the processor has been idle; `/proc/stat` counts in hundredths of a second (proc(5)).
pub fn idle_ns() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let idle = text.split_whitespace().nth(4).and_then(|word| word.parse::<u64>().ok());
    Ok(idle.context("the idle time in /proc/stat")? * 10_000_000)
}

/// Ends the guest: QEMU exits at a reset.
pub fn end() -> ! {
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    // The kernel panics at the exit of the first process, and resets.
    println!("reboot: {error}");
    std::process::exit(1);
}
