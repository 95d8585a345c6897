//! A delegate's shim made for tests: the task service over real ttrpc, with a workload that the test moves and a
//! sidecar whose creation and start can be made to fail or hang. It lists what it was asked.

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
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, Status, WaitRequest,
        WaitResponse,
    },
    shim_async::{Task, create_task},
};
use ttrpc::{
    asynchronous::{Server, TtrpcContext},
    proto::Code,
};

/// How the double answers a call that changes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    #[default]
    Obey,
    Refuse,
    Hang,
}

#[derive(Default)]
pub struct Model {
    pub create: Behaviour,
    pub start: Behaviour,
    /// How many Deletes of a stopped sidecar fail as Kata's do in passing.
    pub passing_delete_failures: usize,
    containers: BTreeMap<String, (Status, u32)>,
    calls: Vec<String>,
    questions: usize,
    bundles: BTreeMap<String, serde_json::Value>,
    shut_down: bool,
}

type Shared = Arc<Mutex<Model>>;

/// The double, listening.
pub struct TaskDouble {
    model: Shared,
    runtime: Option<tokio::runtime::Runtime>,
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
        let service: Arc<dyn Task + Send + Sync> = Arc::new(Service(model.clone()));
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
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nvsock://7:1024");
                }
            });
        }
        Self { model, runtime: Some(runtime) }
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
        self.model().containers.keys().find(|id| id.starts_with("porthole-")).cloned()
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

    /// The shim is killed: its sockets close.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for TaskDouble {
    fn drop(&mut self) {
        self.die();
    }
}

struct Service(Shared);

impl Service {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().expect("no panic while held")
    }

    fn note(&self, method: &str, id: &str) {
        self.model().calls.push(format!("{method} {id}"));
    }
}

fn refusal<T>(code: Code, message: &str) -> ttrpc::Result<T> {
    Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, message)))
}

async fn behave(behaviour: Behaviour) -> ttrpc::Result<()> {
    match behaviour {
        Behaviour::Obey => Ok(()),
        Behaviour::Refuse => refusal(Code::UNKNOWN, "refused by policy"),
        Behaviour::Hang => std::future::pending().await,
    }
}

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let mut model = self.model();
        model.questions += 1;
        match model.containers.get(&request.id) {
            Some((status, _)) => Ok(StateResponse { status: (*status).into(), ..Default::default() }),
            None => refusal(Code::NOT_FOUND, "no such container"),
        }
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        self.note("Create", &request.id);
        let config = std::fs::read(Path::new(&request.bundle).join("config.json")).expect("config.json");
        let config = serde_json::from_slice(&config).expect("JSON");
        let behaviour = self.model().create;
        behave(behaviour).await?;
        let mut model = self.model();
        model.bundles.insert(request.id.clone(), config);
        model.containers.insert(request.id, (Status::CREATED, 0));
        Ok(CreateTaskResponse::default())
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        self.note("Start", &request.id);
        let behaviour = self.model().start;
        behave(behaviour).await?;
        self.model().containers.insert(request.id, (Status::RUNNING, 0));
        Ok(StartResponse::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        self.note("Wait", &request.id);
        loop {
            match self.model().containers.get(&request.id) {
                Some((Status::STOPPED, code)) => {
                    return Ok(WaitResponse { exit_status: *code, ..Default::default() });
                }
                Some(_) => {}
                None => return refusal(Code::NOT_FOUND, "no such container"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        self.note("Kill", &request.id);
        if let Some(container) = self.model().containers.get_mut(&request.id) {
            *container = (Status::STOPPED, 137);
        }
        Ok(Empty::default())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        self.note("Delete", &request.id);
        let mut model = self.model();
        match model.containers.get(&request.id) {
            None => return refusal(Code::NOT_FOUND, "no such container"),
            Some((Status::STOPPED | Status::CREATED, _)) if model.passing_delete_failures == 0 => {}
            Some(_) => {
                model.passing_delete_failures = model.passing_delete_failures.saturating_sub(1);
                return refusal(Code::UNKNOWN, "Container not ready or stopped");
            }
        }
        model.containers.remove(&request.id);
        Ok(DeleteResponse::default())
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.note("Shutdown", &request.id);
        let mut model = self.model();
        model.shut_down = model.containers.is_empty();
        Ok(Empty::default())
    }
}
