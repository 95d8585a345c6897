//! The first process of a guest whose own first process is not ours, as in Kata's: it starts the supervisor and becomes the
//! guest's own first process.
//!
//! The supervisor has a mount namespace of its own with the file systems that the agent needs, so that it waits for nothing
//! that the guest's first process does, and changes nothing for it. The guest's first process runs once the agent's programs
//! are attached, so that all that it starts is seen; after [`KernelParameters::agent_wait`] it runs all the same.

use std::{
    ffi::{CString, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    process::ExitCode,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{ForkResult, execv, fork, setsid},
};

use super::{Supervisor, kernel_parameters::KernelParameters, listen_on_port};
use crate::notice::{Notices, Waited, wait_until_attached};

/// The name by which the kernel starts it: `rdinit=/porthole-init`.
pub const NAME: &str = "porthole-init";

/// The guest's own first process: the kernel's usual one in an initrd, and where a guest without it would have it.
const INITS: [&str; 2] = ["/init", "/sbin/init"];

/// What the agent needs: type and target.
const MOUNTS: [(&str, &str); 4] =
    [PROC, ("sysfs", "/sys"), ("tracefs", "/sys/kernel/tracing"), ("cgroup2", "/sys/fs/cgroup")];

const PROC: (&str, &str) = ("proc", "/proc");

/// Starts the supervisor and becomes the guest's own first process. Whatever fails here, that one runs.
pub fn run() -> ExitCode {
    // Before anything else of the guest runs. The guest's vsock may come later; then the supervisor opens the port.
    let listener = listen_on_port().inspect_err(|error| eprintln!("{NAME}: listening: {error}")).ok();
    let parameters = read_parameters();
    let (notices, steps) = match Notices::pair() {
        Ok((notices, steps)) => (notices, Some(steps)),
        Err(error) => {
            eprintln!("{NAME}: a pipe: {error}");
            (Notices::none(), None)
        }
    };
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(steps);
            return supervise(notices, listener);
        }
        Ok(ForkResult::Parent { .. }) => {
            // Then the supervisor's end is noticed, too.
            drop(notices);
            // Without the guest's vsock the agent is started when the guest's first process has loaded its module.
            if let Some(mut steps) = steps.filter(|_| listener.is_some() && parameters.agent) {
                match wait_until_attached(&mut steps, parameters.agent_wait) {
                    Waited::Attached(time) => eprintln!("{NAME}: the agent is attached after {time:.3?}"),
                    Waited::Ended => eprintln!("{NAME}: the agent ended; the boot goes on without it"),
                    Waited::TooLong => {
                        eprintln!(
                            "{NAME}: the agent is not attached within {:?}; the boot goes on",
                            parameters.agent_wait
                        );
                    }
                }
            }
        }
        Err(error) => eprintln!("{NAME}: no supervisor: {error}"),
    }
    become_init()
}

/// The kernel's parameters. The mount is gone before the guest's first process runs.
fn read_parameters() -> KernelParameters {
    let (kind, target) = PROC;
    let mounted = mount_at(kind, target);
    let parameters = KernelParameters::read();
    if mounted {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
    parameters
}

/// Whether it succeeds.
fn mount_at(kind: &str, target: &str) -> bool {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // An initrd has these directories, or gets them from the file systems mounted before.
    let _ = std::fs::create_dir_all(target);
    let mounted = mount(Some(kind), target, Some(kind), flags, None::<&str>);
    mounted.inspect_err(|error| eprintln!("{NAME}: mounting {target}: {error}")).is_ok()
}

fn supervise(notices: Notices, listener: Option<OwnedFd>) -> ExitCode {
    let prepared = setsid().and_then(|_| unshare(CloneFlags::CLONE_NEWNS));
    if let Err(error) = prepared {
        eprintln!("{NAME}: a mount namespace: {error}");
        return ExitCode::FAILURE;
    }
    let none: Option<&str> = None;
    // Not shared with the namespace of the guest's first process.
    if let Err(error) = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none) {
        eprintln!("{NAME}: private mounts: {error}");
        return ExitCode::FAILURE;
    }
    for (kind, target) in MOUNTS {
        mount_at(kind, target);
    }
    let cgroup = Some("/sys/fs/cgroup/.porthole".into());
    let supervisor = Supervisor { notices, cgroup, arguments: Vec::new(), listener };
    match supervisor.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns only if no program can be executed; the kernel then panics with a message.
fn become_init() -> ExitCode {
    for init in INITS {
        // The kernel's parameters for the first process follow its name.
        let arguments = std::iter::once(OsString::from(init)).chain(std::env::args_os().skip(1));
        // A string without NUL is one, and the kernel gives no others.
        let arguments: Vec<_> = arguments.filter_map(|text| CString::new(text.into_vec()).ok()).collect();
        let Some(program) = arguments.first() else { continue };
        let Err(error) = execv(program, &arguments);
        eprintln!("{NAME}: {init}: {error}");
    }
    ExitCode::FAILURE
}
