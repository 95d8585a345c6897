//! How many file descriptors the processes of containers have open.
//!
//! From Linux 6.2 on the size of the directory `/proc/PID/fd` is their number (`proc_fd_getattr` in `fs/proc/fd.c`), for which it
//! need not be opened: what is in it is for those to see who may trace the process, and the agent no longer may.

use std::{collections::BTreeMap, fs, path::Path};

use crate::recorder::containers::container_of;

/// Processes that one look goes through at most. Where there are more, there are no numbers.
const PROCESSES_MAX: usize = 1024;

/// Looks between which the last numbers are given again: each takes two calls for each process.
const LOOKS_BETWEEN: u32 = 5;

/// Counts descriptors.
#[derive(Debug)]
pub struct Descriptors {
    looks: u32,
    last: BTreeMap<String, u64>,
}

impl Descriptors {
    /// None where the kernel does not report it.
    pub fn new(proc: &Path) -> Option<Self> {
        // This process has descriptors open.
        (size_of(&proc.join("self")) > Some(0)).then(|| Self { looks: 0, last: BTreeMap::new() })
    }

    /// The numbers by container.
    pub fn by_container(&mut self, proc: &Path) -> &BTreeMap<String, u64> {
        if self.looks == 0 {
            self.last = count(proc);
        }
        self.looks = (self.looks + 1) % LOOKS_BETWEEN;
        &self.last
    }
}

fn count(proc: &Path) -> BTreeMap<String, u64> {
    let mut open = BTreeMap::new();
    let Ok(entries) = fs::read_dir(proc) else { return open };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut processes = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process));
    for process in processes.by_ref().take(PROCESSES_MAX) {
        let path = process.path();
        let Some(container) = container(&path) else { continue };
        if let Some(size) = size_of(&path) {
            *open.entry(container).or_insert(0) += size;
        }
    }
    if processes.next().is_some() {
        // The numbers would be too small.
        open.clear();
    }
    open
}

/// The container of a process, by its control group in the unified hierarchy.
fn container(process: &Path) -> Option<String> {
    let groups = fs::read_to_string(process.join("cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find_map(container_of)
}

fn size_of(process: &Path) -> Option<u64> {
    fs::metadata(process.join("fd")).ok().map(|directory| directory.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_component_that_is_a_container_has_the_process() {
        let process = tempfile::tempdir().expect("directory");
        let of = |text: &str| {
            fs::write(process.path().join("cgroup"), text).expect("written");
            container(process.path())
        };
        assert_eq!(of("0::/../shop-1\n").as_deref(), Some("shop-1"), "as seen from another one's namespace");
        assert_eq!(of("4:memory:/x\n0::/default/blog-1/system.slice\n").as_deref(), Some("blog-1"));
        assert_eq!(of("0::/\n"), None);
    }

    #[test]
    fn open_descriptors_are_counted_where_the_kernel_has_their_number() {
        let proc = Path::new("/proc");
        let Some(before) = size_of(&proc.join("self")).filter(|size| *size > 0) else {
            assert!(Descriptors::new(proc).is_none(), "an older kernel");
            return;
        };
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").expect("opened")).collect();
        // Other tests of this process open and close some meanwhile.
        assert!(size_of(&proc.join("self")) >= Some(before.min(3) + files.len() as u64));
    }
}
