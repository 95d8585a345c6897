//! The sandbox's control groups on the host.
//!
//! Everything that runs for a sandbox is in the group that the specification names (`linux.cgroupsPath`), below the pod's:
//! there its memory and its processor time are accounted and limited. The group is made in every hierarchy of the host,
//! of version 1 and 2 (cgroups(7)).

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// How long a group may stay busy: a killed program's children end a moment after it, and are then reaped.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// Control groups that were made.
#[derive(Debug, Default)]
pub struct ControlGroups {
    /// Open `cgroup.procs` files, one for each hierarchy.
    pub members: Vec<OwnedFd>,
    /// Directories that did not exist before, parents first.
    pub made: Vec<PathBuf>,
}

/// Makes the group in every hierarchy. `path` is the specification's; systemd's form is taken too.
pub fn make(path: &str) -> io::Result<ControlGroups> {
    let relative =
        relative_path(path).ok_or_else(|| io::Error::other(format!("`{path}` is no control group")))?;
    let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo")?);
    let mut groups = ControlGroups::default();
    match make_below(&hierarchies, &relative, &mut groups) {
        Ok(()) => Ok(groups),
        Err(error) => {
            remove(&groups.made);
            Err(error)
        }
    }
}

fn make_below(hierarchies: &[PathBuf], relative: &Path, groups: &mut ControlGroups) -> io::Result<()> {
    for hierarchy in hierarchies {
        let mut directory = hierarchy.clone();
        for part in relative {
            let parent = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Ok(()) => groups.made.push(directory.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            inherit_cpuset(&parent, &directory)?;
        }
        let members = OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?;
        groups.members.push(members.into());
    }
    Ok(())
}

/// A group of version 1 takes no process before it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, group: &Path) -> io::Result<()> {
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

/// Removes groups, children first. One in which others have made groups by now stays.
pub fn remove(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        for _ in 0..REMOVE_ATTEMPTS {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && !has_children(directory) => {
                    std::thread::sleep(REMOVE_PAUSE);
                }
                _ => break,
            }
        }
    }
}

/// Whether there are groups below a group.
fn has_children(directory: &Path) -> bool {
    let child = |entry: fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    fs::read_dir(directory).into_iter().flatten().flatten().any(child)
}

/// The specification's path below a hierarchy's mount point.
fn relative_path(path: &str) -> Option<PathBuf> {
    let path = if let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] {
        systemd_path(slice, prefix, name)?
    } else {
        PathBuf::from(path)
    };
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => relative.push(part),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!relative.as_os_str().is_empty()).then_some(relative)
}

/// `a-b.slice`, `prefix`, `name` stand for `a.slice/a-b.slice/prefix-name.scope`, systemd.slice(5).
fn systemd_path(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    let stem = slice.strip_suffix(".slice")?;
    for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        path.push(format!("{}.slice", &stem[..end]));
    }
    let scope = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    path.push(scope);
    Some(path)
}

/// Mount points of the hierarchies whose root is mounted, in mountinfo's form (proc(5)).
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some((fields, kind)) = line.split_once(" - ") else { continue };
        if !(kind.starts_with("cgroup ") || kind.starts_with("cgroup2 ")) {
            continue;
        }
        let mut fields = fields.split(' ').skip(3);
        if let (Some("/"), Some(point)) = (fields.next(), fields.next()) {
            found.push(point.into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_in_every_hierarchy_and_what_was_made_goes() {
        let scratch = tempfile::tempdir().expect("directory");
        let hierarchies = ["memory", "cpuset"].map(|name| scratch.path().join(name));
        for hierarchy in &hierarchies {
            fs::create_dir_all(hierarchy.join("kubepods")).expect("created");
        }
        let mut failed = ControlGroups::default();
        make_below(&hierarchies, Path::new("kubepods/pod1/c1"), &mut failed)
            .expect_err("no member file here");
        assert_eq!(failed.made, ["pod1", "pod1/c1"].map(|made| hierarchies[0].join("kubepods").join(made)));
        remove(&failed.made);
        assert!(!hierarchies[0].join("kubepods/pod1").exists());
        for hierarchy in &hierarchies {
            fs::create_dir_all(hierarchy.join("kubepods/pod2/c1")).expect("created");
            fs::write(hierarchy.join("kubepods/pod2/c1/cgroup.procs"), b"").expect("written");
        }
        let mut groups = ControlGroups::default();
        make_below(&hierarchies, Path::new("kubepods/pod2/c1"), &mut groups).expect("made");
        assert_eq!((groups.members.len(), groups.made.len()), (2, 0), "what was there is not removed");
    }

    #[test]
    fn processors_and_memory_nodes_are_inherited() {
        let scratch = tempfile::tempdir().expect("directory");
        let group = scratch.path().join("g");
        fs::create_dir(&group).expect("created");
        for (path, text) in [(scratch.path(), "0-1\n"), (group.as_path(), "\n")] {
            fs::write(path.join("cpuset.cpus"), text).expect("written");
            fs::write(path.join("cpuset.mems"), text).expect("written");
        }
        inherit_cpuset(scratch.path(), &group).expect("inherited");
        assert_eq!(fs::read_to_string(group.join("cpuset.cpus")).expect("read"), "0-1\n");
    }

    #[test]
    fn paths_of_both_forms_are_understood_and_none_leads_away() {
        let path = |text: &str| relative_path(text).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(path("/kubepods/pod1/c1").as_deref(), Some("kubepods/pod1/c1"));
        assert_eq!(
            path("kubepods-burstable-pod1.slice:cri-containerd:c1").as_deref(),
            Some(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c1.scope"
            )
        );
        for text in ["", "/", "/a/../../b", "..", "a:b:c"] {
            assert_eq!(path(text), None, "{text}");
        }
    }

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let table = "30 27 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     32 30 0:28 /sub /sys/fs/cgroup/part rw - cgroup cgroup rw,memory\n\
                     33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(table);
        assert_eq!(found, [Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup/unified")]);
    }
}
