//! The place for what runs on this machine itself, beside everything else that runs there: a directory, and a control
//! group that distinguishes our exchanges from all others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use porthole_registry::ContainerId;
use porthole_testbed::{interrupt, sweep::Scratch};
use procfs::{MountEntry, process::Process};

use crate::{
    bench::{agent::Agent, mode::Way},
    build,
    workspace::{Workspace, require_root},
};

/// The place, until it is dropped.
pub struct Native {
    agent: PathBuf,
    // In the order in which they are taken down.
    group: Group,
    scratch: Scratch,
}

impl Native {
    /// Builds the agent and makes the place; from here on everything that this process starts is in it, and Ctrl-C takes
    /// it down.
    pub fn prepare(workspace: &Workspace) -> Result<Self> {
        require_root("eBPF")?;
        let agent = build::agent(workspace)?;
        interrupt::install()?;
        let scratch = Scratch::create()?;
        let group = Group::enter(format!("bench-{}", scratch.tag()).parse()?)?;
        Ok(Self { agent, group, scratch })
    }

    /// For files.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// As what the agent sees us: it names a container after its control group.
    pub fn container(&self) -> &ContainerId {
        &self.group.name
    }

    /// Starts an agent.
    pub fn agent(&self, way: Way, extra: &[&str]) -> Result<Agent> {
        Agent::start(&self.agent, self.directory(), self.container(), way, extra)
    }
}

/// This process in a control group of its own, until it is dropped.
struct Group {
    name: ContainerId,
    directory: PathBuf,
    before: PathBuf,
}

impl Group {
    fn enter(name: ContainerId) -> Result<Self> {
        let root = unified(procfs::mounts()?).context("no cgroup2 file system is mounted")?;
        let groups = Process::myself()?.cgroups()?;
        let own = groups.into_iter().find(|group| group.hierarchy == 0).context("a control group of ours")?;
        let own = own.pathname.trim_start_matches('/');
        let group = Self { directory: root.join(name.as_str()), before: root.join(own), name };
        fs::create_dir(&group.directory).with_context(|| format!("make {}", group.directory.display()))?;
        join(&group.directory)?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left = join(&self.before).and_then(|()| fs::remove_dir(&self.directory).context("remove it"));
        if let Err(error) = left {
            eprintln!("warning: {} stays: {error:#}", self.directory.display());
        }
    }
}

/// Moves this process; 0 is the writing process (kernel: `Documentation/admin-guide/cgroup-v2.rst`).
fn join(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), "0").with_context(|| format!("enter {}", group.display()))
}

/// Where control groups of version 2 are.
fn unified(mounts: Vec<MountEntry>) -> Option<PathBuf> {
    mounts.into_iter().find(|mount| mount.fs_vfstype == "cgroup2").map(|mount| PathBuf::from(mount.fs_file))
}

#[cfg(test)]
mod tests {
    use procfs::FromBufRead as _;

    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_the_old_ones() {
        let both = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let mounts = |text: &str| Vec::<MountEntry>::from_buf_read(text.as_bytes()).expect("mounts");
        assert_eq!(unified(mounts(both)), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified(mounts("proc /proc proc rw 0 0\n")), None);
    }
}
