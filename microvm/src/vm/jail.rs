//! What a program of a sandbox may touch, set between fork and exec.
//!
//! In the manner of Firecracker's jailer: a program that handles what a guest sends runs in namespaces of its own, as a
//! user of its own without any capability, in a root file system that holds the distribution's programs read-only and
//! what was named besides, in the pod's control group, under resource limits, and cannot gain privileges. What it needs
//! of the host it gets as open descriptors.
//!
//! Everything is prepared before the fork; after it only system calls are made, since the shim has several threads.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::Signal,
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};

use super::mount_attributes;

/// Bytes of the file system in memory that is a jail's root: it holds directories and mount points only.
const ROOT_OPTIONS: &CStr = c"mode=0755,size=256k,nr_inodes=4096";

/// Where distributions keep programs, libraries and QEMU's firmware.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// The dynamic linker's table of libraries in unusual places.
const SYSTEM_FILES: &[&str] = &["/etc/ld.so.cache"];

/// Devices that any program may use.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];

/// Highest capability number that is tried when the bounding set is emptied; the kernel ends the loop earlier.
const CAPABILITY_MAX: u32 = 63;

/// A user that owns nothing, and the groups that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User and group number.
    pub id: u32,
    /// Groups that give access to devices.
    pub groups: Vec<u32>,
}

/// What is in a jail's root file system.
#[derive(Clone, Debug, Default)]
pub struct Root {
    /// An empty directory of the host on which the root is mounted; it is visible to the program alone.
    pub mount_point: PathBuf,
    /// Files and directories of the host that the program reads, at the same path.
    pub readable: Vec<PathBuf>,
    /// Directories of the host in which the program writes, at the same path.
    pub writable: Vec<PathBuf>,
    /// Devices that it uses beside those of [`DEVICES`].
    pub devices: Vec<PathBuf>,
}

/// The network that a program is in.
#[derive(Debug)]
pub enum Network {
    /// The shim's.
    Host,
    /// None at all.
    Empty,
    /// A namespace of the host.
    Namespace(File),
}

/// A program's confinement.
#[derive(Debug)]
pub struct Jail {
    /// The user; none for one that has to act for every user of a guest.
    pub user: Option<User>,
    /// The root file system; none for a program that makes its own.
    pub root: Option<Root>,
    /// The network.
    pub network: Network,
    /// Whether the program is the first one of a process namespace of its own.
    pub own_processes: bool,
    /// Capabilities that the program, or what it executes, may ever have, as bits.
    pub capability_bounds: u64,
    /// How readily the kernel ends it when memory runs out, proc(5).
    pub oom_score: i16,
    /// Resource limits, soft and hard alike.
    pub limits: Vec<(Resource, u64)>,
    /// Open `cgroup.procs` files of the control groups that it joins.
    pub control_groups: Vec<OwnedFd>,
    /// A compiled seccomp filter, installed last; none for a program that installs its own.
    pub seccomp: Option<seccompiler::BpfProgram>,
    /// Descriptors that keep their numbers in it.
    pub inherited: Vec<RawFd>,
}

/// One step of making a root file system. Targets are relative to it.
#[derive(Debug)]
enum Step {
    Directory(CString),
    File(CString),
    Symlink { text: CString, at: CString },
    Bind { source: CString, target: CString, attributes: u64 },
}

/// A confinement as it is applied in the child.
#[derive(Debug)]
pub struct Prepared {
    jail: Jail,
    oom_score: String,
    mount_point: Option<CString>,
    steps: Vec<Step>,
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A path of the host as one relative to the root.
fn relative(path: &Path) -> io::Result<CString> {
    c_string(path.strip_prefix("/").map_err(|_| io::ErrorKind::InvalidInput)?)
}

/// Lists the steps that make a root, each directory once.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    directories: Vec<PathBuf>,
}

impl Plan {
    fn parents(&mut self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent().filter(|parent| parent.parent().is_some()) else { return Ok(()) };
        if !self.directories.iter().any(|made| made == parent) {
            self.parents(parent)?;
            self.steps.push(Step::Directory(relative(parent)?));
            self.directories.push(parent.to_owned());
        }
        Ok(())
    }

