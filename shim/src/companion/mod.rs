//! The companion of a sandbox: finds the agent in it or puts one into it, and stays until its end.
//!
//! ```text
//! lock, record (injecting)
//!   ├► built in: /agent-url → Enroll
//!   └► no agent there: inject: State until RUNNING → /agent-url → Create(sidecar) → Start(sidecar)
//!        ├► watch: record (watching, or unmonitored with its reason); Wait(sidecar), the sandbox's end, new containers
//!        └► tear down: the agent's last state → record (ended) → Delete(sidecar) → State until NotFound → Shutdown → nothing left
//! ```
//!
//! - [`task`]: the delegate's task service, every call with a deadline;
//! - [`sandbox`]: where the sandbox is in its life;
//! - [`built_in`]: the agent that the guest's image carries;
//! - [`sidecar`]: the bundle of the agent that the companion starts;
//! - [`channel`]: where the agent can be reached;
//! - [`record`]: what the exporter reads;
//! - [`addresses`]: the sandbox's own;
//! - [`keeper`]: the agent's last state;
//! - [`containers`]: the further containers of the sandbox;
//! - [`privileges`]: what the companion may do;
//! - [`inject`], [`watch`], [`teardown`]: the three phases.
//!
//! Invariants: one try for each call that changes something in the sandbox; ids of sidecars are never used twice; the
//! workload's container is only looked at (`State`), never waited for or changed. On SIGTERM the companion ends
//! without changing anything: the sandbox's `delete` finds its state directory and cleans up. When the configuration has changed, and on
//! SIGHUP, it names the sandbox anew; everything else of the configuration is as it was at the sandbox's beginning.

pub mod addresses;
pub mod built_in;
pub mod channel;
pub mod containers;
pub mod context;
pub mod inject;
pub mod keeper;
pub mod lock;
pub mod privileges;
pub mod proof;
pub mod reason;
pub mod record;
pub mod sandbox;
pub mod sidecar;
pub mod task;
pub mod teardown;
pub mod watch;

mod assignment;

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use porthole_config::watch::Watched;
use porthole_registry::AgentSecret;
use tokio::signal::unix::{SignalKind, signal};

pub use assignment::{Assignment, Mode, PROCESS_NAME};

use crate::{
    companion::{
        addresses::SandboxNetwork,
        built_in::BuiltIn,
        context::Companion,
        inject::Injection,
        keeper::Keeper,
        lock::Lock,
        reason::{Failure, ReasonCode},
        record::Publisher,
        sandbox::Sandbox,
        task::Task,
    },
    log,
    settings::{AgentChoice, Settings},
    state::{State, StateDirectory},
};

/// Longest wait for the companion of an earlier sandbox of the same name to finish.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a record has the state `ended` before it is removed, so that a reader that polls can see it.
const ENDED_SHOWN: Duration = Duration::from_secs(1);

