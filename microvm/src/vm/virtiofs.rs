//! The daemon that serves the shared files ([`super::share`]) to the guest.
//!
//! It makes mount, process and network namespaces and a seccomp filter of its own, and changes its root to the shared
//! directory. It stays root with the capabilities of a file server, since it acts for every user of the guest.

use std::{
    io,
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{
    VmError,
    jail::{Jail, Network},
    log, privileges, process,
    sandbox_environment::Environment,
};

/// Serves `exposed` with at most so many open files; returns the daemon, and a connection for QEMU.
pub fn start(
    program: &Path,
    exposed: &Path,
    open_files: u64,
    environment: &Environment,
) -> Result<(Child, UnixStream), VmError> {
    let directory = &environment.directory;
    let socket = directory.join("fs.sock");
    // Listening here and passing the descriptors on: QEMU is connected at once, and no other process can connect.
    let (listener, connection) = connected(&socket).map_err(VmError::io("listen on", &socket))?;
    let mut command = Command::new(program);
    command.arg(format!("--fd={}", listener.as_raw_fd()));
    command.arg("-o").arg({
        let mut source = std::ffi::OsString::from("source=");
        source.push(exposed);
        source
    });
    for option in [
        // Device nodes of a guest are the guest's own; nothing on the host is to be one.
        "modcaps=-mknod",
        "cache=auto",
        // Submounts are distinguished, so that files of two root file systems with one inode number are two files.
        "announce_submounts",
        "xattr",
        "log_level=err",
    ] {
        command.args(["-o", option]);
    }
    command.arg("-f").arg(format!("--rlimit-nofile={open_files}"));
    environment.apply(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let jail = Jail {
        user: None,
        root: None,
        network: Network::Host,
        own_processes: false,
        capability_bounds: privileges::VIRTIOFSD,
        oom_score: environment.oom_score,
        limits: privileges::file_server_limits(),
        control_groups: environment.control_groups().map_err(VmError::io("join the groups of", directory))?,
        seccomp: None,
        inherited: vec![listener.as_raw_fd()],
    };
    let mut child = process::spawn(&mut command, jail).map_err(VmError::io("start", program))?;
    if let Some(output) = child.stderr.take() {
        log::keep(output, directory.join("virtiofsd.log"));
    }
    Ok((child, connection))
}

/// A listener with one connection to it, and no name any more.
fn connected(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let listener = UnixListener::bind(path)?;
    let connection = UnixStream::connect(path);
    std::fs::remove_file(path)?;
    Ok((listener, connection?))
}
