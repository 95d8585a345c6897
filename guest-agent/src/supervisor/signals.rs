//! The supervisor's signals, which it waits for and never handles.

use std::{
    io,
    process::{Child, ExitStatus},
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};

/// Why the supervisor goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It is to end.
    Terminated,
    /// A child ended, or the time is over.
    Other,
}

/// Blocked signals.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks the signals. To be called while the process has one thread.
    pub fn block() -> io::Result<Self> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Waits for a signal, at most so long.
    pub fn wait(&self, timeout: Option<Duration>) -> Woken {
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // By libc, because neither nix nor rustix has sigtimedwait(2).
        // SAFETY: the set and the time, if there is one, are valid; nothing is written without an information's place.
        let signal = unsafe { libc::sigtimedwait(self.0.as_ref(), std::ptr::null_mut(), time) };
        if signal == libc::SIGTERM || signal == libc::SIGINT { Woken::Terminated } else { Woken::Other }
    }

    /// Waits until the child has ended; none when the supervisor is to end first.
    pub fn wait_for(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if self.wait(None) == Woken::Terminated {
                return Ok(None);
            }
        }
    }
}

/// Blocks nothing any more; for a process that is about to run another program.
pub fn unblock() {
    // An empty set can always be set.
    let _ = SigSet::empty().thread_set_mask();
}
