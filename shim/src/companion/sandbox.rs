//! The sandbox's own container, as the delegate's shim describes it. The companion only looks at it, with State.
//!
//! What the shims do that the response of State alone does not show:
//!
//! - A shim does not know the sandbox before its Create is through. Kata's runtime-rs answers RUNNING with an empty
//!   bundle while the virtual machine boots and after Delete; [`Task::state`] takes that for "not found". "Not found"
//!   is the sandbox's end only once it was seen.
//! - Kata's Go shim answers State when the change that it is making is through.
//! - containerd removes the bundle when the sandbox is over, whatever its shim answers.

use std::{cell::Cell, future::Future, path::Path, time::Duration};

use containerd_shim_protos::api::Status;
use tokio::time::{sleep, timeout};

use super::{
    context::Companion,
    task::{CALL_DEADLINE, CallError, ContainerState, Task},
};

/// Time between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time between two looks at the sandbox while a call about the sidecar is under way.
const END_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Where the sandbox is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The shim does not know it yet.
    BeingMade,
    /// Created, not started.
    Created,
    /// Its workload runs.
    Running,
    /// Its workload is paused.
    Paused,
    /// It is over, or the shim is gone.
    Ended,
    /// The shim gave no answer.
    Unanswered(CallError),
}

/// The sandbox's container.
pub struct Sandbox<'a> {
    task: &'a Task,
    id: &'a str,
    bundle: &'a Path,
    /// The shim has known it.
    seen: Cell<bool>,
}

impl<'a> Sandbox<'a> {
    /// The companion's sandbox, of which nothing is known yet.
    pub fn new(companion: &'a Companion<'_>, task: &'a Task) -> Self {
        let assignment = companion.assignment;
        Self { task, id: assignment.sandbox.id.as_str(), bundle: &assignment.bundle, seen: Cell::new(false) }
    }

    /// Calls State. The deadline is the caller's because some shims answer only when a change is through.
    pub async fn phase(&self, deadline: Duration) -> Phase {
        let answer = self.state(deadline).await;
        let over = |seen: bool| seen || !self.bundle.exists();
        match answer {
            Ok(state) => match state.status {
                Status::CREATED => Phase::Created,
                Status::RUNNING => Phase::Running,
                Status::PAUSED | Status::PAUSING => Phase::Paused,
                Status::STOPPED => Phase::Ended,
                Status::UNKNOWN => {
                    let message = "the shim does not know the sandbox's status".to_owned();
                    Phase::Unanswered(CallError::Refused { not_found: false, message })
                }
            },
            Err(CallError::Closed) => Phase::Ended,
            Err(error) if error.is_not_found() && over(self.seen.get()) => Phase::Ended,
            Err(error) if error.is_not_found() => Phase::BeingMade,
            Err(_) if over(false) => Phase::Ended,
            Err(error) => Phase::Unanswered(error),
        }
    }

    /// The shim's error, unchanged.
    pub async fn state(&self, deadline: Duration) -> Result<ContainerState, CallError> {
        let answer = self.task.state(self.id, deadline).await;
        self.seen.set(self.seen.get() || answer.is_ok());
        answer
    }

    /// Whether it is over within some time.
    pub async fn ends_within(&self, time: Duration) -> bool {
        until(time, || async { self.phase(time).await == Phase::Ended }).await
    }

    /// Returns when it is over.
    pub async fn over(&self) {
        while self.phase(CALL_DEADLINE).await != Phase::Ended {
            sleep(END_LOOK_INTERVAL).await;
        }
    }
}

/// Polls a condition until it holds; false when the time is over first.
pub async fn until<F: Future<Output = bool>>(time: Duration, mut condition: impl FnMut() -> F) -> bool {
    timeout(time, async {
        while !condition().await {
            sleep(POLL_INTERVAL).await;
        }
    })
    .await
    .is_ok()
}
