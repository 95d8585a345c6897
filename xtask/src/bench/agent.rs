//! The agent under measurement: started outside a guest, asked over its own contract.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use porthole_proto::{
    agent::{StatsRequest, StatsResponse},
    agent_ttrpc::AgentClient,
    config::LOG_ENV,
};
use porthole_tests::{daemon::Daemon, wait};

use crate::bench::mode::Way;

/// How long the agent may take to load its probes.
const START: Duration = Duration::from_secs(30);

/// How long the agent may take to have counted what was said.
const SETTLE: Duration = Duration::from_secs(5);

/// For how long nothing may change any more then: several of the intervals at which the agent looks at what the kernel
/// has counted.
const QUIET: Duration = Duration::from_millis(300);

/// One call's deadline, nanoseconds.
const DEADLINE_NS: i64 = 5_000_000_000;

/// A running agent.
pub struct Agent {
    daemon: Daemon,
    socket: PathBuf,
}

impl Agent {
    /// Starts it and waits until it answers, which is when its probes run.
    pub fn start(program: &Path, directory: &Path, way: Way, extra: &[&str]) -> Result<Self> {
        let socket = directory.join("agent.sock");
        let mut command = Command::new(program);
        command.env(LOG_ENV, "warn").arg("--listen").arg(format!("unix://{}", socket.display()));
        command.args(way.arguments()).args(extra);
        let daemon = Daemon::spawn("porthole-agent", &mut command, &directory.join("log/agent.log"))?;
        let mut agent = Self { daemon, socket };
        wait::until("the agent answers", START, || {
            agent.daemon.check()?;
            agent.stats().map(Some)
        })?;
        Ok(agent)
    }

    /// The agent about itself.
    pub fn stats(&self) -> Result<StatsResponse> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        runtime.block_on(async {
            let address = format!("unix://{}", self.socket.display());
            let client = ttrpc::r#async::Client::connect(&address).await.context("dial the agent")?;
            AgentClient::new(client)
                .stats(
                    ttrpc::context::with_duration(Duration::from_nanos(DEADLINE_NS.unsigned_abs())),
                    &StatsRequest::new(),
                )
                .await
                .context("ask the agent")
        })
    }

    /// The same once everything that was said is counted: when nothing is added any more. Where others on this machine
    /// never fall silent, which is said, as it is after a while.
    pub fn settled(&self) -> Result<StatsResponse> {
        let start = Instant::now();
        let mut last = self.stats()?;
        loop {
            wait::hold(QUIET)?;
            let now = self.stats()?;
            if now.counters.exchanges == last.counters.exchanges {
                return Ok(now);
            }
            if start.elapsed() > SETTLE {
                eprintln!("others on this machine go on talking: what is counted is not only what was asked");
                return Ok(now);
            }
            last = now;
        }
    }

    /// The socket on which it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).context("its status")?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = kib.and_then(|line| line.trim().strip_suffix(" kB")).context("VmRSS")?;
        Ok(kib.parse::<u64>().context("VmRSS")? * 1024)
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.daemon.stop().map(drop)
    }
}
