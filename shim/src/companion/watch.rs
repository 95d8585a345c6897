//! Staying with a sandbox until its end: with the agent, without it, or bringing it back.

use std::{os::fd::OwnedFd, time::Duration};

use containerd_shim_protos::api::Status;
use porthole_registry::ContainerId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    containers::{Containers, TICK, Woken},
    context::Companion,
    inject::{self, Agent, Injection, Sidecars},
    reason::{Failure, ReasonCode},
    record::Publisher,
    sandbox::{Phase, Sandbox},
    task::{CALL_DEADLINE, CallError, Task},
    teardown,
};

/// Looks at the directory of bundles between two looks at the sandbox itself; its end usually shows at once, by the
/// end of its process or of the shim.
const TICKS_PER_STATE: u32 = 5;

/// How long after the agent's end the sandbox may still look alive although it is ending.
const END_DOUBT: Duration = Duration::from_secs(1);

/// Why the loop woke up.
enum Event {
    AgentEnded(Result<u32, CallError>),
    ShimGone,
    SandboxProcessEnded,
    Woken(Woken),
    Tick,
    RestartDue,
}

/// What is watched.
pub struct Watched<'a> {
    /// The shim.
    pub task: &'a Task,
    /// The sandbox's own container.
    pub sandbox: &'a Sandbox<'a>,
    /// Its further containers.
    pub containers: &'a mut Containers,
}

/// Returns when the sandbox has ended; the result is the agent whose end was not seen.
pub async fn watch(
    companion: &Companion<'_>,
    watched: Watched<'_>,
    sidecars: &mut Sidecars<'_>,
    publisher: &mut Publisher,
    agent: Option<Agent>,
) -> Option<Agent> {
    let Watched { task, sandbox, containers } = watched;
    let name = &companion.assignment.sandbox;
    let settings = &companion.settings.shim;
    let mut agent = agent;
    containers.refresh(publisher);
    let mut process = SandboxProcess::default();
    process.find(sandbox).await;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ticks, mut restarts, mut restart_at) = (0_u32, 0, None);
    let mut last_start = agent.as_ref().map(|agent| agent.started);
    let waiting_on = |agent: &Option<Agent>| agent.as_ref().map(|agent| agent.id.clone());
    let mut agent_end = Box::pin(agent_end(task.clone(), waiting_on(&agent)));
    loop {
        let event = tokio::select! {
            ended = &mut agent_end => Event::AgentEnded(ended),
            () = task.closed() => Event::ShimGone,
            () = process.ended() => Event::SandboxProcessEnded,
            woken = containers.woken() => Event::Woken(woken),
            () = at(restart_at) => Event::RestartDue,
            _ = tick.tick() => Event::Tick,
        };
        match event {
            Event::ShimGone => return agent,
            Event::Woken(woken) => {
                containers.refresh(publisher);
                if woken == Woken::Called && sandbox.phase(CALL_DEADLINE).await == Phase::Ended {
                    return agent;
                }
            }
            Event::SandboxProcessEnded => {
                // The shim needs a moment to see it too; if it never does, the process was something else.
                if sandbox.ends_within(END_DOUBT).await {
                    return agent;
                }
                process = SandboxProcess::Unknown;
            }
            Event::Tick => {
                containers.refresh(publisher);
                publisher.reload(companion.reload_demanded());
                ticks += 1;
                if ticks.is_multiple_of(TICKS_PER_STATE) {
                    if sandbox.phase(CALL_DEADLINE).await == Phase::Ended {
                        return agent;
                    }
                    process.find(sandbox).await;
                }
            }
            Event::AgentEnded(result) => {
                let ended = agent.take();
                agent_end = Box::pin(self::agent_end(task.clone(), None));
                if sandbox.ends_within(END_DOUBT).await {
                    return None;
                }
                let message = match result {
                    Ok(code) => format!("exit status {code}"),
                    Err(error) => error.to_string(),
                };
                publisher.unmonitored(&Failure::new(ReasonCode::AgentExited, message));
                let Some(ended) = ended else { continue };
                if teardown::delete_sidecar(task, ended.id.as_str()).await {
                    sidecars.forget(ended.id.as_str());
                    if restarts < settings.agent_restarts {
                        restart_at = last_start.map(|start| start + settings.agent_restart_interval());
                    }
                }
            }
            Event::RestartDue => {
                restart_at = None;
                restarts += 1;
                last_start = Some(Instant::now());
                tracing::info!(id = %name, restarts, "bringing the agent back");
                publisher.injecting();
                match inject::inject(companion, task, sandbox, sidecars, publisher).await {
                    Injection::SandboxEnded => return None,
                    Injection::Failed(failure) => publisher.unmonitored(&failure),
                    Injection::BuiltIn => {}
                    Injection::Running(started) => {
                        agent = Some(started);
                        agent_end = Box::pin(self::agent_end(task.clone(), waiting_on(&agent)));
                    }
                }
            }
        }
    }
}

/// The end of a sidecar; never, without one. A shim's refusal to wait does not mean that the sidecar has ended: then
/// it is looked at.
async fn agent_end(task: Task, id: Option<ContainerId>) -> Result<u32, CallError> {
    let Some(id) = id else { return std::future::pending().await };
    loop {
        let result = task.wait(id.as_str()).await;
        let Err(CallError::Refused { not_found: false, .. }) = &result else { return result };
        let state = task.state(id.as_str(), CALL_DEADLINE).await;
        if !state.is_ok_and(|state| matches!(state.status, Status::RUNNING | Status::PAUSED)) {
            return result;
        }
        sleep(TICK).await;
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The process on the host that lives as long as the sandbox: its init with runc, the VMM with Kata. Its end
/// is seen at once; State would show it later.
#[derive(Default)]
enum SandboxProcess {
    /// Not looked for yet, for example because the sandbox was not running.
    #[default]
    Wanted,
    /// Its end can be awaited.
    Known(AsyncFd<OwnedFd>),
    /// It cannot be known: State has to do.
    Unknown,
}

impl SandboxProcess {
    /// Looks for it if it is wanted.
    async fn find(&mut self, sandbox: &Sandbox<'_>) {
        if !matches!(self, Self::Wanted) {
            return;
        }
        let pid = |state: super::task::ContainerState| (state.status == Status::RUNNING).then_some(state.pid);
        let Some(before) = sandbox.state(CALL_DEADLINE).await.ok().and_then(pid) else { return };
        let Some(process) = pidfd(before) else {
            *self = Self::Unknown;
            return;
        };
        // Checked again: the id could have gone to another process before it was opened.
        let after = sandbox.state(CALL_DEADLINE).await.ok().and_then(pid);
        // SAFETY: an OwnedFd owns a valid descriptor, which is not replaced while it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
        *self = match registered {
            Ok(process) if after == Some(before) => Self::Known(process),
            _ => Self::Unknown,
        };
    }

    async fn ended(&self) {
        match self {
            Self::Known(process) => {
                let _ = process.readable().await;
            }
            Self::Wanted | Self::Unknown => std::future::pending().await,
        }
    }
}

fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}
