//! Reports to the process that started the agent's supervisor: a byte for each step, on a descriptor that the supervisor
//! and the agents inherit; and systemd's readiness.

use std::{
    env,
    fs::File,
    io::{self, PipeReader, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// The port is open.
const LISTENING: &[u8] = b"l";

/// The programs are attached.
const ATTACHED: &[u8] = b"a";

/// The agent has the sandbox's secret.
const ENROLLED: &[u8] = b"e";

/// The agent ended.
const ENDED: &[u8] = b"x";

/// A process's copy of the descriptor.
#[derive(Clone, Debug)]
pub struct Notices(Option<Arc<File>>);

impl Notices {
    /// Takes over the descriptor; none if it was not given.
    ///
    /// # Safety
    ///
    /// Nothing else may own the descriptor.
    pub unsafe fn inherit(descriptor: Option<RawFd>) -> Self {
        // SAFETY: the caller guarantees that it has no other owner. If it is not open, the writes fail.
        Self(descriptor.filter(|number| *number > libc::STDERR_FILENO).map(|number| unsafe {
            let file = File::from_raw_fd(number);
            let _ = fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            Arc::new(file)
        }))
    }

    /// A pipe: what notifies, and where the steps can be read.
    pub fn pair() -> io::Result<(Self, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        Ok((Self(Some(Arc::new(File::from(OwnedFd::from(writer))))), reader))
    }

    /// Notifies nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// The descriptor, for an agent to inherit.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// The port is open.
    pub fn listening(&self) {
        self.write(LISTENING);
    }

    /// The programs are attached.
    pub fn attached(&self) {
        self.write(ATTACHED);
    }

    /// The agent has the sandbox's secret.
    pub fn enrolled(&self) {
        self.write(ENROLLED);
    }

    /// The agent ended.
    pub fn ended(&self) {
        self.write(ENDED);
    }

    fn write(&self, step: &[u8]) {
        // The reader may be gone.
        let _ = self.0.as_ref().map(|file| (&**file).write_all(step));
    }
}

/// How a wait for the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Its programs are attached, after so long.
    Attached(Duration),
    /// It ended before, or its supervisor did.
    Ended,
    /// Neither within the limit.
    TooLong,
}

/// Waits until the agent's programs are attached, it has ended, or the time is over.
pub fn wait_until_attached(steps: &mut PipeReader, limit: Duration) -> Waited {
    let begin = Instant::now();
    loop {
        let Some(left) = limit.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else {
            return Waited::TooLong;
        };
        // Not shorter than what is left, so that it does not wake early again and again.
        let milliseconds = left.as_millis().saturating_add(1);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(steps.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return Waited::Ended,
        }
        let mut bytes = [0; 16];
        let come = match steps.read(&mut bytes) {
            Ok(0) | Err(_) => return Waited::Ended,
            Ok(length) => &bytes[..length],
        };
        if let Some(step) = come.iter().find(|step| [ATTACHED[0], ENDED[0]].contains(step)) {
            return if [*step] == *ATTACHED { Waited::Attached(begin.elapsed()) } else { Waited::Ended };
        }
    }
}

/// Notifies systemd that the port is open, if it started this process with a notification socket (`sd_notify(3)`).
pub fn systemd() {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        eprintln!("porthole-agent: notifying systemd: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Far longer than any of these waits takes.
    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn the_wait_ends_when_the_agent_is_attached() {
        let (notices, mut steps) = Notices::pair().expect("a pipe");
        let agent = thread::spawn(move || {
            notices.listening();
            notices.attached();
            notices
        });
        assert!(matches!(wait_until_attached(&mut steps, LIMIT), Waited::Attached(time) if time < LIMIT));
        drop(agent.join());
    }

    #[test]
    fn the_wait_ends_with_the_agent_and_with_its_supervisor() {
        let (notices, mut steps) = Notices::pair().expect("a pipe");
        notices.listening();
        notices.ended();
        assert_eq!(wait_until_attached(&mut steps, LIMIT), Waited::Ended);
        notices.listening();
        drop(notices);
        assert_eq!(wait_until_attached(&mut steps, LIMIT), Waited::Ended);
    }

    #[test]
    fn an_agent_that_hangs_is_waited_for_no_longer_than_the_limit() {
        let (notices, mut steps) = Notices::pair().expect("a pipe");
        notices.listening();
        assert_eq!(wait_until_attached(&mut steps, Duration::from_millis(1)), Waited::TooLong);
        assert_eq!(wait_until_attached(&mut steps, Duration::ZERO), Waited::TooLong);
        drop(notices);
    }
}
