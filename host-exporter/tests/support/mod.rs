//! What the integration tests share: a test double of the agent, registry records, a running exporter, an HTTP client.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod agent;
pub mod exposition;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use self::agent::{TestAgent, http};
use nix::fcntl::{Flock, FlockArg};
use porthole_agent_api::agent::{Batch, Series};
use porthole_exporter::{
    clock::{unix_ms, unix_ns},
    config, exporter,
    objectives::Objectives,
};
use porthole_registry::{
    ContainerRecord, SandboxKey, SandboxRecord, SandboxState,
    last_state::{KeptBatch, LastState},
    lock_path, record_path,
};
use protobuf::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Longest wait for a condition.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// Directories of one test.
pub struct Host {
    directory: tempfile::TempDir,
}

/// Two sandboxes of two tenants.
pub struct Neighbours {
    pub evil: agent::TestAgent,
    pub honest: agent::TestAgent,
    pub exporter: Exporter,
    pub companions: [Companion; 2],
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pe").tempdir().expect("directory");
        std::fs::create_dir(directory.path().join("r")).expect("registry");
        Self { directory }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn registry(&self) -> PathBuf {
        self.directory.path().join("r")
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> config::Exporter {
        config::Exporter {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            hosts: vec!["test".into(), "x".into()],
            state_directory: self.state(),
            access_file: self.directory.path().join("access.toml"),
            ledger_interval_seconds: 0.05,
            agent_idle_seconds: 1.0,
            reconnect_first_seconds: 0.02,
            reconnect_cap_seconds: 0.2,
            rescan_seconds: 0.2,
            orphan_grace_seconds: 0.3,
            ..config::Exporter::default()
        }
    }

    pub fn start(&self) -> Exporter {
        self.start_with(&self.config())
    }

    pub fn start_with(&self, config: &config::Exporter) -> Exporter {
        let prepared = exporter::prepare(config).expect("prepared");
        Exporter {
            running: exporter::start(prepared, config, Objectives::default(), self.registry())
                .expect("started"),
        }
    }

    /// What a companion holds: the record, and the lock of a living companion.
    pub fn companion(&self, record: &SandboxRecord) -> Companion {
        let file = File::create(lock_path(&self.registry(), &record.key())).expect("lock file");
        let lock = Flock::lock(file, FlockArg::LockExclusive).expect("locked");
        record.write(&self.registry()).expect("written");
        Companion { registry: self.registry(), record: record.clone(), lock: Some(lock) }
    }
}

/// A sandbox whose agent has sent a batch, and the exporter that counted it.
pub struct Shop {
    pub agent: TestAgent,
    pub socket: PathBuf,
    pub exporter: Exporter,
    pub companion: Companion,
}

impl Host {
    /// `shop-1`, an instance of acme's `shop`: its agent has sent five requests, and they were counted.
    pub async fn shop(&self) -> Shop {
        let socket = self.socket("s");
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
        let exporter = self.start();
        let companion = self.companion(&record("shop-1", "acme", "shop", &socket));
        exporter.wait_for_requests("shop", 5).await;
        Shop { agent, socket, exporter, companion }
    }

    /// `<tenant>-<service>`, with an address: its agent reports these series, and a clock that is ahead.
    pub async fn sandbox(
        &self,
        [tenant, service, address]: [&str; 3],
        ahead_ns: u64,
        series: Vec<Series>,
    ) -> (TestAgent, Companion) {
        let id = format!("{tenant}-{service}");
        let socket = self.socket(&id);
        let agent = TestAgent::start(&socket, 7).await;
        agent.set_clock(ahead_ns);
        agent.tell(series);
        let mut record = record(&id, tenant, service, &socket);
        record.addresses = vec![address.parse().expect("an address")];
        record.k8s_pod_name = Some(format!("{service}-0"));
        (agent, self.companion(&record))
    }

    /// The sandbox of a tenant whose agent is hostile, and another tenant's.
    pub async fn neighbours(&self) -> Neighbours {
        let (evil_socket, honest_socket) = (self.socket("evil"), self.socket("honest"));
        let evil = agent::TestAgent::start(&evil_socket, 7).await;
        let honest = agent::TestAgent::start(&honest_socket, 8).await;
        let companions = [
            self.companion(&record("evil-1", "evil", "evil", &evil_socket)),
            self.companion(&record("shop-1", "acme", "shop", &honest_socket)),
        ];
        let exporter = self.start();
        for agent in [&evil, &honest] {
            // What is sent from now on is part of no state: it arrives in streams that are there.
            wait_for("a stream of batches", async || agent.watches() == 1).await;
        }
        Neighbours { evil, honest, exporter, companions }
    }
}

/// A living companion.
pub struct Companion {
    registry: PathBuf,
    pub record: SandboxRecord,
    lock: Option<Flock<File>>,
}

impl Companion {
    pub fn rewrite(&mut self, change: impl FnOnce(&mut SandboxRecord)) {
        change(&mut self.record);
        self.record.write(&self.registry).expect("written");
    }

    /// The orderly end: record and lock go.
    pub fn end(mut self) {
        std::fs::remove_file(record_path(&self.registry, &self.record.key())).expect("removed");
        std::fs::remove_file(lock_path(&self.registry, &self.record.key())).expect("removed");
        self.lock.take();
    }

