//! A sandbox: its machine, its containers, and what goes for all of them.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use containerd_shim::{
    ExitSignal,
    protos::{
        events::task::{TaskExit, TaskOOM},
        protobuf::{MessageField, well_known_types::timestamp::Timestamp},
    },
};
use porthole_registry::SandboxKey;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{
    ShimError,
    container::{Container, Exit, KILLED, Process, Status},
    events::Events,
    monitor::Monitor,
};
use crate::{
    config::Microvm,
    text::printable,
    vm::{Machine, cgroup::Stay, init::Init, record::Record, system::Linux},
    wire::{guest, guest_ttrpc::GuestClient},
};

/// How long the guest may take over a call that does not wait for anything. Emulated guests are slow.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Least time between two notices that a container ran out of memory: containerd hands each one on to its clients.
const OOM_INTERVAL: Duration = Duration::from_secs(1);

/// Largest exit status of a process.
const STATUS_MAX: u32 = 255;

/// A machine with the connection to its init.
pub struct Running {
    /// The machine.
    pub machine: Machine,
    /// Its init.
    pub guest: Init,
    /// What is known of the clients of its monitor socket.
    pub monitor: Monitor,
    /// What is on record about it.
    pub record: Mutex<Record>,
}

/// A sandbox.
pub struct Sandbox {
    /// Its id, which is that of its own container.
    pub id: String,
    /// Its name, with containerd's namespace.
    pub key: SandboxKey,
    /// The configuration.
    pub config: Microvm,
    /// Events to containerd.
    pub events: Events,
    /// Ends the process.
    pub exit: Arc<ExitSignal>,
    /// One creation at a time: the first makes the machine.
    pub(super) creating: AsyncMutex<()>,
    running: Mutex<Option<Arc<Running>>>,
    /// The shim's stay in the sandbox's control groups.
    pub(super) stay: Mutex<Option<Stay<Linux>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    pid: AtomicU32,
    /// Whether the machine was taken down for good.
    ended: watch::Sender<bool>,
}

impl Sandbox {
    /// A sandbox without machine and containers.
    pub fn new(key: SandboxKey, config: Microvm, events: Events, exit: Arc<ExitSignal>) -> Self {
        Self {
            id: key.id.to_string(),
            key,
            config,
            events,
            exit,
            creating: AsyncMutex::default(),
            running: Mutex::default(),
            stay: Mutex::default(),
            containers: Mutex::default(),
            pid: AtomicU32::new(0),
            ended: watch::Sender::new(false),
        }
    }

    /// The sandbox's state directory.
    pub fn directory(&self) -> PathBuf {
        self.config.sandbox_directory(&self.key)
    }

    pub(super) fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container with that id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, ShimError> {
        self.containers().get(id).cloned().ok_or_else(|| ShimError::NotFound(format!("container {id}")))
    }

    /// A process.
    pub fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, ShimError> {
        self.container(id)?.process(exec_id)
    }

    /// The machine, if there is one.
    pub fn machine(&self) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_machine(&self, running: Option<Arc<Running>>) {
        if let Some(running) = &running {
            self.pid.store(running.machine.pid(), Ordering::Relaxed);
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    /// The machine, which a call needs.
    pub fn running(&self) -> Result<Arc<Running>, ShimError> {
        self.machine().ok_or_else(|| ShimError::State(format!("sandbox {} is not running", self.id)))
    }

    /// The task's process number for containerd: QEMU's, which is in the pod's network namespace. It stays when the
    /// machine has gone; 0 before it was there.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Follows a process to its end, in the background, and reports it.
    pub(super) fn follow(self: &Arc<Self>, running: &Arc<Running>, process: Arc<Process>, report: bool) {
        let (sandbox, running) = (Arc::clone(self), Arc::clone(running));
        tokio::spawn(async move {
            let exit = wait_in_guest(&running, &process).await;
            tracing::info!(process = process.name(), status = exit.status, "ended");
            let started = process.status() != Status::Created;
            if report && (started || process.exec_id.is_empty()) {
                sandbox.report_exit(&process, exit);
            }
            process.set(Status::Stopped(exit));
        });
    }

    fn report_exit(&self, process: &Process, exit: Exit) {
        let id = if process.exec_id.is_empty() { &process.container } else { &process.exec_id };
        self.events.publish(TaskExit {
            container_id: process.container.clone(),
            id: id.clone(),
            pid: self.pid(),
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        });
    }

    /// Reports containers that ran out of memory, in the background, while the machine runs.
    pub(super) fn follow_memory(self: &Arc<Self>, running: &Arc<Running>) {
        let (sandbox, guest) = (Arc::clone(self), running.guest.waiting().clone());
        tokio::spawn(async move {
            memory_notices(&guest, OOM_INTERVAL, |id| {
                if sandbox.container(&id).is_ok_and(|container| container.known_to_containerd) {
                    sandbox.events.publish_unless_behind(TaskOOM { container_id: id, ..Default::default() });
                }
            })
            .await;
        });
    }

    /// Turns true when the machine was taken down for good.
    pub(super) fn ended(&self) -> &watch::Sender<bool> {
        &self.ended
    }
}

/// Passes on the guest's notices of containers that ran out of memory, at most one in each interval, until the guest is gone.
/// They are the guest's word: it may name any container, any number of times.
async fn memory_notices(guest: &GuestClient, interval: Duration, mut notice: impl FnMut(String)) {
    let context = ttrpc::context::Context::default();
    while let Ok(event) = guest.wait_oom(context.clone(), &guest::Empty::new()).await {
        notice(event.id);
        tokio::time::sleep(interval).await;
    }
}

/// The end of a process, from the guest or by the guest's own end.
async fn wait_in_guest(running: &Running, process: &Process) -> Exit {
    let request = guest::ProcessRequest {
        id: process.container.clone(),
        exec_id: process.exec_id.clone(),
        ..Default::default()
    };
    let mut gone = running.machine.gone();
    let killed = || Exit { status: KILLED, at: SystemTime::now() };
    tokio::select! {
        answer = running.guest.waiting().wait(ttrpc::context::Context::default(), &request) => match answer {
            Ok(answer) => Exit {
                status: answer.status.min(STATUS_MAX),
                at: UNIX_EPOCH + Duration::from_nanos(answer.exited_unix_nanos),
            },
            Err(error) => {
                let error = printable(&error.to_string());
                tracing::warn!(error, process = process.name(), "the guest does not report how it ended");
                killed()
            }
        },
        _ = gone.wait_for(|gone| *gone) => killed(),
    }
}

/// A time in protobuf's form.
pub fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    MessageField::some(time.into())
}

impl Running {
    /// Makes a call to the init that should be answered soon.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(GuestClient, ttrpc::context::Context) -> ttrpc::Result<T>,
    ) -> ttrpc::Result<T> {
        self.guest.call(CALL_TIMEOUT, call).await
    }
}
