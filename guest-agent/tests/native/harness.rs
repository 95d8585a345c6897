//! An agent under test, and what it reports.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use porthole_agent_api::{
    agent::Batch, agent::CaptureMode, agent::Counters, agent::Dependency, agent::HelloRequest,
    agent::HelloResponse, agent::Milestones, agent::Series, agent::Side, agent::Span, agent::StatsRequest,
    agent::StatsResponse, agent::WatchRequest, agent_ttrpc::AgentClient,
};
use porthole_trials::{CannotRun, needs};
use tokio::runtime::Runtime;
use ttrpc::r#async::ClientStreamReceiver;

use crate::http;

/// How long anything may take; far longer than it does on a busy machine.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// How long a request of the harness's own may take before it counts as lost.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(2);

/// The agent's arguments for the hooks to test on whatever kernel this is: the best that it has, and those that all have.
pub const EVERY_HOOKS: [&[&str]; 2] = [&["--hooks", "auto"], &["--hooks", "raw-tracepoint"]];

/// The agent's arguments for every way to capture.
pub const EVERY_CAPTURE: [&[&str]; 3] = [EVERY_HOOKS[0], EVERY_HOOKS[1], &["--capture", "packets"]];

/// Waits for a condition.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "{what} did not happen within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running agent and a stream from it. There is one at a time, because every agent sees the traffic of all tests.
pub struct Agent {
    child: Child,
    runtime: Runtime,
    client: AgentClient,
    batches: ClientStreamReceiver<Batch>,
    series: HashMap<u32, Series>,
    pub spans: Vec<Span>,
    pub counters: Counters,
    dependencies: HashMap<String, Dependency>,
    pub exited: Vec<String>,
    /// What was reported last.
    pub milestones: Milestones,
    directory: tempfile::TempDir,
}

/// The eBPF object, for a user that may load it.
pub fn object() -> Result<PathBuf, CannotRun> {
    needs::root()?;
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/dist/bpf/porthole.bpf.o");
    let named = std::env::var_os("PORTHOLE_BPF_OBJECT").filter(|path| !path.is_empty());
    let path = named.map_or_else(|| PathBuf::from(built), PathBuf::from);
    if !path.exists() {
        let why = format!("no eBPF object at {}; `cargo xtask build` builds it", path.display());
        return Err(CannotRun::because(why));
    }
    Ok(path)
}

impl Agent {
    /// Starts an agent and watches it.
    pub fn start(arguments: &[&str]) -> Result<Self, CannotRun> {
        Self::start_with(arguments, &[])
    }

    /// Starts an agent with further variables in its environment, and watches it.
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self, CannotRun> {
        let object = object()?;
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let address = format!("unix://{}", socket.display());
        let child = Command::new(env!("CARGO_BIN_EXE_porthole-agent"))
            .args(["--listen", &address, "--bpf-object"])
            .arg(object)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        // The socket's file is there a little before it listens.
        wait_for("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let (client, batches) = runtime.block_on(async {
            let client =
                AgentClient::new(ttrpc::r#async::Client::connect(&address).await.expect("connected"));
            let request = WatchRequest { interval_ms: 50, ..WatchRequest::default() };
            let batches = client.watch(ttrpc::context::Context::default(), &request).await.expect("watched");
            (client, batches)
        });
        let (series, spans, counters, dependencies, exited, milestones) = Default::default();
        let mut agent = Self {
            child,
            runtime,
            client,
            batches,
            series,
            spans,
            counters,
            dependencies,
            exited,
            milestones,
            directory,
        };
        agent.next_batch();
        Ok(agent)
    }

    /// Receives a batch.
    pub fn next_batch(&mut self) {
        assert!(self.receive(), "not the end");
    }

