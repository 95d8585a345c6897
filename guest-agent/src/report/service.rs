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
    agent::Batch, agent::CaptureMode, agent::EnrollRequest, agent::EnrollResponse, agent::HelloRequest,
    agent::HelloResponse, agent::KeepRequest, agent::Kept, agent::Placement, agent::Series,
    agent::StatsRequest, agent::StatsResponse, agent::WatchRequest, agent_ttrpc::Agent,
    limits::BATCH_BYTES_MAX, limits::BATCH_DEPENDENCIES_MAX, limits::BATCH_SERIES_MAX,
    limits::BATCH_SPANS_MAX, limits::CONTRACT_VERSION, limits::KEY_STRING_MAX, limits::WATCH_INTERVAL, proof,
};
use protobuf::{EnumOrUnknown, Message as _, MessageField};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use super::{
    epochs::Epoch,
    nonce::nonce,
    state::{Shared, Signal, State},
};
use crate::{
    enrolment::{Credential, EnrolError, NotEnrolled},
    usage,
};

/// Most streams at a time. One more ends the oldest: its host may have gone without closing it.
pub const WATCHES_MAX: usize = 4;

/// Most bytes of series in one batch: beside them fit the largest number of spans with both ends at their bound, the
/// counters and a container's id.
const SERIES_BYTES_MAX: usize = BATCH_BYTES_MAX - BATCH_SPANS_MAX * (2 * KEY_STRING_MAX + 96) - 1024;

/// Shortest interval that a host may request.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Longest silence on a stream: a batch without series shows whether the host is still there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// Least time between batches after a container's exit: its connections close right behind it.
pub(super) const AFTER_EXIT: Duration = Duration::from_millis(20);

/// What does not change while the agent runs, but for the secret that it gets once.
#[derive(Debug)]
pub struct Identity {
    /// Its first epoch.
    pub epoch: Epoch,
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
    /// What it proves to hold.
    pub credential: Credential,
}

/// The service.
#[derive(Debug)]
pub struct Service {
    pub(super) shared: Arc<Shared>,
    identity: Identity,
    watches: Mutex<VecDeque<oneshot::Sender<()>>>,
    /// Streams of `Watch` that are open.
    pub(super) watching: watch::Sender<usize>,
    /// Ends the stream of `Keep`.
    pub(super) keep: Mutex<Option<oneshot::Sender<()>>>,
}

/// A stream of `Watch` that is open.
struct Watching<'a>(&'a watch::Sender<usize>);

impl<'a> Watching<'a> {
    fn begin(streams: &'a watch::Sender<usize>) -> Self {
        streams.send_modify(|streams| *streams += 1);
        Self(streams)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|streams| *streams = streams.saturating_sub(1));
    }
}

impl Service {
    /// A service of `shared`.
    pub fn new(shared: Arc<Shared>, identity: Identity) -> Self {
        let watching = watch::Sender::new(0);
        shared.lock().set_epoch(identity.epoch);
        Self { shared, identity, watches: Mutex::default(), watching, keep: Mutex::default() }
    }

