//! `start`: the delegate's output goes to containerd as it comes, its exit code is ours.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, ChildStdout, ExitCode, ExitStatus, Stdio},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::{set_dumpable, set_pdeathsig},
        signal::Signal,
    },
};
use porthole_registry::SandboxKey;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    guard::{NO_DELEGATE, guarded},
    launch,
};
use crate::{
    bootstrap::{BOOTSTRAP_BYTES_MAX, BootstrapAddress},
    bundle::{Annotations, Role},
    companion::{Assignment, Mode},
    delegate, identity,
    invocation::Invocation,
    settings::Settings,
    state::StateDirectory,
};

/// Runs the delegate's `start` and returns its exit code.
pub fn run(delegate: &Path, arguments: &[OsString], call: &Invocation, settings: &Settings) -> ExitCode {
    let mut command = delegate::command(delegate, arguments);
    command.stdout(Stdio::piped());
    // SAFETY: between fork and exec the closure only makes one system call.
    unsafe { command.pre_exec(die_with_parent) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(delegate = %delegate.display(), %error, "cannot start the delegate");
            return ExitCode::from(NO_DELEGATE);
        }
    };
    // While the delegate works.
    let annotations = guarded(|| Annotations::read(&call.bundle));
    let follow_up = |stdout: &[u8]| {
        guarded(|| after_success(delegate, call, settings, annotations.as_ref(), stdout));
    };
    match relay(&mut child, follow_up) {
        Ok(status) => end_like(status),
        Err(error) => {
            tracing::error!(%error, "lost the delegate");
            ExitCode::FAILURE
        }
    }
}

/// If containerd gives up and kills the wrapper, its delegate must not go on alone.
fn die_with_parent() -> io::Result<()> {
    // Children of the delegate do not inherit it.
    Ok(set_pdeathsig(Signal::SIGKILL)?)
}

/// Passes the child's output on until its end. `follow_up` gets the output's head once the child has succeeded, even
/// if something that the child left behind still holds the pipe.
fn relay(child: &mut Child, follow_up: impl FnOnce(&[u8])) -> io::Result<ExitStatus> {
    let mut pipe = child.stdout.take();
    let pidfd = pidfd(child);
    let mut head = Vec::new();
    // Without pidfd_open (Linux before 5.3) the end of the output has to do.
    let mut exited = pidfd.is_err() && drain(&mut pipe, &mut head)?;
    if let Some(pipe) = &pipe {
        nix::fcntl::fcntl(pipe.as_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    }
    while !exited {
        let mut watched = Vec::with_capacity(2);
        watched.extend(pidfd.as_ref().ok().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        watched.extend(pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        // Read after the exit was seen, so that nothing that the child wrote is missed.
        exited = watched[0].any().unwrap_or(true);
        drain(&mut pipe, &mut head)?;
    }
    let status = child.wait()?;
    if status.success() {
        follow_up(&head);
    }
    if let Some(pipe) = &pipe {
        nix::fcntl::fcntl(pipe.as_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
    }
    drain(&mut pipe, &mut head)?;
    Ok(status)
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    Ok(pidfd_open(Pid::from_child(child), PidfdFlags::empty())?)
}

/// Passes on what is there. At the end of the output, or when containerd no longer reads, the pipe is closed; then
/// the result is true.
fn drain(pipe: &mut Option<ChildStdout>, head: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while let Some(from) = pipe {
        let count = match from.read(&mut buffer) {
            Ok(0) => 0,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut stdout = io::stdout().lock();
        if count == 0 || stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
            *pipe = None;
            break;
        }
        let room = BOOTSTRAP_BYTES_MAX.saturating_sub(head.len());
        head.extend_from_slice(&buffer[..count.min(room)]);
    }
    Ok(true)
}

/// Ends as the delegate ended: with its exit code, or by the signal that killed it.
fn end_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        let _ = set_dumpable(false);
        // By libc, because nix has no real-time signals.
        // SAFETY: restores the default action and raises; both are plain system calls.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The part that is ours: a companion for a new sandbox, a note to the companion for a further container.
fn after_success(
    delegate: &Path,
    call: &Invocation,
    settings: &Settings,
    annotations: Option<&Result<Annotations, crate::bundle::BundleError>>,
    stdout: &[u8],
) {
    let Some(id) = &call.container else {
        tracing::warn!(?call, "no container is named: nothing is monitored");
        return;
    };
    if !settings.shim.enabled {
        return;
    }
    let annotations = match annotations {
        Some(Ok(annotations)) => annotations,
        Some(Err(error)) => {
            tracing::warn!(%id, %error, "the bundle cannot be read: nothing is monitored");
            return;
        }
        None => return,
    };
    if let Role::Member(sandbox) = annotations.role() {
        let sandbox = SandboxKey { namespace: id.namespace.clone(), id: sandbox };
        StateDirectory::of(&settings.shim.state_directory, &sandbox).wake_companion();
        return;
    }
    if settings.shim.allow_opt_out && identity::opted_out(annotations) {
        tracing::info!(%id, "the workload opted out");
        return;
    }
    let address = BootstrapAddress::parse(stdout).map_err(|error| error.to_string());
    let runtime = delegate.file_name().unwrap_or(delegate.as_os_str()).to_string_lossy().into_owned();
    let assignment =
        Assignment { mode: Mode::Watch, sandbox: id.clone(), bundle: call.bundle.clone(), runtime, address };
    if let Err(error) = launch::companion(&assignment) {
        tracing::error!(%id, %error, "cannot start a companion: nothing is monitored");
    }
}
