//! A hostile guest: root with every capability in a real guest of the embedded runtime, beside the agent, tries to change the
//! host ([`audit`] looks whether it did), to reach it, and to make it store and log without end.

mod audit;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use porthole_registry::SandboxKey;
use porthole_testbed::{
    container::{Container, Launch, MICROVM, PORTHOLE},
    environment::{Environment, MICROVM_STATE, Settings},
    footprint, scenario,
};
use procfs::process::Process;
use serde_json::{Value, json};

use self::audit::Audit;

/// The attack's name.
pub const NAME: &str = "hostile-guest";

/// containerd's namespace.
const NAMESPACE: &str = "globex";

/// What root does in the guest.
const RAMPAGE: &str = include_str!("rampage.py");

/// Most processes of one sandbox on the host.
const PROCESSES_MAX: usize = 16;

/// Largest memory of each but the virtual machine itself, MiB.
const PROCESS_MIB_MAX: u64 = 160;

/// What `/run` may hold more while the guest stores and when it has gone: others write there too.
const RUN_GROWTH_MAX: u64 = 8 << 20;

/// Directories of tests, whose containers' own files are in them.
const OF_TESTS: &str = "/run/porthole-test-";

/// Largest file of what the guest, or its programs, log.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Time for the attack itself in its long form.
const RAMPAGE_DEADLINE: Duration = Duration::from_mins(15);

/// Time for the sandbox's last process to go.
const GONE_DEADLINE: Duration = Duration::from_secs(40);

/// What came of it.
#[derive(Debug)]
pub struct GuestOutcome {
    tried: Value,
    processes: usize,
    largest_mib: u64,
    gone_after: Duration,
    /// Goals that were missed.
    pub findings: Vec<String>,
}

/// Attacks from a guest of an environment of its own; `times` is how often an attack is repeated.
pub fn run(environment: &Environment, seed: u64, times: u32) -> Result<GuestOutcome> {
    let mark = environment.unique("rampage");
    let dist = environment.dist.root.clone();
    let neighbour = environment.unique("neighbour");
    let neighbour_before = environment.footprint_of(&neighbour)?;
    let neighbour =
        Launch::new(NAMESPACE, &neighbour, MICROVM, &["sleep", "3600"]).start(&environment.containerd)?;
    let look = || Audit::take(&[&dist]);
    let stored = || audit::stored(Path::new("/run"), &[OF_TESTS]);
    let (before, stored_before) = (look()?, stored());
    let footprint_before = environment.footprint_of(&mark)?;
    let launch = Launch::new(NAMESPACE, &mark, PORTHOLE, &["sleep", "600"]).privileged();
    let container = launch.start(&environment.containerd)?;
    scenario::wait_watched(environment, &mark)?;
    let (own, neighbours) = (state_directory(&mark)?, state_directory(&neighbour.id)?);
    let shared = Shared::look(&own, &neighbours)?;
    let sampler = Sampler::default();
    let rampage = thread::scope(|scope| {
        let sampling = scope.spawn(|| sampler.sample(&mark));
        let rampage = rampage(&container, &mark, seed, times);
        sampler.stop.store(true, Ordering::Relaxed);
        let peak = sampling.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))?;
        anyhow::Ok((rampage?, peak))
    });
    let (report, peak) = rampage?;
    let places = report["places"].as_array().map_or(0, Vec::len);
    ensure!(places > 1, "the shared directory was not reached: {report}");
    let mut findings: Vec<String> = report["escaped"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| format!("the guest could: {line}"))
        .collect();
    findings.extend(before.differences(&look()?).into_iter().map(|line| format!("while it ran: {line}")));
    findings.extend(shared.differences(&Shared::look(&own, &neighbours)?));
    findings.extend(audit::marked(&mark, &[environment.directory(), Path::new("/run/porthole")]));
    let stored_during = stored();
    if peak.processes > PROCESSES_MAX {
        findings.push(format!("{} processes on the host", peak.processes));
    }
    if peak.largest_mib > PROCESS_MIB_MAX {
        findings.push(format!("a process of {} MiB: {}", peak.largest_mib, peak.largest));
    }
    findings.extend(large_logs(Path::new(MICROVM_STATE)));
    let sandbox = environment.exporter()?.sandbox(&mark)?.context("the sandbox is listed")?;
    if sandbox["tenant"] != NAMESPACE {
        findings.push(format!("it is listed as another's: {sandbox}"));
    }
    let ended = Instant::now();
    container.remove()?;
    if let Err(error) = environment.wait_gone(&mark, &footprint_before, GONE_DEADLINE) {
        findings.push(format!("{error:#}"));
    }
    let gone_after = ended.elapsed();
    findings.extend(before.differences(&look()?).into_iter().map(|line| format!("afterwards: {line}")));
    let echoed = neighbour.exec(&["echo", "alive"])?;
    if echoed.text().trim() != "alive" {
        findings.push(format!("another sandbox does not answer: {echoed}"));
    }
    let neighbour_id = neighbour.id.clone();
    neighbour.remove()?;
    environment.wait_gone(&neighbour_id, &neighbour_before, GONE_DEADLINE)?;
    for (when, now) in [("while it ran", stored_during), ("afterwards", stored())] {
        let growth = now.saturating_sub(stored_before);
        if growth > RUN_GROWTH_MAX {
            findings.push(format!("{when}: /run holds {growth} bytes more"));
        }
    }
    Ok(GuestOutcome {
        tried: report["tried"].clone(),
        processes: peak.processes,
        largest_mib: peak.largest_mib,
        gone_after,
        findings,
    })
}

