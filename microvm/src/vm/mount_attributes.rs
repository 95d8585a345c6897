//! Attributes of mounts, by `mount_setattr(2)`, which neither nix nor rustix has.

use std::{
    ffi::{CStr, c_int},
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::{errno::Errno, mount::MsFlags};

/// Sets attributes (`MOUNT_ATTR_…`) of the mount at a path, and its propagation unless that is empty. The path is
/// relative to the directory; `flags` are those of the call (`AT_…`). Allocates nothing, so it may be called between fork
/// and exec.
pub fn set(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: c_int,
    attributes: u64,
    propagation: MsFlags,
) -> io::Result<()> {
    // SAFETY: the structure is plain numbers, for which zero is a value.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes;
    change.propagation = propagation.bits();
    // SAFETY: path and structure live across the call, and the size is the structure's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const change,
            size_of_val(&change),
        )
    };
    Ok(Errno::result(result).map(drop)?)
}
