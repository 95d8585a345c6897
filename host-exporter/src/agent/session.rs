//! One connection to an agent: Hello, Stats, Watch, until it ends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use porthole_agent_api::{
    agent, limits::CALL_DEADLINE, limits::CONTRACT_VERSION, limits::WATCH_INTERVAL, proof::Challenge,
};
use porthole_registry::dial::ByteStream;
use protobuf::Message as _;
use tokio::{
    sync::watch,
    time::{Instant as Clock, timeout_at},
};
use ttrpc::proto::{FLAG_NO_DATA, FLAG_REMOTE_CLOSED, MESSAGE_TYPE_DATA};

use super::{
    client::{self, CallError, CallId, Client},
    guarded::{Admission, Frame, GuardedStream, Policy},
    inspect,
    moments::Moments,
    outlook::Outlook,
};
use crate::{
    accumulate::{
        budget::{Charge, FrameRoom},
        counters::AgentCounters,
        sandbox::{Accumulator, Containers, Outcome},
    },
    clock::unix_ns,
    fleet::{Fleet, link::AboutAgent, sandbox::Sandbox},
    intake, metering,
    protocol::{CaptureMode, Placement},
    rejection::Rejection,
    spans::{Connection, Reception},
};

/// How long the exporter still listens to an agent whose sandbox has ended, at most.
const DRAIN_AT_MOST: Duration = Duration::from_secs(5);

/// Silence after which an agent whose sandbox has ended has nothing more to send.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

/// Series of a batch that are taken at once: a scrape waits for no more of them at each sandbox.
const SERIES_AT_ONCE: usize = 32;

/// Most batches that are counted as missing for one connection.
const MISSING_MAX: u64 = 1_000_000;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A call brought nothing.
    #[error("{call}: {source}")]
    Call {
        /// The call.
        call: &'static str,
        /// What came of it.
        source: CallError,
    },
    /// No common contract version.
    #[error("the agent supports contract versions up to {0}, this exporter {CONTRACT_VERSION}")]
    Version(u32),
    /// The agent was refused too often.
    #[error("the agent does not keep to the contract; `rejected` lists what was refused")]
    Misbehaves,
    /// Who answers does not hold the sandbox's secret.
    #[error("who answers is not the agent: it does not hold the sandbox's secret")]
    Impostor,
    /// The tenant's budget of memory is used up.
    #[error("the tenant's memory is used up, or the exporter's")]
    NoMemory,
    /// There are no random numbers.
    #[error("random numbers: {0}")]
    Nonce(io::Error),
    /// The agent's epoch cannot be counted.
    #[error("epoch refused: {0}")]
    Epoch(Rejection),
}

/// Inspects the frames of a sandbox's agent, counts those that it refuses, and charges all to the sandbox's tenant.
struct OfSandbox(Arc<Sandbox>);

impl Policy for OfSandbox {
    fn admit(&mut self, kind: u8, body: &[u8]) -> Admission {
        match inspect::frame(kind, body) {
            Ok(()) => Admission::Pass,
            Err(rejection) => {
                self.0.reject(rejection);
                if self.0.misbehaves() { Admission::End } else { Admission::Drop }
            }
        }
    }

    fn received(&mut self, bytes: usize) {
        self.0.spend_ingest(bytes);
    }

    fn wait(&mut self) -> Duration {
        self.0.budget.ingest_wait()
    }

    fn room(&self, bytes: usize) -> Pin<Box<dyn Future<Output = FrameRoom> + Send + Sync>> {
        Box::pin(self.0.budget.frame_room(bytes))
    }
}

/// Memory of one connection, bytes: its task and the guarded stream. As measured by
/// `cargo xtask bench exporter --histograms 1`.
const SESSION_BYTES: usize = 6 << 10;

