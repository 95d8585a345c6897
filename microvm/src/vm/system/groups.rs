//! The privileged operations on the host's control groups (cgroups(7)), of version 1 and 2.

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::{Linux, mark};

/// What became of a group that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Gone,
    /// A process is in it, or has been until now.
    Busy,
    /// Others have made groups in it.
    Shared,
}

/// Operations on the host's control groups. Groups are directories.
pub trait GroupSystem {
    /// An open list of a group's members.
    type Members;

    /// Mount points of all hierarchies.
    fn hierarchies(&self) -> io::Result<Vec<PathBuf>>;

    /// Whether a group is there.
    fn group_exists(&self, group: &Path) -> bool;

    /// Makes a group and marks it as made by this runtime; whether it was not there before.
    fn create_group(&self, group: &Path) -> io::Result<bool>;

    /// Whether this runtime has made a group, for whichever sandbox.
    fn is_marked(&self, group: &Path) -> bool;

    /// Gives a new group of version 1, which takes no process before, its parent's processors and memory nodes.
    fn inherit_cpuset(&self, parent: &Path, group: &Path) -> io::Result<()>;

    /// Opens the list of members: a process that writes to it joins the group.
    fn open_members(&self, group: &Path) -> io::Result<Self::Members>;

    /// The calling process' group in the hierarchy that is mounted there.
    fn own_group(&self, hierarchy: &Path) -> io::Result<PathBuf>;

    /// Moves the calling process into a group.
    fn join(&self, members: &Self::Members) -> io::Result<()>;

    /// Removes a group; one that is not there is gone.
    fn remove_group(&self, group: &Path) -> io::Result<Removal>;
}

impl GroupSystem for Linux {
    type Members = OwnedFd;

    fn hierarchies(&self) -> io::Result<Vec<PathBuf>> {
        let mounted = mounted(&fs::read_to_string("/proc/self/mountinfo")?);
        Ok(mounted.into_iter().map(|hierarchy| hierarchy.point).collect())
    }

    fn group_exists(&self, group: &Path) -> bool {
        group.is_dir()
    }