    /// SIGKILL: the lock is let go, the files stay.
    pub fn die(mut self) {
        self.lock.take();
    }
}

/// What a companion leaves at the end of its sandbox: these batches of its agent.
pub fn leave(host: &Host, record: &SandboxRecord, batches: &[Batch]) {
    let kept =
        |batch: &Batch| KeptBatch { epoch: batch.epoch, bytes: batch.write_to_bytes().expect("encoded") };
    leave_bytes(host, record, batches.iter().map(kept).collect());
}

/// The same of any bytes.
pub fn leave_bytes(host: &Host, record: &SandboxRecord, batches: Vec<KeptBatch>) {
    let record = SandboxRecord { state: SandboxState::Ended, ..record.clone() };
    LastState { record, truncated: false, batches }.leave(&host.registry()).expect("left");
}

pub fn record(sandbox: &str, tenant: &str, service: &str, socket: &Path) -> SandboxRecord {
    let id: porthole_registry::SandboxId = sandbox.parse().expect("id");
    SandboxRecord {
        containers: [(id.clone(), ContainerRecord { name: service.into() })].into(),
        channel: Some(porthole_registry::channel::Channel::Unix { path: socket.into() }),
        state: SandboxState::Watching,
        ..SandboxRecord::new(
            SandboxKey { namespace: "default".parse().expect("namespace"), id },
            tenant,
            service,
            "test",
            1,
        )
    }
}

/// By how much the clocks of some guests are ahead.
const AHEAD_NS: u64 = 3_600_000_000_000;

/// A sandbox that is created now, whose agent is reached two seconds later, and whose clock is an hour ahead.
pub fn starting(record: SandboxRecord, agent: &TestAgent) -> SandboxRecord {
    agent.set_clock(AHEAD_NS);
    let created_unix_ms = unix_ms();
    SandboxRecord { created_unix_ms, watching_unix_ms: Some(created_unix_ms + 2_000), ..record }
}

/// What such a clock shows now. Once the agent has answered, this is later than the sandbox's creation by more than what the
/// exporter can be wrong about the clock.
pub fn clock_ahead() -> u64 {
    unix_ns() + AHEAD_NS
}

/// A running exporter.
pub struct Exporter {
    pub running: exporter::Running,
}

impl Exporter {
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// From now on steps of the last hour end when the test records them, and not with the quarters of a minute.
    pub async fn with_steps_by_hand(mut self) -> Self {
        self.running.stop_recording().await;
        self
    }

    pub fn fleet(&self) -> &porthole_exporter::fleet::Fleet {
        self.running.fleet()
    }

    pub async fn get(&self, path: &str) -> (u16, String, String) {
        get(self.address(), path, "").await
    }

    pub async fn metrics(&self) -> exposition::Exposition {
        let (status, _, body) = self.get("/metrics").await;
        assert_eq!(status, 200, "{body}");
        exposition::Exposition::parse(&body)
    }

    pub async fn json(&self, path: &str) -> serde_json::Value {
        let (status, _, body) = self.get(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Total of an application on one side, from the JSON listing: looking does not count as a scrape.
    pub async fn requests(&self, service: &str) -> u64 {
        let listing = self.json("/api/v1/applications").await;
        let Some(applications) = listing["applications"].as_array() else { return 0 };
        applications
            .iter()
            .filter(|application| application["service_name"] == service)
            .flat_map(|application| application["totals"].as_array().cloned().unwrap_or_default())
            .filter_map(|total| total["requests"].as_u64())
            .sum()
    }

    pub async fn wait_for_requests(&self, service: &str, requests: u64) {
        wait_for(&format!("{requests} requests of {service}"), async || {
            self.requests(service).await == requests
        })
        .await;
    }

    pub async fn sandbox(&self, id: &str) -> Option<serde_json::Value> {
        let listing = self.json("/api/v1/sandboxes").await;
        listing["sandboxes"].as_array()?.iter().find(|sandbox| sandbox["sandbox_id"] == id).cloned()
    }

    pub async fn wait_for_sandbox(&self, id: &str, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        wait_for(&format!("{id}: {what}"), async || self.sandbox(id).await.is_some_and(|row| holds(&row)))
            .await;
    }
}

/// Waits until a condition holds.
pub async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < DEADLINE, "waited in vain for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// One GET over a connection of its own: status, header, body (chunked or not).
pub async fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    exchange(TcpStream::connect(address).await.expect("connected"), path, headers).await
}

/// The same over any stream.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &str,
) -> (u16, String, String) {
    send(stream, "GET", path, headers).await
}

/// The same with any method.
pub async fn send(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &str,
) -> (u16, String, String) {
    let exchange = async {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("received");
        response
    };
    let response = timeout(DEADLINE, exchange).await.expect("answered in time");
    let end = response.windows(4).position(|four| four == b"\r\n\r\n").expect("header");
    let head = String::from_utf8(response[..end].to_vec()).expect("text");
    let body = &response[end + 4..];
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_vec() };
    // Of a form that is no text, what is text in it.
    (status, head, String::from_utf8_lossy(&body).into_owned())
}

/// The beginning of an answer that does not end, up to a text; of another than 200 all of it.
pub async fn beginning(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &str,
    text: &str,
) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    let read = async {
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = Vec::new();
        loop {
            let read = stream.read_buf(&mut response).await.expect("received");
            let so_far = String::from_utf8_lossy(&response);
            if read == 0 || so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    };
    let response = timeout(DEADLINE, read).await.expect("answered in time");
    let (head, body) = response.split_once("\r\n\r\n").expect("header");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    (status, head.to_owned(), body.to_owned())
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("chunk header");
        let length = std::str::from_utf8(&body[..end]).expect("text");
        let length = usize::from_str_radix(length, 16).expect("chunk length");
        let rest = &body[end + 2..];
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&rest[..length]);
        body = &rest[length + 2..];
    }
}
