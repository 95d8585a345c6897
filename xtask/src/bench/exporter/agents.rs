//! Simulated agents: the real contract over unix sockets, records in the registry, and companions' locks.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use porthole_agent_api::{
    agent, agent_ttrpc,
    dependencies::Failure,
    limits::CONTRACT_VERSION,
    resources::{Measured, Resource},
    testing::http_series,
};
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

/// What agents send.
#[derive(Clone, Copy)]
pub struct Content {
    /// Histograms of each.
    pub histograms: u32,
    /// How many of them are of calls, each to another agent of the same tenant; with any, agents also send connections to each of these,
    /// what the guest and its container take, and two spans a batch: of a request and of a call during it.
    pub edges: u32,
}

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
    content: Content,
}

impl Service {
    /// The state after so many batches.
    fn batch(&self, sequence: u64) -> agent::Batch {
        let series = (0..self.content.histograms).map(|id| self.series(id, sequence)).collect();
        let batch =
            agent::Batch { epoch: 1 + u64::from(self.number), sequence, series, ..Default::default() };
        if self.content.edges == 0 {
            return batch;
        }
        let container = container(self.number);
        agent::Batch {
            spans: if sequence > 1 { self.request_with_call() } else { Vec::new() },
            resources: vec![
                resources(String::new(), sequence, |resource| resource >= Resource::GuestCpuUser),
                resources(container.clone(), sequence, |resource| resource < Resource::GuestCpuUser),
            ],
            dependencies: (0..self.content.edges)
                .map(|edge| self.connections(&container, edge, sequence))
                .collect(),
            ..batch
        }
    }

    /// The other end of an edge: an agent of the same tenant and of another application.
    fn peer(&self, edge: u32) -> u32 {
        let (tenant, within) = (self.number / AGENTS_PER_TENANT, self.number % AGENTS_PER_TENANT);
        tenant * AGENTS_PER_TENANT + (within + (edge + 1) * AGENTS_PER_APPLICATION) % AGENTS_PER_TENANT
    }

    fn connections(&self, container: &str, edge: u32, sequence: u64) -> agent::Dependency {
        let mut made = Histogram::default();
        made.add(-80, sequence, sequence * 300_000);
        agent::Dependency {
            container_id: container.to_owned(),
            peer: format!("{}:80", address(self.peer(edge))),
            made: Some(agent::Histogram::from(&made)).into(),
            failed: Failure::ALL.iter().map(|failure| u64::from(*failure == Failure::Refused)).collect(),
            retransmitted_segments: sequence / 10,
            round_trip_us: 150,
            ..Default::default()
        }
    }

    /// A request that took long, and the call that it made meanwhile.
    fn request_with_call(&self) -> Vec<agent::Span> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(600_000_000);
        let (own, peer) = (address(self.number), address(self.peer(0)));
        let span = |series_id, at_ms: u64, ms: u64, [local, remote]: [String; 2]| agent::Span {
            series_id,
            start_unix_ns: began + at_ms * 1_000_000,
            duration_ns: ms * 1_000_000,
            reason: agent::SpanReason::SPAN_REASON_SLOW.into(),
            process_id: 1,
            thread_id: 7,
            local,
            remote,
            ..Default::default()
        };
        let caller = format!("{own}:40000");
        vec![
            span(self.content.histograms - 1, 100, 300, [caller, format!("{peer}:80")]),
            span(0, 0, 550, [format!("{own}:80"), "192.0.2.1:5000".to_owned()]),
        ]
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
        let route = format!("/api/v1/resource{id:02}/{{id}}");
        let mut series = http_series(id, &container(self.number), (method, &route, status), &durations);
        let edge = self.content.histograms - 1 - id;
        if edge < self.content.edges
            && let Some(key) = series.key.as_mut()
        {
            key.side = agent::Side::SIDE_CLIENT.into();
            key.peer = format!("{}:80", address(self.peer(edge)));
        }
        series
    }
}

fn container(number: u32) -> String {
    format!("sandbox-{number:05}")
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number + 1)
}

fn resources(container: String, sequence: u64, is_of_it: impl Fn(Resource) -> bool) -> agent::Resources {
    let mut measured = Measured::default();
    for &resource in Resource::ALL.iter().filter(|resource| is_of_it(**resource)) {
        measured.set(resource, sequence * 1_000_000);
    }
    measured.to_wire(container)
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
    pub async fn start(directory: &Path, registry: &Path, agents: u32, content: Content) -> Result<Self> {
        let (sending, is_sending) = watch::channel(false);
        let shared = Arc::<Shared>::default();
        let (mut servers, mut locks) = (Vec::new(), Vec::new());
        for number in 0..agents {
            let socket = directory.join(format!("{number}"));
            let service =
                Service { shared: Arc::clone(&shared), sending: is_sending.clone(), number, content };
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
    let id: porthole_registry::ContainerId = container(number).parse()?;
    let (tenant, service) = (number / AGENTS_PER_TENANT, number / AGENTS_PER_APPLICATION);
    Ok(SandboxRecord {
        k8s_namespace_name: Some(format!("tenant-{tenant:02}")),
        k8s_pod_name: Some(format!("service-{service:03}-7c9d8b6f5-{number:05}")),
        containers: [(id.clone(), ContainerRecord { name: "main".into() })].into(),
        channel: Some(Channel::Unix { path: socket.to_owned() }),
        state: SandboxState::Watching,
        addresses: vec![IpAddr::V4(address(number))],
        ..SandboxRecord::new(
            SandboxKey { namespace: "k8s.io".parse()?, id },
            format!("tenant-{tenant:02}"),
            format!("service-{service:03}"),
            "io.containerd.kata.v2",
            1,
        )
    })
}