/// Runs one connection, and counts what ends it because it cannot be decoded. Ends well when the agent closes it or the
/// sandbox has ended and was drained.
pub async fn run(
    fleet: &Fleet,
    sandbox: &Arc<Sandbox>,
    stream: Pin<Box<dyn ByteStream>>,
    idle: Duration,
    outlook: watch::Receiver<Outlook>,
) -> Result<(), SessionError> {
    let result = connection(fleet, sandbox, stream, idle, outlook).await;
    if let Err(SessionError::Call { call, source }) = &result {
        match source {
            CallError::Malformed(_) if *call == WATCH => sandbox.reject(Rejection::BatchMalformed),
            CallError::Malformed(_) | CallError::Inspected(_) => sandbox.reject(Rejection::ResponseMalformed),
            _ => {}
        }
    }
    result
}

async fn connection(
    fleet: &Fleet,
    sandbox: &Arc<Sandbox>,
    stream: Pin<Box<dyn ByteStream>>,
    idle: Duration,
    outlook: watch::Receiver<Outlook>,
) -> Result<(), SessionError> {
    if !sandbox.budget.resident.admits(SESSION_BYTES) {
        return Err(SessionError::NoMemory);
    }
    let mut charge = Charge::new(Arc::clone(&sandbox.budget));
    charge.set_resident(SESSION_BYTES);
    let stream = GuardedStream::new(stream, Box::new(OfSandbox(Arc::clone(sandbox))));
    let mut session = Session { fleet, sandbox, agent: Client::new(stream) };
    // The greeting needs more memory than what follows it for days, so that is in a block of its own.
    let (epoch, batches) = Box::pin(session.greet()).await?;
    sandbox.link.lock().connected();
    let mut received = Received::default();
    let result = session.follow(batches, epoch, &mut received, idle, outlook).await;
    fleet.own.batches_missing.inc_by(received.missing());
    result
}

/// One connection.
struct Session<'a> {
    fleet: &'a Fleet,
    sandbox: &'a Sandbox,
    agent: Client<dyn ByteStream>,
}

/// A question that waits for its answer.
#[derive(Clone, Copy)]
struct Asked {
    call: CallId,
    /// The host's clock before it was sent, nanoseconds.
    sent_unix_ns: u64,
    until: Clock,
}

