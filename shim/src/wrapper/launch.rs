//! Starts a companion as a detached process: its own session, no terminal, working directory `/`, no inherited file.
//! containerd reads the wrapper's output to its end, and does not wait for the companion, which does not hold it.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use porthole_config::{CONFIG_ENV, LOG_ENV};

use crate::companion::{Assignment, PROCESS_NAME};

/// First descriptor that is not stdin, stdout or stderr.
const FIRST_OTHER_FD: libc::c_uint = 3;

/// Starts a companion and returns as soon as it runs.
pub fn companion(assignment: &Assignment) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(PROCESS_NAME).args(assignment.to_arguments()).env_clear();
    for name in [CONFIG_ENV, LOG_ENV, "PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the closure runs in the forked child of a process with one thread and makes system calls only.
    unsafe { command.pre_exec(detach) };
    // The child of `spawn` is the middle process, which has exited when it returns.
    command.spawn()?.wait().map(drop)
}

/// Becomes a session of its own, and then a child of init.
fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    // By libc: neither nix nor rustix has close_range(2), and nix's fork(2) and libc's do the same.
    // SAFETY: plain system calls; `_exit` does not return, and the child goes on to exec.
    unsafe {
        // Marked, not closed: the pipe through which an exec failure is reported must live until the exec.
        // A kernel before 5.11 lacks it; our own descriptors are all close-on-exec.
        libc::syscall(libc::SYS_close_range, FIRST_OTHER_FD, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            _ => libc::_exit(0),
        }
    }
}
