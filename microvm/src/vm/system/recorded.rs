//! The recording implementation: keeps the operations in order, and fails at a selected one. Of control groups and of
//! redirections it knows which there are, so that a test can see what remains.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    FileSystem, MemoryBounds, System,
    groups::{GroupSystem, Removal},
    network::{Link, NetworkSystem},
};
use crate::{vm::VmError, wire::guest::SetNetworkRequest};

/// Parts of a hierarchy's path: the root, `cg`, its name.
const HIERARCHY_PARTS: usize = 3;

/// Records every operation as a line. Handles are the paths that they stand for.
#[derive(Debug, Default)]
pub struct Recorded {
    lines: Mutex<Vec<String>>,
    fails_at: Option<&'static str>,
    fails_at_call: Option<usize>,
    groups: Mutex<BTreeSet<PathBuf>>,
    /// Those of the groups that were made here.
    marked: Mutex<BTreeSet<PathBuf>>,
    /// A group that others remove before this operation.
    lost: Option<(usize, &'static str)>,
    /// How often a group is busy yet.
    busy: AtomicU32,
    /// The calling process' group in each hierarchy that it has changed.
    joined: Mutex<BTreeMap<PathBuf, PathBuf>>,
    links: Vec<Link>,
    redirecting: Mutex<BTreeSet<String>>,
}

impl Recorded {
    /// Fails at the first operation whose line begins with this.
    pub fn failing_at(start: &'static str) -> Self {
        Self { fails_at: Some(start), ..Self::default() }
    }

    /// Fails at this operation, from 0, and not again.
    #[must_use]
    pub fn failing_at_call(self, call: usize) -> Self {
        Self { fails_at_call: Some(call), ..self }
    }

    /// Has these control groups, and those above them below `/cg/<hierarchy>`.
    #[must_use]
    pub fn with_groups(self, groups: &[&str]) -> Self {
        self.groups.lock().expect("no test panics here").extend(groups.iter().map(PathBuf::from));
        self
    }

    /// Loses a group before this operation, from 0, if there is none in it.
    #[must_use]
    pub fn losing_at_call(self, call: usize, group: &'static str) -> Self {
        Self { lost: Some((call, group)), ..self }
    }

    /// Has a busy group the next times that one is to be removed.
    #[must_use]
    pub fn busy_for(self, times: u32) -> Self {
        Self { busy: AtomicU32::new(times), ..self }
    }

    /// Has these interfaces.
    #[must_use]
    pub fn with_links(self, links: Vec<Link>) -> Self {
        Self { links, ..self }
    }

    /// Has an interface with another's redirection.
    #[must_use]
    pub fn with_redirecting(self, name: &str) -> Self {
        self.redirecting.lock().expect("no test panics here").insert(name.to_owned());
        self
    }

    /// The control groups.
    pub fn groups(&self) -> BTreeSet<PathBuf> {
        self.groups.lock().expect("no test panics here").clone()
    }

    /// The calling process' groups, as far as it has changed them.
    pub fn joined(&self) -> Vec<PathBuf> {
        self.joined.lock().expect("no test panics here").values().cloned().collect()
    }

    /// Interfaces that redirect what arrives.
    pub fn redirecting(&self) -> Vec<String> {
        self.redirecting.lock().expect("no test panics here").iter().cloned().collect()
    }

    /// The calls so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no test panics here").clone()
    }

    /// Removes a group in which there is no other; whether it did.
    fn take_group(&self, group: &Path) -> bool {
        let mut groups = self.groups.lock().expect("no test panics here");
        let is_empty = !groups.iter().any(|other| other != group && other.starts_with(group));
        if is_empty {
            groups.remove(group);
        }
        is_empty
    }

    fn record(&self, line: String) -> io::Result<()> {
        let mut lines = self.lines.lock().expect("no test panics here");
        let fails = self.fails_at.is_some_and(|start| line.starts_with(start))
            || self.fails_at_call == Some(lines.len());
        if let Some((call, group)) = self.lost
            && call == lines.len()
        {
            self.take_group(Path::new(group));
        }
        lines.push(line);
        if fails { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }
}

impl System for Recorded {
    type Handle = PathBuf;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.record(format!("create_directory {}", path.display()))
    }

    fn mount_memory(&self, target: &Path, _: MemoryBounds) -> io::Result<()> {
        self.record(format!("mount_memory {}", target.display()))
    }

    fn bind_slave(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.record(format!("bind_slave {} {}", source.display(), target.display()))
    }

    fn open_directory(&self, path: &Path) -> io::Result<PathBuf> {
        self.record(format!("open_directory {}", path.display())).map(|()| path.to_owned())
    }

    fn create_directory_in(&self, parent: &PathBuf, name: &str) -> io::Result<PathBuf> {
        let path = parent.join(name);
        self.record(format!("create_directory_in {}", path.display())).map(|()| path)
    }

    fn create_file_in(&self, parent: &PathBuf, name: &str) -> io::Result<PathBuf> {
        let path = parent.join(name);
        self.record(format!("create_file_in {}", path.display())).map(|()| path)
    }

    fn is_directory(&self, path: &Path) -> io::Result<bool> {
        Ok(path.extension().is_none())
    }

