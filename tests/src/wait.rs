//! Waiting for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Longest wait for what should happen soon: far longer than it takes on a busy machine.
pub const SOON: Duration = Duration::from_mins(2);

/// Time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until the probe gives a value. The probe's error is not final: it becomes part of the message when the
/// deadline passes.
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        interrupt::check()?;
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if start.elapsed() > deadline {
            last.with_context(|| format!("{what}: not within {deadline:?}"))?;
            bail!("{what}: not within {deadline:?}");
        }
        thread::sleep(PAUSE);
    }
}

/// Looks until the probe gives the same value twice, with this time in between, in which a change would have shown.
pub fn unchanged<T: PartialEq>(
    what: &str,
    quiet: Duration,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut last = None;
    until(what, deadline, || {
        if last.is_some() {
            hold(quiet)?;
        }
        let now = probe()?;
        Ok(if last.as_ref() == Some(&now) {
            Some(now)
        } else {
            last = Some(now);
            None
        })
    })
}

/// Waits unless it is interrupted, up to `duration`; for holding a state on purpose, not for hoping.
pub fn hold(duration: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        interrupt::check()?;
        thread::sleep(PAUSE.min(duration.saturating_sub(start.elapsed())));
    }
    Ok(())
}
