//! Collects what has ended: as process 1 this process gets every orphan of the guest, and every container's first
//! process as soon as the helper that made it has gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
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
            Ok(exit) => exit.unwrap_or(LOST),
            Err(_) => LOST,
        }
    }
}

/// Stands for an end that nobody has seen. The reaper lives as long as the guest, so that this does not happen.
const LOST: Exit = Exit { status: 255, unix_nanos: 0 };

/// An exit that nobody has asked for is kept so long: a process can end before its number is known.
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
            loop {
                collecting.collect();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// How the process ends, or has ended already. To be asked once for a process.
    pub fn watch(&self, pid: i32) -> Ending {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = state.unclaimed.remove(&pid).map(|(_, exit)| exit);
        let (sender, receiver) = watch::channel(ended);
        if ended.is_none() {
            state.waiting.insert(pid, sender);
        }
        Ending(receiver)
    }

    fn collect(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unclaimed.retain(|_, (since, _)| since.elapsed() < UNCLAIMED_FOR);
        loop {
            let (pid, status) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), u32::from(code.to_le_bytes()[0])),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as u32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let exit = Exit { status, unix_nanos: now() };
            match state.waiting.remove(&pid) {
                Some(sender) => drop(sender.send_replace(Some(exit))),
                None => drop(state.unclaimed.insert(pid, (Instant::now(), exit))),
            }
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
