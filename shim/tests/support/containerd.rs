//! The part of containerd that calls a shim, made for tests: each call waits for its answer.

use std::{path::Path, time::Duration};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteRequest, KillRequest, PauseRequest, ResumeRequest, ShutdownRequest,
        StartRequest,
    },
    shim_async::TaskClient,
};
use ttrpc::context::{self, Context};

/// The content of a call's answer, apart from pids and times: nothing, or the error.
pub type Reply = Result<(), String>;

/// A connection to a shim.
pub struct Containerd {
    runtime: tokio::runtime::Runtime,
    client: TaskClient,
}

/// Deadline of a call, as containerd's clients set them.
fn deadline() -> Context {
    context::with_duration(Duration::from_mins(1))
}

macro_rules! calls {
    ($($method:ident: $request:ident;)+) => {$(
        pub fn $method(&self, id: &str) -> Reply {
            let request = $request { id: id.into(), ..Default::default() };
            self.runtime.block_on(self.client.$method(deadline(), &request)).map(drop).map_err(|error| error.to_string())
        }
    )+};
}

impl Containerd {
    pub fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let address = format!("unix://{}", socket.display());
        let client =
            runtime.block_on(ttrpc::asynchronous::Client::connect(&address)).expect("the shim listens");
        Self { runtime, client: TaskClient::new(client) }
    }

    pub fn create(&self, id: &str, bundle: &Path) -> Reply {
        let bundle = bundle.to_str().expect("path").to_owned();
        let request = CreateTaskRequest { id: id.into(), bundle, ..Default::default() };
        self.runtime
            .block_on(self.client.create(deadline(), &request))
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// A connection that ends is an answer: the shim has ended (containerd: `core/runtime/v2/shim.go`, `Shutdown`).
    pub fn shutdown(&self, id: &str) -> Reply {
        let request = ShutdownRequest { id: id.into(), ..Default::default() };
        match self.runtime.block_on(self.client.shutdown(deadline(), &request)) {
            Ok(_) | Err(ttrpc::Error::Socket(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    calls! {
        start: StartRequest;
        pause: PauseRequest;
        resume: ResumeRequest;
        kill: KillRequest;
        delete: DeleteRequest;
    }
}
