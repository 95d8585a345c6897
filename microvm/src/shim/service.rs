//! The edge to containerd: Task v2 over ttrpc.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use containerd_shim::{
    Task, TtrpcContext,
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        Status as TaskStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    protos::{
        api::ProcessInfo,
        protobuf::{EnumOrUnknown, Message as _, MessageField, well_known_types::any::Any},
    },
};
use ttrpc::{Code, Error, get_status};

use super::{
    ShimError,
    container::Status,
    create,
    sandbox::{Sandbox, timestamp},
    stats,
    stdio::StdioPaths,
};

/// The service of one sandbox.
pub struct TaskService {
    sandbox: Arc<Sandbox>,
}

impl TaskService {
    /// Serves that sandbox.
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox }
    }
}

fn answer<T>(call: &str, id: &str, result: Result<T, ShimError>) -> ttrpc::Result<T> {
    result.map_err(|error| {
        // A query for what is not there is no fault; companions send many.
        if matches!(error, ShimError::NotFound(_)) {
            tracing::debug!(call, id, %error, "refused");
        } else {
            tracing::warn!(call, id, %error, "refused");
        }
        let code = match &error {
            ShimError::NotFound(_) => Code::NOT_FOUND,
            ShimError::Exists(_) => Code::ALREADY_EXISTS,
            ShimError::State(_) => Code::FAILED_PRECONDITION,
            ShimError::Unsupported(_) => Code::UNIMPLEMENTED,
            ShimError::Json { .. } | ShimError::Spec(_) => Code::INVALID_ARGUMENT,
            _ => Code::UNKNOWN,
        };
        Error::RpcStatus(get_status(code, error.to_string()))
    })
}

fn empty<T>(_: T) -> Empty {
    Empty::new()
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        tracing::info!(id = request.id, bundle = request.bundle, "create");
        if !request.checkpoint.is_empty() {
            return answer("create", &request.id, Err(ShimError::Unsupported("restoring from a checkpoint")));
        }
        let made = self.sandbox.create(create::Request {
            id: request.id.clone(),
            bundle: PathBuf::from(&request.bundle),
            rootfs: request.rootfs,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        });
        let pid = answer("create", &request.id, made.await)?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        tracing::info!(id = request.id, exec_id = request.exec_id, "start");
        let pid = answer("start", &request.id, self.sandbox.start(&request.id, &request.exec_id).await)?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = answer("state", &request.id, self.sandbox.container(&request.id))?;
        let process = answer("state", &request.id, container.process(&request.exec_id))?;
        let mut response = StateResponse {
            id: request.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: self.sandbox.pid(),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exec_id: request.exec_id.clone(),
            ..Default::default()
        };
        let status = match process.status() {
            Status::Created => TaskStatus::CREATED,
            Status::Running => TaskStatus::RUNNING,
            Status::Paused => TaskStatus::PAUSED,
            Status::Stopped(exit) => {
                response.exit_status = exit.status;
                response.exited_at = timestamp(exit.at);
                TaskStatus::STOPPED
            }
        };
        response.status = EnumOrUnknown::new(status);
        Ok(response)
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        tracing::info!(id = request.id, exec_id = request.exec_id, "delete");
        let exit = answer("delete", &request.id, self.sandbox.delete(&request.id, &request.exec_id).await)?;
        Ok(DeleteResponse {
            pid: self.sandbox.pid(),
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = answer("pids", &request.id, self.sandbox.pids(&request.id).await)?;
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, ..Default::default() }).collect();
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        answer("pause", &request.id, self.sandbox.pause(&request.id).await).map(empty)
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        answer("resume", &request.id, self.sandbox.resume(&request.id).await).map(empty)
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        answer("checkpoint", &request.id, Err(ShimError::Unsupported("checkpointing")))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        tracing::info!(id = request.id, exec_id = request.exec_id, signal = request.signal, "kill");
        let killed = self.sandbox.kill(&request.id, &request.exec_id, request.signal, request.all).await;
        answer("kill", &request.id, killed).map(empty)
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        tracing::info!(id = request.id, exec_id = request.exec_id, "exec");
        let stdio = StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let spec = request.spec.get_or_default();
        let added = self.sandbox.add_process(&request.id, &request.exec_id, &spec.value, stdio);
        answer("exec", &request.id, added).map(empty)
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let resized = self.sandbox.resize(&request.id, &request.exec_id, request.width, request.height).await;
        answer("resize", &request.id, resized).map(empty)
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let closed = self.sandbox.close_input(&request.id, &request.exec_id).await;
        answer("close", &request.id, closed).map(empty)
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = request.resources.get_or_default();
        answer("update", &request.id, self.sandbox.update(&request.id, &resources.value).await).map(empty)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = answer("wait", &request.id, self.sandbox.wait(&request.id, &request.exec_id).await)?;
        Ok(WaitResponse { exit_status: exit.status, exited_at: timestamp(exit.at), ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let metrics = answer("stats", &request.id, self.sandbox.stats(&request.id).await)?;
        let value = metrics.write_to_bytes().map_err(|error| Error::Others(error.to_string()))?;
        let stats = Any { type_url: stats::TYPE_URL.to_owned(), value, ..Default::default() };
        Ok(StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        answer("connect", &request.id, self.sandbox.container(&request.id))?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.sandbox.pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        tracing::info!(id = request.id, now = request.now, "shutdown");
        self.sandbox.shutdown(request.now).await;
        Ok(Empty::new())
    }
}
