//! The sandbox's end: when its own container has ended, or when containerd shuts the shim down.

use std::{sync::Arc, time::Duration};

use super::{
    container::{Process, Status},
    sandbox::Sandbox,
};
use crate::{
    text::printable,
    vm::{cleanup, deadline},
    wire::guest,
};

/// How long containerd may take to fetch the last output of a sandbox that ended by itself.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The same when the machine was killed: what it had not sent is lost.
const DRAIN_TIMEOUT_KILLED: Duration = Duration::from_millis(300);

/// How long the guest may take to kill what runs and to write back.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long exits that the guest has seen may take to reach the shim.
const EXITS_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes the sandbox down as soon as its own container has ended.
pub fn watch(sandbox: &Arc<Sandbox>) {
    let sandbox = Arc::clone(sandbox);
    tokio::spawn(async move {
        let Ok(own) = sandbox.container(&sandbox.id) else { return };
        own.init.ended().await;
        sandbox.end().await;
    });
}

impl Sandbox {
    /// Takes the machine down, with everything that the host has for it. A second call waits for the first.
    pub(super) async fn end(self: &Arc<Self>) {
        let _one_at_a_time = self.creating.lock().await;
        if *self.ended().borrow() {
            return;
        }
        if let Some(running) = self.machine() {
            let gone = *running.machine.gone().borrow();
            let timeout = if gone { DRAIN_TIMEOUT_KILLED } else { DRAIN_TIMEOUT };
            let (own, others) = self.processes();
            for process in own.iter().filter(|process| process.exec_id.is_empty()) {
                process.drain(timeout).await;
            }
            if !gone {
                linger(&others, self.config.linger()).await;
                // A guest that does not answer is killed all the same.
                if let Err(error) =
                    running.guest.quiesce(deadline(QUIESCE_TIMEOUT), &guest::Empty::new()).await
                {
                    let error = printable(&error.to_string());
                    tracing::warn!(error, "the guest was not brought to rest");
                }
                linger(&others, EXITS_TIMEOUT).await;
            }
            for process in own.iter().chain(&others) {
                process.drain(DRAIN_TIMEOUT_KILLED).await;
            }
        }
        let directory = self.directory();
        let swept = tokio::task::spawn_blocking(move || cleanup::sweep(&directory)).await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the sandbox leaves something behind"),
            Err(error) => tracing::error!(%error, "the sandbox leaves something behind"),
        }
        self.set_machine(None);
        self.ended().send_replace(true);
    }

    /// Processes of the sandbox's own container, and those of the others.
    fn processes(&self) -> (Vec<Arc<Process>>, Vec<Arc<Process>>) {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for container in self.containers().values() {
            let list = if container.id == self.id { &mut own } else { &mut others };
            list.extend(container.processes());
        }
        (own, others)
    }
}

/// Waits until all these have ended, at most so long.
async fn linger(processes: &[Arc<Process>], timeout: Duration) {
    let all = async {
        for process in processes {
            if matches!(process.status(), Status::Running | Status::Paused) {
                process.ended().await;
            }
        }
    };
    // Running out of time is the rule.
    let _ = tokio::time::timeout(timeout, all).await;
}
