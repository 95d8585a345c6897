//! Programs that the shim runs beside itself, and how they are found and ended again.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

/// A process that is the same one later: its number is reused, the number and the start time together are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::unsafe_derive_deserialize,
    reason = "no invariant of the fields is what the unsafe calls rely on"
)]
pub struct ProcessRef {
    /// What it is, for people.
    pub name: String,
    /// Process number.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`, proc(5).
    pub start: u64,
}

impl ProcessRef {
    /// The running process with that number.
    pub fn of(name: &str, pid: i32) -> Option<Self> {
        Some(Self { name: name.to_owned(), pid, start: start_time(pid)? })
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Kills it, if it is still the same, and waits until it has gone.
    pub fn kill(&self, patience: Duration) -> io::Result<()> {
        // SAFETY: the call touches no memory; the result is checked before it is owned.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        let Ok(descriptor) = RawFd::try_from(descriptor) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if descriptor < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) };
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // The descriptor pins the number: who has it now keeps it while the start time is compared.
        if !self.runs() {
            return Ok(());
        }
        // SAFETY: no memory is passed.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                Signal::SIGKILL as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) };
        }
        wait_gone(pidfd.as_fd(), patience)
    }

    /// Waits until it has gone by itself; whether it has.
    pub fn wait_gone(&self, patience: Duration) -> bool {
        // SAFETY: the call touches no memory; the result is checked before it is owned.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        let Some(descriptor) = RawFd::try_from(descriptor).ok().filter(|fd| *fd >= 0) else { return true };
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(descriptor) };
        !self.runs() || wait_gone(pidfd.as_fd(), patience).is_ok()
    }
}

fn wait_gone(pidfd: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(pidfd, PollFlags::POLLIN)];
    if poll(&mut ready, timeout)? == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}

fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the second field may hold anything, so fields count from its closing parenthesis. A zombie has ended.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Starts a program that dies with the shim. `inherited` descriptors keep their numbers in it.
///
/// The kernel sends the signal when the *thread* ends that started the program: to be called on the shim's main thread.
pub fn spawn(command: &mut Command, inherited: &[RawFd], network: Option<&Path>) -> io::Result<Child> {
    let inherited = inherited.to_vec();
    let network = network.map(std::fs::File::open).transpose()?;
    let parent = std::process::id();
    command.kill_on_drop(true);
    // SAFETY: only async-signal-safe calls between fork and exec; what the closure owns was made before.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The shim may have ended before the signal was asked for.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for descriptor in &inherited {
                if libc::fcntl(*descriptor, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            if let Some(network) = &network
                && libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_strange_name_has_a_start_time() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_start_time("12 (a) S"), None);
    }

    #[test]
    fn a_process_is_killed_only_while_it_is_the_same() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let pid = i32::try_from(child.id()).expect("small");
        let process = ProcessRef::of("sleep", pid).expect("runs");
        let other = ProcessRef { start: process.start + 1, ..process.clone() };
        other.kill(Duration::from_secs(1)).expect("nothing to do");
        assert!(process.runs(), "another start time is another process");
        process.kill(Duration::from_secs(10)).expect("killed");
        assert!(!process.runs());
        child.wait().expect("reaped");
        process.kill(Duration::from_secs(1)).expect("a process that is gone is no error");
    }
}