/// Runs a companion; `arguments` are those of [`Assignment::to_arguments`].
pub fn main(arguments: &[OsString]) -> ExitCode {
    let configuration = Watched::new(vec![porthole_config::path()]);
    let settings = Settings::load();
    log::init(&settings.shim.log);
    name_process();
    let assignment = Assignment::from_arguments(arguments);
    let watched = assignment.as_ref().filter(|assignment| assignment.mode == Mode::Watch);
    let network = watched.and_then(|assignment| SandboxNetwork::open(&assignment.bundle));
    privileges::confine();
    let Some(assignment) = assignment else {
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
    runtime.block_on(run(&assignment, &settings, network, configuration));
    // A call that never returned would keep a dropped runtime waiting.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// Shows what this is where only the short name is shown, and takes no more protection from the OOM killer than an
/// ordinary process: containerd's own is inherited.
fn name_process() {
    let _ = nix::sys::prctl::set_name(c"porthole-comp");
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}

async fn run(
    assignment: &Assignment,
    settings: &Settings,
    network: Option<SandboxNetwork>,
    configuration: Watched,
) {
    let id = &assignment.sandbox;
    // Without a handler it would end the companion.
    let Ok(mut hung_up) = signal(SignalKind::hangup()) else { return };
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
    let companion = Companion { assignment, settings, state, secret, reload: AtomicBool::new(false) };
    let demands = async {
        while hung_up.recv().await.is_some() {
            companion.reload.store(true, Ordering::Relaxed);
        }
        std::future::pending::<()>().await;
    };
    let finished = tokio::select! {
        () = companion.live(network, configuration) => true,
        _ = terminated.recv() => false,
        () = demands => false,
    };
    if finished {
        lock.shown_for(ENDED_SHOWN).await;
    } else {
        tracing::info!(%id, "SIGTERM: the companion ends, the agent stays, the sandbox's delete cleans up");
    }
    lock.release();
}

impl Companion<'_> {
    async fn live(&self, network: Option<SandboxNetwork>, configuration: Watched) {
        let id = &self.assignment.sandbox;
        match self.assignment.mode {
            Mode::Watch => {
                let mut publisher = Publisher::new(self, network, configuration);
                publisher.injecting();
                let state = State {
                    bundle: self.assignment.bundle.clone(),
                    address: self.assignment.address.as_ref().map(ToString::to_string).unwrap_or_default(),
                    sidecars: Vec::new(),
                    injected: false,
                };
                if let Err(error) = self.state.create().and_then(|()| self.state.write(&state)) {
                    // Without it nothing could clean up after us, so no call is made.
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
        // Before a reader can see a state in which a `delete` would wake this companion.
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
        let found = match &self.settings.problem {
            Some(problem) => {
                Injection::Failed(Failure::new(ReasonCode::ConfigurationInvalid, problem.clone()))
            }
            None => self.find_agent(&task, &sandbox, &mut sidecars, publisher).await,
        };
        let started = match found {
            Injection::SandboxEnded => {
                tracing::info!(%id, "the sandbox ended before it was monitored");
                None
            }
            Injection::BuiltIn => Some(None),
            Injection::Running(agent) => Some(Some(agent)),
            Injection::Failed(failure) => {
                publisher.unmonitored(&failure);
                Some(None)
            }
        };
        let keeper =
            publisher.agent().map(|channel| Keeper::start(channel, self.secret.clone(), id.id.as_str()));
        let agent = match started {
            Some(agent) => {
                let watched = watch::Watched { task: &task, sandbox: &sandbox, containers: &mut containers };
                watch::watch(self, watched, &mut sidecars, publisher, agent).await
            }
            None => None,
        };
        if let Some(keeper) = keeper {
            publisher.leave_last_state(keeper).await;
        }
        publisher.ending();
        teardown::tear_down(self, &task, &mut sidecars, agent).await;
    }

    /// The agent that the guest's image carries, or the sidecar, as configured.
    async fn find_agent(
        &self,
        task: &Task,
        sandbox: &Sandbox<'_>,
        sidecars: &mut inject::Sidecars<'_>,
        publisher: &mut Publisher,
    ) -> Injection {
        let choice = self.settings.shim.agent;
        let built_in = match choice {
            AgentChoice::Sidecar => BuiltIn::Nobody,
            AgentChoice::Auto | AgentChoice::BuiltIn => built_in::ask(self, sandbox).await,
        };
        match built_in {
            BuiltIn::Enrolled(channel) => {
                tracing::info!(id = %self.assignment.sandbox, %channel, "watching the guest's own agent");
                privileges::without_sidecar(&channel);
                publisher.watching(channel);
                Injection::BuiltIn
            }
            BuiltIn::Nobody if choice == AgentChoice::BuiltIn => {
                let message = "no process listens on the agent's port in the guest";
                Injection::Failed(Failure::new(ReasonCode::AgentMissing, message))
            }
            BuiltIn::Nobody => inject::inject(self, task, sandbox, sidecars, publisher).await,
            BuiltIn::Failed(failure) => Injection::Failed(failure),
            BuiltIn::SandboxEnded => Injection::SandboxEnded,
        }
    }

    /// Keeps the record of a sandbox whose shim cannot be talked to, until it or its bundle is gone.
    async fn hold(&self, publisher: &mut Publisher, containers: &mut containers::Containers) {
        let mut tick = tokio::time::interval(containers::TICK);
        let gone = || self.assignment.address.as_ref().is_ok_and(|address| !address.listens());
        while self.assignment.bundle.exists() && !gone() {
            containers.refresh(publisher);
            publisher.reload(self.reload_demanded());
            tick.tick().await;
        }
    }
}
