//! The end of a sandbox, as Kata needs it: while a sidecar is listed, its Go shim does nothing on Shutdown, and would
//! outlive the workload.
//!
//! Delete(sidecar), with retries because the delegate may still be taking the sandbox down; then, if containerd has
//! already deleted the workload's container (its Shutdown then came too early to have an effect), Shutdown.

use std::{cell::Cell, time::Duration};

use containerd_shim_protos::api::Status;
use tokio::time::timeout;

use super::{
    context::Companion,
    inject::{Agent, Sidecars},
    sandbox::{Phase, Sandbox, until},
    task::{CALL_DEADLINE, CallError, Task},
};
use crate::{bootstrap::BootstrapAddress, state::State};

/// How long the sidecar may take to end by itself with its sandbox.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// How long Delete(sidecar) is tried: `Container not ready or stopped`, `ttrpc: closed` (of the shim's connection to its
/// guest) and the like pass.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for containerd to delete the workload's container. If it comes later, its own Shutdown works.
const WORKLOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for containerd to get the answer to its Delete and to call Shutdown itself. `delete` waits for us meanwhile.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(25);

/// Ends our part in a sandbox that has ended; `agent` is a sidecar whose end was not seen.
pub async fn tear_down(
    companion: &Companion<'_>,
    task: &Task,
    sidecars: &mut Sidecars<'_>,
    agent: Option<Agent>,
) {
    let (name, sandbox) = (&companion.assignment.sandbox, companion.assignment.sandbox.id.as_str());
    if let Some(agent) = agent
        && timeout(END_TIMEOUT, task.wait(agent.id.as_str())).await.is_err()
    {
        // With a VM the sidecar dies with it; with a runtime on the host's kernel it does not.
        let result = task.kill(agent.id.as_str()).await;
        tracing::debug!(id = %name, sidecar = %agent.id, ?result, "killed");
    }
    if sidecars.ids().is_empty() {
        return;
    }
    for id in sidecars.ids().to_vec() {
        if delete_sidecar(task, &id).await {
            sidecars.forget(&id);
        } else {
            tracing::warn!(id = %name, sidecar = id, "the delegate does not delete the sidecar");
        }
    }
    let bundle = &companion.assignment.bundle;
    let gone = until(WORKLOAD_TIMEOUT, || async { !bundle.exists() || is_gone(task, sandbox).await });
    if !gone.await || timeout(SHUTDOWN_GRACE, task.closed()).await.is_ok() {
        return;
    }
    match task.shutdown(sandbox).await {
        Ok(()) | Err(CallError::Closed) => {}
        Err(error) => tracing::warn!(id = %name, %error, "the delegate does not shut down"),
    }
}

/// Whether the shim does not know a container, or is gone itself.
async fn is_gone(task: &Task, id: &str) -> bool {
    let answer = task.state(id, CALL_DEADLINE).await;
    task.is_closed() || answer.is_err_and(|error| error == CallError::Closed || error.is_not_found())
}

/// Deletes a sidecar that has ended; true when the delegate no longer has it. A sidecar that runs on (its Start took
/// longer than its deadline) is killed once.
pub async fn delete_sidecar(task: &Task, id: &str) -> bool {
    let killed = Cell::new(false);
    until(DELETE_TIMEOUT, || async {
        match task.delete(id).await {
            Ok(()) | Err(CallError::Closed) => true,
            // "Not found" may be the guest's word about its container, which the shim passes on and still lists.
            Err(error) if error.is_not_found() => is_gone(task, id).await,
            Err(_) if killed.get() => false,
            Err(_) => {
                let state = task.state(id, CALL_DEADLINE).await;
                if state.is_ok_and(|state| state.status == Status::RUNNING) {
                    killed.set(true);
                    let result = task.kill(id).await;
                    tracing::debug!(sidecar = id, ?result, "killed");
                }
                false
            }
        }
    })
    .await
}

/// Ends the part of a companion that died, unless its sandbox still runs.
pub async fn after_a_death(companion: &Companion<'_>, state: State) {
    let id = &companion.assignment.sandbox;
    let Ok(address) = state.address.parse::<BootstrapAddress>() else { return };
    let Ok(task) = Task::connect(&address).await else { return };
    let phase = Sandbox::new(companion, &task).phase(CALL_DEADLINE).await;
    if matches!(phase, Phase::Created | Phase::Running | Phase::Paused) {
        tracing::warn!(%id, "the sandbox still runs: its sidecar is not removed");
        return;
    }
    let mut sidecars = Sidecars::new(&companion.state, state);
    tear_down(companion, &task, &mut sidecars, None).await;
}