impl Session<'_> {
    /// Takes batches until the stream ends, or until the sandbox has ended and its agent sends no more.
    async fn follow(
        &mut self,
        batches: CallId,
        epoch: u64,
        received: &mut Received,
        idle: Duration,
        mut outlook: watch::Receiver<Outlook>,
    ) -> Result<(), SessionError> {
        let mut drain_until = None;
        // Batches that come before its answer are taken meanwhile.
        let mut asked: Option<Asked> = None;
        // One that sends much gets the calls all the same: its memory, CPU time and limitations change.
        let mut ask_at = Clock::now() + idle;
        let mut silent_at = ask_at;
        loop {
            if self.sandbox.misbehaves() {
                return Err(SessionError::Misbehaves);
            }
            let now = Clock::now();
            if drain_until.is_some_and(|until| until <= now) {
                return Ok(());
            }
            if asked.is_some_and(|asked| asked.until <= now) {
                return Err(call_error(STATS)(CallError::Deadline));
            }
            // Silence is allowed while nothing changes; an agent that is alive answers.
            if asked.is_none() && drain_until.is_none() && now >= ask_at.min(silent_at) {
                ask_at = now + idle;
                let sent_unix_ns = unix_ns();
                let call = self.agent.ask(STATS, &agent::StatsRequest::default()).await;
                let call = call.map_err(call_error(STATS))?;
                asked = Some(Asked { call, sent_unix_ns, until: now + CALL_DEADLINE });
            }
            let wait = if drain_until.is_some() { now + DRAIN_SILENCE } else { ask_at.min(silent_at) };
            let deadline =
                [drain_until, asked.map(|asked| asked.until)].into_iter().flatten().fold(wait, Clock::min);
            let next = tokio::select! {
                next = timeout_at(deadline, self.agent.next()) => next,
                _ = outlook.wait_for(|outlook| *outlook == Outlook::Ended), if drain_until.is_none() => {
                    drain_until = Some(Clock::now() + DRAIN_AT_MOST);
                    continue;
                }
            };
            let Ok(next) = next else {
                if drain_until.is_some() {
                    return Ok(());
                }
                continue;
            };
            silent_at = Clock::now() + idle;
            let Some(frame) = next.map_err(CallError::from).map_err(call_error(WATCH))? else {
                return Ok(());
            };
            if let Some(answered) = asked.filter(|asked| asked.call.is_of(&frame)) {
                asked = None;
                let answer = client::answer(&frame).map_err(call_error(STATS))?;
                self.take_stats(&answer, answered.sent_unix_ns);
                received.moments.call_answered(self.fleet, self.sandbox);
            } else if !batches.is_of(&frame) {
                self.sandbox.reject(Rejection::FrameUnknown);
            } else if !self.take_frame(epoch, received, frame).await? {
                return Ok(());
            }
        }
    }

    /// Takes a frame of the stream of batches; false when it is the last.
    async fn take_frame(
        &self,
        epoch: u64,
        received: &mut Received,
        frame: Frame,
    ) -> Result<bool, SessionError> {
        if frame.kind != MESSAGE_TYPE_DATA {
            // What ends a stream before its time is an answer.
            return client::answer::<agent::Batch>(&frame).map(|_| false).map_err(call_error(WATCH));
        }
        let is_last = frame.flags & FLAG_REMOTE_CLOSED != 0;
        if frame.body().is_empty() || (is_last && frame.flags & FLAG_NO_DATA != 0) {
            return Ok(false);
        }
        let began = metering::thread_cpu_time();
        let batch = agent::Batch::parse_from_bytes(frame.body());
        take_batch(
            self.fleet,
            self.sandbox,
            epoch,
            received,
            batch.map_err(CallError::Malformed).map_err(call_error(WATCH))?,
        );
        let spent = metering::thread_cpu_time().saturating_sub(began);
        // Nothing is read from the agent meanwhile.
        tokio::time::sleep(self.sandbox.spend_cpu(spent)).await;
        Ok(!is_last)
    }

    async fn greet(&mut self) -> Result<(u64, CallId), SessionError> {
        let epoch = self.hello().await?;
        self.stats().await?;
        Ok((epoch, self.watch(epoch).await?))
    }

    async fn hello(&mut self) -> Result<u64, SessionError> {
        let secret = self.sandbox.record().and_then(|record| record.secret.clone());
        let challenge = Challenge::new().map_err(SessionError::Nonce)?;
        let request = challenge.request(env!("CARGO_PKG_VERSION"));
        let answer: agent::HelloResponse =
            self.agent.call("Hello", &request).await.map_err(call_error("Hello"))?;
        // Before anything that it sends is counted.
        if !secret.is_none_or(|secret| challenge.is_met(secret.bytes(), &answer)) {
            self.sandbox.link.lock().impostor = true;
            return Err(SessionError::Impostor);
        }
        if answer.version != CONTRACT_VERSION {
            return Err(SessionError::Version(answer.version));
        }
        self.sandbox.change(|accumulator| accumulator.begin_epoch(answer.epoch)).map_err(|rejection| {
            self.sandbox.reject(rejection);
            SessionError::Epoch(rejection)
        })?;
        let mut link = self.sandbox.link.lock();
        link.connections += 1;
        link.agent = Some(AboutAgent {
            version: intake::about_text(&answer.agent_version),
            kernel_release: intake::about_text(&answer.kernel_release),
            placement: Placement::from_wire(answer.placement),
            capture_mode: CaptureMode::from_wire(answer.capture_mode),
            capabilities: intake::about_texts(&answer.capabilities),
            limitations: Vec::new(),
            resident_bytes: 0,
            cpu_ns: 0,
            connections: 0,
            series: 0,
            load_ns: 0,
        });
        drop(link);
        self.sandbox.texts_changed();
        Ok(answer.epoch)
    }

    async fn stats(&mut self) -> Result<(), SessionError> {
        let sent_unix_ns = unix_ns();
        let answer = self.agent.call(STATS, &agent::StatsRequest::default()).await;
        self.take_stats(&answer.map_err(call_error(STATS))?, sent_unix_ns);
        Ok(())
    }

    fn take_stats(&self, answer: &agent::StatsResponse, sent_unix_ns: u64) {
        self.sandbox.clock.lock().measured(sent_unix_ns, answer.unix_ns, unix_ns());
        if let Some(counters) = answer.counters.as_ref() {
            let counters = AgentCounters::from_wire(counters);
            self.sandbox.change(|accumulator| accumulator.apply_counters(&counters));
            self.fleet.changed();
        }
        if let Some(about) = &mut self.sandbox.link.lock().agent {
            about.limitations = intake::about_texts(&answer.limitations);
            about.resident_bytes = answer.resident_bytes;
            about.cpu_ns = answer.cpu_ns;
            about.connections = answer.connections;
            about.series = answer.series;
            about.load_ns = answer.load_ns;
        }
        self.sandbox.texts_changed();
    }

    async fn watch(&mut self, epoch: u64) -> Result<CallId, SessionError> {
        let request = agent::WatchRequest {
            interval_ms: u32::try_from(WATCH_INTERVAL.as_millis()).unwrap_or(1_000),
            epoch,
            ..Default::default()
        };
        self.agent.open(WATCH, &request).await.map_err(call_error(WATCH))
    }
}

