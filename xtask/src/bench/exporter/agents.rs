//! Simulated agents: the real contract over unix sockets, records in the registry, and companions' locks.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use porthole_agent_api::{agent, agent_ttrpc, limits::CONTRACT_VERSION, testing::http_series};
use porthole_histogram::Histogram;
use porthole_registry::{
    ContainerRecord, SandboxKey, SandboxRecord, SandboxState, channel::Channel, lock_path,
};
use tokio::{sync::watch, time::Instant};
use ttrpc::r#async::{Server, ServerStreamSender, TtrpcContext};

use super::process::wait_for;

/// Agents of one tenant.
const AGENTS_PER_TENANT: u32 = 50;

/// Agents of one application.
const AGENTS_PER_APPLICATION: u32 = 5;

/// Requests that come into each histogram between two batches.
const REQUESTS: u64 = 40;

/// What all agents share.
#[derive(Default)]
struct Shared {
    watched: AtomicU64,
    sent: AtomicU64,
}

struct Service {
    shared: Arc<Shared>,
    sending: watch::Receiver<bool>,
    number: u32,
    histograms: u32,
}

impl Service {
    /// The state after so many batches.
    fn batch(&self, sequence: u64) -> agent::Batch {
        let series = (0..self.histograms).map(|id| self.series(id, sequence)).collect();
        agent::Batch { epoch: 1 + u64::from(self.number), sequence, series, ..Default::default() }
    }

    fn series(&self, id: u32, sequence: u64) -> agent::Series {
        let mut durations = Histogram::default();
        // A dozen buckets around a few milliseconds, another dozen for each route.
        for bucket in 0..12 {
            let index = -70 + bucket + i32::try_from(id % 5).unwrap_or(0) * 4;
            let count = sequence * (1 + REQUESTS / 12);
            durations.add(index, count, count * 2_000_000);
        }
        let (method, status) = if id % 4 == 3 { ("POST", "201") } else { ("GET", "200") };
        let container = format!("sandbox-{:05}", self.number);
        let route = format!("/api/v1/resource{id:02}/{{id}}");
        http_series(id, &container, (method, &route, status), &durations)
    }
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn hello(&self, _: &TtrpcContext, _: agent::HelloRequest) -> ttrpc::Result<agent::HelloResponse> {
        Ok(agent::HelloResponse {
            version: CONTRACT_VERSION,
            agent_version: "simulated".into(),
            kernel_release: "6.1.0".into(),
            capture_mode: agent::CaptureMode::CAPTURE_MODE_SOCKET.into(),
            epoch: 1 + u64::from(self.number),
            start_unix_ns: 1,
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, _: agent::StatsRequest) -> ttrpc::Result<agent::StatsResponse> {
        Ok(agent::StatsResponse {
            counters: Some(agent::Counters::default()).into(),
            resident_bytes: 5 << 20,
            ..Default::default()
        })
    }

    async fn watch(
        &self,
        _: &TtrpcContext,
        _: agent::WatchRequest,
        sender: ServerStreamSender<agent::Batch>,
    ) -> ttrpc::Result<()> {
        sender.send(&self.batch(1)).await?;
        self.shared.watched.fetch_add(1, Ordering::SeqCst);
        let mut sending = self.sending.clone();
        // Agents are not in step with each other.
        let phase = Duration::from_micros(u64::from(self.number) * 7_919 % 1_000_000);
        let mut next = Instant::now() + phase;
        for sequence in 2.. {
            if sending.wait_for(|sending| *sending).await.is_err() {
                return Ok(());
            }
            tokio::time::sleep_until(next).await;
            next = next.max(Instant::now() - Duration::from_secs(1)) + Duration::from_secs(1);
            sender.send(&self.batch(sequence)).await?;
            self.shared.sent.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Running agents.
pub struct Agents {
    servers: Vec<Server>,
    _locks: Vec<Flock<File>>,
    shared: Arc<Shared>,
    sending: watch::Sender<bool>,
}

impl Agents {
    /// Starts agents and registers their sandboxes.
    pub async fn start(directory: &Path, registry: &Path, agents: u32, histograms: u32) -> Result<Self> {
        let (sending, is_sending) = watch::channel(false);
        let shared = Arc::<Shared>::default();
        let (mut servers, mut locks) = (Vec::new(), Vec::new());
        for number in 0..agents {
            let socket = directory.join(format!("{number}"));
            let service =
                Service { shared: Arc::clone(&shared), sending: is_sending.clone(), number, histograms };
            let mut server = Server::new()
                .bind(&format!("unix://{}", socket.display()))
                .context("bind")?
                .register_service(agent_ttrpc::create_agent(Arc::new(service)));
            server.start().await.context("serve")?;
            servers.push(server);
            let record = record(number, &socket)?;
            let file = File::create(lock_path(registry, &record.key())).context("a lock file")?;
            let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
            locks.push(lock);
            record.write(registry)?;
        }
        Ok(Self { servers, _locks: locks, shared, sending })
    }

    /// Waits until the exporter has the whole state of each.
    pub async fn all_watched(&self) -> Result<()> {
        let all = self.servers.len() as u64;
        wait_for("every agent to be watched", async || Ok(self.shared.watched.load(Ordering::SeqCst) == all))
            .await
    }

    /// Whether each sends a batch with all its series each second.
    pub fn send_each_second(&self, sends: bool) {
        self.sending.send_replace(sends);
    }

    /// Batches that were sent after the first of each.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Waits until so many were sent.
    pub async fn batches_sent(&self, batches: u64) -> Result<()> {
        wait_for("batches", async || Ok(self.sent() >= batches)).await
    }

    /// Ends all.
    pub async fn stop(mut self) {
        drop(self.sending);
        for server in &mut self.servers {
            let _ = server.shutdown().await;
        }
    }
}

fn record(number: u32, socket: &Path) -> Result<SandboxRecord> {
    let id: porthole_registry::ContainerId = format!("sandbox-{number:05}").parse()?;
    let (tenant, service) = (number / AGENTS_PER_TENANT, number / AGENTS_PER_APPLICATION);
    Ok(SandboxRecord {
        k8s_namespace_name: Some(format!("tenant-{tenant:02}")),
        k8s_pod_name: Some(format!("service-{service:03}-7c9d8b6f5-{number:05}")),
        containers: [(id.clone(), ContainerRecord { name: "main".into() })].into(),
        channel: Some(Channel::Unix { path: socket.to_owned() }),
        state: SandboxState::Watching,
        ..SandboxRecord::new(
            SandboxKey { namespace: "k8s.io".parse()?, id },
            format!("tenant-{tenant:02}"),
            format!("service-{service:03}"),
            "io.containerd.kata.v2",
            1,
        )
    })
}
