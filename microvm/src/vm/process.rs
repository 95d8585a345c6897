//! Programs that the shim runs beside itself, and how they are found and ended again.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
};
use rustix::process::{PidfdFlags, Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::jail::Jail;

/// A process that is the same one later: its number is reused, the number and the start time together are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// A descriptor of the process, which pins its number: no other process gets the number meanwhile.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let pid = rustix::process::Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidData)?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(self.runs().then_some(descriptor)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it, if it is still the same, and waits until it has gone.
    pub fn kill(&self, timeout: Duration) -> io::Result<()> {
        let Some(descriptor) = self.open()? else { return Ok(()) };
        match pidfd_send_signal(&descriptor, Signal::KILL) {
            Ok(()) => wait_gone(descriptor.as_fd(), timeout),
            Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has gone by itself; whether it has.
    pub fn wait_gone(&self, timeout: Duration) -> bool {
        match self.open() {
            Ok(Some(descriptor)) => wait_gone(descriptor.as_fd(), timeout).is_ok(),
            Ok(None) => true,
            Err(_) => !self.runs(),
        }
    }
}

fn wait_gone(pidfd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
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

/// Starts a confined program that dies with the shim.
///
/// The kernel sends the signal when the *thread* ends that started the program: to be called on the shim's main thread.
pub fn spawn(command: &mut Command, jail: Jail) -> io::Result<Child> {
    let own_processes = jail.own_processes;
    let prepared = jail.prepare()?;
    // Ends with the shim: the child has no copy of the writing end.
    let (alive, holder) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (alive_fd, holder_fd) = (alive.as_raw_fd(), holder.as_raw_fd());
    command.kill_on_drop(true);
    // SAFETY: between fork and exec only system calls are made, on what was prepared before; the descriptor that is
    // closed is the child's copy, which nothing else in the child uses.
    unsafe {
        command.pre_exec(move || {
            // It was open a moment ago.
            let _ = nix::unistd::close(holder_fd);
            prepared.apply(alive_fd)
        });
    }
    if !own_processes {
        return command.spawn();
    }
    // The namespace is for children of this thread; the thread itself stays where it is.
    let own = std::fs::File::open("/proc/self/ns/pid")?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let child = command.spawn();
    setns(&own, CloneFlags::CLONE_NEWPID)?;
    drop((alive, holder));
    child
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
