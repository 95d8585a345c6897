//! Control groups by number, from the guest's tree of them.
//!
//! In packet mode no process is visible, only the number of the control group in which a socket was made: the inode
//! number of its directory. The tree is looked through when a number turns up that is not known.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use procfs::process::{MountInfo, Process};

use porthole_bpf_types::record::{CGROUP_DEPTH_MAX, CGROUP_NAME_MAX};

use crate::recorder::containers::{ContainerIndex, Containers};

/// Directories that one look goes through at most.
const DIRECTORIES_MAX: usize = 4096;

/// Levels of directories that one look goes down at most.
const DEPTH_MAX: usize = 16;

/// The root of the guest's control groups, held open: the way to it takes capabilities that the agent gives up.
#[derive(Debug)]
pub struct Tree {
    root: File,
}

impl Tree {
    /// Finds the unified hierarchy where the guest's first process sees it; or where this one does, outside of guests,
    /// where it may not look through the first one's eyes.
    pub fn open(proc: &Path) -> io::Result<Self> {
        Self::as_seen_by(&proc.join("1"))
            .or_else(|error| Self::as_seen_by(&proc.join("self")).map_err(|_| error))
    }

    fn as_seen_by(process: &Path) -> io::Result<Self> {
        let root = process.to_owned();
        let mounts =
            Process::new_with_root(root).and_then(|process| process.mountinfo()).map_err(io::Error::other)?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted");
        let mounted = mount_point(mounts.0).ok_or_else(none)?;
        let relative = mounted.strip_prefix("/").unwrap_or(&mounted);
        Self::of(&process.join("root").join(relative))
    }

    /// The tree below a directory.
    pub fn of(root: &Path) -> io::Result<Self> {
        Ok(Self { root: File::open(root)? })
    }

    /// The directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The container of a control group; searches the tree if it was not seen before.
    pub fn container(&self, cgroup: u64, containers: &mut Containers) -> ContainerIndex {
        if !containers.knows(cgroup) {
            // One that is gone by now does not come back, nor does its number.
            let nowhere = [[0; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX];
            containers.learn(cgroup, &self.find(cgroup).unwrap_or(nowhere));
        }
        containers.of_cgroup(cgroup)
    }

    /// The last components of a control group's path, the last one first.
    fn find(&self, cgroup: u64) -> Option<[[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX]> {
        let root = PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()));
        let mut left = DIRECTORIES_MAX;
        // The nearest first: containers are not deep down.
        let mut level: Vec<Vec<OsString>> = vec![Vec::new()];
        for _ in 0..DEPTH_MAX {
            let mut below = Vec::new();
            for path in level {
                let Ok(entries) = fs::read_dir(root.join(path.iter().collect::<PathBuf>())) else { continue };
                for entry in entries.flatten() {
                    if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        continue;
                    }
                    left = left.checked_sub(1)?;
                    let path = [&path[..], &[entry.file_name()]].concat();
                    // The number of `stat`, not of `getdents`: on a mount point they differ.
                    if entry.metadata().is_ok_and(|metadata| metadata.ino() == cgroup) {
                        return Some(components(&path));
                    }
                    below.push(path);
                }
            }
            level = below;
        }
        None
    }
}

fn components(path: &[OsString]) -> [[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX] {
    let mut components = [[0; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX];
    for (to, from) in components.iter_mut().zip(path.iter().rev()) {
        let from = from.as_bytes();
        let len = from.len().min(CGROUP_NAME_MAX - 1);
        to[..len].copy_from_slice(&from[..len]);
    }
    components
}

/// Where the unified hierarchy is mounted.
fn mount_point(mounts: Vec<MountInfo>) -> Option<PathBuf> {
    mounts.into_iter().find(|mount| mount.fs_type == "cgroup2").map(|mount| mount.mount_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_others() {
        let parse = |lines: &[&str]| {
            let line = |line: &&str| MountInfo::from_line(line).expect("a line of mountinfo");
            lines.iter().map(line).collect::<Vec<_>>()
        };
        let mounts = parse(&[
            "30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755",
            "31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu",
            "32 30 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw",
        ]);
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point(parse(&["22 1 0:20 / /proc rw - proc proc rw"])), None);
    }

    #[test]
    fn a_directory_is_found_by_its_number_and_names_its_container() {
        let root = tempfile::tempdir().expect("directory");
        let deep = root.path().join("kubepods/besteffort/4e2a");
        fs::create_dir_all(&deep).expect("made");
        fs::create_dir_all(root.path().join("other")).expect("made");
        let tree = Tree::of(root.path()).expect("opened");
        let number = fs::metadata(&deep).expect("there").ino();
        let mut containers = Containers::default();
        let container = tree.container(number, &mut containers);
        assert_eq!(containers.id(container), "4e2a");
        assert_eq!(tree.container(number, &mut containers), container);
        assert_eq!(tree.container(u64::MAX, &mut containers), ContainerIndex::default());
    }
}
