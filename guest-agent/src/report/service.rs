//! What the host sees: the ttrpc service.
//!
//! ttrpc sets no deadline and no limit, and a handler that panics never answers; so handlers here take no locks across
//! an await, panics become errors, and the number of streams is bounded.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use porthole_agent_api::{
    agent::Batch, agent::CaptureMode, agent::HelloRequest, agent::HelloResponse, agent::Placement,
    agent::Series, agent::StatsRequest, agent::StatsResponse, agent::WatchRequest, agent_ttrpc::Agent,
    limits::BATCH_BYTES_MAX, limits::BATCH_SERIES_MAX, limits::BATCH_SPANS_MAX, limits::CONTRACT_VERSION,
    limits::KEY_STRING_MAX, limits::WATCH_INTERVAL, proof,
};
use porthole_registry::AgentSecret;
use protobuf::{EnumOrUnknown, Message as _, MessageField};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use super::{
    nonce::nonce,
    state::{Shared, Signal},
};
use crate::usage;

/// Most streams at a time. One more ends the oldest: its host may be gone without a word.
pub const WATCHES_MAX: usize = 4;

/// Most bytes of series in one batch: beside them fit the largest number of spans with both ends at their bound, the
/// counters and a container's id.
const SERIES_BYTES_MAX: usize = BATCH_BYTES_MAX - BATCH_SPANS_MAX * (2 * KEY_STRING_MAX + 96) - 1024;

/// Shortest interval that a host may ask for.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Longest silence on a stream: a batch without series shows whether anybody is still there.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Least time between batches after a container's exit: its connections close right behind it.
const AFTER_EXIT: Duration = Duration::from_millis(20);

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Random, per start.
    pub epoch: u64,
    /// When it started, nanoseconds since 1970.
    pub start_unix_ns: u64,
    /// The kernel's release.
    pub kernel_release: String,
    /// How bytes are captured.
    pub capture_mode: CaptureMode,
    /// From start to attached probes, nanoseconds.
    pub load_ns: u64,
    /// How it came into the guest.
    pub placement: Placement,
    /// The guest's procfs.
    pub proc: PathBuf,
    /// What it proves to hold; none outside a sandbox.
    pub secret: Option<AgentSecret>,
}

/// The service.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    identity: Identity,
    watches: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Service {
    /// A service of `shared`.
    pub fn new(shared: Arc<Shared>, identity: Identity) -> Self {
        Self { shared, identity, watches: Mutex::default() }
    }

    /// Registers a stream; the receiver resolves when it must end for a newer one.
    fn enter(&self) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| !watch.is_closed());
        while watches.len() >= WATCHES_MAX {
            if let Some(oldest) = watches.pop_front() {
                let _ = oldest.send(());
            }
        }
        watches.push_back(end);
        ended
    }

    async fn stream(&self, interval: Duration, out: ServerStreamSender<Batch>) -> ttrpc::Result<()> {
        let mut ended = self.enter();
        let mut signal = self.shared.subscribe();
        let (mut sent, mut spans) = {
            let state = self.shared.lock();
            (Signal { exits: state.signal().exits, ..Signal::default() }, state.recorder.spans.unsent())
        };
        let mut sequence = 0;
        loop {
            signal.mark_unchanged();
            let batches = self.batches(&mut sent, &mut spans, &mut sequence);
            let exited = batches.iter().any(|batch| !batch.exited_container_id.is_empty());
            for batch in batches {
                tokio::select! {
                    result = out.send(&batch) => result?,
                    _ = &mut ended => return Ok(()),
                }
            }
            if sent.ending {
                return Ok(());
            }
            let next = Instant::now() + if exited { AFTER_EXIT } else { interval };
            tokio::select! {
                () = sleep_until(next) => {}
                changed = signal.wait_for(|signal| signal.exits != sent.exits || signal.ending) => {
                    if changed.is_err() { return Ok(()) }
                }
                _ = &mut ended => return Ok(()),
            }
            tokio::select! {
                changed = signal.wait_for(|signal| *signal != sent) => {
                    if changed.is_err() { return Ok(()) }
                }
                () = sleep(HEARTBEAT) => {}
                _ = &mut ended => return Ok(()),
            }
        }
    }

    /// What changed since what was sent; at least one batch, and one for each container that exited.
    fn batches(&self, sent: &mut Signal, next_span: &mut u64, sequence: &mut u64) -> Vec<Batch> {
        let mut state = self.shared.lock();
        let now = state.signal();
        let mut batches = Vec::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let (series, rest) = state.recorder.series.changed_since(sent.version, at, BATCH_SERIES_MAX);
            let parts = split_by_bytes(series);
            batches.extend(parts.map(|series| Batch { series, ..self.batch(&state.counters, sequence) }));
            from = rest;
        }
        // Behind the last batch with series, so that those of the spans are known.
        let (spans, next) = state.recorder.spans.take_from(*next_span);
        *next_span = next;
        for (index, some) in spans.chunks(BATCH_SPANS_MAX).enumerate() {
            if index > 0 {
                batches.push(self.batch(&state.counters, sequence));
            }
            if let Some(last) = batches.last_mut() {
                last.spans = some.to_vec();
            }
        }
        for (index, exited) in state.exits_after(sent.exits).into_iter().enumerate() {
            if index > 0 {
                batches.push(self.batch(&state.counters, sequence));
            }
            if let Some(last) = batches.last_mut() {
                last.exited_container_id = exited;
            }
        }
        *sent = now;
        batches
    }

    fn batch(&self, counters: &porthole_agent_api::agent::Counters, sequence: &mut u64) -> Batch {
        *sequence += 1;
        Batch {
            epoch: self.identity.epoch,
            sequence: *sequence,
            counters: MessageField::some(counters.clone()),
            ..Batch::default()
        }
    }

    /// A nonce and the proof under it; both empty without a secret.
    fn prove(&self, host_nonce: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let nonce = nonce();
        let secret = self.identity.secret.as_ref();
        let proof = secret.and_then(|secret| proof::prove(secret.bytes(), host_nonce, &nonce));
        proof.map(|proof| (nonce.to_vec(), proof)).unwrap_or_default()
    }

    fn stats_now(&self) -> StatsResponse {
        let resident_bytes = usage::resident_bytes(&self.identity.proc);
        let state = self.shared.lock();
        StatsResponse {
            counters: MessageField::some(state.counters.clone()),
            resident_bytes,
            cpu_ns: u64::try_from(usage::cpu_time().as_nanos()).unwrap_or(u64::MAX),
            connections: state.connections,
            series: state.recorder.series.len() as u64,
            limitations: state.limitations.clone(),
            load_ns: self.identity.load_ns,
            ..StatsResponse::default()
        }
    }
}

