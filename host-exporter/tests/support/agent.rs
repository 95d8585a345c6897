//! A test double of the agent: the real contract over a real unix socket, with values from the test.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use porthole_agent_api::{
    agent, agent_ttrpc,
    dependencies::Failure,
    proof,
    resources::{Measured, Resource},
    testing::http_series,
};
use porthole_exporter::clock::unix_ns;
use porthole_histogram::Histogram;
use porthole_registry::AgentSecret;
use protobuf::Enum as _;
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};
use ttrpc::r#async::{Server, ServerStreamSender, TtrpcContext};

use super::DEADLINE;

/// How the double behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As an agent should.
    Honest,
    /// Never answers Hello.
    Silent,
    /// Answers Hello and Stats once, then sends nothing any more.
    FallsSilent,
    /// Answers Hello with an error of many words.
    Complains,
}

struct Service {
    manner: Manner,
    epoch: u64,
    state: Mutex<State>,
    batches: broadcast::Sender<agent::Batch>,
    watches: AtomicU64,
    stats_calls: AtomicU64,
    stopping: watch::Sender<bool>,
    /// Streams of batches that have not ended.
    streams: watch::Sender<usize>,
    sequence: AtomicU64,
}

#[derive(Default)]
struct State {
    series: Vec<agent::Series>,
    counters: agent::Counters,
    resources: Vec<agent::Resources>,
    dependencies: Vec<agent::Dependency>,
    secret: Option<AgentSecret>,
    /// By how much its clock is ahead of the host's, nanoseconds; none of one that does not report it.
    ahead_ns: Option<u64>,
    milestones: Option<agent::Milestones>,
    /// A proof of an earlier connection.
    replayed: Option<Vec<u8>>,
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn enroll(
        &self,
        _: &TtrpcContext,
        _: agent::EnrollRequest,
    ) -> ttrpc::Result<agent::EnrollResponse> {
        let status = ttrpc::get_status(ttrpc::Code::ALREADY_EXISTS, "it has its secret");
        Err(ttrpc::Error::RpcStatus(status))
    }

