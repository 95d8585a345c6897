//! What containers and their guest take: CPU time, memory, disks, network, pressure, threads and descriptors.
//!
//! ```text
//! control groups ──► group ──┐
//! procfs ──► guest, processes ┴► Sampler ──► State ──► the next batch of Watch
//! ```
//!
//! - [`group`] reads the files of one container's control group, [`guest`] those of the guest.
//! - [`descriptors`] counts what processes have open.
//! - [`files`] has the kernel's forms of numbers.
//!
//! Invariants: what a look reads is bounded; a value that the kernel does not offer is absent; values are the kernel's own, so
//! nothing is kept between two looks but which containers there are.

mod descriptors;
mod files;
mod group;
mod guest;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use porthole_agent_api::{agent::Resources, limits::BATCH_RESOURCES_MAX, resources::Resource};

use self::descriptors::Descriptors;
use crate::{cgroups::Tree, recorder::containers::container_of};

/// How often resources are measured.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Most containers that are measured.
const CONTAINERS_MAX: usize = BATCH_RESOURCES_MAX - 1;

/// Directories that one look for containers goes through at most.
const DIRECTORIES_MAX: usize = 512;

/// Levels of directories that it goes down at most.
const DEPTH_MAX: usize = 8;

/// Measures. Its way to the control groups is held open: it takes capabilities that the agent gives up.
#[derive(Debug)]
pub struct Sampler {
    tree: Option<Tree>,
    proc: PathBuf,
    ticks: u64,
    descriptors: Option<Descriptors>,
    /// Containers, or control groups, that the last look left out.
    left_out: u64,
}

impl Sampler {
    /// Opens what is read later. Without control groups of version 2 only the guest as a whole is measured.
    pub fn open(proc: &Path) -> Self {
        let tree = Tree::open(proc);
        if let Err(error) = &tree {
            tracing::info!(%error, "the resources of containers are not measured");
        }
        Self::with(tree.ok(), proc)
    }

    fn with(tree: Option<Tree>, proc: &Path) -> Self {
        let descriptors = Descriptors::new(proc);
        Self { tree, proc: proc.to_owned(), ticks: procfs::ticks_per_second(), descriptors, left_out: 0 }
    }

    /// Where the guest's processes are.
    pub fn proc(&self) -> &Path {
        &self.proc
    }

    /// Containers that were not measured because there are more than are measured.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Measures the guest and its containers. Of those that have just exited, too, as long as their control groups are there.
    pub fn sample(&mut self, exited: &[String]) -> Vec<Resources> {
        let mut resources = vec![guest::measure(&self.proc, self.ticks).to_wire(String::new())];
        let Some(tree) = &self.tree else { return resources };
        let root = PathBuf::from(format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd()));
        let open = self.descriptors.as_mut().map(|descriptors| descriptors.by_container(&self.proc));
        let (containers, is_all) = containers(&root);
        self.left_out = u64::from(!is_all);
        for (id, path) in containers {
            let path = root.join(path);
            if group::is_populated(&path) != Some(true) && !exited.contains(&id) {
                continue;
            }
            if resources.len() > CONTAINERS_MAX {
                self.left_out += 1;
                continue;
            }
            let mut measured = group::measure(&path);
            measured.set(Resource::OpenDescriptors, open.and_then(|open| open.get(&id)).copied());
            // It may have gone meanwhile.
            if !measured.is_empty() {
                resources.push(measured.to_wire(id));
            }
        }
        resources
    }
}

/// The containers' control groups below a directory, each with its id. A group is a container's if its name can be one and no name
/// below can: as requests are assigned ([`container_of`]). Whether these are all.
fn containers(root: &Path) -> (Vec<(String, PathBuf)>, bool) {
    let mut left = DIRECTORIES_MAX;
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    collect(root, Path::new(""), DEPTH_MAX, &mut left, &mut |id, path| {
        if seen.insert(id.clone()) {
            found.push((id, path));
        }
    });
    (found, left > 0)
}