/// Methods of the contract.
const STATS: &str = "Stats";
const WATCH: &str = "Watch";

fn call_error(call: &'static str) -> impl Fn(CallError) -> SessionError {
    move |source| SessionError::Call { call, source }
}

/// What came over one `Watch`.
#[derive(Debug, Default)]
pub struct Received {
    /// Highest sequence number.
    sequence: u64,
    batches: u64,
    counters: AgentCounters,
    moments: Moments,
}

impl Received {
    /// Nothing that came over a `Watch`: batches of a time that is not known. Whatever of them goes backwards came too late.
    pub fn out_of_order() -> Self {
        Self { sequence: u64::MAX, ..Self::default() }
    }

    /// Batches that were sent, by their numbers, and did not come. A guest chooses the numbers, so they are bounded.
    fn missing(&self) -> u64 {
        self.sequence.saturating_sub(self.batches).min(MISSING_MAX)
    }
}

/// Counts a batch: what is good of it, series by series.
///
/// An agent on ttrpc's own server hands batches over by tasks, so they may overtake each other. Values are cumulative: a batch
/// that comes late reports what is known already or what no later batch reported; only in such a batch may values be smaller
/// than before.
pub fn take_batch(
    fleet: &Fleet,
    sandbox: &Sandbox,
    epoch: u64,
    received: &mut Received,
    batch: agent::Batch,
) {
    fleet.own.batches.inc();
    received.batches += 1;
    let late = batch.sequence < received.sequence;
    received.sequence = received.sequence.max(batch.sequence);
    {
        let mut link = sandbox.link.lock();
        link.batches += 1;
        link.last_batch = Some(Instant::now());
    }
    if let Err(rejection) = intake::check_batch(&batch, epoch) {
        sandbox.reject(rejection);
        tracing::debug!(sandbox = %sandbox.identity.sandbox_id, %rejection, "batch refused");
        return;
    }
    if let Some(wire) = batch.counters.as_ref() {
        let counters = AgentCounters::from_wire(wire);
        if !late && counters.went_backwards_since(&received.counters) {
            sandbox.reject(Rejection::CountersWentBackwards);
        }
        received.counters = counters.at_least(&received.counters);
        sandbox.change(|accumulator| accumulator.apply_counters(&counters));
    }
    let record = sandbox.record();
    let unknown = Containers::new();
    let containers = record.as_deref().map_or(&unknown, |record| &record.containers);
    received.moments.first_request(fleet, sandbox, &batch.series);
    let mut series = batch.series.into_iter();
    while series.len() > 0 {
        sandbox.change(|accumulator| {
            for wire in series.by_ref().take(SERIES_AT_ONCE) {
                take_series(fleet, sandbox, accumulator, containers, wire, late);
            }
        });
    }
    if !batch.resources.is_empty() {
        take_resources(sandbox, containers, batch.resources, late);
    }
    if let Some(milestones) = batch.milestones.as_ref() {
        received.moments.milestones(fleet, sandbox, milestones);
    }
    if !batch.dependencies.is_empty() {
        take_dependencies(sandbox, containers, batch.dependencies, late);
    }
    if !batch.spans.is_empty() {
        sandbox.change(|accumulator| take_spans(fleet, sandbox, accumulator, batch.spans));
    }
    fleet.changed();
}

