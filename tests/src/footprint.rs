//! What something leaves on the machine: processes, mounts, network namespaces, interfaces, sockets and files that
//! bear its name. Two footprints, before and after, show a leak.
//!
//! Only what bears one of the given marks (a directory, a container's id) is looked at, so that whatever else runs on
//! the machine does not disturb.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use procfs::process::FDTarget;

use crate::{command, network, wait};

/// Directories in which runtimes and Porthole keep state.
const STATE_DIRECTORIES: [&str; 6] =
    ["/run/porthole", "/run/vc", "/run/kata", "/run/containerd", "/dev/shm", "/sys/fs/cgroup"];

/// Deepest level below a state directory that is looked at: `/sys/fs/cgroup/<controller>/<namespace>/<id>`.
const DEPTH_MAX: usize = 5;

/// Everything found, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Looks for everything that bears one of the marks; `directories` are looked at beside the usual ones.
    pub fn take(marks: &[&str], directories: &[&Path]) -> Result<Self> {
        let mut found = BTreeSet::new();
        for process in processes(marks)? {
            found.insert(format!("process {} {}", process.id, process.command_line));
        }
        for line in marked_lines("/proc/self/mountinfo", marks)? {
            found.insert(format!("mount {}", line.split(' ').nth(4).unwrap_or_default()));
        }
        for line in marked_lines("/proc/net/unix", marks)? {
            found.insert(format!("socket {}", line.split_whitespace().last().unwrap_or_default()));
        }
        let links = command::try_quietly(Command::new("ip").args(["-brief", "link"]), wait::SOON)?;
        let links = links.text();
        found.extend(links.lines().filter(|line| bears(line, marks)).map(|line| format!("interface {line}")));
        let usual = STATE_DIRECTORIES.iter().map(Path::new).chain([Path::new(network::NETNS_DIRECTORY)]);
        for directory in usual.chain(directories.iter().copied()) {
            files(directory, marks, 0, &mut found);
        }
        Ok(Self(found))
    }

    /// What is here and was not there before.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Waits until nothing that bears one of the marks is left beyond `before`; the error lists what remains.
pub fn gone(marks: &[&str], directories: &[&Path], before: &Footprint, deadline: Duration) -> Result<()> {
    wait::until(&format!("nothing of {marks:?} is left"), deadline, || {
        let left = Footprint::take(marks, directories)?.beyond(before);
        if left.is_empty() {
            Ok(Some(()))
        } else {
            Err(anyhow::anyhow!("still there:\n  {}", left.join("\n  ")))
        }
    })
}

/// A process that bears a mark in its command line or its environment.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub id: i32,
    /// Its command line, blanks between the words.
    pub command_line: String,
}

/// Processes that bear one of the marks, except this one.
pub fn processes(marks: &[&str]) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    // A process may end while we look: then it is not there.
    for process in procfs::process::all_processes().context("list processes")?.flatten() {
        if process.pid.cast_unsigned() == std::process::id() {
            continue;
        }
        let command_line = command_line(&process);
        let environment = process.environ().unwrap_or_default();
        let mut variables =
            environment.iter().map(|(name, value)| format!("{}={}", name.display(), value.display()));
        if bears(&command_line, marks) || variables.any(|variable| bears(&variable, marks)) {
            found.push(Process { id: process.pid, command_line });
        }
    }
    Ok(found)
}

/// Processes that hold a file below this directory open.
pub fn holders(directory: &Path) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for process in procfs::process::all_processes().context("list processes")?.flatten() {
        let mut descriptors = process.fd().into_iter().flatten().flatten();
        let holds = |target| matches!(target, FDTarget::Path(path) if path.starts_with(directory));
        if descriptors.any(|descriptor| holds(descriptor.target)) {
            found.push(Process { id: process.pid, command_line: command_line(&process) });
        }
    }
    Ok(found)
}

fn command_line(process: &procfs::process::Process) -> String {
    process.cmdline().unwrap_or_default().join(" ").trim_end().to_owned()
}

/// Mount points that bear one of the marks, the innermost last.
pub fn mount_points(marks: &[&str]) -> Result<Vec<PathBuf>> {
    let lines = marked_lines("/proc/self/mountinfo", marks)?;
    // proc(5): the fifth field, with blanks as \040.
    let points = lines.iter().filter_map(|line| line.split(' ').nth(4));
    let points = points.filter(|point| bears(point, marks));
    Ok(points.map(|point| PathBuf::from(point.replace("\\040", " "))).collect())
}

fn bears(text: &str, marks: &[&str]) -> bool {
    marks.iter().any(|mark| text.contains(mark))
}

fn marked_lines(path: &str, marks: &[&str]) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.lines().filter(|line| bears(line, marks)).map(str::to_owned).collect())
}

fn files(directory: &Path, marks: &[&str], depth: usize, found: &mut BTreeSet<String>) {
    // A directory may vanish while we look, and not every one exists on every machine.
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if bears(&path.to_string_lossy(), marks) {
            found.insert(format!("file {}", path.display()));
        }
        if depth < DEPTH_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, marks, depth + 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_a_file_are_found_by_their_mark_and_seen_to_go() {
        let directory = std::env::temp_dir().join(format!("footprint-{}", std::process::id()));
        let mark = directory.to_str().expect("path");
        let before = Footprint::take(&[mark], &[&directory]).expect("footprint");
        assert!(before.is_empty(), "{before:?}");
        fs::create_dir(&directory).expect("directory");
        fs::write(directory.join("left"), "").expect("file");
        let mut child = Command::new("sleep").arg("60").env("MARK", mark).spawn().expect("child");
        // A process has no environment to read for a moment after `spawn` returned: the kernel lets the
        // parent run before it has laid out the new program's memory (fs/binfmt_elf.c).
        let process = format!("process {} sleep 60", child.id());
        wait::until("the process and the file are found", wait::SOON, || {
            let left = Footprint::take(&[mark], &[&directory])?.beyond(&before);
            Ok((left.contains(&process) && left.contains(&format!("file {mark}/left"))).then_some(()))
        })
        .expect("found");
        gone(&[mark], &[&directory], &before, Duration::from_millis(50)).expect_err("not gone");
        child.kill().and_then(|()| child.wait()).expect("killed");
        fs::remove_dir_all(&directory).expect("removed");
        gone(&[mark], &[&directory], &before, wait::SOON).expect("gone");
    }
}
