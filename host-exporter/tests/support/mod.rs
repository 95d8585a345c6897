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
use porthole_exporter::{config, exporter};
use porthole_registry::{
    ContainerRecord, RECORD_VERSION, SandboxRecord, SandboxState, lock_path, record_path,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

/// Directories of one test.
pub struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pe").tempdir().expect("directory");
        std::fs::create_dir(directory.path().join("r")).expect("registry");
        Self { directory }
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
        Exporter { running: exporter::start(prepared, config, self.registry()).expect("started") }
    }

    /// A companion's doing: the record, and the lock that says that it lives.
    pub fn companion(&self, record: &SandboxRecord) -> Companion {
        let file = File::create(lock_path(&self.registry(), &record.key())).expect("lock file");
        let lock = Flock::lock(file, FlockArg::LockExclusive).expect("locked");
        record.write(&self.registry()).expect("written");
        Companion { registry: self.registry(), record: record.clone(), lock: Some(lock) }
    }
}

/// A sandbox whose agent was heard, and the exporter that heard it.
pub struct Shop {
    pub agent: TestAgent,
    pub socket: PathBuf,
    pub exporter: Exporter,
    pub companion: Companion,
}

impl Host {
    /// `shop-1`, an instance of acme's `shop`: its agent has told of five requests, and they were counted.
    pub async fn shop(&self) -> Shop {
        let socket = self.socket("s");
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
        let exporter = self.start();
        let companion = self.companion(&record("shop-1", "acme", "shop", &socket));
        exporter.wait_for_requests("shop", 5).await;
        Shop { agent, socket, exporter, companion }
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

pub fn record(sandbox: &str, tenant: &str, service: &str, socket: &Path) -> SandboxRecord {
    let id: porthole_registry::SandboxId = sandbox.parse().expect("id");
    SandboxRecord {
        version: RECORD_VERSION,
        sandbox_id: id.clone(),
        containerd_namespace: "default".parse().expect("namespace"),
        tenant: tenant.into(),
        service_name: service.into(),
        k8s_namespace_name: None,
        k8s_pod_name: None,
        containers: [(id, ContainerRecord { name: service.into() })].into(),
        runtime: "test".into(),
        channel: Some(porthole_registry::channel::Channel::Unix { path: socket.into() }),
        secret: None,
        state: SandboxState::Watching,
        reason: None,
        created_unix_ms: 1,
    }
}

/// A running exporter.
pub struct Exporter {
    running: exporter::Running,
}

impl Exporter {
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    pub async fn stop(self) {
        self.running.stop().await;
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
        assert!(began.elapsed() < PATIENCE, "waited in vain for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// One GET over a connection of its own: status, header, body (chunked or not).
pub async fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("received");
        response
    };
    let response = timeout(PATIENCE, exchange).await.expect("answered in time");
    let text = String::from_utf8(response).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("header");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    (status, head.to_owned(), body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").expect("chunk header");
        let length = usize::from_str_radix(length, 16).expect("chunk length");
        if length == 0 {
            return whole;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}
