//! The agent, and its own and the kernel's figures about its work.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use porthole_agent_api::{
    agent::{StatsRequest, StatsResponse},
    agent_ttrpc::AgentClient,
};
use porthole_bench_guest::{AGENT, Program};
use porthole_config::LOG_ENV;

use crate::{machine, server::log_tail};

const SOCKET: &str = "unix:///run/agent.sock";

const LOG: &str = "/run/agent.log";

/// How often it is tried whether it answers, every 50 ms.
const TRIES: u32 = 2_400;

/// How long it may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longer than the interval at which the agent collects what the kernel has counted.
const COLLECTED: Duration = Duration::from_millis(1_200);

/// The running agent.
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Starts it and waits until its probes run.
    pub fn start(arguments: &[String], log: bool) -> Result<Self> {
        let filter = if log { "porthole_agent=debug" } else { "warn" };
        let log = File::create(LOG).with_context(|| format!("make {LOG}"))?;
        let child = Command::new(AGENT)
            .env(LOG_ENV, filter)
            .args(["--listen", SOCKET, "--proc", "/proc"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("run the agent")?;
        machine::enter(&machine::group("a9e7")?, child.id())?;
        let mut agent = Self { child };
        for _ in 0..TRIES {
            if Self::stats().is_ok() {
                return Ok(agent);
            }
            if let Some(status) = agent.child.try_wait().context("look at the agent")? {
                bail!("the agent ended: {status}: {}", log_tail(LOG));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the agent does not answer: {}", log_tail(LOG))
    }

    fn stats() -> Result<StatsResponse> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        runtime.block_on(async {
            let client = ttrpc::r#async::Client::connect(SOCKET).await.context("dial the agent")?;
            let client = AgentClient::new(client);
            let request = StatsRequest::new();
            let call = client.stats(ttrpc::context::with_duration(DEADLINE), &request);
            tokio::time::timeout(DEADLINE, call)
                .await
                .context("the agent does not answer")?
                .context("call it")
        })
    }

    /// Time from its start to its programs being attached, nanoseconds.
    pub fn load_ns() -> Result<u64> {
        Ok(Self::stats()?.load_ns)
    }

    /// What it has logged.
    pub fn log() -> Result<String> {
        fs::read_to_string(LOG).with_context(|| format!("read {LOG}"))
    }

    /// Exchanges that it has counted, once it counts no more.
    pub fn final_count(&mut self) -> Result<u64> {
        let mut last = None;
        for _ in 0..20 {
            std::thread::sleep(COLLECTED);
            if let Some(status) = self.child.try_wait().context("look at the agent")? {
                bail!("the agent ended: {status}: {}", log_tail(LOG));
            }
            let now = Self::stats()?.counters.exchanges;
            if last.replace(now) == Some(now) {
                return Ok(now);
            }
        }
        bail!("the agent's counts do not settle")
    }

    /// Time on the processor of all its threads, nanoseconds (kernel: `Documentation/scheduler/sched-stats.rst`).
    pub fn cpu_ns(&self) -> Result<u64> {
        let directory = format!("/proc/{}/task", self.child.id());
        let mut sum = 0;
        for thread in fs::read_dir(&directory).context("the agent's threads")? {
            let path = thread.context("a thread")?.path().join("schedstat");
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let first = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            sum += first.with_context(|| format!("a number in {}", path.display()))?;
        }
        Ok(sum)
    }
}

/// Switches the kernel's accounting of eBPF programs on, until the descriptor is closed.
pub fn account_programs() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("switch on the accounting of eBPF programs")
}

/// What each loaded program took so far; those of one name together.
pub fn programs() -> Result<BTreeMap<String, Program>> {
    let mut all = BTreeMap::<String, Program>::new();
    for program in loaded_programs() {
        let program = program.context("look at the loaded programs")?;
        let name = program.name_as_str().unwrap_or("?").to_owned();
        let sum = all.entry(name).or_default();
        sum.runs += program.run_count();
        sum.ns += u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX);
    }
    Ok(all)
}

/// What each program took since then; those that did not run are left out.
pub fn since(before: &BTreeMap<String, Program>) -> Result<BTreeMap<String, Program>> {
    let mut all = programs()?;
    for (name, now) in &mut all {
        let before = before.get(name).copied().unwrap_or_default();
        now.runs = now.runs.saturating_sub(before.runs);
        now.ns = now.ns.saturating_sub(before.ns);
    }
    all.retain(|_, cost| cost.runs > 0);
    Ok(all)
}