    fn mount(&self, file_system: &FileSystem, target: &Path) -> io::Result<()> {
        self.record(format!("mount {} {}", file_system.kind, target.display()))
    }

    fn clone_tree(&self, source: &Path) -> io::Result<PathBuf> {
        self.record(format!("clone_tree {}", source.display())).map(|()| source.to_owned())
    }

    fn restrict_tree(&self, tree: &PathBuf, read_only: bool) -> io::Result<()> {
        let how = if read_only { "read-only" } else { "writable" };
        self.record(format!("restrict_tree {} {how}", tree.display()))
    }

    fn attach_tree(&self, tree: &PathBuf, target: &PathBuf) -> io::Result<()> {
        self.record(format!("attach_tree {} {}", tree.display(), target.display()))
    }

    fn detach_below(&self, directory: &Path) -> io::Result<()> {
        self.record(format!("detach_below {}", directory.display()))
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.record(format!("remove_directory {}", directory.display()))
    }
}

impl GroupSystem for Recorded {
    type Members = PathBuf;

    fn hierarchies(&self) -> io::Result<Vec<PathBuf>> {
        Ok(["/cg/memory", "/cg/cpuset"].map(PathBuf::from).to_vec())
    }

    fn group_exists(&self, group: &Path) -> bool {
        self.groups().contains(group)
    }

    fn create_group(&self, group: &Path) -> io::Result<bool> {
        self.record(format!("create_group {}", group.display()))?;
        let mut groups = self.groups.lock().expect("no test panics here");
        let is_in_root = group.components().count() == HIERARCHY_PARTS + 1;
        if !is_in_root && !group.parent().is_some_and(|parent| groups.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let is_new = groups.insert(group.to_owned());
        if is_new {
            self.marked.lock().expect("no test panics here").insert(group.to_owned());
        }
        Ok(is_new)
    }

    fn is_marked(&self, group: &Path) -> bool {
        self.group_exists(group) && self.marked.lock().expect("no test panics here").contains(group)
    }

    fn inherit_cpuset(&self, parent: &Path, group: &Path) -> io::Result<()> {
        self.record(format!("inherit_cpuset {} {}", parent.display(), group.display()))
    }

    fn open_members(&self, group: &Path) -> io::Result<PathBuf> {
        self.record(format!("open_members {}", group.display())).map(|()| group.to_owned())
    }

    fn own_group(&self, hierarchy: &Path) -> io::Result<PathBuf> {
        self.record(format!("own_group {}", hierarchy.display())).map(|()| hierarchy.join("system"))
    }

    fn join(&self, members: &PathBuf) -> io::Result<()> {
        self.record(format!("join {}", members.display()))?;
        let hierarchy = members.components().take(HIERARCHY_PARTS).collect();
        self.joined.lock().expect("no test panics here").insert(hierarchy, members.clone());
        Ok(())
    }

    fn remove_group(&self, group: &Path) -> io::Result<Removal> {
        self.record(format!("remove_group {}", group.display()))?;
        if self.busy.load(Ordering::Relaxed) > 0 {
            self.busy.fetch_sub(1, Ordering::Relaxed);
            return Ok(Removal::Busy);
        }
        Ok(if self.take_group(group) { Removal::Gone } else { Removal::Shared })
    }
}

impl Recorded {
    fn record_network(&self, line: String) -> Result<(), VmError> {
        self.record(line).map_err(|source| VmError::Network { what: "recorded", source })
    }
}

impl NetworkSystem for Recorded {
    type Tap = ();

    fn make_namespace(&self, path: &Path) -> Result<(), VmError> {
        self.record_network(format!("make_namespace {}", path.display()))
    }

    fn open_tap(&self, _: &Path, name: &str) -> Result<(), VmError> {
        self.record_network(format!("open_tap {name}"))
    }

    fn links(&self, _: &Path) -> Result<Vec<Link>, VmError> {
        self.record_network("links".to_owned()).map(|()| self.links.clone())
    }

    fn describe(&self, _: &Path, link: &Link) -> Result<SetNetworkRequest, VmError> {
        self.record_network(format!("describe {}", link.name)).map(|()| SetNetworkRequest::new())
    }

    fn set_up(&self, _: &Path, link: &Link, mtu: Option<u32>) -> Result<(), VmError> {
        let mtu = mtu.map(|mtu| format!(" {mtu}")).unwrap_or_default();
        self.record_network(format!("set_up {}{mtu}", link.name))
    }

    fn add_ingress(&self, _: &Path, link: &Link) -> Result<(), VmError> {
        self.record_network(format!("add_ingress {}", link.name))?;
        if self.redirecting.lock().expect("no test panics here").insert(link.name.clone()) {
            return Ok(());
        }
        Err(VmError::Network { what: "recorded", source: io::ErrorKind::AlreadyExists.into() })
    }

    fn redirect(&self, _: &Path, from: &Link, to: &Link) -> Result<(), VmError> {
        self.record_network(format!("redirect {} {}", from.name, to.name))
    }

    fn remove_ingress(&self, _: &Path, link: &Link) -> Result<(), VmError> {
        self.record_network(format!("remove_ingress {}", link.name))?;
        self.redirecting.lock().expect("no test panics here").remove(&link.name);
        Ok(())
    }
}