    fn bind(&mut self, path: &Path, attributes: u64) -> io::Result<()> {
        self.parents(path)?;
        let target = relative(path)?;
        if path.is_dir() {
            if !self.directories.iter().any(|made| made == path) {
                self.steps.push(Step::Directory(target.clone()));
                self.directories.push(path.to_owned());
            }
        } else {
            self.steps.push(Step::File(target.clone()));
        }
        self.steps.push(Step::Bind { source: c_string(path)?, target, attributes });
        Ok(())
    }

    fn system(&mut self, path: &Path) -> io::Result<()> {
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        if metadata.is_symlink() {
            let text = c_string(&std::fs::read_link(path)?)?;
            self.steps.push(Step::Symlink { text, at: relative(path)? });
            return Ok(());
        }
        self.bind(path, READ_ONLY)
    }

    fn of(root: &Root) -> io::Result<Vec<Step>> {
        let mut plan = Self::default();
        for path in SYSTEM_DIRECTORIES.iter().chain(SYSTEM_FILES) {
            plan.system(Path::new(path))?;
        }
        let inside_system = |path: &Path| SYSTEM_DIRECTORIES.iter().any(|system| path.starts_with(system));
        for path in root.readable.iter().filter(|path| !inside_system(path)) {
            plan.bind(path, READ_ONLY)?;
        }
        for path in &root.writable {
            plan.bind(path, WRITABLE)?;
        }
        let devices = DEVICES.iter().map(Path::new).chain(root.devices.iter().map(PathBuf::as_path));
        for device in devices.filter(|device| device.exists()) {
            plan.bind(device, DEVICE)?;
        }
        Ok(plan.steps)
    }
}

const WRITABLE: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
const READ_ONLY: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_RDONLY;
const DEVICE: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

impl Jail {
    /// Prepares what the child does.
    pub fn prepare(self) -> io::Result<Prepared> {
        let (mount_point, steps) = match &self.root {
            Some(root) => (Some(c_string(&root.mount_point)?), Plan::of(root)?),
            None => (None, Vec::new()),
        };
        Ok(Prepared { oom_score: self.oom_score.to_string(), jail: self, mount_point, steps })
    }
}

impl Prepared {
    /// Whether the program starts a process namespace.
    pub fn own_processes(&self) -> bool {
        self.jail.own_processes
    }

    /// Confines the calling process, which is a fork of the shim about to execute the program. `parent_lives` ends
    /// with the shim: the signal of its end is requested late, since a change of user cancels it.
    pub fn apply(&self, parent_lives: RawFd) -> io::Result<()> {
        let jail = &self.jail;
        for group in &jail.control_groups {
            // 0 is the process that writes.
            nix::unistd::write(group, b"0")?;
        }
        let score =
            rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        nix::unistd::write(&score, self.oom_score.as_bytes())?;
        match &jail.network {
            Network::Host => {}
            Network::Empty => unshare(CloneFlags::CLONE_NEWNET)?,
            Network::Namespace(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET)?,
        }
        if let Some(mount_point) = &self.mount_point {
            enter_root(mount_point, &self.steps)?;
        }
        for (resource, limit) in &jail.limits {
            setrlimit(*resource, *limit, *limit)?;
        }
        bound_capabilities(jail.capability_bounds)?;
        if let Some(user) = &jail.user {
            become_user(user)?;
        }
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if closed(parent_lives) {
            return Err(Errno::ESRCH.into());
        }
        prctl::set_no_new_privs()?;
        for descriptor in &jail.inherited {
            // SAFETY: the maker of the jail holds the descriptor until the program has started.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
        }
        if let Some(filter) = &jail.seccomp {
            seccompiler::apply_filter(filter).map_err(|_| Errno::EACCES)?;
        }
        Ok(())
    }
}

