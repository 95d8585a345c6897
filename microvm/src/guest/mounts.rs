//! The guest's own file systems.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{GuestError, cgroup, mount_namespace};
use crate::wire::{SHARED_DIRECTORY, SHARED_TAG};

/// One mount: source, target, type, flags, data.
type Entry = (&'static str, &'static str, &'static str, MsFlags, &'static str);

const NO_SUID_DEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NO_SUID_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const NOTHING: MsFlags = NO_SUID_DEV.union(MsFlags::MS_NOEXEC);

const EARLY: &[Entry] = &[
    ("proc", "/proc", "proc", NOTHING, ""),
    ("sysfs", "/sys", "sysfs", NOTHING, ""),
    ("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755"),
    ("tmpfs", "/run", "tmpfs", NO_SUID_DEV, "mode=0755"),
    ("devpts", "/dev/pts", "devpts", NO_SUID_EXEC, "ptmxmode=0666,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", "tmpfs", NO_SUID_DEV, "mode=1777"),
    ("cgroup2", cgroup::ROOT, "cgroup2", NOTHING, "nsdelegate"),
    ("bpf", "/sys/fs/bpf", "bpf", NOTHING, "mode=0700"),
    ("tracefs", "/sys/kernel/tracing", "tracefs", NOTHING, ""),
];

/// Container root file systems come by this one, with device nodes and set-user-id programs as they are.
const SHARED: Entry = (SHARED_TAG, SHARED_DIRECTORY, "virtiofs", MsFlags::empty(), "");

/// Mounts what needs no module, on a root that containers can pivot away from.
pub fn early() -> Result<(), GuestError> {
    leave_rootfs()?;
    for entry in EARLY {
        add(entry)?;
    }
    cgroup::enable_controllers();
    Ok(())
}

/// How much is under way between the guest and the host's files. Without it the removal of containers takes longer.
const CONNECTIONS: Entry = ("fusectl", mount_namespace::CONNECTIONS, "fusectl", NOTHING, "");

/// Mounts what comes from the host.
pub fn late() -> Result<(), GuestError> {
    add(&SHARED)?;
    if let Err(error) = add(&CONNECTIONS) {
        eprintln!("porthole-init: {error}");
    }
    Ok(())
}

/// The initrd's file system is the kernel's very first mount, and `pivot_root` refuses to leave that one. A bind of it,
/// moved over it, is an ordinary mount with the same files.
fn leave_rootfs() -> Result<(), GuestError> {
    const STEP: &str = "/run";
    let none: Option<&str> = None;
    mount(Some("/"), STEP, none, MsFlags::MS_BIND, none).map_err(GuestError::errno("bind the root"))?;
    nix::unistd::chdir(STEP).map_err(GuestError::errno("enter the root"))?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(GuestError::errno("move the root"))?;
    nix::unistd::chroot(".").map_err(GuestError::errno("change the root"))?;
    nix::unistd::chdir("/").map_err(GuestError::errno("enter the new root"))
}

fn add((source, target, kind, flags, data): &Entry) -> Result<(), GuestError> {
    if !Path::new(target).is_dir() {
        std::fs::create_dir_all(target).map_err(GuestError::io(format!("create {target}")))?;
    }
    let data = Some(*data).filter(|data| !data.is_empty());
    mount(Some(*source), *target, Some(*kind), *flags, data)
        .map_err(GuestError::errno(format!("mount {target}")))
}
