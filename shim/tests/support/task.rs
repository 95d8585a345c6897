//! A delegate's shim made for tests: the task service over real ttrpc, with a workload that the test or a containerd
//! made for tests moves, and a sidecar whose creation and start can be made to fail or hang. It lists the calls that it
//! got.
//!
//! It behaves like one of three shims. What Kata's two do was observed on Kata 4.1.0:
//!
//! - **Go**: one lock is held by each call; the start of the sandbox starts every container that is created; a spec
//!   without `linux.resources` is a nil pointer and ends the shim; calls while the guest goes are answered with the text
//!   `ttrpc: closed`; Shutdown does nothing while a container is listed.
//! - **runtime-rs**: State of what does not exist yet or any more is RUNNING with an empty bundle; `/agent-url` is held
//!   back while the virtual machine boots; every error has the code UNKNOWN and a backtrace.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest,
        PauseRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
        StateResponse, Status, WaitRequest, WaitResponse,
    },
    shim_async::{Task, create_task},
};
use ttrpc::{
    asynchronous::{Server, TtrpcContext},
    proto::Code,
};

/// Which shim the double behaves like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    #[default]
    Plain,
    KataGo,
    RuntimeRs,
}

/// How the double answers a call that changes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    #[default]
    Obey,
    Refuse,
    /// No answer, ever. Without the flavour's lock: with it no client could reach the shim, which is the shim's fault.
    Hang,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own, and tests combine them")]
pub struct Model {
    pub flavour: Flavour,
    /// Create, Start and Delete of the sidecar.
    pub create: Behaviour,
    pub start: Behaviour,
    pub delete: Behaviour,
    /// State, of whatever container.
    pub state: Behaviour,
    /// What the monitor socket answers instead of `vsock://7:1024`.
    pub agent_url: Option<String>,
    /// The monitor socket accepts questions and does not answer them.
    pub monitor_held: bool,
    /// How often Delete and State are answered with the closing of the shim's connection to its guest.
    pub closed_answers: usize,
    /// How often Delete of the sidecar is answered with the guest's "not found", which the shim passes on.
    pub guest_not_found_answers: usize,
    /// Another process starts the sidecar as soon as it is created.
    pub started_by_others: bool,
    /// How long a guest takes to boot.
    pub boot: Duration,
    /// The guest ends while the sidecar starts.
    pub ends_during_start: bool,
    /// The shim's process ends after an effective Shutdown.
    pub ends_after_shutdown: bool,
    /// The double behaved as a shim that panicked.
    pub panicked: bool,
    /// How many Deletes of a stopped sidecar fail as Kata's do in passing.
    pub passing_delete_failures: usize,
    containers: BTreeMap<String, (Status, u32)>,
    paths: BTreeMap<String, String>,
    calls: Vec<String>,
    questions: usize,
    bundles: BTreeMap<String, serde_json::Value>,
    shut_down: bool,
}

type Shared = Arc<Mutex<Model>>;

/// The process of the double: what is left of it can be ended from inside.
type Process = Arc<Mutex<Option<tokio::runtime::Runtime>>>;

/// The bundle in the double's State of the workload, unless Create gave one.
const UNTOLD_BUNDLE: &str = "/run/bundle";

fn is_sidecar(id: &str) -> bool {
    id.starts_with("porthole-")
}

/// Ends the process at once; callable from inside it.
fn end(process: &Process) {
    if let Some(runtime) = process.lock().expect("no panic while held").take() {
        runtime.shutdown_background();
    }
}

/// The double, listening.
pub struct TaskDouble {
    model: Shared,
    runtime: Process,
}

