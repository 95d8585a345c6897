//! For how long containers ran before the programs were attached.
//!
//! The start of a process is in its `/proc/PID/stat`. A process that has ended by the time of the look is not found, so that
//! the time is that since the start of the oldest process that still runs.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use porthole_agent_api::agent::Counters;
use procfs::process::{Process, all_processes_with_root};

use crate::recorder::containers::is_container;

/// The clock of [`oldest`]: time since boot, the time in which the guest was suspended included.
pub fn since_boot() -> Duration {
    // It exists on every Linux that has programs to attach.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Counts the time until `attached`. An agent that replaces another one counts from that one's end.
pub fn count(counters: &mut Counters, proc: &Path, attached: Duration, replaced: Option<Duration>) {
    let Some(oldest) = oldest(proc) else { return };
    let from = replaced.map_or(oldest, |replaced| replaced.max(oldest));
    let time = u64::try_from(attached.saturating_sub(from).as_nanos()).unwrap_or(u64::MAX);
    match replaced {
        Some(_) => counters.unattached_restart_ns = time,
        None => counters.unattached_start_ns = time,
    }
}

/// When the oldest process of a container was started, since boot; none without a container.
fn oldest(proc: &Path) -> Option<Duration> {
    // A process that a runtime has prepared waits in the container's control group to be started, and still runs the
    // runtime's own program, which is the guest's first process'.
    let runtime = Process::new_with_root(proc.join("1")).and_then(|process| process.exe()).ok();
    // Threads of the kernel have no program, and are in no container.
    oldest_of(proc, |process| process.exe().is_ok_and(|program| Some(program) != runtime))
}

/// When the oldest process of a container was made, since boot: one that a runtime has prepared, too. Needs no privileges.
pub fn oldest_process(proc: &Path) -> Option<Duration> {
    oldest_of(proc, |_| true)
}

fn oldest_of(proc: &Path, counts: impl Fn(&Process) -> bool) -> Option<Duration> {
    let own = Process::new_with_root(proc.join("self")).ok().and_then(|process| control_group(&process));
    let processes = all_processes_with_root(proc).ok()?.filter_map(Result::ok);
    let started = processes.filter_map(|process| {
        let group = control_group(&process)?;
        // A container may have control groups of its own, in which its processes are: systemd's are.
        let named = |group: &Path| group.file_name().and_then(OsStr::to_str).is_some_and(is_container);
        let is_in_container = own.as_ref() != Some(&group) && group.ancestors().any(named);
        (is_in_container && counts(&process)).then(|| process.stat().ok())?.map(|stat| stat.starttime)
    });
    let ticks = started.min()?;
    let second = procfs::ticks_per_second().max(1);
    Some(
        Duration::from_secs(ticks / second)
            + Duration::from_secs(ticks % second) / u32::try_from(second).ok()?,
    )
}

/// A process' control group in the unified hierarchy, as this process sees it.
fn control_group(process: &Process) -> Option<PathBuf> {
    let groups = process.cgroups().ok()?;
    groups.into_iter().find(|group| group.hierarchy == 0).map(|group| PathBuf::from(group.pathname))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A process in a directory that looks like a procfs.
    fn add_process(proc: &Path, pid: u32, program: &str, group: &str, start: u64) {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(&directory).expect("made");
        symlink(program, directory.join("exe")).expect("linked");
        fs::write(directory.join("cgroup"), format!("0::{group}\n")).expect("written");
        let blank = |count: usize| vec!["0"; count].join(" ");
        let text = format!("{pid} (x) S {} {start} {}\n", blank(18), blank(30));
        fs::write(directory.join("stat"), text).expect("written");
    }

    fn counted(proc: &Path, replaced: Option<u64>) -> (u64, u64) {
        let mut counters = Counters::default();
        count(&mut counters, proc, Duration::from_secs(10), replaced.map(Duration::from_secs));
        let second = Duration::from_secs(1).as_nanos();
        let whole = |ns: u64| u64::try_from(u128::from(ns) / second).expect("small");
        (whole(counters.unattached_start_ns), whole(counters.unattached_restart_ns))
    }

    #[test]
    fn only_what_containers_run_counts() {
        let proc = tempfile::tempdir().expect("directory");
        let second = procfs::ticks_per_second();
        add_process(proc.path(), 1, "/init", "/", 0);
        add_process(proc.path(), 40, "/porthole-agent", "/.porthole", second);
        symlink("40", proc.path().join("self")).expect("linked");
        assert_eq!(oldest_process(proc.path()), None, "none of a container");
        add_process(proc.path(), 50, "/init", "/shop-1", 2 * second);
        assert_eq!(counted(proc.path(), None), (0, 0), "prepared and not started");
        assert_eq!(oldest_process(proc.path()), Some(Duration::from_secs(2)), "and made");
        add_process(proc.path(), 60, "/usr/bin/shop", "/shop-1", 6 * second);
        add_process(proc.path(), 61, "/usr/bin/shop", "/shop-1", 7 * second);
        assert_eq!(counted(proc.path(), None), (4, 0));
        assert_eq!(counted(proc.path(), Some(8)), (0, 2), "since the end of the agent before this one");
        assert_eq!(counted(proc.path(), Some(3)), (0, 4), "nothing ran then");
    }

    #[test]
    fn processes_in_control_groups_that_a_container_made_are_of_the_container() {
        let proc = tempfile::tempdir().expect("directory");
        let second = procfs::ticks_per_second();
        add_process(proc.path(), 40, "/porthole-agent", "/.porthole", second);
        symlink("40", proc.path().join("self")).expect("linked");
        add_process(proc.path(), 30, "/usr/bin/login", "/system.slice/login.service", second);
        assert_eq!(oldest_process(proc.path()), None, "a unit of the guest");
        add_process(proc.path(), 50, "/sbin/init", "/shop-1/init.scope", 3 * second);
        add_process(proc.path(), 51, "/usr/bin/shop", "/shop-1/system.slice/shop.service", 4 * second);
        assert_eq!(oldest_process(proc.path()), Some(Duration::from_secs(3)));
    }
}
