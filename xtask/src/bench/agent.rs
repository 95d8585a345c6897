//! The agent under measurement: started outside a guest, read over its own contract.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use porthole_agent_api::{
    agent::StatsRequest, agent::StatsResponse, agent::WatchRequest, agent_ttrpc::AgentClient,
    limits::BATCH_SERIES_MAX,
};
use porthole_config::LOG_ENV;
use porthole_registry::ContainerId;
use porthole_testbed::{daemon::Daemon, wait};
use procfs::process::Process;

use crate::bench::mode::Way;

/// How long the agent may take to load its probes.
const START: Duration = Duration::from_secs(30);

/// How long the agent may take to have counted the traffic.
const SETTLE: Duration = Duration::from_secs(30);

/// For how long nothing may be added any more then: several of the intervals at which the agent looks at what the kernel
/// has counted.
const QUIET: Duration = Duration::from_millis(300);

/// How long it may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// A running agent.
pub struct Agent {
    daemon: Daemon,
    socket: PathBuf,
    container: ContainerId,
}

impl Agent {
    /// Starts it and waits until it answers, which is when its probes run. The traffic of this container is ours.
    pub fn start(
        program: &Path,
        directory: &Path,
        container: &ContainerId,
        way: Way,
        extra: &[&str],
    ) -> Result<Self> {
        let socket = directory.join("agent.sock");
        let mut command = Command::new(program);
        command.env(LOG_ENV, "warn").arg("--listen").arg(format!("unix://{}", socket.display()));
        command.args(way.arguments()).args(extra);
        let daemon = Daemon::spawn("porthole-agent", &mut command, &directory.join("log/agent.log"))?;
        let mut agent = Self { daemon, socket, container: container.clone() };
        wait::until("the agent answers", START, || {
            agent.daemon.check()?;
            agent.stats().map(Some)
        })?;
        Ok(agent)
    }

    /// Makes a call on a connection of its own.
    fn ask<T, F: Future<Output = ttrpc::Result<T>>>(&self, call: impl FnOnce(AgentClient) -> F) -> Result<T> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        runtime.block_on(async {
            let address = format!("unix://{}", self.socket.display());
            let client = ttrpc::r#async::Client::connect(&address).await.context("dial the agent")?;
            tokio::time::timeout(DEADLINE, call(AgentClient::new(client)))
                .await
                .context("the agent does not answer")?
                .context("call the agent")
        })
    }

    /// The agent about itself, and about everything that it sees on this machine.
    pub fn stats(&self) -> Result<StatsResponse> {
        self.ask(|client| async move {
            client.stats(ttrpc::context::with_duration(DEADLINE), &StatsRequest::new()).await
        })
    }

    /// The exchanges of our own container so far.
    fn own_exchanges(&self) -> Result<u64> {
        self.ask(|client| async move {
            let mut batches = client.watch(ttrpc::context::Context::default(), &WatchRequest::new()).await?;
            let mut own = 0;
            // Every series once, in batches of which the last is not full.
            loop {
                let Some(batch) = batches.recv().await? else { return Ok(own) };
                let ours =
                    batch.series.iter().filter(|series| series.key.container_id == self.container.as_str());
                own += ours.map(|series| series.duration.count).sum::<u64>();
                if batch.series.len() < BATCH_SERIES_MAX {
                    return Ok(own);
                }
            }
        })
    }

    /// The agent's counters when the number of exchanges no longer changes. The exchanges are those of our own container;
    /// all other counters include the traffic of the whole machine.
    pub fn final_stats(&self) -> Result<StatsResponse> {
        let counted = wait::unchanged("the counts no longer change", QUIET, SETTLE, || self.own_exchanges())?;
        let mut stats = self.stats()?;
        stats.counters.mut_or_insert_default().exchanges = counted;
        Ok(stats)
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
        let status = Process::new(self.daemon.pid().as_raw())?.status()?;
        Ok(status.vmrss.context("the agent has no memory any more")? * 1024)
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.daemon.stop().map(drop)
    }
}
