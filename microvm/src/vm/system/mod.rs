//! The privileged operations on the host behind traits: [`System`] on its file systems, [`groups`] on its control groups,
//! [`network`] on network namespaces.
//!
//! [`Linux`] performs them. The tests of what uses them run against a recording implementation, which needs no
//! privilege and fails where a test wants it to: order and clean-up on failure are thereby tested without root.
//!
//! Invariants of [`Linux`]: below an open directory a name is resolved with `openat2` and never leaves it, follows no
//! symlink and no magic link; a tree of mounts gets its restrictions while it is detached, so that no process ever sees
//! it without them.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::mount_attributes;

pub mod groups;
pub mod mark;
pub mod network;
#[cfg(test)]
pub mod recorded;

/// How a name below an open directory is resolved.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Bounds of a file system in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Bytes of file contents.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// A file system to mount, in the form of mount(8): containerd describes root file systems this way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// `overlay`, `bind`, `ext4`, …
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// Place below the target; empty for the target itself.
    pub target: String,
    /// Options of mount(8).
    pub options: Vec<String>,
}

/// Operations on the host's file systems that need privilege.
pub trait System {
    /// An open directory or file, or a detached tree of mounts.
    type Handle;

    /// Makes a directory for root only.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Mounts a bounded file system in memory, whose mounts appear in the copies of it that [`Self::bind_slave`] makes.
    fn mount_memory(&self, target: &Path, bounds: MemoryBounds) -> io::Result<()>;

    /// Makes `target` a read-only copy of `source` in which later mounts of `source` appear, and not the reverse.
    fn bind_slave(&self, source: &Path, target: &Path) -> io::Result<()>;

    /// Opens a directory of the host.
    fn open_directory(&self, path: &Path) -> io::Result<Self::Handle>;

    /// Makes and opens a directory in an open one.
    fn create_directory_in(&self, parent: &Self::Handle, name: &str) -> io::Result<Self::Handle>;

    /// Makes and opens an empty file in an open directory.
    fn create_file_in(&self, parent: &Self::Handle, name: &str) -> io::Result<Self::Handle>;

    /// Whether a path of the host is a directory.
    fn is_directory(&self, path: &Path) -> io::Result<bool>;

    /// Mounts a file system at or below a directory of the host.
    fn mount(&self, file_system: &FileSystem, target: &Path) -> io::Result<()>;

    /// Takes a detached copy of the mounts at and below a path.
    fn clone_tree(&self, source: &Path) -> io::Result<Self::Handle>;

    /// Forbids set-user-id programs and device nodes on every mount of a detached tree, and writing if `read_only`.
    fn restrict_tree(&self, tree: &Self::Handle, read_only: bool) -> io::Result<()>;

    /// Attaches a detached tree to an open file or directory. Later mounts in its source appear in it, not the reverse.
    fn attach_tree(&self, tree: &Self::Handle, target: &Self::Handle) -> io::Result<()>;

    /// Detaches every mount at or below a directory, the last made first.
    fn detach_below(&self, directory: &Path) -> io::Result<()>;

    /// Removes a directory with what is in it; one that is not there is no error.
    fn remove_directory(&self, directory: &Path) -> io::Result<()>;
}

/// The kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

const NONE: Option<&str> = None;

