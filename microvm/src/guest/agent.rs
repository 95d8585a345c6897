//! The monitoring agent that the guest's image carries: started at boot, before anything of a container runs, as a child
//! of the init outside every container. Its supervisor (`porthole-agent supervise`) starts it again when it ends.
//!
//! The supervisor reports its steps in a pipe: `l` when the agent's port is open, `a` when its programs are attached, `e`
//! when it has got the sandbox's secret, `x` when an agent has ended. The pipe's end means that no agent will come.
//!
//! Invariant: whatever becomes of the agent, containers start. They wait for it only here, and with a limit.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    cgroup,
    reaper::{Ending, Reaper},
};

/// The agent's program in the initrd.
const PROGRAM: &str = "/porthole-agent";

/// Its control group. No container can have this name.
const GROUP: &str = ".porthole";

/// How long the agent's port may take to be open when a container is made: from then on a connection to it succeeds.
const LISTENING_TIMEOUT: Duration = Duration::from_secs(1);

/// How far the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Started,
    Listening,
    Attached,
    Enrolled,
    /// It has ended, or there is none.
    Gone,
}

/// For what the first container's start waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The agent's programs are attached.
    Attached,
    /// It has the sandbox's secret, too: a companion hands it over.
    Enrolled,
}

/// The agent, as far as containers wait for it.
#[derive(Clone)]
pub struct Agent {
    step: watch::Receiver<Step>,
    /// Until when containers wait, from the first one's start on.
    deadline: Arc<OnceLock<Instant>>,
    supervisor: Option<(Pid, Ending)>,
}

impl Agent {
    /// Starts it, if the image has one. Must be called within a runtime.
    pub fn start(reaper: &Reaper) -> Self {
        let none = || Self { step: watch::channel(Step::Gone).1, deadline: Arc::default(), supervisor: None };
        if !Path::new(PROGRAM).exists() {
            return none();
        }
        start(reaper).unwrap_or_else(|error| {
            eprintln!("porthole-init: the agent does not run: {error}");
            none()
        })
    }

    /// Waits until its port is open, or will not be.
    pub async fn listening(&self) {
        let mut steps = self.step.clone();
        let open = steps.wait_for(|step| *step >= Step::Listening);
        if timeout(LISTENING_TIMEOUT, open).await.is_err() {
            eprintln!("porthole-init: the agent's port is not open");
        }
    }

    /// Waits until it is that far, or will not be; until `limit` after the first such wait.
    pub async fn ready(&self, until: Until, limit: Duration) {
        let deadline = *self.deadline.get_or_init(|| Instant::now() + limit);
        let needed = match until {
            Until::Attached => Step::Attached,
            Until::Enrolled => Step::Enrolled,
        };
        let mut steps = self.step.clone();
        if timeout_at(deadline, steps.wait_for(|step| *step >= needed)).await.is_err() {
            let step = *self.step.borrow();
            eprintln!("porthole-init: after {limit:?} the agent is not {until:?}: {step:?}");
        }
    }

    /// Ends it, and returns when it has sent what it has, or after `limit`: it ends when it has.
    pub async fn end(&self, limit: Duration) {
        let Some((pid, ending)) = &self.supervisor else { return };
        let mut ending = ending.clone();
        // Only the reaper may wait for one that has ended.
        if ending.now().is_none()
            && kill(*pid, Signal::SIGTERM).is_ok()
            && timeout(limit, ending.wait()).await.is_err()
        {
            eprintln!("porthole-init: the agent has not ended after {limit:?}");
        }
    }
}

fn start(reaper: &Reaper) -> io::Result<Agent> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new(PROGRAM);
    command.arg("supervise").arg("--ready-fd").arg(write.as_raw_fd().to_string());
    command.arg("--cgroup").arg(Path::new(cgroup::ROOT).join(GROUP));
    // The console is bounded and for what goes wrong.
    command.env_clear().env("PORTHOLE_LOG", "warn").stdin(Stdio::null());
    let inherited = write.as_raw_fd();
    // SAFETY: between fork and exec the closure only makes one system call, on the child's copy of an open descriptor.
    unsafe {
        command.pre_exec(move || {
            fcntl(BorrowedFd::borrow_raw(inherited), FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    let since = std::time::Instant::now();
    let child = command.spawn()?;
    drop((command, write));
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let supervisor = Some((Pid::from_raw(pid), reaper.watch(pid, since)));
    let step = follow(pipe::Receiver::from_owned_fd(read)?);
    Ok(Agent { step, deadline: Arc::default(), supervisor })
}

/// How far the agent is, by what comes out of the pipe. Once it is enrolled or has ended, no container waits any more.
fn follow(mut pipe: pipe::Receiver) -> watch::Receiver<Step> {
    let (sender, step) = watch::channel(Step::Started);
    tokio::spawn(async move {
        loop {
            let next = match pipe.read_u8().await {
                Ok(b'l') => Step::Listening,
                Ok(b'a') => Step::Attached,
                Ok(b'e') => Step::Enrolled,
                Ok(_) | Err(_) => Step::Gone,
            };
            sender.send_replace(next);
            // What comes afterwards must still find a reader.
            if next >= Step::Enrolled {
                while pipe.read_u8().await.is_ok() {}
                return;
            }
        }
    });
    step
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::OwnedFd};

    use super::*;

    /// An agent that reports its steps through the returned end.
    fn agent() -> (Agent, io::PipeWriter) {
        let (read, write) = io::pipe().expect("pipe");
        let step = follow(pipe::Receiver::from_owned_fd(OwnedFd::from(read)).expect("a pipe"));
        (Agent { step, deadline: Arc::default(), supervisor: None }, write)
    }

    async fn reaches(agent: &Agent, step: Step) {
        let mut steps = agent.step.clone();
        steps.wait_for(|now| *now == step).await.expect("the reader lives");
    }

    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_container_starts_when_the_agent_is_attached_and_with_a_companion_when_it_has_its_secret() {
        let (agent, mut steps) = agent();
        for (byte, step, starts) in [
            (b"l", Step::Listening, [false, false]),
            (b"a", Step::Attached, [true, false]),
            (b"e", Step::Enrolled, [true, true]),
        ] {
            steps.write_all(byte).expect("written");
            reaches(&agent, step).await;
            let mut over = Vec::new();
            for until in [Until::Attached, Until::Enrolled] {
                over.push(timeout(Duration::from_millis(50), agent.ready(until, LIMIT)).await.is_ok());
            }
            assert_eq!(over, starts, "{step:?}");
        }
        steps.write_all(b"x").expect("what comes afterwards finds a reader");
    }

    #[tokio::test]
    async fn a_container_does_not_wait_for_an_agent_that_has_ended_nor_beyond_the_limit() {
        for last in [&b"lax"[..], b"l"] {
            let (agent, mut steps) = agent();
            steps.write_all(last).expect("written");
            drop(steps);
            agent.ready(Until::Enrolled, LIMIT).await;
        }
        let (agent, _steps) = agent();
        agent.ready(Until::Enrolled, Duration::from_millis(1)).await;
    }
}