/// Whether there is a container at or below `path`.
fn collect(
    root: &Path,
    path: &Path,
    depth: usize,
    left: &mut usize,
    found: &mut impl FnMut(String, PathBuf),
) -> bool {
    let below = if depth > 0 { directories(&root.join(path), left).unwrap_or_default() } else { Vec::new() };
    let mut is_any = false;
    for name in below {
        is_any |= collect(root, &path.join(name), depth - 1, left, found);
    }
    if is_any {
        return true;
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(id) = name.and_then(container_of) else { return false };
    found(id, path.to_owned());
    true
}

/// The directories in a directory, as many as may still be gone through.
fn directories(path: &Path, left: &mut usize) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let Some(fewer) = left.checked_sub(1) else { break };
        *left = fewer;
        names.push(entry.file_name());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use porthole_agent_api::resources::Measured;

    use super::*;

    /// A tree of control groups, and a procfs without processes.
    struct Guest(tempfile::TempDir);

    impl Guest {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("directory");
            fs::create_dir(directory.path().join("proc")).expect("made");
            fs::create_dir(directory.path().join("groups")).expect("made");
            Self(directory)
        }

        fn group(&self, path: &str, populated: bool, threads: u64) {
            let group = self.0.path().join("groups").join(path);
            fs::create_dir_all(&group).expect("made");
            let events = format!("populated {}\n", u8::from(populated));
            fs::write(group.join("cgroup.events"), events).expect("written");
            fs::write(group.join("pids.current"), format!("{threads}\n")).expect("written");
        }

        fn sample(&self, exited: &[&str]) -> Vec<(String, Option<u64>)> {
            self.sample_all(exited).0
        }

        /// The containers that were measured, and how many were left out.
        fn sample_all(&self, exited: &[&str]) -> (Vec<(String, Option<u64>)>, u64) {
            let tree = Tree::of(&self.0.path().join("groups")).expect("opened");
            let mut sampler = Sampler::with(Some(tree), &self.0.path().join("proc"));
            let exited: Vec<_> = exited.iter().map(ToString::to_string).collect();
            let resources = sampler.sample(&exited);
            assert_eq!(resources[0].container_id, "", "the guest comes first");
            let of = |of: &Resources| {
                let measured = Measured::from_wire(of).expect("one value for each bit");
                (of.container_id.clone(), measured.get(Resource::Threads))
            };
            let mut containers: Vec<_> = resources[1..].iter().map(of).collect();
            containers.sort();
            (containers, sampler.left_out())
        }
    }

    #[test]
    fn each_container_is_measured_once_wherever_its_runtime_has_put_it() {
        let guest = Guest::new();
        guest.group("shop-1", true, 1);
        guest.group("default/blog-1", true, 2);
        guest.group("kubepods.slice/kubepods-pod1.slice/cri-containerd-4e2a.scope", true, 3);
        guest.group("init-1/system.slice/nginx.service", true, 9);
        guest.group("init-1", true, 4);
        guest.group("system.slice/ssh.service", true, 9);
        guest.group(".porthole", true, 9);
        let expected = [("4e2a", 3), ("blog-1", 2), ("init-1", 4), ("shop-1", 1)];
        assert_eq!(guest.sample(&[]), expected.map(|(id, threads)| (id.to_owned(), Some(threads))));
    }

    #[test]
    fn one_that_has_no_process_is_measured_only_right_after_its_exit() {
        let guest = Guest::new();
        guest.group("shop-1", false, 0);
        guest.group("default", true, 7);
        guest.group("default/gone-1", false, 0);
        assert_eq!(guest.sample(&[]), []);
        assert_eq!(guest.sample(&["shop-1"]), [("shop-1".to_owned(), Some(0))]);
    }

    #[test]
    fn a_guest_with_many_groups_is_measured_in_part() {
        let guest = Guest::new();
        for number in 0..2 * DIRECTORIES_MAX {
            guest.group(&format!("c{number}"), true, 1);
        }
        let (measured, left_out) = guest.sample_all(&[]);
        assert_eq!(
            (measured.len(), left_out),
            (CONTAINERS_MAX, (DIRECTORIES_MAX - CONTAINERS_MAX) as u64 + 1)
        );
        let deep = Guest::new();
        deep.group(&["a"; 4 * DEPTH_MAX].join("/"), true, 1);
        assert_eq!(deep.sample(&[]), [], "no group at the last level that was gone through has files");
    }
}
