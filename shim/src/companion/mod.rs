//! The companion of a sandbox: puts the agent into it and stays until its end.
//!
//! ```text
//! lock, record (injecting)
//!   └► inject: State until RUNNING → /agent-url → Create(sidecar) → Start(sidecar)
//!        ├► watch: record (watching, or unmonitored with its reason); Wait(sidecar), the sandbox's end, new containers
//!        └► tear down: record (ended) → Delete(sidecar) → State until NotFound → Shutdown → nothing left
//! ```
//!
//! - [`task`]: the delegate's task service, every call with a deadline;
//! - [`sandbox`]: where the sandbox is in its life;
//! - [`sidecar`]: the agent's bundle;
//! - [`channel`]: where the agent can be reached;
//! - [`record`]: what the exporter reads;
//! - [`containers`]: the further containers of the sandbox;
//! - [`inject`], [`watch`], [`teardown`]: the three phases.
//!
//! Invariants: one try for each call that changes something in the sandbox; ids of sidecars are never used twice; the
//! workload's container is only looked at (`State`), never waited for or changed. On SIGTERM the companion ends
//! without changing anything: the sandbox's `delete` finds its state directory and cleans up.

pub mod channel;
pub mod containers;
pub mod context;
pub mod inject;
pub mod lock;
pub mod reason;
pub mod record;
pub mod sandbox;
pub mod sidecar;
pub mod task;
pub mod teardown;
pub mod watch;

mod assignment;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use porthole_registry::AgentSecret;
use tokio::signal::unix::{SignalKind, signal};

pub use assignment::{Assignment, Mode, PROCESS_NAME};

use crate::{
    companion::{
        context::Companion,
        inject::Injection,
        lock::Lock,
        reason::{Failure, ReasonCode},
        record::Publisher,
        sandbox::Sandbox,
        task::Task,
    },
    log,
    settings::Settings,
    state::{State, StateDirectory},
};

/// Longest wait for the companion of an earlier sandbox of the same name to finish.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a record says `ended` before it is removed, so that a reader that polls can see it.
const ENDED_SHOWN: Duration = Duration::from_secs(1);

/// Runs a companion; `arguments` are those of [`Assignment::to_arguments`].
pub fn main(arguments: &[OsString]) -> ExitCode {
    let settings = Settings::load();
    log::init(&settings.shim.log);
    name_process();
    let Some(assignment) = Assignment::from_arguments(arguments) else {
        tracing::error!(?arguments, "not a companion's arguments");
        return ExitCode::FAILURE;
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(&assignment, &settings));
    // A call that never returned would keep a dropped runtime waiting.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// Shows what this is where only the short name is shown, and takes no more protection from the OOM killer than an
/// ordinary process: containerd's own is inherited.
fn name_process() {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"porthole-comp".as_ptr()) };
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}

async fn run(assignment: &Assignment, settings: &Settings) {
    let id = &assignment.sandbox;
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
    let lock = match Lock::acquire(&settings.registry.directory, id, LOCK_TIMEOUT).await {
        Ok(lock) => lock,
        Err(error) => {
            tracing::error!(%id, %error, "no lock in the registry: the sandbox runs unmonitored");
            return;
        }
    };
    let secret = match AgentSecret::random() {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(%id, %error, "no random numbers: the sandbox runs unmonitored");
            return lock.release();
        }
    };
    let state = StateDirectory::of(&settings.shim.state_directory, id);
    let companion = Companion { assignment, settings, state, secret };
    let finished = tokio::select! {
        () = companion.live() => true,
        _ = terminated.recv() => false,
    };
    if finished {
        lock.shown_for(ENDED_SHOWN).await;
    } else {
        tracing::info!(%id, "SIGTERM: the companion ends, the agent stays, the sandbox's delete cleans up");
    }
    lock.release();
}

impl Companion<'_> {
    async fn live(&self) {
        let id = &self.assignment.sandbox;
        match self.assignment.mode {
            Mode::Watch => {
                let mut publisher = Publisher::new(self);
                publisher.publish();
                let state = State {
                    bundle: self.assignment.bundle.clone(),
                    address: self.assignment.address.as_ref().map(ToString::to_string).unwrap_or_default(),
                    sidecars: Vec::new(),
                    injected: false,
                };
                if let Err(error) = self.state.create().and_then(|()| self.state.write(&state)) {
                    // Without it nobody could clean up after us: nothing is requested.
                    let path = self.state.path().display();
                    publisher.unmonitored(&Failure::new(ReasonCode::Internal, format!("{path}: {error}")));
                    self.hold(&mut publisher, &mut containers::Containers::new(self)).await;
                } else {
                    self.monitor(&mut publisher, state).await;
                }
                publisher.ended();
            }
            Mode::CleanUp => match self.state.read() {
                Ok(state) => teardown::after_a_death(self, state).await,
                Err(error) => tracing::warn!(%id, %error, "nothing is known about what has to be cleaned up"),
            },
        }
        if let Err(error) = self.state.remove() {
            tracing::warn!(%id, %error, "the state directory stays");
        }
    }

    /// From the first connection to the end of the sandbox and the last call about it.
    async fn monitor(&self, publisher: &mut Publisher, state: State) {
        let id = &self.assignment.sandbox;
        // Before anybody can see a state in which a `delete` would wake this companion.
        let mut containers = containers::Containers::new(self);
        let task = match &self.assignment.address {
            Ok(address) => Task::connect(address).await.map_err(|error| {
                Failure::new(ReasonCode::ShimUnreachable, format!("{}: {error}", address.address))
            }),
            Err(message) => Err(Failure::new(ReasonCode::ProtocolUnsupported, message.clone())),
        };
        let task = match task {
            Ok(task) => task,
            Err(failure) => {
                publisher.unmonitored(&failure);
                return self.hold(publisher, &mut containers).await;
            }
        };
        let sandbox = Sandbox::new(self, &task);
        let mut sidecars = inject::Sidecars::new(&self.state, state);
        let injection = match &self.settings.problem {
            Some(problem) => {
                Injection::Failed(Failure::new(ReasonCode::ConfigurationInvalid, problem.clone()))
            }
            None => inject::inject(self, &task, &sandbox, &mut sidecars, publisher).await,
        };
        if let Injection::Failed(failure) = &injection {
            publisher.unmonitored(failure);
        }
        let started = match injection {
            Injection::SandboxEnded => {
                tracing::info!(%id, "the sandbox ended before it was monitored");
                None
            }
            Injection::Running(agent) => Some(Some(agent)),
            Injection::Failed(_) => Some(None),
        };
        let agent = match started {
            Some(agent) => {
                let watched = watch::Watched { task: &task, sandbox: &sandbox, containers: &mut containers };
                watch::watch(self, watched, &mut sidecars, publisher, agent).await
            }
            None => None,
        };
        publisher.ending();
        teardown::tear_down(self, &task, &mut sidecars, agent).await;
    }

    /// Keeps the record of a sandbox whose shim cannot be talked to, until it or its bundle is gone.
    async fn hold(&self, publisher: &mut Publisher, containers: &mut containers::Containers) {
        let mut tick = tokio::time::interval(containers::TICK);
        let gone = || self.assignment.address.as_ref().is_ok_and(|address| !address.listens());
        while self.assignment.bundle.exists() && !gone() {
            containers.refresh(publisher);
            tick.tick().await;
        }
    }
}
