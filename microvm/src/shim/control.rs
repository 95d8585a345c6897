//! What is done to containers while they are there: signals, further processes, pausing, limits, counters.

use std::{sync::Arc, time::Duration};

use containerd_shim::protos::{
    cgroups_v2::metrics::Metrics,
    events::task::{TaskExecAdded, TaskPaused, TaskResumed},
};
use serde_json::Value;

use super::{
    ShimError,
    container::{Process, Status},
    sandbox::{CALL_TIMEOUT, Running, Sandbox},
    spec, stats,
    stdio::StdioPaths,
};
use crate::wire::guest;

/// Most processes of a container that are listed.
const PIDS_MAX: usize = 32 << 10;

/// How long a killed process may take to end. Emulated guests are slow. Shorter than a call, so that a guest that does not
/// answer is switched off while containerd still waits for the call.
const KILL_TIMEOUT: Duration = Duration::from_secs(25);

/// How long the guest may take to confirm any other signal. Then it is on its way, as with kill(2) for a process that cannot
/// take it yet. A failure would keep a pod whose guest hangs from ever ending: containerd sends the signal that kills only
/// when the first one was accepted. The shortest deadline of its clients is crictl's, 2 s beyond the time that a container
/// gets to stop.
pub(super) const SIGNAL_TIMEOUT: Duration = Duration::from_millis(1500);

impl Sandbox {
    /// Sends a signal. The end of a guest that does not answer takes the one that kills.
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<(), ShimError> {
        let process = self.process(id, exec_id)?;
        if matches!(process.status(), Status::Stopped(_)) {
            return Err(ShimError::NotFound(format!("{}: process already finished", process.name())));
        }
        let running = self.running()?;
        let request = guest::SignalRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        let timeout = if signal == libc::SIGKILL.unsigned_abs() {
            // The guest may answer and not kill, or not answer.
            enforce_end(Arc::clone(&running), Arc::clone(&process));
            CALL_TIMEOUT
        } else {
            SIGNAL_TIMEOUT
        };
        let sending = tokio::spawn(async move {
            running.call(async |guest, context| guest.signal(context, &request).await).await
        });
        let sent = tokio::select! {
            sent = sending => sent.map_err(|_| ShimError::Internal("a signal's task ended"))?,
            _ = process.ended() => return Ok(()),
            () = tokio::time::sleep(timeout) => {
                tracing::warn!(signal, process = process.name(), "the guest does not confirm the signal yet");
                return Ok(());
            }
        };
        match sent {
            Err(error) if !matches!(error, ttrpc::Error::RpcStatus(_)) => {
                // A guest that ends closes the connection before its processes are seen to end.
                let ended = tokio::time::timeout(timeout, process.ended()).await;
                ended.map(drop).map_err(|_| error.into())
            }
            sent => Ok(sent.map(drop)?),
        }
    }

    /// Adds a process that is yet to be started.
    pub fn add_process(
        &self,
        id: &str,
        exec_id: &str,
        spec: &[u8],
        stdio: StdioPaths,
    ) -> Result<(), ShimError> {
        let container = self.container(id)?;
        let mut process: Value =
            serde_json::from_slice(spec).map_err(|source| ShimError::Json { what: "process", source })?;
        spec::prepare_process(&mut process, stdio.terminal);
        let process =
            serde_json::to_vec(&process).map_err(|source| ShimError::Json { what: "process", source })?;
        container.add(Process::new(id, exec_id, stdio, process))?;
        if container.known_to_containerd {
            self.events.publish(TaskExecAdded {
                container_id: id.to_owned(),
                exec_id: exec_id.to_owned(),
                ..Default::default()
            });
        }
        Ok(())
    }

    /// Sets the size of a process' terminal.
    pub async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<(), ShimError> {
        self.process(id, exec_id)?;
        let request = guest::ResizeRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..Default::default()
        };
        self.running()?.call(async |guest, context| guest.resize(context, &request).await).await?;
        Ok(())
    }

    /// Ends a process' standard input.
    pub async fn close_input(&self, id: &str, exec_id: &str) -> Result<(), ShimError> {
        let process = self.process(id, exec_id)?;
        if let Some(stdio) = &*process.stdio.lock().await {
            stdio.close_input();
        }
        Ok(())
    }

    /// Stops a container's processes where they are.
    pub async fn pause(&self, id: &str) -> Result<(), ShimError> {
        let container = self.container(id)?;
        if container.init.status() != Status::Running {
            return Err(ShimError::State(format!("container {id} is not running")));
        }
        self.running()?.call(async |guest, context| guest.pause(context, &request(id)).await).await?;
        container.init.set(Status::Paused);
        if container.known_to_containerd {
            self.events.publish(TaskPaused { container_id: id.to_owned(), ..Default::default() });
        }
        Ok(())
    }

    /// Lets them go on.
    pub async fn resume(&self, id: &str) -> Result<(), ShimError> {
        let container = self.container(id)?;
        if container.init.status() != Status::Paused {
            return Err(ShimError::State(format!("container {id} is not paused")));
        }
        self.running()?.call(async |guest, context| guest.resume(context, &request(id)).await).await?;
        container.init.set(Status::Running);
        if container.known_to_containerd {
            self.events.publish(TaskResumed { container_id: id.to_owned(), ..Default::default() });
        }
        Ok(())
    }

    /// A container's processes, each by the number of the task. Their own numbers are the guest's: clients of containerd look
    /// them up on the host, where they are other processes.
    pub async fn pids(&self, id: &str) -> Result<Vec<u32>, ShimError> {
        self.container(id)?;
        let found =
            self.running()?.call(async |guest, context| guest.pids(context, &request(id)).await).await?;
        Ok(vec![self.pid(); found.pids.len().min(PIDS_MAX)])
    }

    /// A container's counters.
    pub async fn stats(&self, id: &str) -> Result<Metrics, ShimError> {
        self.container(id)?;
        Ok(stats::metrics(
            &self.running()?.call(async |guest, context| guest.stats(context, &request(id)).await).await?,
        ))
    }

    /// Sets a container's limits, from an OCI `linux.resources` object.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<(), ShimError> {
        self.container(id)?;
        let mut value: Value = serde_json::from_slice(resources)
            .map_err(|source| ShimError::Json { what: "resources", source })?;
        spec::prepare_resources(&mut value);
        let resources =
            serde_json::to_vec(&value).map_err(|source| ShimError::Json { what: "resources", source })?;
        let request = guest::UpdateRequest { id: id.to_owned(), resources, ..Default::default() };
        self.running()?.call(async |guest, context| guest.update(context, &request).await).await?;
        Ok(())
    }

    /// Waits for a process' end.
    pub async fn wait(
        self: &Arc<Self>,
        id: &str,
        exec_id: &str,
    ) -> Result<super::container::Exit, ShimError> {
        let process = self.process(id, exec_id)?;
        Ok(process.ended().await)
    }
}

/// Switches the machine off when a killed process does not end in time: what is killed ends, whatever the guest does.
fn enforce_end(running: Arc<Running>, process: Arc<Process>) {
    tokio::spawn(async move {
        if tokio::time::timeout(KILL_TIMEOUT, process.ended()).await.is_err() {
            tracing::warn!(process = process.name(), "killed and still there: the machine is switched off");
            running.machine.kill();
        }
    });
}

fn request(id: &str) -> guest::ContainerRequest {
    guest::ContainerRequest { id: id.to_owned(), ..Default::default() }
}
