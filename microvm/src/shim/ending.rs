//! The sandbox's end: when its own container has ended, when containerd shuts the shim down, or when no request will make it.

use std::{fs::File, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use super::{
    container::{Process, Status},
    sandbox::{Running, Sandbox},
};
use crate::{text::printable, vm::cleanup, wire::guest};

/// How long containerd may take to fetch the last output of a sandbox that ended by itself.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The same when the machine was killed: what it had not sent is lost.
const DRAIN_TIMEOUT_KILLED: Duration = Duration::from_millis(300);

/// How long the guest may take to kill what runs and to write back, beside the time of its agent.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long exits that the guest has seen may take to reach the shim.
const EXITS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a shim waits for the request that makes the sandbox. containerd sends it as soon as the shim listens, unless it was
/// killed in between; then it finds the shim when it starts again.
pub(super) const UNUSED_TIMEOUT: Duration = Duration::from_mins(5);

/// Time between two looks at the bundle of a sandbox that was not made yet.
const UNUSED_TICK: Duration = Duration::from_millis(200);

/// Ends the shim when there is no request for its sandbox in time, or when its bundle was removed before: containerd does so when
/// `start` fails, also when `start` was killed after it had left this shim behind, and then calls no `delete`. `bundle` is the
/// open directory, so that another one at its path is not taken for it.
pub fn watch_unused(sandbox: &Arc<Sandbox>, bundle: File) {
    let sandbox = Arc::clone(sandbox);
    tokio::spawn(async move {
        let begin = tokio::time::Instant::now();
        let is_removed = || bundle.metadata().is_ok_and(|found| found.nlink() == 0);
        while begin.elapsed() < UNUSED_TIMEOUT && !is_removed() {
            tokio::time::sleep(UNUSED_TICK).await;
            if sandbox.is_used() {
                return;
            }
        }
        sandbox.end_unused().await;
    });
}

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
    /// Whether it is being made, was made, or has ended.
    fn is_used(&self) -> bool {
        self.creating.try_lock().is_err() || self.machine().is_some() || *self.ended().borrow()
    }

    /// Ends the shim unless the sandbox was made meanwhile. A later request is refused.
    async fn end_unused(&self) {
        let _one_at_a_time = self.creating.lock().await;
        if self.machine().is_some() || *self.ended().borrow() {
            return;
        }
        tracing::warn!(sandbox = %self.key, "no request for the sandbox: the shim ends");
        self.ended().send_replace(true);
        self.exit.signal();
    }

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
                self.end_sidecars(&running).await;
                self.quiesce(&running).await;
                all_ended(&others, EXITS_TIMEOUT).await;
            }
            for process in own.iter().chain(&others) {
                process.drain(DRAIN_TIMEOUT_KILLED).await;
            }
        }
        self.leave_groups();
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

    /// Ends the agents that a companion has added, and waits until they have: they send what they have before.
    async fn end_sidecars(&self, running: &Running) {
        let sidecars: Vec<_> = {
            let containers = self.containers();
            let sidecars = containers.values().filter(|container| !container.known_to_containerd);
            sidecars.map(|container| Arc::clone(&container.init)).collect()
        };
        let limit = self.config.linger();
        for sidecar in &sidecars {
            let request = guest::SignalRequest {
                id: sidecar.container.clone(),
                signal: libc::SIGTERM.unsigned_abs(),
                ..Default::default()
            };
            // One that has ended, or whose guest does not answer, is not waited for longer than the others.
            let _ =
                running.guest.call(limit, async |guest, context| guest.signal(context, &request).await).await;
        }
        all_ended(&sidecars, limit).await;
    }

    /// Has the guest kill what runs, its agent send what it has, and what is dirty written back. A guest that does not answer is
    /// killed all the same.
    async fn quiesce(&self, running: &Running) {
        let linger = self.config.linger();
        let request = guest::QuiesceRequest {
            agent_ms: u64::try_from(linger.as_millis()).unwrap_or(u64::MAX),
            ..Default::default()
        };
        let begin = tokio::time::Instant::now();
        let call = running
            .guest
            .call(QUIESCE_TIMEOUT + linger, async |guest, context| guest.quiesce(context, &request).await);
        match call.await {
            Ok(_) => {
                tracing::info!(milliseconds = begin.elapsed().as_millis(), "the guest was brought to rest");
            }
            Err(error) => {
                let error = printable(&error.to_string());
                tracing::warn!(error, "the guest was not brought to rest");
            }
        }
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
async fn all_ended(processes: &[Arc<Process>], timeout: Duration) {
    let all = async {
        for process in processes {
            if matches!(process.status(), Status::Running | Status::Paused) {
                process.ended().await;
            }
        }
    };
    // What does not end in time ends with the machine.
    let _ = tokio::time::timeout(timeout, all).await;
}

#[cfg(test)]
mod tests {
    use containerd_shim::ExitSignal;

    use super::*;
    use crate::{config::Microvm, shim::events::Events};

    /// A sandbox that was not made, its signal to end, and the directory of its bundle.
    fn unused() -> (Arc<Sandbox>, Arc<ExitSignal>, tempfile::TempDir) {
        let scratch = tempfile::tempdir().expect("directory");
        std::fs::create_dir(scratch.path().join("bundle")).expect("bundle");
        let exit = Arc::<ExitSignal>::default();
        let key = "acme@s1".parse().expect("key");
        let (events, _) = Events::kept();
        let sandbox = Sandbox::new(key, Microvm::default(), events, Arc::clone(&exit));
        let sandbox = Arc::new(sandbox);
        watch_unused(&sandbox, File::open(scratch.path().join("bundle")).expect("open"));
        (sandbox, exit, scratch)
    }

    async fn ends_within(exit: &ExitSignal, time: Duration) -> bool {
        tokio::time::timeout(time, exit.wait()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_whose_bundle_is_removed_before_its_sandbox_is_made_ends() {
        let (sandbox, exit, scratch) = unused();
        assert!(!ends_within(&exit, Duration::from_mins(1)).await, "its bundle is there");
        std::fs::remove_dir(scratch.path().join("bundle")).expect("removed");
        assert!(ends_within(&exit, Duration::from_secs(1)).await);
        assert!(*sandbox.ended().borrow(), "a later request is refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_without_a_request_ends_by_itself() {
        let (_sandbox, exit, _scratch) = unused();
        assert!(!ends_within(&exit, UNUSED_TIMEOUT * 9 / 10).await);
        assert!(ends_within(&exit, UNUSED_TIMEOUT / 5).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sandbox_that_is_being_made_is_not_ended_however_long_it_takes() {
        let (sandbox, exit, scratch) = unused();
        let making = sandbox.creating.lock().await;
        tokio::time::sleep(UNUSED_TICK * 2).await;
        std::fs::remove_dir(scratch.path().join("bundle")).expect("removed");
        assert!(!ends_within(&exit, UNUSED_TIMEOUT * 2).await);
        drop(making);
    }
}
