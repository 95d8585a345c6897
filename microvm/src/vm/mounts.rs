//! Mounts on the host: all of a sandbox's are below its state directory, so that they can be found and undone.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

const NONE: Option<&str> = None;

/// Binds a file or directory, with what is mounted below it, read-only if asked.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Errno> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    // What the host mounts later in the source shows; what happens here stays here.
    mount(NONE, target, NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, target, NONE, flags, NONE)?;
    }
    Ok(())
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