    fn create_group(&self, group: &Path) -> io::Result<bool> {
        match fs::create_dir(group) {
            Ok(()) => {
                mark::set(group)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_marked(&self, group: &Path) -> bool {
        mark::is_set(group)
    }

    fn inherit_cpuset(&self, parent: &Path, group: &Path) -> io::Result<()> {
        if group.join("cgroup.controllers").exists() {
            return Ok(());
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let Ok(own) = fs::read_to_string(group.join(file)) else { continue };
            if own.trim().is_empty() {
                fs::write(group.join(file), fs::read(parent.join(file))?)?;
            }
        }
        Ok(())
    }

    fn open_members(&self, group: &Path) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().write(true).open(group.join("cgroup.procs"))?.into())
    }

    fn own_group(&self, hierarchy: &Path) -> io::Result<PathBuf> {
        let mounted = mounted(&fs::read_to_string("/proc/self/mountinfo")?);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut found = mounted.iter().filter(|mounted| mounted.point == hierarchy);
        found.find_map(|hierarchy| own_group(&own, hierarchy)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn join(&self, members: &OwnedFd) -> io::Result<()> {
        // 0 is the process that writes.
        nix::unistd::write(members, b"0")?;
        Ok(())
    }

    fn remove_group(&self, group: &Path) -> io::Result<Removal> {
        match fs::remove_dir(group) {
            Ok(()) => Ok(Removal::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Gone),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                Ok(if has_children(group) { Removal::Shared } else { Removal::Busy })
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether there are groups below a group.
fn has_children(group: &Path) -> bool {
    let child = |entry: fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    fs::read_dir(group).into_iter().flatten().flatten().any(child)
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    point: PathBuf,
    /// Of version 1 its options, which name its controllers.
    options: Option<String>,
}

/// The hierarchies whose root is mounted, in mountinfo's form (proc(5)).
fn mounted(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((fields, kind)) = line.split_once(" - ") else { continue };
        if !(kind.starts_with("cgroup ") || kind.starts_with("cgroup2 ")) {
            continue;
        }
        let options = kind.starts_with("cgroup ").then(|| kind.rsplit(' ').next().unwrap_or_default());
        let mut fields = fields.split(' ').skip(3);
        if let (Some("/"), Some(point)) = (fields.next(), fields.next()) {
            found.push(Hierarchy { point: point.into(), options: options.map(str::to_owned) });
        }
    }
    found
}

/// A process' group in a hierarchy, from its table in the form of cgroups(7): number, controllers, path.
fn own_group(table: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let mut lines = table.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let (_, _, path) = lines.find(|(number, controllers, _)| match &hierarchy.options {
        None => *number == "0" && controllers.is_empty(),
        Some(options) => {
            let has = |wanted: &str| options.split(',').any(|option| option == wanted);
            !controllers.is_empty() && controllers.split(',').all(has)
        }
    })?;
    Some(hierarchy.point.join(path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_memory_nodes_are_inherited() {
        let scratch = tempfile::tempdir().expect("directory");
        let group = scratch.path().join("g");
        assert!(Linux.create_group(&group).expect("created"));
        assert!(!Linux.create_group(&group).expect("there already"));
        for (path, text) in [(scratch.path(), "0-1\n"), (group.as_path(), "\n")] {
            fs::write(path.join("cpuset.cpus"), text).expect("written");
            fs::write(path.join("cpuset.mems"), text).expect("written");
        }
        Linux.inherit_cpuset(scratch.path(), &group).expect("inherited");
        assert_eq!(fs::read_to_string(group.join("cpuset.cpus")).expect("read"), "0-1\n");
    }

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let table = "30 27 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     32 30 0:28 /sub /sys/fs/cgroup/part rw - cgroup cgroup rw,memory\n\
                     33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = mounted(table);
        let points: Vec<_> = found.iter().map(|hierarchy| hierarchy.point.as_path()).collect();
        assert_eq!(points, [Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup/unified")]);
        let own = "5:cpuset:/elsewhere\n4:cpu:/system/a:b\n1:name=systemd:/x\n0::/unified\n";
        let groups: Vec<_> = found.iter().map(|hierarchy| own_group(own, hierarchy)).collect();
        let wanted = ["/sys/fs/cgroup/cpu/system/a:b", "/sys/fs/cgroup/unified/unified"];
        assert_eq!(groups, wanted.map(|path| Some(path.into())));
        assert_eq!(own_group("5:cpuset:/\n", &found[0]), None);
    }

    /// Tables of hosts with hierarchies of version 1 beside one of version 2, whose mounts are shared, joined and under two names.
    #[test]
    fn tables_of_hosts_with_version_1_are_read() {
        let systemd = "\
25 31 0:23 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755,inode64
26 25 0:24 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
36 25 0:31 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,net_cls,net_prio
41 25 0:36 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:21 - cgroup cgroup rw,cpu,cpuacct
42 25 0:37 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:22 - cgroup cgroup rw,memory
";
        let own = "\
5:memory:/system.slice/containerd.service
4:cpu,cpuacct:/system.slice/containerd.service
3:net_cls,net_prio:/
1:name=systemd:/system.slice/containerd.service
0::/system.slice/containerd.service
";
        let groups: Vec<_> = mounted(systemd).iter().map(|hierarchy| own_group(own, hierarchy)).collect();
        let service = "system.slice/containerd.service";
        assert_eq!(
            groups,
            [
                format!("unified/{service}"),
                format!("systemd/{service}"),
                "net_cls,net_prio/".to_owned(),
                format!("cpu,cpuacct/{service}"),
                format!("memory/{service}"),
            ]
            .map(|group| Some(Path::new("/sys/fs/cgroup").join(group)))
        );
        // Each controller by itself, and none is another's whose name it begins.
        let separate = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let own = "3:cpuset:/c\n2:cpuacct:/b\n1:cpu:/a\n0::/d\n";
        let groups: Vec<_> = mounted(separate).iter().map(|hierarchy| own_group(own, hierarchy)).collect();
        let wanted = ["cpu/a", "cpuacct/b", "cpuset/c", "unified/d"];
        assert_eq!(groups, wanted.map(|group| Some(Path::new("/sys/fs/cgroup").join(group))));
    }
}
