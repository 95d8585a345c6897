//! Sandboxes one after another, each of which serves one request and is gone 300 ms later.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Counted, NAMESPACE, SERVE_ONE, settle};
use crate::{
    container::{Launch, PORTHOLE, remove_quietly},
    environment::{Environment, Progress},
    interrupt, wait,
};

/// What the exporter does while the sandboxes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exporter {
    /// It runs.
    Up,
    /// It is started when the last sandbox is gone.
    Down,
    /// It is killed and started again at random.
    Killed {
        /// Of the random times.
        seed: u64,
    },
}

/// How long a sandbox may take from its start to its end. Guests are emulated, and the machine may be busy with others.
const LIFE: Duration = Duration::from_mins(5);

/// Sandboxes that may fail before the sequence is given up.
const FAILED_MAX: usize = 10;

/// A sequence of sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The requests of those that ran to their end.
    pub counted: Counted,
    /// Those that did not, each with the reason. Further ones ran in their place; whether their requests are counted is not known.
    pub failed: Vec<String>,
}

impl Sequence {
    /// Whether every sandbox ran to its end, and every request was counted once at each end.
    pub fn is_exact(&self) -> bool {
        self.failed.is_empty() && self.counted.is_exact()
    }
}

/// How long the exporter runs, and how long it is away, at most, where it is killed at random.
const RUNS: Duration = Duration::from_secs(6);
const AWAY: Duration = Duration::from_secs(3);

/// Runs sandboxes of the application `service`, one after another, until `count` of them have run to their end.
pub fn run(
    environment: &Environment,
    service: &str,
    count: u32,
    exporter: Exporter,
    progress: Progress,
) -> Result<Sequence> {
    let failed = match exporter {
        Exporter::Up => all(environment, service, count, progress)?,
        Exporter::Down => {
            environment.exporter()?.stop()?;
            let failed = all(environment, service, count, progress);
            environment.exporter()?.restart()?;
            failed?
        }
        Exporter::Killed { seed } => {
            let (over, mut random) = (AtomicBool::new(false), fastrand::Rng::with_seed(seed));
            let (failed, killed) = thread::scope(|scope| {
                let killer = scope.spawn(|| kill_at_random(environment, &mut random, &over));
                let failed = all(environment, service, count, progress);
                over.store(true, Ordering::Relaxed);
                (failed, killer.join())
            });
            let kills = killed.ok().context("the thread that kills the exporter panicked")??;
            progress(&format!("the exporter was killed {kills} times"));
            ensure!(kills > 0, "the exporter was never killed");
            failed?
        }
    };
    Ok(Sequence { counted: settle(environment, service, count.into(), true)?, failed })
}

/// Kills the exporter and starts it again until it is over; how many times.
fn kill_at_random(environment: &Environment, random: &mut fastrand::Rng, over: &AtomicBool) -> Result<u32> {
    let mut up_to = |most: Duration| most.mul_f64(random.f64());
    let mut kills = 0;
    while !over.load(Ordering::Relaxed) {
        wait::hold(up_to(RUNS))?;
        environment.exporter()?.kill()?;
        kills += 1;
        wait::hold(up_to(AWAY))?;
        environment.exporter()?.restart()?;
    }
    Ok(kills)
}

/// Runs sandboxes until so many have served their request and ended; the reasons of those that did not.
fn all(environment: &Environment, service: &str, count: u32, progress: Progress) -> Result<Vec<String>> {
    let annotations = [("io.porthole.service", service)];
    let script = format!("{SERVE_ONE}\nsleep 0.3");
    let command = ["sh", "-c", &script];
    let (mut served, mut failed) = (0, Vec::new());
    while served < count {
        let id = format!("{service}-{}", served as usize + failed.len());
        let launch = Launch::new(NAMESPACE, &id, PORTHOLE, &command).annotated(&annotations);
        let ran = launch.run_within(LIFE, &environment.containerd).and_then(|finished| {
            ensure!(finished.status.success(), "{id}: {finished}");
            Ok(())
        });
        interrupt::check()?;
        match ran {
            Ok(()) => {
                served += 1;
                if served % 20 == 0 && served < count {
                    progress(&format!("{served} of {count} sandboxes"));
                }
            }
            Err(error) => {
                progress(&format!("a sandbox failed, and another one runs in its place: {error:#}"));
                failed.push(format!("{error:#}"));
                remove_quietly(&environment.containerd, NAMESPACE, &id);
                ensure!(
                    failed.len() <= FAILED_MAX,
                    "{} sandboxes failed, the last one: {error:#}",
                    failed.len()
                );
            }
        }
    }
    Ok(failed)
}
