//! Putting the agent into a sandbox: Create and Start of the sidecar once the sandbox is RUNNING, one try each.
//!
//! Not before: Kata's Go shim starts all containers of a sandbox with the sandbox's own, so that a sidecar created
//! earlier is started by it and our Start is refused; and its one lock, which Create holds, would delay the workload.

use std::{cell::Cell, future::Future, time::Duration};

use containerd_shim_protos::api::Status;
use porthole_registry::{ContainerId, channel::Channel};
use tokio::time::{Instant, sleep};

use super::{
    channel::{self, ChannelError},
    context::Companion,
    reason::{Failure, ReasonCode},
    record::Publisher,
    sandbox::{Phase, Sandbox},
    sidecar,
    task::{CALL_DEADLINE, CallError, Task},
};
use crate::state::{State, StateDirectory};

/// Deadline of one State while the sandbox is made: some shims answer it only when Create or Start is through.
const STATE_DEADLINE: Duration = Duration::from_mins(1);

/// How long a shim may not answer State before it counts as unresponsive. Longer than any guest takes to boot.
const UNRESPONSIVE_AFTER: Duration = Duration::from_mins(5);

/// How long a sandbox may be RUNNING while none of its monitor sockets gives an address.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// The same while a process accepts the request and holds the response back: Kata's runtime-rs does so while the
/// virtual machine boots.
pub(super) const CHANNEL_HELD_TIMEOUT: Duration = Duration::from_mins(5);

/// How long after a refusal the sandbox may still look alive although it is ending, which then was the refusal's cause.
const END_DOUBT: Duration = Duration::from_secs(1);

/// How an injection ended.
#[derive(Debug)]
pub enum Injection {
    /// The agent was started.
    Running(Agent),
    /// The guest's own agent runs, and was there before.
    BuiltIn,
    /// The workload runs, or will run, without an agent.
    Failed(Failure),
    /// The sandbox was gone before the agent was in it.
    SandboxEnded,
}

/// A started sidecar.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The sidecar.
    pub id: ContainerId,
    /// When it was started.
    pub started: Instant,
}

/// The sidecars whose creation was requested in one sandbox; the state file always knows them.
pub struct Sidecars<'a> {
    directory: &'a StateDirectory,
    state: State,
}

impl<'a> Sidecars<'a> {
    /// Starts with what the state file knows.
    pub fn new(directory: &'a StateDirectory, state: State) -> Self {
        Self { directory, state }
    }

    /// Those that may exist in the delegate.
    pub fn ids(&self) -> &[String] {
        &self.state.sidecars
    }

    /// Notes a sidecar before its creation is requested.
    fn add(&mut self, id: &ContainerId) -> std::io::Result<()> {
        self.state.sidecars.push(id.as_str().to_owned());
        self.state.injected = true;
        self.directory.write(&self.state)
    }

    /// Forgets a sidecar that the delegate has deleted or never had.
    pub fn forget(&mut self, id: &str) {
        self.state.sidecars.retain(|known| known != id);
        let bundle = self.directory.sidecar(id);
        let result = crate::state::remove_tree(&bundle).and_then(|()| self.directory.write(&self.state));
        if let Err(error) = result {
            tracing::warn!(bundle = %bundle.display(), %error, "the sidecar's bundle stays");
        }
    }
}

/// Puts the agent into the sandbox and publishes where it listens.
pub async fn inject(
    companion: &Companion<'_>,
    task: &Task,
    sandbox: &Sandbox<'_>,
    sidecars: &mut Sidecars<'_>,
    publisher: &mut Publisher,
) -> Injection {
    match try_inject(companion, task, sandbox, sidecars).await {
        Ok((agent, channel)) => {
            publisher.watching(channel);
            Injection::Running(agent)
        }
        Err(Stop::Failed(failure)) => Injection::Failed(failure),
        Err(Stop::SandboxEnded) => Injection::SandboxEnded,
    }
}

