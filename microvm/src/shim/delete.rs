//! Delete: forgets what has ended.

use std::{sync::Arc, time::Duration};

use containerd_shim::protos::events::task::TaskDelete;

use super::{
    ShimError,
    container::{Exit, Status},
    sandbox::{Running, Sandbox, timestamp},
};
use crate::{text::printable, wire::guest};

/// How long containerd may take to fetch a process' last output.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a process that was never started may take to be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the guest may take to forget a container.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the sandbox's end may take.
const END_TIMEOUT: Duration = Duration::from_secs(20);

impl Sandbox {
    /// Deletes a process, with the empty exec id its container; answers how it ended.
    pub async fn delete(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<Exit, ShimError> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        let exit = match process.status() {
            Status::Stopped(exit) => exit,
            Status::Created if exec_id.is_empty() => {
                self.kill(id, "", libc::SIGKILL.unsigned_abs(), true).await?;
                tokio::time::timeout(KILL_TIMEOUT, process.ended())
                    .await
                    .map_err(|_| ShimError::State(format!("{} does not end", process.name())))?
            }
            Status::Created => Exit { status: 0, at: std::time::SystemTime::now() },
            Status::Running | Status::Paused => {
                return Err(ShimError::State(format!("{} is running", process.name())));
            }
        };
        process.drain(DRAIN_TIMEOUT).await;
        if let Some(running) = self.machine() {
            running.forget(id, exec_id).await;
        }
        if !exec_id.is_empty() {
            container.remove(exec_id);
            return Ok(exit);
        }
        if id == self.id {
            let mut ended = self.ended().subscribe();
            if tokio::time::timeout(END_TIMEOUT, ended.wait_for(|ended| *ended)).await.is_err() {
                tracing::error!("the sandbox takes too long to end");
            }
        }
        container.release_files();
        self.containers().remove(id);
        if container.known_to_containerd {
            self.events.publish(TaskDelete {
                container_id: id.to_owned(),
                pid: self.pid(),
                exit_status: exit.status,
                exited_at: timestamp(exit.at),
                ..Default::default()
            });
        }
        Ok(exit)
    }

    /// Ends the shim when the sandbox's own container is gone, or at once with `now`.
    pub async fn shutdown(self: &Arc<Self>, now: bool) {
        if !now && self.container(&self.id).is_ok() {
            return;
        }
        self.end().await;
        self.exit.signal();
    }
}

impl Running {
    /// Has the guest remove a process, or with the empty exec id a container.
    pub(super) async fn forget(&self, id: &str, exec_id: &str) {
        let request =
            guest::ProcessRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        let removed =
            self.guest.call(REMOVE_TIMEOUT, async |guest, context| guest.remove(context, &request).await);
        // The machine may be going down; then there is nothing left to forget.
        if let Err(error) = removed.await {
            let error = printable(&error.to_string());
            tracing::debug!(error, container = id, process = exec_id, "the guest did not remove it");
        }
    }
}
