//! Collects what has ended: as process 1 this process gets every orphan of the guest, and every container's first
//! process as soon as the helper that made it has gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::interval,
};

use super::GuestError;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 and the signal's number.
    pub status: u32,
    /// When, in nanoseconds since 1970.
    pub unix_nanos: u64,
}

impl Exit {
    fn lost() -> Self {
        Self { status: LOST, unix_nanos: now() }
    }
}

/// The end of one process; clones refer to the same one.
#[derive(Clone)]
pub struct Ending(watch::Receiver<Option<Exit>>);

impl Ending {
    /// The end, if it has come.
    pub fn now(&self) -> Option<Exit> {
        *self.0.borrow()
    }

    /// Waits for it.
    pub async fn wait(&mut self) -> Exit {
        match self.0.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or_else(Exit::lost),
            Err(_) => Exit::lost(),
        }
    }
}

/// Status of a process whose end was not observed.
const LOST: u32 = 255;

/// Time between two looks for ends that no signal has reported, and for processes that are no children any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// An exit without a waiter is kept so long: a process can end before its number is known.
const UNCLAIMED_FOR: Duration = Duration::from_mins(1);

#[derive(Default)]
struct State {
    waiting: HashMap<i32, watch::Sender<Option<Exit>>>,
    unclaimed: HashMap<i32, (Instant, Exit)>,
}

/// Handle on the reaper.
#[derive(Clone)]
pub struct Reaper {
    state: Arc<Mutex<State>>,
}

impl Reaper {
    /// Starts to collect.
    pub fn start() -> Result<Self, GuestError> {
        let mut children =
            signal(SignalKind::child()).map_err(GuestError::io("watch for ended processes"))?;
        let reaper = Self { state: Arc::default() };
        let collecting = reaper.clone();
        tokio::spawn(async move {
            let mut look = interval(LOOK_INTERVAL);
            loop {
                collecting.collect();
                tokio::select! {
                    _ = children.recv() => {}
                    _ = look.tick() => collecting.find_lost(),
                }
            }
        });
        Ok(reaper)
    }

    /// How the process ends, or has ended already. It is a child that began after `since`: an end before is that of another process,
    /// which had the same number. To be called once for a process.
    pub fn watch(&self, pid: i32, since: Instant) -> Ending {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = state.unclaimed.remove(&pid).filter(|(when, _)| *when >= since).map(|(_, exit)| exit);
        let (sender, receiver) = watch::channel(ended);
        if ended.is_none() {
            state.waiting.insert(pid, sender);
        }
        Ending(receiver)
    }

    fn collect(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unclaimed.retain(|_, (since, _)| since.elapsed() < UNCLAIMED_FOR);
        while let Some((pid, status)) = next_ended() {
            let Some(status) = exit_status(status) else { continue };
            state.ended(pid, Exit { status, unix_nanos: now() });
        }
    }

    /// Ends the wait for processes that are no children any more: whatever has become of them, no signal will report it.
    fn find_lost(&self) {
        // What has ended is a child until it is collected.
        self.collect();
        for pid in self.state.lock().unwrap_or_else(PoisonError::into_inner).lost() {
            eprintln!("porthole-init: the end of process {pid} was not observed");
        }
    }
}

impl State {
    fn ended(&mut self, pid: i32, exit: Exit) {
        match self.waiting.remove(&pid) {
            Some(sender) => drop(sender.send_replace(Some(exit))),
            None => drop(self.unclaimed.insert(pid, (Instant::now(), exit))),
        }
    }

    /// Ends the wait for processes that are no children; which they are.
    fn lost(&mut self) -> Vec<i32> {
        let lost: Vec<i32> = self.waiting.keys().copied().filter(|pid| !is_child(*pid)).collect();
        for pid in &lost {
            self.ended(*pid, Exit::lost());
        }
        lost
    }
}

/// Whether the process is a child of this one, running or ended.
fn is_child(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid)), flags) != Err(Errno::ECHILD)
}

/// A child that has ended, with its wait status.
///
/// By libc: nix gives an error for one that a real-time signal has ended, and its end would be lost.
fn next_ended() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes one integer, to which the pointer leads.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Exit code, or 128 and the signal's number; none for a process that goes on.
fn exit_status(wait_status: i32) -> Option<u32> {
    let status = if libc::WIFEXITED(wait_status) {
        libc::WEXITSTATUS(wait_status)
    } else if libc::WIFSIGNALED(wait_status) {
        128 + libc::WTERMSIG(wait_status)
    } else {
        return None;
    };
    u32::try_from(status).ok()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(child: &std::process::Child) -> i32 {
        i32::try_from(child.id()).expect("small")
    }

    #[test]
    fn a_process_that_another_has_collected_is_not_waited_for_any_longer() {
        let reaper = Reaper { state: Arc::default() };
        let since = Instant::now();
        let start = || std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let (mut gone, mut runs) = (start(), start());
        let (end_of_gone, end_of_running) =
            (reaper.watch(pid(&gone), since), reaper.watch(pid(&runs), since));
        gone.kill().and_then(|()| gone.wait()).expect("collected");
        let lost = reaper.state.lock().expect("state").lost();
        assert_eq!(lost, [pid(&gone)]);
        assert_eq!(end_of_gone.now().map(|exit| exit.status), Some(LOST));
        assert_eq!(end_of_running.now(), None);
        runs.kill().and_then(|()| runs.wait()).expect("collected");
    }

    #[test]
    fn a_process_does_not_get_the_end_of_an_earlier_one_with_its_number() {
        let reaper = Reaper { state: Arc::default() };
        let exit = Exit { status: 3, unix_nanos: 1 };
        let since = Instant::now();
        reaper.state.lock().expect("state").ended(7, exit);
        assert_eq!(reaper.watch(7, since).now(), Some(exit), "it has ended before its number was known");
        reaper.state.lock().expect("state").ended(7, exit);
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(reaper.watch(7, later).now(), None);
    }

    #[test]
    fn every_way_to_end_has_a_status() {
        // As the kernel makes them: the code in the second byte, a signal in the first, 128 with a core dump.
        assert_eq!(exit_status(0), Some(0));
        assert_eq!(exit_status(3 << 8), Some(3));
        assert_eq!(exit_status(libc::SIGKILL), Some(137));
        assert_eq!(exit_status(libc::SIGSEGV | 128), Some(139));
        for signal in 1..=64 {
            assert_eq!(exit_status(signal), Some(128 + u32::try_from(signal).expect("a signal")), "{signal}");
        }
        assert_eq!(exit_status(libc::SIGSTOP << 8 | 0x7f), None, "stopped");
        assert_eq!(exit_status(0xffff), None, "continued");
    }
}
