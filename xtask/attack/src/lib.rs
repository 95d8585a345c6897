//! Hostile agents beside honest ones, against the real exporter: `cargo xtask attack`.
//!
//! [`attack::Attack`] names the attacks; [`hostile`] carries them out, deterministically by a seed; [`honest`] reports
//! meanwhile what is counted; [`scrapes`] compares what a Prometheus would see with what was reported. Each attack has an
//! exporter of its own, with default limits. [`guest`] attacks the host from within a guest.
//!
//! Counts, isolation and the ceiling of memory are goals of every run; times only of the long form, because a machine that runs
//! tests has other work.

pub mod attack;
pub mod guest;
mod honest;
mod hostile;
mod sandbox;
mod scraper;
mod scrapes;
mod wire;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use porthole_testbed::{
    exporter::{self, Exporter},
    interrupt,
    sweep::Scratch,
    wait,
};
use procfs::{CurrentSI as _, process::Process};
use serde_json::{Value, json};

use crate::{
    attack::{Attack, Kind},
    honest::Honest,
    hostile::{Hostile, Size},
    scrapes::Scrapes,
};

/// Honest tenants, of one sandbox each.
const HONEST: usize = 20;

/// The hostile ones.
const HOSTILE: Size = Size { sandboxes: 100, tenants: 50 };

/// Ceiling of the exporter's memory by default, MiB.
const MEMORY_MAX_MIB: u64 = 512;

/// Largest age of what a scrape shows.
const STALENESS_MAX: Duration = Duration::from_secs(2);

/// Longest scrape.
const SCRAPE_MAX: Duration = Duration::from_secs(1);

/// Time between two scrapes.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(200);

/// Time until the last honest count must be shown, while the attack goes on: long, as a machine may be busy with other work. How
/// long it takes is the staleness, which is reported.
const EXACT_DEADLINE: Duration = Duration::from_mins(1);

/// How to attack.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What all random numbers follow from.
    pub seed: u64,
    /// How long each attack lasts.
    pub duration: Duration,
    /// Whether times are goals too.
    pub timed: bool,
}

/// What came of one attack.
#[derive(Debug)]
pub struct Outcome {
    /// The attack's name.
    pub attack: String,
    peak_mib: u64,
    cpu_seconds: f64,
    load_seconds: f64,
    other_seconds: f64,
    wall_seconds: f64,
    scrapes: usize,
    failed: usize,
    scrape_median: Duration,
    scrape_max: Duration,
    exposition_bytes: usize,
    staleness: Duration,
    exact: bool,
    /// Goals that were missed.
    pub findings: Vec<String>,
}

