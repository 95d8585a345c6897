//! Putting the agent into a sandbox: Create once the sandbox's container is CREATED, Start once it is RUNNING, one
//! try each.

use std::time::Duration;

use containerd_shim_protos::api::Status;
use porthole_registry::{ContainerId, channel::Channel};
use tokio::time::{Instant, sleep};

use super::{
    Companion, channel,
    reason::{Failure, ReasonCode},
    record::Publisher,
    sidecar,
    task::{CallError, Task},
};
use crate::state::{State, StateDirectory};

/// Deadline of one State while the sandbox is made: some shims answer it only when Create or Start is through.
const STATE_DEADLINE: Duration = Duration::from_mins(1);

/// How long a sandbox may be CREATED without its monitor socket answering.
const CHANNEL_PATIENCE: Duration = Duration::from_secs(10);

/// How an injection ended.
#[derive(Debug)]
pub enum Injection {
    /// The agent was started.
    Running(Agent),
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

/// The sidecars that were asked for in one sandbox; the state file always knows them.
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

    /// Notes a sidecar before it is asked for.
    fn add(&mut self, id: &ContainerId) -> std::io::Result<()> {
        self.state.sidecars.push(id.as_str().to_owned());
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

/// Puts the agent into the sandbox and tells the exporter where it listens.
pub async fn inject(
    companion: &Companion<'_>,
    task: &Task,
    sidecars: &mut Sidecars<'_>,
    publisher: &mut Publisher,
) -> Injection {
    match try_inject(companion, task, sidecars).await {
        Ok((agent, channel)) => {
            publisher.watching(channel);
            Injection::Running(agent)
        }
        Err(Stop::Failed(failure)) => Injection::Failed(failure),
        Err(Stop::SandboxEnded) => Injection::SandboxEnded,
    }
}

/// Why an injection does not go on.
enum Stop {
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
    sidecars: &mut Sidecars<'_>,
) -> Result<(Agent, Channel), Stop> {
    let begin = Instant::now();
    let (settings, sandbox) = (&companion.settings.shim, &companion.assignment.sandbox);
    let internal = |error: std::io::Error| Failure::new(ReasonCode::Internal, error.to_string());
    sidecar::check(&settings.sidecar_rootfs)?;
    let id = sidecar::new_id(&sandbox.id).map_err(internal)?;
    let bundle = companion.state.sidecar(id.as_str());
    sidecar::write_bundle(&bundle, &id, &sandbox.id, settings).map_err(internal)?;

    reach(task, sandbox.id.as_str(), |status| matches!(status, Status::CREATED | Status::RUNNING)).await?;
    let created = begin.elapsed();
    let channel = find_channel(companion, task).await?;
    sidecars.add(&id).map_err(internal)?;
    // From here on an error leaves the sidecar to the end of the sandbox: what was refused is not touched again.
    let (bundle, deadline) = (bundle.to_string_lossy(), settings.call_deadline());
    change(
        task.create(id.as_str(), &bundle, deadline).await,
        ReasonCode::CreateRefused,
        ReasonCode::CreateTimeout,
    )?;
    let sidecar_created = begin.elapsed();
    reach(task, sandbox.id.as_str(), |status| status == Status::RUNNING).await?;
    let running = begin.elapsed();
    change(task.start(id.as_str(), deadline).await, ReasonCode::StartRefused, ReasonCode::StartTimeout)?;
    tracing::info!(
        id = %sandbox, sidecar = %id, %channel, ?created, ?sidecar_created, ?running, started = ?begin.elapsed(),
        "watching"
    );
    Ok((Agent { id, started: Instant::now() }, channel))
}

fn change(result: Result<(), CallError>, refused: ReasonCode, late: ReasonCode) -> Result<(), Stop> {
    result.map_err(|error| match error {
        CallError::Closed => Stop::SandboxEnded,
        CallError::Deadline(_) => Stop::Failed(Failure::new(late, error.to_string())),
        CallError::Refused { .. } => Stop::Failed(Failure::new(refused, error.to_string())),
    })
}

/// Looks at the sandbox's container until its status is a wanted one.
async fn reach(task: &Task, sandbox: &str, wanted: impl Fn(Status) -> bool) -> Result<(), Stop> {
    let begin = Instant::now();
    loop {
        match task.state(sandbox, STATE_DEADLINE).await {
            Ok(state) if wanted(state.status) => return Ok(()),
            Ok(state) if state.status == Status::STOPPED => return Err(Stop::SandboxEnded),
            Err(CallError::Closed) => return Err(Stop::SandboxEnded),
            // Before Create is through there is no container to look at.
            Ok(_) | Err(_) => sleep(look_interval(begin.elapsed())).await,
        }
    }
}

/// What is served before the agent is in is lost to us, so the first looks are close; a container that was created
/// to be started some day must not cost anything.
fn look_interval(waited: Duration) -> Duration {
    Duration::from_millis(match waited.as_secs() {
        0..3 => 5,
        3..30 => 20,
        30..300 => 100,
        _ => 500,
    })
}

async fn find_channel(companion: &Companion<'_>, task: &Task) -> Result<Channel, Stop> {
    let sockets = companion.settings.shim.monitor_sockets_of(&companion.assignment.sandbox);
    let begin = Instant::now();
    loop {
        match channel::ask(&sockets).await {
            Ok(channel) => return Ok(channel),
            Err(_) if task.is_closed() => return Err(Stop::SandboxEnded),
            Err(error) if begin.elapsed() >= CHANNEL_PATIENCE => {
                return Err(Failure::new(ReasonCode::NoChannel, error.to_string()).into());
            }
            Err(_) => sleep(look_interval(begin.elapsed())).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_close_at_first_and_rare_later() {
        assert_eq!(look_interval(Duration::ZERO), Duration::from_millis(5));
        assert_eq!(look_interval(Duration::from_hours(1)), Duration::from_millis(500));
    }
}