    async fn hello(
        &self,
        _: &TtrpcContext,
        request: agent::HelloRequest,
    ) -> ttrpc::Result<agent::HelloResponse> {
        if self.manner == Manner::Silent {
            std::future::pending::<()>().await;
        }
        if self.manner == Manner::Complains {
            let text = "\u{1b}[2J no\n".repeat(2_000);
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, text)));
        }
        let nonce = [9; proof::NONCE_BYTES];
        let (secret, replayed) = {
            let state = self.state.lock();
            (state.secret.clone(), state.replayed.clone())
        };
        let proof = secret.and_then(|secret| proof::prove(secret.bytes(), &request.host_nonce, &nonce));
        Ok(agent::HelloResponse {
            agent_nonce: nonce.to_vec(),
            proof: replayed.or(proof).unwrap_or_default(),
            version: 1,
            agent_version: "test double".into(),
            kernel_release: "6.1.0-test".into(),
            capture_mode: agent::CaptureMode::CAPTURE_MODE_SYSCALL_RAW_TRACEPOINT.into(),
            placement: agent::Placement::PLACEMENT_BUILT_IN.into(),
            epoch: self.epoch,
            start_unix_ns: 1,
            ..Default::default()
        })
    }

    async fn watch(
        &self,
        _: &TtrpcContext,
        _: agent::WatchRequest,
        sender: ServerStreamSender<agent::Batch>,
    ) -> ttrpc::Result<()> {
        let mut batches = self.batches.subscribe();
        let mut stopping = self.stopping.subscribe();
        self.streams.send_modify(|streams| *streams += 1);
        let _ended = OnDrop(|| self.streams.send_modify(|streams| *streams -= 1));
        self.watches.fetch_add(1, Ordering::SeqCst);
        let (series, counters, beside) = {
            let state = self.state.lock();
            let beside = agent::Batch {
                epoch: self.epoch,
                sequence: 1,
                resources: state.resources.clone(),
                dependencies: state.dependencies.clone(),
                milestones: state.milestones.clone().into(),
                ..Default::default()
            };
            (state.series.clone(), state.counters.clone(), beside)
        };
        sender.send(&beside).await?;
        for (at, part) in series.chunks(200).enumerate() {
            let batch = agent::Batch {
                epoch: self.epoch,
                sequence: at as u64 + 1,
                series: part.to_vec(),
                counters: Some(counters.clone()).into(),
                ..Default::default()
            };
            sender.send(&batch).await?;
        }
        loop {
            let batch = tokio::select! {
                // What was queued before the stop goes out before it.
                biased;
                batch = batches.recv() => batch,
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
            };
            let Ok(batch) = batch else { return Ok(()) };
            sender.send(&batch).await?;
        }
    }

    async fn stats(&self, _: &TtrpcContext, _: agent::StatsRequest) -> ttrpc::Result<agent::StatsResponse> {
        if self.stats_calls.fetch_add(1, Ordering::SeqCst) > 0 && self.manner == Manner::FallsSilent {
            std::future::pending::<()>().await;
        }
        let state = self.state.lock();
        let unix_ns = state.ahead_ns.map_or(0, |ahead| unix_ns() + ahead);
        Ok(agent::StatsResponse {
            counters: Some(state.counters.clone()).into(),
            unix_ns,
            resident_bytes: 5 << 20,
            limitations: vec!["io_uring is not seen".into()],
            ..Default::default()
        })
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A running double.
pub struct TestAgent {
    service: Arc<Service>,
    server: Option<Server>,
    socket: PathBuf,
}

impl TestAgent {
    pub async fn start(socket: &Path, epoch: u64) -> Self {
        Self::start_as(socket, epoch, Manner::Honest).await
    }

    pub async fn start_as(socket: &Path, epoch: u64, manner: Manner) -> Self {
        let _ = std::fs::remove_file(socket);
        let service = Arc::new(Service {
            manner,
            epoch,
            state: Mutex::default(),
            batches: broadcast::channel(64).0,
            watches: AtomicU64::new(0),
            stats_calls: AtomicU64::new(0),
            stopping: watch::channel(false).0,
            streams: watch::channel(0).0,
            sequence: AtomicU64::new(1_000),
        });
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .expect("bound")
            .register_service(agent_ttrpc::create_agent(Arc::clone(&service) as _));
        server.start().await.expect("started");
        Self { service, server: Some(server), socket: socket.into() }
    }

    /// From now on it proves that it holds a secret.
    pub fn hold(&self, secret: &AgentSecret) {
        self.service.state.lock().secret = Some(secret.clone());
    }

    /// From now on it gives a proof that it saw elsewhere.
    pub fn replay(&self, proof: Vec<u8>) {
        self.service.state.lock().replayed = Some(proof);
    }

    /// Sets values, and sends them in every stream.
    pub fn tell(&self, series: Vec<agent::Series>) {
        let mut state = self.service.state.lock();
        for told in &series {
            state.series.retain(|known| known.id != told.id);
            state.series.push(told.clone());
        }
        let counters = state.counters.clone();
        drop(state);
        self.send(agent::Batch { series, counters: Some(counters).into(), ..Default::default() });
    }

    /// Measures every resource of the guest (the empty id) and of these containers, and sends that in every stream. Values
    /// are `times` the number of the resource and one, of times in seconds.
    pub fn measure(&self, containers: &[&str], times: u64) {
        let resources: Vec<_> = containers.iter().map(|id| every_resource(id, times)).collect();
        self.service.state.lock().resources.clone_from(&resources);
        self.send(agent::Batch { resources, ..Default::default() });
    }

    /// A container has made so many connections to an address, twice as many attempts were refused, and as many reset.
    pub fn connect(&self, container: &str, peer: &str, times: u64) {
        let mut made = Histogram::default();
        (0..times).for_each(|_| made.record(2_000_000));
        let count = |failure: Failure, count| {
            Failure::ALL.iter().map(|of| if *of == failure { count } else { 0 }).collect()
        };
        let dependency = agent::Dependency {
            container_id: container.into(),
            peer: peer.into(),
            made: Some(agent::Histogram::from(&made)).into(),
            failed: count(Failure::Refused, 2 * times),
            broken: count(Failure::Reset, times),
            retransmitted_segments: 3 * times,
            round_trip_us: 150,
            ..Default::default()
        };
        let mut state = self.service.state.lock();
        state.dependencies.retain(|known| known.peer != peer);
        state.dependencies.push(dependency.clone());
        drop(state);
        self.send(agent::Batch { dependencies: vec![dependency], ..Default::default() });
    }

    /// From now on it reports its clock.
    pub fn set_clock(&self, ahead_ns: u64) {
        self.service.state.lock().ahead_ns = Some(ahead_ns);
    }

    /// Its guest has begun, its first process was made, and its first port is open: now, all of them.
    pub fn has_started(&self) {
        let mut state = self.service.state.lock();
        let now = unix_ns() + state.ahead_ns.unwrap_or_default();
        let milestones = agent::Milestones {
            booted_unix_ns: now,
            first_process_unix_ns: now,
            first_listen_unix_ns: now,
            unix_ns: now,
            ..Default::default()
        };
        state.milestones = Some(milestones.clone());
        drop(state);
        self.send(agent::Batch { milestones: Some(milestones).into(), ..Default::default() });
    }

    pub fn set_counters(&self, counters: agent::Counters) {
        self.service.state.lock().counters = counters;
    }

    /// Sends a batch of any content in every stream; it is not part of the state.
    pub fn send(&self, mut batch: agent::Batch) {
        if batch.epoch == 0 {
            batch.epoch = self.service.epoch;
        }
        batch.sequence = self.service.sequence.fetch_add(1, Ordering::SeqCst);
        let _ = self.service.batches.send(batch);
    }

    pub fn epoch(&self) -> u64 {
        self.service.epoch
    }

    pub fn watches(&self) -> u64 {
        self.service.watches.load(Ordering::SeqCst)
    }

    pub fn stats_calls(&self) -> u64 {
        self.service.stats_calls.load(Ordering::SeqCst)
    }

    /// Closes all connections, and the socket.
    pub async fn stop(mut self) {
        self.service.stopping.send_replace(true);
        // The server's end would cut off what is queued: streams end by themselves.
        let mut streams = self.service.streams.subscribe();
        let ended = timeout(DEADLINE, streams.wait_for(|streams| *streams == 0)).await;
        ended.expect("the streams end").expect("the sender is kept");
        if let Some(mut server) = self.server.take() {
            server.shutdown().await.expect("shut down");
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A series of HTTP/1 requests that all took `ms` milliseconds.
pub fn http(id: u32, container: &str, route: &str, status: &str, requests: u64, ms: u64) -> agent::Series {
    let mut durations = Histogram::default();
    for _ in 0..requests {
        durations.record(ms * 1_000_000);
    }
    http_series(id, container, ("GET", route, status), &durations)
}

/// The client's side of it.
pub fn http_client(id: u32, container: &str, peer: &str, status: &str, requests: u64) -> agent::Series {
    let mut series = http(id, container, "/items/{}", status, requests, 3);
    let key = series.key.as_mut().expect("key");
    key.side = agent::Side::SIDE_CLIENT.into();
    key.peer = peer.into();
    series
}

/// A span over a connection, from one time of the guest's clock to another.
pub fn span(
    series_id: u32,
    reason: agent::SpanReason,
    [local, remote]: [&str; 2],
    [from_unix_ns, to_unix_ns]: [u64; 2],
) -> agent::Span {
    agent::Span {
        series_id,
        start_unix_ns: from_unix_ns,
        duration_ns: to_unix_ns - from_unix_ns,
        reason: reason.into(),
        local: local.into(),
        remote: remote.into(),
        ..Default::default()
    }
}

/// Every resource of a container, or of the guest.
fn every_resource(id: &str, times: u64) -> agent::Resources {
    let mut measured = Measured::default();
    for (number, &resource) in (1..).zip(Resource::ALL) {
        let is_of_guest = resource >= Resource::GuestCpuUser;
        let unit = if is_seconds(resource) { 1_000_000_000 } else { 1 };
        measured.set(resource, (is_of_guest == id.is_empty()).then_some(times * number * unit));
    }
    measured.to_wire(id.to_owned())
}

fn is_seconds(resource: Resource) -> bool {
    let name = format!("{resource:?}");
    let is_time = name.starts_with("Pressure") || name.starts_with("Cpu") || name.starts_with("GuestCpu");
    is_time && !name.ends_with("Periods")
}

/// `requests` of each protocol and side, with everything that an exchange can have.
pub fn of_each_protocol(requests: u64) -> Vec<agent::Series> {
    let protocols =
        agent::Protocol::VALUES.iter().filter(|protocol| **protocol != agent::Protocol::PROTOCOL_UNSPECIFIED);
    let sides = [agent::Side::SIDE_SERVER, agent::Side::SIDE_CLIENT];
    let both = protocols.flat_map(|protocol| sides.map(|side| (*protocol, side)));
    both.zip(1..)
        .map(|((protocol, side), id)| {
            let mut series = http(id, "shop-1", "/a", "503", requests, 1);
            let key = series.key.as_mut().expect("key");
            (key.protocol, key.side) = (protocol.into(), side.into());
            key.peer = if side == agent::Side::SIDE_CLIENT { "10.0.0.2:80".into() } else { String::new() };
            series
        })
        .collect()
}
