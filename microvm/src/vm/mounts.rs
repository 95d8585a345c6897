//! Mounts on the host: all of a sandbox's are below its state directory, so that they can be found and undone.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    NixPath as _,
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

const NONE: Option<&str> = None;

/// Binds a file or directory, with what is mounted below it, read-only if asked.
///
/// The copy is made read-only before it gets its place: it appears in virtiofsd's namespace as it is at that moment, and
/// a later remount here would leave it writable there, for everyone who has taken over a guest's kernel.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Errno> {
    let copy = open_tree(source)?;
    if read_only {
        set_read_only(&copy)?;
    }
    move_mount(&copy, target)?;
    // What the host mounts later in the source shows; what happens here stays here.
    mount(NONE, target, NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
}

/// Takes a detached copy of a tree of mounts, `open_tree(2)`.
fn open_tree(source: &Path) -> Result<OwnedFd, Errno> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_RECURSIVE).cast_unsigned();
    let descriptor = source.with_nix_path(|path| {
        // SAFETY: the path is a C string that lives across the call.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }
    })?;
    let descriptor = i32::try_from(Errno::result(descriptor)?).expect("descriptors are small");
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes every mount of a tree read-only, `mount_setattr(2)`.
fn set_read_only(tree: &OwnedFd) -> Result<(), Errno> {
    // `struct mount_attr`: attributes to set, to clear, propagation, user namespace.
    let attributes: [u64; 4] = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    // SAFETY: the path is an empty C string, the attributes live across the call, and their size is theirs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    Errno::result(result).map(drop)
}

/// Gives a detached tree its place, `move_mount(2)`.
fn move_mount(tree: &OwnedFd, target: &Path) -> Result<(), Errno> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let result = target.with_nix_path(|path| {
        // SAFETY: both paths are C strings that live across the call.
        unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        }
    })?;
    Errno::result(result).map(drop)
}

/// Makes a directory a mount of its own whose later mounts show in copies of it, as in virtiofsd's namespace.
pub fn make_shared(directory: &Path) -> Result<(), Errno> {
    mount(Some(directory), directory, NONE, MsFlags::MS_BIND, NONE)?;
    // Private first: else it would share with the mount that it was made from.
    mount(NONE, directory, NONE, MsFlags::MS_PRIVATE, NONE)?;
    mount(NONE, directory, NONE, MsFlags::MS_SHARED, NONE)
}

/// Takes a mount away, at once for new users and for the old ones when they are done.
pub fn detach(target: &Path) -> Result<(), Errno> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Takes away every mount at or below a directory, the last made first.
pub fn detach_below(directory: &Path) -> io::Result<()> {
    /// One pass takes everything; another is for what was mounted meanwhile.
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
}
