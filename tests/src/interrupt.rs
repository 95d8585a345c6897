//! Ctrl-C and SIGTERM as a condition that every wait looks at, so that an interrupted run unwinds like a failed one
//! and takes down what it started.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether the requested end is under way, which has waits of its own.
static HEEDED: AtomicBool = AtomicBool::new(false);

/// From now on the first SIGINT, SIGTERM or SIGHUP starts an orderly end; a second one ends at once.
pub fn install() -> Result<()> {
    let flag = REQUESTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the shutdown looks at the flag before this signal sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .context("install signal handlers")?;
    }
    Ok(())
}

/// Whether an end was requested.
pub fn requested() -> bool {
    REQUESTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// From now on everything is being taken down: nothing is interrupted any more, but a second signal ends at once.
pub fn heed() {
    HEEDED.store(true, Ordering::Relaxed);
}

/// An error when an end was requested and is not under way yet.
pub fn check() -> Result<()> {
    if requested() && !HEEDED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
