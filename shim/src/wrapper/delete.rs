//! `delete`: the companion, and with it the delegate's shim, gets time to end before the delegate cleans up.
//!
//! Kata's `delete` run while its shim tears down made the shim dial a dead agent for over a minute; containerd gives
//! a `delete` five seconds.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::launch;
use crate::{
    answer::Answer,
    companion::{Assignment, Mode, lock},
    invocation::Invocation,
    settings::Settings,
    state::{State, StateDirectory},
};

/// Longest wait. containerd kills a `delete` after 5 s (containerd: `core/runtime/v2/shim.go`, `cleanupTimeout`).
const PATIENCE: Duration = Duration::from_secs(4);

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Returns when neither a companion nor the delegate's shim of this sandbox is left, or patience is at its end. A
/// companion that died is replaced by one that cleans up after it. Containers without companion of their own do not
/// wait.
pub fn wait_for_companion(call: &Invocation, settings: &Settings) {
    let Some(id) = &call.container else { return };
    let directory = StateDirectory::of(&settings.shim.state_directory, id);
    if !directory.exists() {
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    let Ok(state) = directory.read() else {
        // Killed before it had written anything, so before it had asked for anything.
        if lock::is_free(&settings.registry.directory, id) {
            lock::remove_left_over(&settings.registry.directory, id);
            if let Err(error) = directory.remove() {
                tracing::warn!(%id, %error, "cannot remove what a companion left");
            }
        }
        return;
    };
    if state.bundle != call.bundle {
        // A sandbox of the same name of another containerd.
        return;
    }
    // Without an address there is a companion that only holds the record: it goes by itself with the bundle.
    let Ok(answer) = state.answer.parse::<Answer>() else { return };
    let mut replaced = false;
    loop {
        if !replaced
            && directory.exists()
            && lock::is_free(&settings.registry.directory, id)
            && directory.exists()
        {
            replaced = true;
            replace(call, &state, &answer);
        }
        if !directory.exists() && !answer.listens() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(%id, "the companion or the shim is still there after {PATIENCE:?}; going on");
            return;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn replace(call: &Invocation, state: &State, answer: &Answer) {
    let Some(id) = &call.container else { return };
    tracing::warn!(%id, "the companion died; another one cleans up");
    let assignment = Assignment {
        mode: Mode::CleanUp,
        sandbox: id.clone(),
        bundle: state.bundle.clone(),
        runtime: String::new(),
        answer: Ok(answer.clone()),
    };
    if let Err(error) = launch::companion(&assignment) {
        tracing::error!(%id, %error, "cannot start a companion to clean up");
    }
}