/// Carries out one attack, or several at the same time, on this exporter.
pub fn run(program: &Path, name: &str, attacks: &[Attack], options: &Options) -> Result<Outcome> {
    let scratch = Scratch::create()?;
    let directory = scratch.path();
    fs::create_dir(directory.join("sockets")).context("make a directory")?;
    let address = exporter::free_address()?;
    let configuration = directory.join("porthole.toml");
    let text = format!(
        "[registry]\ndirectory = \"{shown}/registry\"\n[exporter]\nlisten = \"{address}\"\nstate_directory = \"{shown}/state\"\n",
        shown = directory.display(),
    );
    fs::write(&configuration, text).context("write the configuration")?;
    let honest = Honest::start(directory, HONEST, options.seed)?;
    let mut exporter = Exporter::start(program.to_owned(), directory, &configuration, address)?;
    let process =
        Process::new(exporter.pid().context("the exporter's process id")?).context("the exporter")?;
    let mut nothing_hostile = attacks.iter().all(|attack| attack.kind() == Kind::Refused);
    nothing_hostile &= !attacks.is_empty();
    let mut scrapes = Scrapes::new(&exporter, &honest, nothing_hostile);
    wait::until("the honest agents are in a scrape", EXACT_DEADLINE, || {
        let shown =
            exporter.samples()?.into_iter().filter(|sample| sample.name == "porthole_app_requests_total");
        Ok((shown.count() >= HONEST).then_some(()))
    })?;
    // The scraper has its connection before the attackers come.
    scrapes.scrape();
    scrapes.latencies.clear();
    let (began, cpu_before) = (Instant::now(), cpu_seconds(&process)?);
    let (load_before, busy_before) = (own_cpu_seconds()?, busy_seconds()?);
    let hostile = Hostile::start(directory, attacks, HOSTILE, options.seed, address)?;
    while began.elapsed() < options.duration {
        interrupt::check()?;
        let next = Instant::now() + SCRAPE_INTERVAL;
        scrapes.scrape();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    honest.rest();
    let rested = Instant::now();
    let exact = loop {
        if scrapes.scrape() {
            break true;
        }
        if rested.elapsed() > EXACT_DEADLINE {
            scrapes.found(format!("honest counts were not exact within {EXACT_DEADLINE:?}"));
            break false;
        }
        thread::sleep(SCRAPE_INTERVAL);
    };
    scrapes.look_around();
    let wall_seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(&process)? - cpu_before;
    let load_seconds = own_cpu_seconds()? - load_before;
    let other_seconds = (busy_seconds()? - busy_before - cpu_seconds - load_seconds).max(0.0);
    let peak = process.status().context("the exporter's status")?.vmhwm.context("its peak memory")?;
    let seen = hostile.findings.lock().clone();
    for finding in seen {
        scrapes.found(finding);
    }
    drop(hostile);
    let peak_mib = peak.div_ceil(1024);
    if peak_mib > MEMORY_MAX_MIB {
        scrapes.found(format!("the exporter took {peak_mib} MiB"));
    }
    let mut latencies = std::mem::take(&mut scrapes.latencies);
    latencies.sort();
    let scrape_max = latencies.last().copied().unwrap_or_default();
    if options.timed && scrape_max > SCRAPE_MAX {
        scrapes.found(format!("a scrape took {scrape_max:.1?}"));
    }
    if options.timed && scrapes.staleness > STALENESS_MAX {
        scrapes.found(format!("a scrape was {:.1?} behind", scrapes.staleness));
    }
    if options.timed
        && let Some(failed_twice) = scrapes.failed_twice.take()
    {
        scrapes.found(failed_twice);
    }
    let (staleness, exposition_bytes, failed) = (scrapes.staleness, scrapes.bytes_max, scrapes.failed);
    let mut findings = std::mem::take(&mut scrapes.findings);
    if let Err(error) = exporter.stop() {
        findings.push(format!("{error:#}"));
    }
    Ok(Outcome {
        attack: name.to_owned(),
        peak_mib,
        cpu_seconds,
        load_seconds,
        other_seconds,
        wall_seconds,
        scrapes: latencies.len(),
        failed,
        scrape_median: latencies.get(latencies.len() / 2).copied().unwrap_or_default(),
        scrape_max,
        exposition_bytes,
        staleness,
        exact,
        findings,
    })
}

#[allow(clippy::cast_precision_loss, reason = "a few thousand ticks")]
fn cpu_seconds(process: &Process) -> Result<f64> {
    let stat = process.stat().context("the exporter has ended")?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Processor time of the attackers, the honest agents and the scraper, which share the machine with the exporter.
fn own_cpu_seconds() -> Result<f64> {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    };
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("this process's processor time")?;
    let seconds =
        |time: nix::sys::time::TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    Ok((seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64())
}

/// Processor time of all processes of the machine.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
fn busy_seconds() -> Result<f64> {
    let cpu = procfs::KernelStats::current().context("the machine's processor time")?.total;
    Ok((cpu.user + cpu.nice + cpu.system) as f64 / procfs::ticks_per_second() as f64)
}

impl Outcome {
    /// The titles above [`Outcome::line`].
    pub fn titles() -> String {
        format!(
            "{:<20} {:>8} {:>7} {:>7} {:>7} {:>13} {:>7} {:>9} {:>9}  counts",
            "attack", "peak MiB", "CPU", "load", "other", "scrape ms", "failed", "page MiB", "stale ms"
        )
    }

    /// One line of a table. CPU is in cores: the exporter's, that of its attackers and its scraper, and what other processes of
    /// the machine use.
    pub fn line(&self) -> String {
        format!(
            "{:<20} {:>8} {:>7.2} {:>7.2} {:>7.2} {:>6} {:>6} {:>7} {:>9.1} {:>9}  {}",
            self.attack,
            self.peak_mib,
            self.cpu_seconds / self.wall_seconds,
            self.load_seconds / self.wall_seconds,
            self.other_seconds / self.wall_seconds,
            self.scrape_median.as_millis(),
            self.scrape_max.as_millis(),
            self.failed,
            megabytes(self.exposition_bytes),
            self.staleness.as_millis(),
            if self.exact { "exact" } else { "WRONG" },
        )
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({
            "attack": self.attack,
            "peak_mib": self.peak_mib,
            "cpu_cores": self.cpu_seconds / self.wall_seconds,
            "load_cores": self.load_seconds / self.wall_seconds,
            "other_cores": self.other_seconds / self.wall_seconds,
            "seconds": self.wall_seconds,
            "scrapes": self.scrapes,
            "scrapes_failed": self.failed,
            "scrape_median_ms": self.scrape_median.as_secs_f64() * 1e3,
            "scrape_max_ms": self.scrape_max.as_secs_f64() * 1e3,
            "exposition_bytes_max": self.exposition_bytes,
            "staleness_max_ms": self.staleness.as_secs_f64() * 1e3,
            "counts_exact": self.exact,
            "findings": self.findings,
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