    /// Where a stream of an epoch begins; 0 for the one that is offered.
    fn position(&self, epoch: u64) -> ttrpc::Result<Position> {
        let mut state = self.shared.lock();
        let epoch = if epoch == 0 { state.offered().epoch.id } else { epoch };
        let gone = || status(ttrpc::Code::FAILED_PRECONDITION, &"the epoch is over");
        let unsent = state.of_epoch(epoch).ok_or_else(gone)?.recorder.spans.unsent();
        Ok(Position::beginning(&state, epoch, Some(unsent)))
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

    async fn stream(
        &self,
        mut at: Position,
        interval: Duration,
        out: ServerStreamSender<Batch>,
    ) -> ttrpc::Result<()> {
        let mut ended = self.enter();
        let _watching = Watching::begin(&self.watching);
        let mut signal = self.shared.subscribe();
        loop {
            signal.mark_unchanged();
            let batches = self.batches(&mut at);
            let exited = batches.iter().any(|batch| !batch.exited_container_id.is_empty());
            for batch in batches {
                tokio::select! {
                    result = out.send(&batch) => result?,
                    _ = &mut ended => return Ok(()),
                }
            }
            if at.epoch_is_over {
                // The host comes back for the next one.
                self.shared.lock().delivered(at.epoch);
                return Ok(());
            }
            if at.sent.ending {
                return Ok(());
            }
            let next = Instant::now() + if exited { AFTER_EXIT } else { interval };
            tokio::select! {
                () = sleep_until(next) => {}
                changed = signal.wait_for(|signal| signal.exits != at.sent.exits || signal.ending) => {
                    if changed.is_err() { return Ok(()) }
                }
                _ = &mut ended => return Ok(()),
            }
            tokio::select! {
                changed = signal.wait_for(|signal| *signal != at.sent) => {
                    if changed.is_err() { return Ok(()) }
                }
                () = sleep(HEARTBEAT) => {}
                _ = &mut ended => return Ok(()),
            }
        }
    }

    /// What changed since what was sent; at least one batch, and one for each container that exited. Of an epoch that is over, the
    /// rest.
    pub(super) fn batches(&self, at: &mut Position) -> Vec<Batch> {
        let mut state = self.shared.lock();
        let now = state.signal();
        let exits = state.exits_after(at.sent.exits);
        let mut batches = Vec::new();
        let Some(of) = state.of_epoch(at.epoch) else {
            at.epoch_is_over = true;
            return batches;
        };
        let mut from = Some(0);
        while let Some(next) = from {
            let (series, rest) = of.recorder.series.changed_since(at.sent.version, next, BATCH_SERIES_MAX);
            let parts = split_by_bytes(series);
            batches.extend(parts.map(|series| Batch { series, ..at.batch(&of.counters) }));
            from = rest;
        }
        // Behind the last batch with series, so that those of the spans are known.
        let spans = at.next_span.as_mut().map(|from| {
            let (spans, next) = of.recorder.spans.take_from(*from);
            *from = next;
            spans
        });
        let spans = spans.unwrap_or_default();
        for (index, some) in spans.chunks(BATCH_SPANS_MAX).enumerate() {
            if index > 0 {
                batches.push(at.batch(&of.counters));
            }
            if let Some(last) = batches.last_mut() {
                last.spans = some.to_vec();
            }
        }
        at.epoch_is_over = of.is_over;
        if at.epoch_is_over && at.next_span.is_none() {
            // The stream goes on, and reports the exits behind the next epoch's series.
            return batches;
        }
        let counters = of.counters;
        // The companion keeps those of an end alone: it keeps every batch, and these come every few seconds.
        let is_wanted = at.next_span.is_some() || !exits.is_empty() || now.ending;
        if is_wanted {
            let changed = state.recorder.dependencies.changed_since(at.sent.dependencies);
            for some in changed.chunks(BATCH_DEPENDENCIES_MAX) {
                batches.push(Batch { dependencies: some.to_vec(), ..at.batch(&counters) });
            }
            let resources = state.resources_after(at.sent.samples);
            if !resources.is_empty() {
                // A batch may be full of series and spans.
                let mut batch = at.batch(&counters);
                batch.resources = resources.to_vec();
                batches.push(batch);
            }
        }
        if is_wanted
            && now.milestones != at.sent.milestones
            && let Some(last) = batches.last_mut()
        {
            last.milestones = MessageField::some(state.milestones.report());
        }
        for (index, exited) in exits.into_iter().enumerate() {
            if index > 0 {
                batches.push(at.batch(&counters));
            }
            if let Some(last) = batches.last_mut() {
                last.exited_container_id = exited;
            }
        }
        let Signal { dependencies, milestones, .. } = if is_wanted { now } else { at.sent };
        at.sent = Signal { dependencies, milestones, ..now };
        batches
    }

    /// A nonce and the proof under it; both empty without a secret.
    fn prove(&self, host_nonce: &[u8]) -> ttrpc::Result<(Vec<u8>, Vec<u8>)> {
        let nonce = nonce();
        let secret = self.identity.credential.secret().map_err(not_enrolled)?;
        let proof = secret.and_then(|secret| proof::prove(secret.bytes(), host_nonce, &nonce));
        Ok(proof.map(|proof| (nonce.to_vec(), proof)).unwrap_or_default())
    }

    fn stats_now(&self) -> StatsResponse {
        let resident_bytes = usage::resident_bytes(&self.identity.proc);
        let mut state = self.shared.lock();
        let counters = state.offered().counters;
        StatsResponse {
            counters: MessageField::some(counters),
            resident_bytes,
            cpu_ns: u64::try_from(usage::cpu_time().as_nanos()).unwrap_or(u64::MAX),
            connections: state.connections,
            series: state.recorder.series.len() as u64,
            limitations: state.limitations.clone(),
            load_ns: self.identity.load_ns,
            unix_ns: usage::unix_ns(),
            ..StatsResponse::default()
        }
    }
}

/// How far a stream is.
#[derive(Debug)]
pub(super) struct Position {
    /// The epoch that it is in.
    pub epoch: u64,
    /// Nothing is to be sent of that epoch any more.
    pub epoch_is_over: bool,
    /// What there was when it was sent last.
    pub sent: Signal,
    /// The next span to send; none of a stream without spans.
    pub next_span: Option<u64>,
    sequence: u64,
}

impl Position {
    /// A stream begins with this epoch. Containers that have exited are not reported.
    pub(super) fn beginning(state: &State, epoch: u64, next_span: Option<u64>) -> Self {
        let sent = Signal { exits: state.signal().exits, ..Signal::default() };
        Self { epoch, epoch_is_over: false, sent, next_span, sequence: 0 }
    }