impl TaskDouble {
    /// Listens at a path and serves `vsock://7:1024` at the monitor socket.
    pub fn listen(path: &Path, monitor: Option<&Path>) -> Self {
        let model = Shared::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let process = Process::default();
        let service = Service { model: model.clone(), process: process.clone(), lock: Arc::default() };
        let service: Arc<dyn Task + Send + Sync> = Arc::new(service);
        let address = format!("unix://{}", path.display());
        let (ready, bound) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let mut server =
                Server::new().bind(&address).expect("bound").register_service(create_task(service));
            server.start().await.expect("started");
            ready.send(()).expect("test waits");
            std::future::pending::<()>().await;
        });
        bound.recv().expect("listening");
        if let Some(monitor) = monitor {
            let listener = UnixListener::bind(monitor).expect("monitor");
            let model = model.clone();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.read(&mut [0; 1024]);
                    while model.lock().expect("no panic while held").monitor_held {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    let url = model.lock().expect("no panic while held").agent_url.clone();
                    let url = url.unwrap_or_else(|| "vsock://7:1024".to_owned());
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{url}", url.len());
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
        *process.lock().expect("no panic while held") = Some(runtime);
        Self { model, runtime: process }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().expect("no panic while held")
    }

    /// What containerd would do to the workload.
    pub fn set(&self, id: &str, status: Status) {
        self.model().containers.insert(id.into(), (status, 0));
    }

    /// What containerd's Delete would do to the workload.
    pub fn remove(&self, id: &str) {
        self.model().containers.remove(id);
    }

    /// The VM goes: everything in it stops.
    pub fn stop_all(&self) {
        for container in self.model().containers.values_mut() {
            *container = (Status::STOPPED, 137);
        }
    }

    /// Ends the sidecar with an exit status.
    pub fn sidecar_exits(&self, code: u32) {
        let sidecar = self.sidecar().expect("a sidecar");
        self.model().containers.insert(sidecar, (Status::STOPPED, code));
    }

    /// The sidecar that is listed, if any.
    pub fn sidecar(&self) -> Option<String> {
        self.model().containers.keys().find(|id| is_sidecar(id)).cloned()
    }

    /// The configuration of a sidecar when it was created.
    pub fn bundle(&self, id: &str) -> serde_json::Value {
        self.model().bundles[id].clone()
    }

    /// The calls that are no questions, as `Method id`, in order.
    pub fn calls(&self) -> Vec<String> {
        self.model().calls.clone()
    }

    /// How often State was called.
    pub fn questions(&self) -> usize {
        self.model().questions
    }

    /// How often a method was called.
    pub fn count(&self, method: &str) -> usize {
        self.calls().iter().filter(|call| call.starts_with(method)).count()
    }

    pub fn is_shut_down(&self) -> bool {
        self.model().shut_down
    }

    /// Whether nothing is left of the shim.
    pub fn has_ended(&self) -> bool {
        self.runtime.lock().expect("no panic while held").is_none()
    }

    /// The shim is killed: its sockets close.
    pub fn die(&mut self) {
        let runtime = self.runtime.lock().expect("no panic while held").take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for TaskDouble {
    fn drop(&mut self) {
        self.die();
    }
}

/// The flavour's lock, where it has one and a call holds it.
type Lock = Option<tokio::sync::OwnedMutexGuard<()>>;

struct Service {
    model: Shared,
    process: Process,
    /// The Go shim's one lock.
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().expect("no panic while held")
    }

    fn note(&self, method: &str, id: &str) {
        self.model().calls.push(format!("{method} {id}"));
    }

    /// The Go shim's lock; the others have none that matters.
    async fn exclusive(&self) -> Lock {
        let locks = self.model().flavour == Flavour::KataGo;
        if locks { Some(self.lock.clone().lock_owned().await) } else { None }
    }

    /// Ends the shim as a panic does: no call gets an answer any more.
    async fn panic<T>(&self) -> T {
        self.model().panicked = true;
        end(&self.process);
        std::future::pending().await
    }

    /// Refuses as the flavour does.
    fn refuse<T>(&self, code: Code, message: &str) -> ttrpc::Result<T> {
        if self.model().flavour != Flavour::RuntimeRs {
            return refusal(code, message);
        }
        let frames = "   0: tokio::runtime::task::harness::poll\n".repeat(60);
        let text = format!(
            "failed to handle message handler TaskRequest\n\nCaused by:\n    0: do the call\n    1: {message}\n\n\
             Stack backtrace:\n{frames}"
        );
        Err(ttrpc::Error::Others(text))
    }

    fn not_found<T>(&self, id: &str) -> ttrpc::Result<T> {
        if self.model().flavour == Flavour::RuntimeRs {
            return self.refuse(Code::UNKNOWN, &format!("failed to find container {id}"));
        }
        refusal(Code::NOT_FOUND, "no such container")
    }

    async fn behave(&self, behaviour: Behaviour, lock: &mut Lock) -> ttrpc::Result<()> {
        match behaviour {
            Behaviour::Obey => Ok(()),
            Behaviour::Refuse => self.refuse(Code::UNKNOWN, "refused by policy"),
            Behaviour::Hang => {
                drop(lock.take());
                std::future::pending().await
            }
        }
    }

    /// Takes one of the answers of a guest that is going.
    fn answers_closed(&self) -> bool {
        let mut model = self.model();
        let answers = model.closed_answers > 0;
        model.closed_answers = model.closed_answers.saturating_sub(1);
        answers
    }
}

fn refusal<T>(code: Code, message: &str) -> ttrpc::Result<T> {
    Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, message)))
}

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let mut lock = self.exclusive().await;
        let behaviour = {
            let mut model = self.model();
            model.questions += 1;
            model.state
        };
        self.behave(behaviour, &mut lock).await?;
        let (found, bundle, flavour) = {
            let model = self.model();
            let bundle = model.paths.get(&request.id).cloned().unwrap_or_else(|| UNTOLD_BUNDLE.into());
            (model.containers.get(&request.id).copied(), bundle, model.flavour)
        };
        match found {
            Some((status, _)) => {
                Ok(StateResponse { id: request.id, bundle, status: status.into(), ..Default::default() })
            }
            None if flavour == Flavour::RuntimeRs => {
                Ok(StateResponse { id: request.id, status: Status::RUNNING.into(), ..Default::default() })
            }
            None => self.not_found(&request.id),
        }
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        self.note("Create", &request.id);
        let mut lock = self.exclusive().await;
        let config = std::fs::read(Path::new(&request.bundle).join("config.json")).expect("config.json");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        if is_sidecar(&request.id) {
            if self.model().flavour == Flavour::KataGo && !config["linux"]["resources"].is_object() {
                return self.panic().await;
            }
            let behaviour = self.model().create;
            self.behave(behaviour, &mut lock).await?;
        } else {
            let boot = self.model().boot;
            tokio::time::sleep(boot).await;
        }
        let mut model = self.model();
        model.monitor_held = false;
        model.bundles.insert(request.id.clone(), config);
        model.paths.insert(request.id.clone(), request.bundle);
        let started = model.started_by_others && is_sidecar(&request.id);
        let status = if started { Status::RUNNING } else { Status::CREATED };
        model.containers.insert(request.id, (status, 0));
        Ok(CreateTaskResponse::default())
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        self.note("Start", &request.id);
        let mut lock = self.exclusive().await;
        if is_sidecar(&request.id) {
            let behaviour = self.model().start;
            self.behave(behaviour, &mut lock).await?;
            if self.model().ends_during_start {
                for container in self.model().containers.values_mut() {
                    *container = (Status::STOPPED, 137);
                }
                return self.refuse(Code::UNKNOWN, "ttrpc err: local stream closed");
            }
        }
        let found = self.model().containers.get(&request.id).copied();
        match found {
            Some((Status::CREATED, _)) => {}
            Some(_) => return self.refuse(Code::UNKNOWN, "Container not ready, is running"),
            None => return self.not_found(&request.id),
        }
        let mut model = self.model();
        let all = model.flavour == Flavour::KataGo && !is_sidecar(&request.id);
        for (id, container) in &mut model.containers {
            if *id == request.id || all && container.0 == Status::CREATED {
                *container = (Status::RUNNING, 0);
            }
        }
        Ok(StartResponse::default())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.note("Pause", &request.id);
        self.model().containers.insert(request.id, (Status::PAUSED, 0));
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.note("Resume", &request.id);
        self.model().containers.insert(request.id, (Status::RUNNING, 0));
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        self.note("Wait", &request.id);
        loop {
            match self.model().containers.get(&request.id) {
                Some((Status::STOPPED, code)) => {
                    return Ok(WaitResponse { exit_status: *code, ..Default::default() });
                }
                Some(_) => {}
                None => break,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.not_found(&request.id)
    }

    /// The end of the sandbox's container is the guest's.
    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        self.note("Kill", &request.id);
        let _lock = self.exclusive().await;
        let mut model = self.model();
        for (id, container) in &mut model.containers {
            if *id == request.id || !is_sidecar(&request.id) {
                *container = (Status::STOPPED, 137);
            }
        }
        Ok(Empty::default())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        self.note("Delete", &request.id);
        let mut lock = self.exclusive().await;
        if is_sidecar(&request.id) {
            if self.answers_closed() {
                return self.refuse(Code::UNKNOWN, "ttrpc: closed");
            }
            let passes_on = {
                let mut model = self.model();
                let passes_on = model.guest_not_found_answers > 0;
                model.guest_not_found_answers = model.guest_not_found_answers.saturating_sub(1);
                passes_on
            };
            if passes_on {
                return refusal(Code::NOT_FOUND, "rpc error: no such container in the guest");
            }
            let behaviour = self.model().delete;
            self.behave(behaviour, &mut lock).await?;
        }
        let passing = {
            let mut model = self.model();
            match model.containers.get(&request.id) {
                None => None,
                Some((Status::STOPPED | Status::CREATED, _))
                    if model.passing_delete_failures == 0 || !is_sidecar(&request.id) =>
                {
                    model.containers.remove(&request.id);
                    Some(false)
                }
                Some(_) => {
                    model.passing_delete_failures = model.passing_delete_failures.saturating_sub(1);
                    Some(true)
                }
            }
        };
        match passing {
            None => self.not_found(&request.id),
            Some(true) => self.refuse(Code::UNKNOWN, "Container not ready or stopped"),
            Some(false) => Ok(DeleteResponse::default()),
        }
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.note("Shutdown", &request.id);
        let mut model = self.model();
        model.shut_down = model.containers.is_empty();
        if model.shut_down && model.ends_after_shutdown {
            // As Kata's Go shim, which exits before it answers; callers take the connection's end for the answer.
            end(&self.process);
        }
        Ok(Empty::default())
    }
}
