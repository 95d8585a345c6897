//! Progress: one line for every step, with the time it took.

use std::time::Instant;

use anyhow::Result;

/// Prints what begins, does it, and prints how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let done = work()?;
    let elapsed = start.elapsed();
    // What was up to date needs no second line.
    if elapsed.as_secs() >= 2 {
        eprintln!("    {what}: {:.0} s", elapsed.as_secs_f64());
    }
    Ok(done)
}

/// Something worth knowing within a step.
pub fn note(text: &str) {
    eprintln!("    {text}");
}
