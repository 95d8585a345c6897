//! The file system that host and guest share: one directory of the sandbox, in which container root file systems and
//! bind mounts appear as mounts.

use std::{
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{VmError, mounts, process};

/// Serves `shared`; answers the daemon, and the socket to which QEMU connects.
pub fn start(program: &Path, directory: &Path, shared: &Path) -> Result<(Child, PathBuf), VmError> {
    std::fs::create_dir(shared).map_err(VmError::io("create", shared))?;
    mounts::make_shared(shared).map_err(|errno| VmError::io("share", shared)(errno.into()))?;
    let socket = directory.join("fs.sock");
    // Listening here and passing the descriptor on: QEMU can connect at once, and the daemon leaves no lock file.
    let listener = UnixListener::bind(&socket).map_err(VmError::io("listen on", &socket))?;
    let mut command = Command::new(program);
    command.arg(format!("--fd={}", listener.as_raw_fd()));
    command.arg("-o").arg({
        let mut source = std::ffi::OsString::from("source=");
        source.push(shared);
        source
    });
    // Submounts are told apart, so that files of two root file systems with one inode number are two files.
    command.args([
        "-o",
        "cache=auto",
        "-o",
        "announce_submounts",
        "-o",
        "xattr",
        "-o",
        "log_level=err",
        "-f",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file(directory, "virtiofsd.log")?);
    let child =
        process::spawn(&mut command, &[listener.as_raw_fd()], None).map_err(VmError::io("start", program))?;
    Ok((child, socket))
}

/// A file for what a program says.
pub(super) fn log_file(directory: &Path, name: &str) -> Result<Stdio, VmError> {
    let path = directory.join(name);
    let file = std::fs::File::create(&path).map_err(VmError::io("create", &path))?;
    Ok(file.into())
}