/// Series in runs, each of which fits into a batch; at least one run, which may be empty.
fn split_by_bytes(series: Vec<Series>) -> impl Iterator<Item = Vec<Series>> {
    let mut runs = vec![Vec::new()];
    let mut bytes = 0;
    for one in series {
        // With tag and length.
        let size = usize::try_from(one.compute_size()).unwrap_or(usize::MAX).saturating_add(8);
        if bytes + size > SERIES_BYTES_MAX && bytes > 0 {
            runs.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(run) = runs.last_mut() {
            run.push(one);
        }
    }
    runs.into_iter()
}

/// The error that a panic becomes.
fn panicked(_: Box<dyn std::any::Any + Send>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, "the handler panicked"))
}

#[async_trait]
impl Agent for Service {
    async fn hello(&self, _ctx: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        let meets = (request.version_min..=request.version_max).contains(&CONTRACT_VERSION);
        let (agent_nonce, proof) = self.prove(&request.host_nonce);
        Ok(HelloResponse {
            agent_nonce,
            proof,
            version: if meets { CONTRACT_VERSION } else { 0 },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: self.identity.kernel_release.clone(),
            capture_mode: EnumOrUnknown::new(self.identity.capture_mode),
            placement: EnumOrUnknown::new(self.identity.placement),
            capabilities: vec!["unix_sockets".to_owned()],
            epoch: self.identity.epoch,
            start_unix_ns: self.identity.start_unix_ns,
            ..HelloResponse::default()
        })
    }

    async fn watch(
        &self,
        _ctx: &TtrpcContext,
        request: WatchRequest,
        out: ServerStreamSender<Batch>,
    ) -> ttrpc::Result<()> {
        let interval = match request.interval_ms {
            0 => WATCH_INTERVAL,
            ms => Duration::from_millis(ms.into()).max(INTERVAL_MIN),
        };
        AssertUnwindSafe(self.stream(interval, out)).catch_unwind().await.map_err(panicked)?
    }

    async fn stats(&self, _ctx: &TtrpcContext, _request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        std::panic::catch_unwind(AssertUnwindSafe(|| self.stats_now())).map_err(panicked)
    }
}

#[cfg(test)]
mod tests {
    use porthole_agent_api::agent::SeriesKey;

    use super::*;

    #[test]
    fn a_batch_at_every_bound_fits_into_a_frame() {
        let text = "x".repeat(KEY_STRING_MAX);
        let key = SeriesKey {
            container_id: text.clone(),
            operation: text.clone(),
            resource: text.clone(),
            status: text.clone(),
            peer: text.clone(),
            ..SeriesKey::default()
        };
        let series = Series { id: u32::MAX, key: MessageField::some(key), ..Series::default() };
        let runs: Vec<_> = split_by_bytes(vec![series; BATCH_SERIES_MAX]).collect();
        assert_eq!(runs.iter().map(Vec::len).sum::<usize>(), BATCH_SERIES_MAX, "none is lost");
        let span = porthole_agent_api::agent::Span {
            series_id: u32::MAX,
            start_unix_ns: u64::MAX,
            duration_ns: u64::MAX,
            request_bytes: u64::MAX,
            response_bytes: u64::MAX,
            process_id: u32::MAX,
            thread_id: u32::MAX,
            local: text.clone(),
            remote: text.clone(),
            ..Default::default()
        };
        for run in runs {
            let batch = Batch {
                epoch: u64::MAX,
                sequence: u64::MAX,
                series: run,
                spans: vec![span.clone(); BATCH_SPANS_MAX],
                exited_container_id: text.clone(),
                ..Batch::default()
            };
            assert!(batch.compute_size() <= BATCH_BYTES_MAX as u64, "{}", batch.compute_size());
        }
        assert_eq!(split_by_bytes(Vec::new()).count(), 1, "one that is empty tells that the agent lives");
    }
}
