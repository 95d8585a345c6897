//! A test double of the agent: speaks the real contract over a real unix socket, and says what the test tells it to.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use porthole_agent_api::{agent, agent_ttrpc, proof};
use porthole_histogram::Histogram;
use porthole_registry::AgentSecret;
use tokio::sync::{broadcast, watch};
use ttrpc::r#async::{Server, ServerStreamSender, TtrpcContext};

/// How the double behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As an agent should.
    Honest,
    /// Never answers Hello.
    Silent,
    /// Answers Hello and Stats once, then says nothing any more.
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
    sequence: AtomicU64,
}

#[derive(Default)]
struct State {
    series: Vec<agent::Series>,
    counters: agent::Counters,
    secret: Option<AgentSecret>,
    /// A proof of an earlier connection.
    replayed: Option<Vec<u8>>,
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
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
        self.watches.fetch_add(1, Ordering::SeqCst);
        let (series, counters) = {
            let state = self.state.lock();
            (state.series.clone(), state.counters.clone())
        };
        for (at, part) in series.chunks(512).enumerate() {
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
                // What was told before the stop goes out before it.
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
        Ok(agent::StatsResponse {
            counters: Some(self.state.lock().counters.clone()).into(),
            resident_bytes: 5 << 20,
            limitations: vec!["io_uring is not seen".into()],
            ..Default::default()
        })
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

    /// Sets values, and tells them to whoever watches.
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

    pub fn set_counters(&self, counters: agent::Counters) {
        self.service.state.lock().counters = counters;
    }

    /// Sends a batch of any content to whoever watches; it is not part of the state.
    pub fn send(&self, mut batch: agent::Batch) {
        if batch.epoch == 0 {
            batch.epoch = self.service.epoch;
        }
        batch.sequence = self.service.sequence.fetch_add(1, Ordering::SeqCst);
        let _ = self.service.batches.send(batch);
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
    let error = match status.as_bytes().first() {
        Some(b'4') => agent::ErrorClass::ERROR_CLASS_CLIENT,
        Some(b'5') => agent::ErrorClass::ERROR_CLASS_SERVER,
        _ => agent::ErrorClass::ERROR_CLASS_NONE,
    };
    agent::Series {
        id,
        key: Some(agent::SeriesKey {
            container_id: container.into(),
            protocol: agent::Protocol::PROTOCOL_HTTP1.into(),
            side: agent::Side::SIDE_SERVER.into(),
            operation: "GET".into(),
            resource: route.into(),
            status: status.into(),
            error: error.into(),
            ..Default::default()
        })
        .into(),
        duration: Some(agent::Histogram::from(&durations)).into(),
        request_bytes: 100 * requests,
        response_bytes: 1_000 * requests,
        ..Default::default()
    }
}

/// The client's side of it.
pub fn http_client(id: u32, container: &str, peer: &str, status: &str, requests: u64) -> agent::Series {
    let mut series = http(id, container, "/items/{}", status, requests, 3);
    let key = series.key.as_mut().expect("key");
    key.side = agent::Side::SIDE_CLIENT.into();
    key.peer = peer.into();
    series
}
