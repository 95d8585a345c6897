//! `delete`: a companion that put a sidecar into the sandbox gets time to take it out before the delegate cleans up.
//!
//! Kata's `delete` run while its shim tears down made the shim dial a dead agent for over a minute. containerd ends a
//! `delete` after five seconds, so that most of them must be left to the delegate. Where no sidecar was ever requested
//! the delegate's shim is as it would be without Porthole, and nothing is waited for.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::launch;
use crate::{
    bootstrap::BootstrapAddress,
    companion::{Assignment, Mode, lock},
    invocation::Invocation,
    settings::Settings,
    state::{State, StateDirectory},
};

/// Longest wait for the companion. containerd kills a `delete` after 5 s (containerd: `core/runtime/v2/shim.go`,
/// `cleanupTimeout`).
const COMPANION_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the delegate's shim to end after the companion has finished.
const SHIM_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Returns when the companion of this sandbox has taken its sidecar out and the delegate's shim has ended, or their
/// time is over. A companion that died is replaced by one that cleans up after it.
pub fn wait_for_companion(call: &Invocation, settings: &Settings) {
    let Some(sandbox) = &call.container else { return };
    let directory = StateDirectory::of(&settings.shim.state_directory, sandbox);
    if !directory.exists() {
        return;
    }
    let companion_is_dead =
        || directory.exists() && lock::is_free(&settings.registry.directory, sandbox) && directory.exists();
    let state = match directory.read() {
        // A sandbox of the same name of another containerd.
        Ok(state) if state.bundle != call.bundle => return,
        Ok(state) => Some(state),
        // Killed before it had written anything, so before it had requested anything.
        Err(_) => None,
    };
    // Without an address there is a companion that only holds the record: it goes by itself with the bundle.
    let address = state.as_ref().and_then(|state| state.address.parse::<BootstrapAddress>().ok());
    let (Some(state), Some(address)) = (state, address) else {
        return remove_left_over(companion_is_dead(), &directory, call, settings);
    };
    if !state.injected {
        return remove_left_over(companion_is_dead(), &directory, call, settings);
    }
    directory.wake_companion();
    let deadline = Instant::now() + COMPANION_TIMEOUT;
    let mut replaced = false;
    while directory.exists() {
        if !replaced && companion_is_dead() {
            replaced = true;
            replace(call, &state, &address);
        }
        if Instant::now() >= deadline {
            tracing::warn!(%sandbox, "the companion is still there after {COMPANION_TIMEOUT:?}; going on");
            return;
        }
        thread::sleep(LOOK_INTERVAL);
    }
    let deadline = deadline.min(Instant::now() + SHIM_TIMEOUT);
    while address.listens() && Instant::now() < deadline {
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Removes what a companion left that died before it requested anything of the delegate.
fn remove_left_over(is_dead: bool, directory: &StateDirectory, call: &Invocation, settings: &Settings) {
    let Some(sandbox) = call.container.as_ref().filter(|_| is_dead) else { return };
    lock::remove_left_over(&settings.registry.directory, sandbox);
    if let Err(error) = directory.remove() {
        tracing::warn!(%sandbox, %error, "cannot remove what a companion left");
    }
}

fn replace(call: &Invocation, state: &State, address: &BootstrapAddress) {
    let Some(sandbox) = &call.container else { return };
    tracing::warn!(%sandbox, "the companion died; another one cleans up");
    let assignment = Assignment {
        mode: Mode::CleanUp,
        sandbox: sandbox.clone(),
        bundle: state.bundle.clone(),
        runtime: String::new(),
        address: Ok(address.clone()),
    };
    if let Err(error) = launch::companion(&assignment) {
        tracing::error!(%sandbox, %error, "cannot start a companion to clean up");
    }
}
