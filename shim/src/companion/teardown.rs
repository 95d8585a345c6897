//! The end of a sandbox, as Kata needs it: while a sidecar is listed, its Go shim does nothing on Shutdown, and would
//! outlive the workload.
//!
//! Delete(sidecar), with retries because the delegate may still be taking the sandbox down; then, if containerd has
//! already deleted the workload's container (its Shutdown then came too early to have an effect), Shutdown.

use std::time::Duration;

use containerd_shim_protos::api::Status;
use tokio::time::{sleep, timeout};

use super::{
    Companion,
    inject::{Agent, Sidecars},
    task::{CallError, QUESTION_DEADLINE, Task},
    watch::until,
};
use crate::{answer::Answer, state::State};

/// How long the sidecar may take to end by itself with its sandbox.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// How long Delete(sidecar) is tried: `Container not ready or stopped` and the like pass.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for containerd to delete the workload's container. If it comes later, its own Shutdown works.
const WORKLOAD_PATIENCE: Duration = Duration::from_secs(5);

/// Time for containerd to get the answer to its Delete and to call Shutdown itself.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(200);

/// Ends our part in a sandbox that has ended; `agent` is a sidecar whose end was not seen.
pub async fn tear_down(
    companion: &Companion<'_>,
    task: &Task,
    sidecars: &mut Sidecars<'_>,
    agent: Option<Agent>,
) {
    let sandbox = companion.assignment.sandbox.id.as_str();
    if let Some(agent) = agent
        && timeout(END_PATIENCE, task.wait(agent.id.as_str())).await.is_err()
    {
        // With a VM the sidecar dies with it; with a runtime on the host's kernel it does not.
        let result = task.kill(agent.id.as_str()).await;
        tracing::debug!(id = sandbox, sidecar = %agent.id, ?result, "killed");
    }
    if sidecars.ids().is_empty() {
        return;
    }
    for id in sidecars.ids().to_vec() {
        if delete_sidecar(task, &id).await {
            sidecars.forget(&id);
        } else {
            tracing::warn!(id = sandbox, sidecar = id, "the delegate does not delete the sidecar");
        }
    }
    let gone = until(WORKLOAD_PATIENCE, || async {
        task.is_closed()
            || task
                .state(sandbox, QUESTION_DEADLINE)
                .await
                .is_err_and(|error| error == CallError::Closed || error.is_not_found())
    });
    if !gone.await || timeout(SHUTDOWN_GRACE, task.closed()).await.is_ok() {
        return;
    }
    match task.shutdown(sandbox).await {
        Ok(()) | Err(CallError::Closed) => {}
        Err(error) => tracing::warn!(id = sandbox, %error, "the delegate does not shut down"),
    }
}

/// Deletes a sidecar that has ended; true when the delegate no longer knows it.
pub async fn delete_sidecar(task: &Task, id: &str) -> bool {
    until(DELETE_PATIENCE, || async {
        match task.delete(id).await {
            Ok(()) | Err(CallError::Closed) => true,
            Err(error) => error.is_not_found(),
        }
    })
    .await
}

/// Ends the part of a companion that died, unless its sandbox still runs.
pub async fn after_a_death(companion: &Companion<'_>, state: State) {
    let id = companion.assignment.sandbox.id.as_str();
    let Ok(answer) = state.answer.parse::<Answer>() else { return };
    let Ok(task) = Task::connect(&answer).await else { return };
    let running = task.state(id, QUESTION_DEADLINE).await.is_ok_and(|state| state.status != Status::STOPPED);
    if running {
        tracing::warn!(id, "asked to clean up after a sandbox that runs: its sidecar stays");
        return;
    }
    let mut sidecars = Sidecars::new(&companion.state, state);
    for sidecar in sidecars.ids().to_vec() {
        if timeout(END_PATIENCE, task.wait(&sidecar)).await.is_err() {
            let _ = task.kill(&sidecar).await;
            sleep(SHUTDOWN_GRACE).await;
        }
    }
    tear_down(companion, &task, &mut sidecars, None).await;
}
