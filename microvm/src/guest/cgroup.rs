//! Control groups of containers: version 2, one below the root for each container, named after it.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::GuestError;
use crate::wire::guest::StatsResponse;

/// Where the hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// What containers get limits for, where the kernel has it.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "pids"];

/// How long the processes of a group may take to end once they are killed.
pub const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// Time between two attempts to remove a group of which processes are ending.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(10);

/// Lets the containers' groups have their controllers.
pub fn enable_controllers() {
    for controller in CONTROLLERS {
        // A kernel without the controller has no such limits and no such counters.
        let _ = std::fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// The control group of a container.
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// The group of the container with this id.
    pub fn of(id: &str) -> Self {
        Self { path: Path::new(ROOT).join(id) }
    }

    /// The group in this directory.
    #[cfg(test)]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Kills what is in it and removes it, if it is there. Blocks until the processes have ended, up to this time.
    pub fn discard(&self, limit: Duration) {
        let begin = Instant::now();
        let _ = self.kill();
        // The kernel ends the processes a moment later. A group that is still busy stays empty, and the next container of its name
        // takes it.
        while let Err(error) = std::fs::remove_dir(&self.path)
            && error.kind() != io::ErrorKind::NotFound
            && begin.elapsed() < limit
        {
            std::thread::sleep(REMOVAL_INTERVAL);
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write(&self, name: &str, value: &str) -> Result<(), GuestError> {
        let path = self.file(name);
        // Never made: where the kernel does not have the file, there is no such operation.
        let mut file = std::fs::OpenOptions::new();
        let written = file.write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(GuestError::io(format!("write {}", path.display())))
    }

    fn number(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
        // "max" is the absence of a limit.
        if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
    }

    fn table(&self, name: &str) -> HashMap<String, u64> {
        parse_table(&std::fs::read_to_string(self.file(name)).unwrap_or_default())
    }

    /// Stops every process of the group; comes back when all have stopped.
    pub async fn freeze(&self) -> Result<(), GuestError> {
        self.write("cgroup.freeze", "1")?;
        // The kernel stops each process at its next return to user space.
        while self.table("cgroup.events").get("frozen") != Some(&1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Lets them run on.
    pub fn thaw(&self) -> Result<(), GuestError> {
        self.write("cgroup.freeze", "0")
    }

    /// Kills every process of the group and of those below.
    pub fn kill(&self) -> Result<(), GuestError> {
        self.write("cgroup.kill", "1")
    }

    /// Processes of the group and of those below.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect_pids(&self.path, &mut pids);
        pids.sort_unstable();
        pids
    }

    /// The file that changes when the group runs out of memory.
    pub fn memory_events(&self) -> PathBuf {
        self.file("memory.events")
    }

    /// How many processes of the group the kernel has killed because memory ran out.
    pub fn oom_kills(&self) -> u64 {
        self.table("memory.events").get("oom_kill").copied().unwrap_or(0)
    }

    /// The group's counters. A file that is not there leaves its fields at zero.
    pub fn stats(&self) -> StatsResponse {
        let cpu = self.table("cpu.stat");
        let of = |name: &str| cpu.get(name).copied().unwrap_or(0);
        StatsResponse {
            pids_current: self.number("pids.current"),
            pids_limit: self.number("pids.max"),
            cpu_usage_micros: of("usage_usec"),
            cpu_user_micros: of("user_usec"),
            cpu_system_micros: of("system_usec"),
            cpu_periods: of("nr_periods"),
            cpu_throttled_periods: of("nr_throttled"),
            cpu_throttled_micros: of("throttled_usec"),
            memory_current: self.number("memory.current"),
            memory_limit: self.number("memory.max"),
            swap_current: self.number("memory.swap.current"),
            swap_limit: self.number("memory.swap.max"),
            memory: self.table("memory.stat"),
            memory_events: self.table("memory.events"),
            ..StatsResponse::default()
        }
    }
}

fn collect_pids(directory: &Path, pids: &mut Vec<u32>) {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.filter_map(io::Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids);
        }
    }
}

/// Lines of a name and a number.
fn parse_table(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_a_groups_files() {
        let directory = tempfile::tempdir().expect("directory");
        for (name, text) in [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("cpu.stat", "usage_usec 7\nuser_usec 5\n"),
            ("memory.events", "oom 1\noom_kill 2\n"),
            ("cgroup.procs", "12\n3\n"),
        ] {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        std::fs::create_dir(directory.path().join("sub")).expect("created");
        std::fs::write(directory.path().join("sub/cgroup.procs"), "7\n").expect("written");
        let group = Group::at(directory.path().to_owned());
        let stats = group.stats();
        assert_eq!((stats.memory_current, stats.memory_limit), (4096, u64::MAX));
        assert_eq!((stats.cpu_usage_micros, stats.cpu_user_micros, stats.pids_current), (7, 5, 0));
        assert_eq!(group.oom_kills(), 2);
        assert_eq!(group.pids(), [3, 7, 12]);
    }

    #[test]
    fn a_group_is_removed_once_its_processes_have_ended() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("group");
        let (kill, process) = (path.join("cgroup.kill"), path.join("process"));
        std::fs::create_dir(&path).expect("created");
        std::fs::write(&kill, "").expect("written");
        std::fs::write(&process, "").expect("written");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while std::fs::read_to_string(&kill).expect("read") != "1" {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::fs::remove_file(&process).expect("removed");
                std::fs::remove_file(&kill).expect("removed");
            });
            Group::at(path.clone()).discard(Duration::from_mins(2));
        });
        assert!(!path.exists());
        Group::at(path).discard(Duration::from_mins(2));
    }
}