impl System for Linux {
    type Handle = OwnedFd;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(path)
    }

    fn mount_memory(&self, target: &Path, bounds: MemoryBounds) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = format!("mode=0755,size={},nr_inodes={}", bounds.bytes, bounds.inodes);
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str()))?;
        // Private first: otherwise it would share with copies that its parent's peers got.
        mount(NONE, target, NONE, MsFlags::MS_PRIVATE, NONE)?;
        Ok(mount(NONE, target, NONE, MsFlags::MS_SHARED, NONE)?)
    }

    fn bind_slave(&self, source: &Path, target: &Path) -> io::Result<()> {
        let tree = open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        set_attributes(&tree, libc::MOUNT_ATTR_RDONLY, MsFlags::MS_SLAVE)?;
        let target = self.open_directory(target)?;
        attach(&tree, &target)?;
        // Attached below a shared mount it has become shared itself.
        set_attributes(&tree, libc::MOUNT_ATTR_RDONLY, MsFlags::MS_SLAVE)
    }

    fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?)
    }

    fn create_directory_in(&self, parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        check_name(name)?;
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(parent, name, flags, Mode::empty(), BENEATH)?)
    }

    fn create_file_in(&self, parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        check_name(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat2(parent, name, flags, Mode::from_raw_mode(0o644), BENEATH)?)
    }

    fn is_directory(&self, path: &Path) -> io::Result<bool> {
        Ok(std::fs::metadata(path)?.is_dir())
    }

    fn mount(&self, file_system: &FileSystem, target: &Path) -> io::Result<()> {
        let root = openat2(
            CWD,
            target,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_MAGICLINKS,
        )?;
        let place = if file_system.target.is_empty() {
            root
        } else {
            // The image's files are there already: none of its symlinks may lead out of it.
            openat2(
                &root,
                file_system.target.as_str(),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                BENEATH,
            )?
        };
        let file_system = file_system.clone();
        // Long overlay options make the call change the thread's working directory, so it has a thread of its own.
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
            let place = format!("/proc/self/fd/{}", place.as_raw_fd());
            let (kind, source) = (Some(file_system.kind.as_str()), Some(file_system.source.as_str()));
            containerd_shim::mount::mount_rootfs(kind, source, &file_system.options, place)
        })?;
        let joined = thread.join().map_err(|_| io::Error::other("the mounting thread panicked"))?;
        joined.map_err(|error| io::Error::other(error.to_string()))
    }

    fn clone_tree(&self, source: &Path) -> io::Result<OwnedFd> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        Ok(open_tree(CWD, source, flags)?)
    }

    fn restrict_tree(&self, tree: &OwnedFd, read_only: bool) -> io::Result<()> {
        let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        if read_only {
            attributes |= libc::MOUNT_ATTR_RDONLY;
        }
        set_attributes(tree, attributes, MsFlags::empty())
    }

    fn attach_tree(&self, tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
        attach(tree, target)?;
        // The parent is shared, so that attaching has made the tree shared.
        set_attributes(tree, 0, MsFlags::MS_SLAVE)
    }

    fn detach_below(&self, directory: &Path) -> io::Result<()> {
        /// One pass detaches everything; another is for what was mounted meanwhile.
        const PASSES: usize = 5;
        for _ in 0..PASSES {
            let targets = below(&std::fs::read_to_string("/proc/self/mountinfo")?, directory);
            if targets.is_empty() {
                return Ok(());
            }
            for target in targets.iter().rev() {
                detach(target)?;
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// `mkdirat` has no flags that keep it beneath a directory: a name is one component.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

/// Sets attributes and, if not empty, the propagation of every mount of a tree.
fn set_attributes(tree: &OwnedFd, attributes: u64, propagation: MsFlags) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    mount_attributes::set(tree.as_fd(), c"", flags, attributes, propagation)
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree.as_fd(), "", target.as_fd(), "", flags)?)
}

/// Detaches a mount, at once for new users and for the present ones when they are done.
fn detach(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        result => Ok(result?),
    }
}

/// Mount points at or below a directory, in the order of the table (field 5, proc(5)).
fn below(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|path| path.starts_with(directory))
        .collect()
}

/// The table writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found_and_no_others() {
        let table = "22 27 0:21 / /proc rw - proc proc rw\n\
                     40 27 0:40 / /run/p/a rw shared:1 - tmpfs t rw\n\
                     41 40 0:41 / /run/p/a/x\\040y rw - tmpfs t rw\n\
                     42 27 0:42 / /run/p/ab rw - tmpfs t rw\n";
        let found = below(table, Path::new("/run/p/a"));
        assert_eq!(found, [Path::new("/run/p/a"), Path::new("/run/p/a/x y")]);
    }

    #[test]
    fn a_name_that_exists_or_leads_away_is_not_used() {
        let scratch = tempfile::tempdir().expect("directory");
        let victim = scratch.path().join("victim");
        std::fs::write(&victim, b"untouched").expect("written");
        let shared = scratch.path().join("shared");
        Linux.create_directory(&shared).expect("created");
        std::os::unix::fs::symlink(&victim, shared.join("file")).expect("symlink");
        std::os::unix::fs::symlink(scratch.path(), shared.join("directory")).expect("symlink");
        let open = Linux.open_directory(&shared).expect("opened");
        for name in ["file", "directory", "directory/below", "../victim", "/etc/porthole-planted"] {
            assert!(Linux.create_file_in(&open, name).is_err(), "{name}");
            assert!(Linux.create_directory_in(&open, name).is_err(), "{name}");
        }
        assert_eq!(std::fs::read(&victim).expect("read"), b"untouched");
        assert!(!scratch.path().join("below").exists());
    }
}