    /// The stream goes on with another epoch, of which nothing was sent.
    pub(super) fn resume_in(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.epoch_is_over = false;
        self.sent.version = 0;
    }

    fn batch(&mut self, counters: &porthole_agent_api::agent::Counters) -> Batch {
        self.sequence += 1;
        Batch {
            epoch: self.epoch,
            sequence: self.sequence,
            counters: MessageField::some(counters.clone()),
            ..Batch::default()
        }
    }
}

/// The least time between two batches that a host requests.
fn interval(milliseconds: u32) -> Duration {
    match milliseconds {
        0 => WATCH_INTERVAL,
        ms => Duration::from_millis(ms.into()).max(INTERVAL_MIN),
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
    status(ttrpc::Code::INTERNAL, &"the handler panicked")
}

/// Refuses every other call before the agent has its secret.
fn not_enrolled(error: NotEnrolled) -> ttrpc::Error {
    status(ttrpc::Code::FAILED_PRECONDITION, &error)
}

fn status(code: ttrpc::Code, error: &dyn std::fmt::Display) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, error.to_string()))
}

#[async_trait]
impl Agent for Service {
    async fn enroll(&self, _ctx: &TtrpcContext, request: EnrollRequest) -> ttrpc::Result<EnrollResponse> {
        self.identity.credential.enrol(&request.secret).map_err(|error| {
            let code = match error {
                EnrolError::Already => ttrpc::Code::ALREADY_EXISTS,
                EnrolError::NotWanted => ttrpc::Code::FAILED_PRECONDITION,
                EnrolError::Length => ttrpc::Code::INVALID_ARGUMENT,
                EnrolError::File(_) => ttrpc::Code::INTERNAL,
            };
            status(code, &error)
        })?;
        tracing::info!("enrolled");
        Ok(EnrollResponse::default())
    }

    async fn hello(&self, _ctx: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        let meets = (request.version_min..=request.version_max).contains(&CONTRACT_VERSION);
        let (agent_nonce, proof) = self.prove(&request.host_nonce)?;
        let Epoch { id: epoch, start_unix_ns } = self.shared.lock().offered().epoch;
        Ok(HelloResponse {
            agent_nonce,
            proof,
            version: if meets { CONTRACT_VERSION } else { 0 },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: self.identity.kernel_release.clone(),
            capture_mode: EnumOrUnknown::new(self.identity.capture_mode),
            placement: EnumOrUnknown::new(self.identity.placement),
            capabilities: vec!["unix_sockets".to_owned()],
            epoch,
            start_unix_ns,
            ..HelloResponse::default()
        })
    }

    async fn watch(
        &self,
        _ctx: &TtrpcContext,
        request: WatchRequest,
        out: ServerStreamSender<Batch>,
    ) -> ttrpc::Result<()> {
        self.identity.credential.secret().map_err(not_enrolled)?;
        let at = self.position(request.epoch)?;
        let stream = self.stream(at, interval(request.interval_ms), out);
        AssertUnwindSafe(stream).catch_unwind().await.map_err(panicked)?
    }

    async fn keep(
        &self,
        _ctx: &TtrpcContext,
        request: KeepRequest,
        out: ServerStreamSender<Kept>,
    ) -> ttrpc::Result<()> {
        self.identity.credential.secret().map_err(not_enrolled)?;
        let stream = self.keep_stream(interval(request.interval_ms), out);
        AssertUnwindSafe(stream).catch_unwind().await.map_err(panicked)?
    }

    async fn stats(&self, _ctx: &TtrpcContext, _request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        self.identity.credential.secret().map_err(not_enrolled)?;
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