fn state_directory(id: &str) -> Result<PathBuf> {
    let key: SandboxKey = format!("{NAMESPACE}@{id}").parse().context("a sandbox's name")?;
    let directory = Path::new(MICROVM_STATE).join(key.digest());
    ensure!(directory.is_dir(), "{} is not there", directory.display());
    Ok(directory)
}

/// What the runtime shares with the attacker, but for the root file system that is the attacker's own, and all that it has for
/// another sandbox.
struct Shared(Audit);

impl Shared {
    fn look(own: &Path, neighbours: &Path) -> Result<Self> {
        let views = ["share", "guest"].map(|view| own.join(view));
        let mut left_out = Vec::new();
        for view in &views {
            let containers = std::fs::read_dir(view).with_context(|| format!("list {}", view.display()))?;
            left_out.extend(containers.flatten().map(|container| container.path().join("rootfs")));
        }
        ensure!(left_out.len() == views.len(), "not one container: {left_out:?}");
        let directories: Vec<_> = views.iter().map(PathBuf::as_path).chain([neighbours]).collect();
        Ok(Self(Audit::of(&directories, &left_out.iter().map(PathBuf::as_path).collect::<Vec<_>>())))
    }

    fn differences(&self, now: &Self) -> Vec<String> {
        self.0.differences(&now.0).into_iter().map(|line| format!("in a shared directory: {line}")).collect()
    }
}

/// The environment that it needs.
pub fn environment(dist: porthole_testbed::dist::Dist) -> Result<Environment> {
    Environment::start(dist, &Settings::default(), &[NAMESPACE], false, &|_| {})
}

fn rampage(container: &Container, mark: &str, seed: u64, times: u32) -> Result<Value> {
    let (seed, times) = (seed.to_string(), times.to_string());
    let finished =
        container.exec_within(RAMPAGE_DEADLINE, &["/usr/bin/python3", "-c", RAMPAGE, mark, &seed, &times])?;
    ensure!(finished.status.success(), "the attempt itself failed: {finished}");
    serde_json::from_str(finished.text().trim()).with_context(|| format!("JSON of {finished}"))
}

/// Files of sandboxes' logs beyond their bound.
fn large_logs(state: &Path) -> Vec<String> {
    let sandboxes = std::fs::read_dir(state).into_iter().flatten().flatten();
    let files =
        sandboxes.flat_map(|sandbox| std::fs::read_dir(sandbox.path()).into_iter().flatten().flatten());
    let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    let large = logs.filter(|log| log.metadata().is_ok_and(|found| found.len() > LOG_BYTES_MAX));
    large.map(|log| format!("{} is large", log.path().display())).collect()
}

/// The largest that the sandbox was on the host.
#[derive(Debug, Default)]
struct Peak {
    processes: usize,
    largest_mib: u64,
    largest: String,
}

/// Looks at the sandbox's processes on the host until it is stopped.
#[derive(Debug, Default)]
struct Sampler {
    stop: AtomicBool,
}

impl Sampler {
    fn sample(&self, mark: &str) -> Peak {
        let mut peak = Peak::default();
        while !self.stop.load(Ordering::Relaxed) {
            let processes = footprint::processes(&[mark]).unwrap_or_default();
            peak.processes = peak.processes.max(processes.len());
            for process in processes {
                // The guest's memory is its own; `ctr` is ours.
                let of_others = ["qemu", "ctr "].iter().any(|name| process.command_line.contains(name));
                let status = Process::new(process.id).and_then(|process| process.status());
                // Shared memory is the guest's, which the devices map.
                let kib = status.ok().and_then(|status| status.rssanon).unwrap_or_default();
                if !of_others && kib / 1024 > peak.largest_mib {
                    (peak.largest_mib, peak.largest) = (kib / 1024, process.command_line);
                }
            }
            thread::sleep(Duration::from_millis(200));
        }
        peak
    }
}

impl GuestOutcome {
    /// One line for people.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{NAME}: {} processes, the largest of {} MiB beside the machine, gone after {:.1} s; tried",
            self.processes,
            self.largest_mib,
            self.gone_after.as_secs_f64()
        );
        for (kind, times) in self.tried.as_object().into_iter().flatten() {
            // Writing to a string does not fail.
            let _ = write!(line, " {kind} {times},");
        }
        line.trim_end_matches(',').to_owned()
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({
            "tried": self.tried,
            "processes_max": self.processes,
            "largest_process_mib": self.largest_mib,
            "gone_after_seconds": self.gone_after.as_secs_f64(),
            "findings": self.findings,
        })
    }
}