/// Mounts a new root at `mount_point` in a mount namespace of its own, fills it, and leaves the old one.
fn enter_root(mount_point: &CStr, steps: &[Step]) -> io::Result<()> {
    const NONE: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, c"/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(c"tmpfs"), mount_point, Some(c"tmpfs"), flags, Some(ROOT_OPTIONS))?;
    nix::unistd::chdir(mount_point)?;
    for step in steps {
        perform(step)?;
    }
    // The old root ends up on top of the new one, from where it is detached: pivot_root(2).
    nix::unistd::pivot_root(c".", c".")?;
    umount2(c".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir(c"/")?;
    set_attributes(c"/", libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV, 0)
}

fn perform(step: &Step) -> io::Result<()> {
    const NONE: Option<&CStr> = None;
    // rustix takes C strings as they are: nothing is allocated here.
    match step {
        Step::Directory(path) => Ok(rustix::fs::mkdir(path.as_c_str(), Mode::from_raw_mode(0o755))?),
        Step::File(path) => {
            let mode = Mode::from_raw_mode(0o644);
            Ok(rustix::fs::mknodat(CWD, path.as_c_str(), FileType::RegularFile, mode, 0)?)
        }
        Step::Symlink { text, at } => Ok(rustix::fs::symlink(text.as_c_str(), at.as_c_str())?),
        Step::Bind { source, target, attributes } => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(source.as_c_str()), target.as_c_str(), NONE, flags, NONE)?;
            set_attributes(target, *attributes, libc::AT_RECURSIVE)
        }
    }
}

/// Sets attributes of the mount at a path.
fn set_attributes(path: &CStr, attributes: u64, flags: libc::c_int) -> io::Result<()> {
    mount_attributes::set(CWD, path, flags, attributes, MsFlags::empty())
}

fn bound_capabilities(kept: u64) -> io::Result<()> {
    for number in (0..=CAPABILITY_MAX).filter(|number| kept & (1 << number) == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // Beyond the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn become_user(user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.id), Gid::from_raw(user.id));
    // As many as a device's group needs; no allocation happens here.
    let mut groups = [gid; 4];
    let count = user.groups.len().min(groups.len());
    for (slot, group) in groups.iter_mut().zip(&user.groups) {
        *slot = Gid::from_raw(*group);
    }
    setgroups(&groups[..count])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Whether the other end of a pipe is closed everywhere.
fn closed(pipe: RawFd) -> bool {
    // SAFETY: the pipe is the child's copy, which nothing closes before the program is executed.
    let pipe = unsafe { BorrowedFd::borrow_raw(pipe) };
    let mut state = [PollFd::new(pipe, PollFlags::POLLIN)];
    let ended =
        |state: &PollFd<'_>| state.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
    matches!(poll(&mut state, PollTimeout::ZERO), Ok(1..)) && ended(&state[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_makes_each_directory_once_and_before_what_is_in_it() {
        let scratch = tempfile::tempdir().expect("directory");
        let (file, other) = (scratch.path().join("a"), scratch.path().join("b"));
        for path in [&file, &other] {
            std::fs::write(path, b"").expect("written");
        }
        let root = Root { readable: vec![file.clone(), other], ..Root::default() };
        let steps = Plan::of(&root).expect("planned");
        let parent = relative(scratch.path()).expect("path");
        let made = steps.iter().filter(|step| matches!(step, Step::Directory(path) if *path == parent));
        assert_eq!(made.count(), 1);
        let place = |wanted: &CStr| {
            steps.iter().position(|step| match step {
                Step::Directory(path) | Step::File(path) => path.as_c_str() == wanted,
                Step::Symlink { .. } | Step::Bind { .. } => false,
            })
        };
        assert!(place(&parent) < place(&relative(&file).expect("path")));
    }

    #[test]
    fn what_is_read_cannot_be_written_and_what_is_written_cannot_be_executed() {
        let scratch = tempfile::tempdir().expect("directory");
        let writable = scratch.path().join("sockets");
        std::fs::create_dir(&writable).expect("created");
        let root = Root { writable: vec![writable.clone()], ..Root::default() };
        for step in Plan::of(&root).expect("planned") {
            let Step::Bind { source, attributes, .. } = step else { continue };
            assert_ne!(attributes & libc::MOUNT_ATTR_NOSUID, 0, "{source:?}");
            let path = Path::new(source.to_str().expect("text"));
            if path == writable {
                assert_ne!(attributes & libc::MOUNT_ATTR_NOEXEC, 0);
            } else if !path.starts_with("/dev") {
                assert_ne!(attributes & libc::MOUNT_ATTR_RDONLY, 0, "{source:?}");
            }
        }
    }
}