fn take_series(
    fleet: &Fleet,
    sandbox: &Sandbox,
    accumulator: &mut Accumulator,
    containers: &Containers,
    wire: agent::Series,
    late: bool,
) {
    let id = wire.id;
    match intake::check_series(wire).and_then(|reported| accumulator.apply(reported, containers)) {
        Ok(outcome) => {
            fleet.own.series_updates.inc();
            if outcome == Outcome::Overflowed {
                fleet.own.series_updates_overflowed.inc();
            }
            if accumulator.is_unlisted(id) {
                fleet.own.series_updates_unlisted.inc();
            }
        }
        Err(Rejection::WentBackwards) if late => {}
        Err(rejection) => {
            sandbox.reject(rejection);
            tracing::trace!(sandbox = %sandbox.identity.sandbox_id, %rejection, "series refused");
        }
    }
}

fn take_resources(sandbox: &Sandbox, containers: &Containers, wire: Vec<agent::Resources>, late: bool) {
    let checked = wire
        .into_iter()
        .filter_map(|wire| intake::check_resources(wire).map_err(|rejection| sandbox.reject(rejection)).ok());
    let measured: Vec<_> = checked.collect();
    let refused = sandbox.resources.lock().apply(&measured, containers, late);
    if let Some(rejection) = refused {
        sandbox.reject(rejection);
    }
}

fn take_dependencies(sandbox: &Sandbox, containers: &Containers, wire: Vec<agent::Dependency>, late: bool) {
    let (mut dependencies, now) = (sandbox.dependencies.lock(), Instant::now());
    for wire in wire {
        let checked = intake::check_dependency(wire);
        if let Err(rejection) =
            checked.and_then(|reported| dependencies.apply(reported, containers, late, now))
        {
            sandbox.reject(rejection);
        }
    }
}

fn take_spans(fleet: &Fleet, sandbox: &Sandbox, accumulator: &Accumulator, spans: Vec<agent::Span>) {
    let (identity, record, now) = (Arc::clone(&sandbox.identity), sandbox.record(), unix_ns());
    let own = record.as_deref().map_or(&[][..], |record| &record.addresses);
    let unix_ms = now / 1_000_000;
    fleet.spans.expire(unix_ms);
    let last_end = spans.iter().map(|span| span.start_unix_ns.saturating_add(span.duration_ns)).max();
    let offset = sandbox.clock.lock().at_reception(last_end.unwrap_or_default(), now);
    for wire in spans {
        let known = accumulator.key_of(wire.series_id).ok_or(Rejection::SpanSeriesUnknown);
        match known.and_then(|known| Ok((known, intake::check_span(wire)?))) {
            Ok(((key, error), span)) => {
                let reception = Reception { unix_ms, offset, connection: Connection::of(&span, own) };
                fleet.spans.put(&identity, &sandbox.budget, key, error, span, reception);
            }
            Err(rejection) => sandbox.reject(rejection),
        }
    }
}