    /// Receives a batch; false at the end of the stream.
    fn receive(&mut self) -> bool {
        let batch = self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, self.batches.recv()).await.expect("a batch in time")
        });
        let Some(batch) = batch.expect("received") else { return false };
        for series in batch.series {
            self.series.insert(series.id, series);
        }
        self.spans.extend(batch.spans);
        for dependency in batch.dependencies {
            self.dependencies.insert(dependency.peer.clone(), dependency);
        }
        if let Some(milestones) = batch.milestones.into_option() {
            self.milestones = milestones;
        }
        if !batch.exited_container_id.is_empty() {
            self.exited.push(batch.exited_container_id);
        }
        self.counters = batch.counters.unwrap_or_default();
        true
    }

    /// Receives batches until a condition holds.
    pub fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(Instant::now() < until, "{what} within {DEADLINE:?}; series: {:#?}", self.series);
            self.next_batch();
        }
    }

    /// A path that no other agent's test requests: all agents see all traffic.
    fn sentinel(&self) -> String {
        // Words of programs, which are part of a route from its first request on.
        const WORDS: [&str; 10] = ["add", "app", "bar", "bit", "box", "bug", "bus", "car", "day", "dev"];
        let word = |digit: u8| WORDS[usize::from(digit - b'0')];
        let words: Vec<&str> = self.child.id().to_string().bytes().map(word).collect();
        format!("/sentinel-{}", words.join("-"))
    }

    /// Waits until everything that was on the wire before this call has arrived: sends a request of its own and waits
    /// for that, on both sides; another one if it was lost.
    pub fn catch_up(&mut self) {
        let path = self.sentinel();
        let both = |agent: &Self| [Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| agent.count(side, &path));
        let before = both(self);
        let until = Instant::now() + DEADLINE;
        loop {
            let server = http::Server::start();
            server.get(&path, 1);
            drop(server);
            let asked = Instant::now();
            while asked.elapsed() < SENTINEL_TIMEOUT {
                self.next_batch();
                let now = both(self);
                if now[0] > before[0] && now[1] > before[1] {
                    return;
                }
            }
            assert!(Instant::now() < until, "no sentinel's request arrived within {DEADLINE:?}");
        }
    }

    /// Connections to an address, of the container that reported them last.
    pub fn dependency(&self, address: SocketAddr) -> Option<&Dependency> {
        self.dependencies.get(&address.to_string())
    }

    /// Series of a side and path.
    pub fn series(&self, side: Side, path: &str) -> Vec<&Series> {
        let matches =
            |series: &&Series| series.key.side.enum_value() == Ok(side) && series.key.resource == path;
        self.series.values().filter(matches).collect()
    }

    /// All series of a side.
    pub fn all(&self, side: Side) -> Vec<&Series> {
        self.series.values().filter(|series| series.key.side.enum_value() == Ok(side)).collect()
    }

    /// Holds the agent's process up.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it continue.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: a child of ours that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Exchanges of a side and path.
    pub fn count(&self, side: Side, path: &str) -> u64 {
        self.series(side, path).iter().map(|series| series.duration.count).sum()
    }

    /// Exchanges of a path as (server, client), after everything arrived.
    pub fn counts(&mut self, path: &str) -> (u64, u64) {
        self.catch_up();
        (self.count(Side::SIDE_SERVER, path), self.count(Side::SIDE_CLIENT, path))
    }

    /// The capture mode that the agent reports.
    pub fn mode(&self) -> CaptureMode {
        self.hello(&[]).capture_mode.enum_value().expect("a known mode")
    }

    /// The agent's Hello to a host with this nonce.
    pub fn hello(&self, host_nonce: &[u8]) -> HelloResponse {
        let host_nonce = host_nonce.to_vec();
        let request =
            HelloRequest { version_min: 1, version_max: u32::MAX, host_nonce, ..HelloRequest::default() };
        self.runtime.block_on(async {
            self.client.hello(ttrpc::context::with_duration(DEADLINE), &request).await.expect("hello")
        })
    }

    /// The agent's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The agent about itself.
    pub fn stats(&self) -> StatsResponse {
        self.runtime.block_on(async {
            let context = ttrpc::context::with_duration(DEADLINE);
            self.client.stats(context, &StatsRequest::default()).await.expect("stats")
        })
    }

    /// A line of the agent's `/proc/<pid>/status`.
    pub fn status_line(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find(|line| line.starts_with(name)).expect("line");
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    }

    /// Ends the agent by a signal, and receives what it still sends.
    pub fn terminate_and_drain(&mut self) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: a child of ours that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        while self.receive() {}
    }

    /// Ends the agent by a signal; gives whether it ended well, and whether its socket is gone.
    pub fn terminate(mut self) -> (bool, bool) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: a child of ours that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let status = wait_for("the agent ends", || self.child.try_wait().expect("waited"));
        (status.success(), !self.directory.path().join("agent.sock").exists())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