/// Why an injection does not go on.
pub(super) enum Stop {
    Failed(Failure),
    SandboxEnded,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn try_inject(
    companion: &Companion<'_>,
    task: &Task,
    sandbox: &Sandbox<'_>,
    sidecars: &mut Sidecars<'_>,
) -> Result<(Agent, Channel), Stop> {
    let begin = Instant::now();
    let (settings, name) = (&companion.settings.shim, &companion.assignment.sandbox);
    let internal = |error: std::io::Error| Failure::new(ReasonCode::Internal, error.to_string());
    sidecar::check(&settings.sidecar_rootfs)?;
    let id = sidecar::new_id(&name.id).map_err(internal)?;
    let bundle = companion.state.sidecar(id.as_str());
    sidecar::write_bundle(&bundle, &id, companion).map_err(internal)?;

    reach(sandbox, |phase| matches!(phase, Phase::Created | Phase::Running)).await?;
    let created = begin.elapsed();
    let channel = running_with_channel(companion, sandbox).await?;
    let running = begin.elapsed();
    sidecars.add(&id).map_err(internal)?;
    // From here on an error leaves the sidecar to the end of the sandbox: what was refused is not touched again.
    let (bundle, deadline) = (bundle.to_string_lossy(), settings.call_deadline());
    let create = unless_over(sandbox, task.create(id.as_str(), &bundle, deadline)).await?;
    if let Err(error) = create {
        return Err(failed(sandbox, &error, ReasonCode::CreateRefused, ReasonCode::CreateTimeout).await);
    }
    let sidecar_created = begin.elapsed();
    let start = unless_over(sandbox, task.start(id.as_str(), deadline)).await?;
    if let Err(error) = start
        && !is_running(task, &id).await
    {
        return Err(failed(sandbox, &error, ReasonCode::StartRefused, ReasonCode::StartTimeout).await);
    }
    tracing::info!(
        id = %name, sidecar = %id, %channel, ?created, ?running, ?sidecar_created, started = ?begin.elapsed(),
        "watching"
    );
    Ok((Agent { id, started: Instant::now() }, channel))
}

/// A call about the sidecar, or the sandbox's end if that comes first: a call that hangs must not hide it.
async fn unless_over<T>(sandbox: &Sandbox<'_>, call: impl Future<Output = T>) -> Result<T, Stop> {
    tokio::select! {
        result = call => Ok(result),
        () = sandbox.over() => Err(Stop::SandboxEnded),
    }
}

/// What a call's failure means. The sandbox is looked at once more: its end makes calls fail in many ways.
async fn failed(sandbox: &Sandbox<'_>, error: &CallError, refused: ReasonCode, late: ReasonCode) -> Stop {
    if sandbox.ends_within(END_DOUBT).await {
        return Stop::SandboxEnded;
    }
    let code = if matches!(error, CallError::Deadline(_)) { late } else { refused };
    Stop::Failed(Failure::new(code, error.to_string()))
}

/// Whether the sidecar runs although its Start was refused: another process has started it.
async fn is_running(task: &Task, id: &ContainerId) -> bool {
    task.state(id.as_str(), CALL_DEADLINE).await.is_ok_and(|state| state.status == Status::RUNNING)
}

/// Looks at the sandbox until it is in a wanted phase.
pub(super) async fn reach(sandbox: &Sandbox<'_>, wanted: impl Fn(&Phase) -> bool) -> Result<(), Stop> {
    let begin = Instant::now();
    let mut answered = begin;
    loop {
        match sandbox.phase(STATE_DEADLINE).await {
            phase if wanted(&phase) => return Ok(()),
            Phase::Ended => return Err(Stop::SandboxEnded),
            Phase::Unanswered(error @ CallError::Deadline(_)) if answered.elapsed() >= UNRESPONSIVE_AFTER => {
                return Err(Failure::new(ReasonCode::ShimUnresponsive, error.to_string()).into());
            }
            Phase::Unanswered(CallError::Deadline(_)) => {}
            Phase::BeingMade | Phase::Created | Phase::Running | Phase::Paused | Phase::Unanswered(_) => {
                answered = Instant::now();
            }
        }
        sleep(channel::look_interval(begin.elapsed())).await;
    }
}

/// Returns when the sandbox is RUNNING and the channel is known. The channel is looked for from now on, and waited for
/// as long as the sandbox is being made.
async fn running_with_channel(companion: &Companion<'_>, sandbox: &Sandbox<'_>) -> Result<Channel, Stop> {
    let running = Cell::new(None);
    let run = async {
        reach(sandbox, |phase| *phase == Phase::Running).await?;
        running.set(Some(Instant::now()));
        Ok(())
    };
    let (channel, ()) = tokio::try_join!(find_channel(companion, sandbox, &running), run)?;
    // The answer may have taken its time.
    reach(sandbox, |phase| *phase == Phase::Running).await?;
    Ok(channel)
}

async fn find_channel(
    companion: &Companion<'_>,
    sandbox: &Sandbox<'_>,
    running: &Cell<Option<Instant>>,
) -> Result<Channel, Stop> {
    let sockets = companion.settings.shim.monitor_sockets_of(&companion.assignment.sandbox);
    let begin = Instant::now();
    loop {
        let error = match channel::request(&sockets).await {
            Ok(channel) => return Ok(channel),
            Err(error) => error,
        };
        let timeout =
            if matches!(error, ChannelError::Held { .. }) { CHANNEL_HELD_TIMEOUT } else { CHANNEL_TIMEOUT };
        if let Some(since) = running.get() {
            if sandbox.phase(CALL_DEADLINE).await == Phase::Ended {
                return Err(Stop::SandboxEnded);
            }
            if since.elapsed() >= timeout {
                return Err(Failure::new(ReasonCode::NoChannel, error.to_string()).into());
            }
        }
        sleep(channel::look_interval(begin.elapsed())).await;
    }
}
