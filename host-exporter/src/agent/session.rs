//! One connection to an agent: Hello, Stats, Watch, until it ends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::OptionFuture;
use porthole_agent_api::{
    agent, agent_ttrpc::AgentClient, limits::CALL_DEADLINE, limits::CONTRACT_VERSION, limits::WATCH_INTERVAL,
    proof,
};
use porthole_registry::AgentSecret;
use tokio::{
    sync::watch,
    time::{Instant as Clock, timeout, timeout_at},
};
use ttrpc::r#async::{Client, ClientStreamReceiver, transport::Socket};

use super::{
    dial::ByteStream,
    guarded::{Admission, Control, GuardedStream, Inspect},
    inspect,
};
use crate::{
    accumulate::{counters::AgentCounters, sandbox::Outcome},
    clock::unix_ms,
    fleet::{Fleet, link::AboutAgent, sandbox::Sandbox},
    intake, metering,
    protocol::CaptureMode,
    rejection::Rejection,
};

/// How long the exporter still listens to an agent whose sandbox has ended, at most.
const DRAIN_AT_MOST: Duration = Duration::from_secs(5);

/// Silence after which an agent whose sandbox has ended has nothing more to say.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

/// Most batches that are counted as missing for one connection.
const MISSING_MAX: u64 = 1_000_000;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An answer did not come in time.
    #[error("{0} was not answered within {CALL_DEADLINE:?}")]
    Deadline(&'static str),
    /// ttrpc or the agent refused.
    #[error("{call}: {source}")]
    Call {
        /// What was asked.
        call: &'static str,
        /// What came of it.
        source: ttrpc::Error,
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
    /// There are no random numbers.
    #[error("random numbers: {0}")]
    Nonce(io::Error),
    /// The agent's epoch cannot be counted.
    #[error("epoch refused: {0}")]
    Epoch(Rejection),
}

/// Inspects the frames of a sandbox's agent and counts those that it refuses.
struct Inspector(Arc<Sandbox>);

impl Inspect for Inspector {
    fn admit(&mut self, kind: u8, body: &[u8]) -> Admission {
        match inspect::frame(kind, body) {
            Ok(()) => Admission::Pass,
            Err(rejection) => {
                self.0.reject(rejection);
                if self.0.misbehaves() { Admission::End } else { Admission::Drop }
            }
        }
    }
}

/// A number that no other connection has had.
fn nonce() -> io::Result<[u8; proof::NONCE_BYTES]> {
    let mut nonce = [0; proof::NONCE_BYTES];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut nonce)?;
    Ok(nonce)
}

/// Runs one connection. Ends well when the agent closes it or the sandbox has ended and was drained.
pub async fn run(
    fleet: &Fleet,
    sandbox: &Arc<Sandbox>,
    stream: Pin<Box<dyn ByteStream>>,
    idle: Duration,
    ended: watch::Receiver<bool>,
) -> Result<(), SessionError> {
    let (guarded, control) = GuardedStream::new(stream, Box::new(Inspector(Arc::clone(sandbox))));
    let agent = AgentClient::new(Client::new(Socket::new(guarded)));
    let session = Session { fleet, sandbox, agent, control };
    let epoch = session.hello().await?;
    session.stats().await?;
    let mut batches = session.watch().await?;
    sandbox.link.lock().connected();
    let mut received = Received::default();
    let result = session.follow(&mut batches, epoch, &mut received, idle, ended).await;
    fleet.own.batches_missing.inc_by(received.missing());
    result
}

/// One connection.
struct Session<'a> {
    fleet: &'a Fleet,
    sandbox: &'a Sandbox,
    agent: AgentClient,
    /// Closes the connection when it goes, whatever ttrpc's tasks do.
    control: Control,
}

impl Session<'_> {
    /// Takes batches until the stream ends, or until the sandbox has ended and its agent has no more to say.
    async fn follow(
        &self,
        batches: &mut ClientStreamReceiver<agent::Batch>,
        epoch: u64,
        received: &mut Received,
        idle: Duration,
        mut ended: watch::Receiver<bool>,
    ) -> Result<(), SessionError> {
        let mut drain_until = None;
        // A question that waits for its answer; batches that come before the answer are taken meanwhile.
        let mut asking = None;
        // One that has much to say is asked all the same: its memory, CPU time and limitations change.
        let mut ask_at = Clock::now() + idle;
        loop {
            if self.sandbox.misbehaves() {
                return Err(SessionError::Misbehaves);
            }
            if asking.is_none() && drain_until.is_none() && Clock::now() >= ask_at {
                ask_at = Clock::now() + idle;
                asking = Some(Box::pin(self.stats()));
            }
            let wait = Clock::now() + if drain_until.is_some() { DRAIN_SILENCE } else { idle };
            let deadline = drain_until.map_or(wait, |until: Clock| until.min(wait));
            let next = tokio::select! {
                next = timeout_at(deadline, batches.recv()) => next,
                _ = ended.wait_for(|ended| *ended), if drain_until.is_none() => {
                    drain_until = Some(Clock::now() + DRAIN_AT_MOST);
                    continue;
                }
                Some(answer) = OptionFuture::from(asking.as_mut()) => {
                    answer?;
                    asking = None;
                    continue;
                }
            };
            match next {
                // The end of the stream comes as an empty message.
                Ok(Ok(Some(batch))) if batch == agent::Batch::default() => return Ok(()),
                Ok(Ok(Some(batch))) => {
                    let began = metering::thread_cpu_time();
                    take_batch(self.fleet, self.sandbox, epoch, received, batch);
                    let spent = metering::thread_cpu_time().saturating_sub(began);
                    // Nothing is read from the agent meanwhile.
                    tokio::time::sleep(self.sandbox.spend_cpu(spent)).await;
                    self.control.release();
                }
                Ok(
                    Ok(None)
                    | Err(ttrpc::Error::Eof | ttrpc::Error::RemoteClosed | ttrpc::Error::LocalClosed),
                ) => return Ok(()),
                Ok(Err(source)) => {
                    return Err(SessionError::Call { call: "Watch", source: shortened(source) });
                }
                Err(_) if drain_until.is_some() => return Ok(()),
                // Silence is allowed while nothing changes; an agent that is alive answers.
                Err(_) if asking.is_none() => asking = Some(Box::pin(self.stats())),
                // The question has a deadline of its own.
                Err(_) => {}
            }
            if drain_until.is_some_and(|until| until <= Clock::now()) {
                return Ok(());
            }
        }
    }

    async fn hello(&self) -> Result<u64, SessionError> {
        let secret = self.sandbox.record().and_then(|record| record.secret.clone());
        let host_nonce = nonce().map_err(SessionError::Nonce)?;
        let request = agent::HelloRequest {
            host_nonce: host_nonce.to_vec(),
            version_min: CONTRACT_VERSION,
            version_max: CONTRACT_VERSION,
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        let context = ttrpc::context::with_duration(CALL_DEADLINE);
        let answer = within("Hello", self.agent.hello(context, &request)).await?;
        self.control.release();
        // Before anything that it says is taken.
        let is_proven = |secret: &AgentSecret| {
            proof::is_proven(secret.bytes(), &host_nonce, &answer.agent_nonce, &answer.proof)
        };
        if !secret.as_ref().is_none_or(is_proven) {
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
            capture_mode: CaptureMode::from_wire(answer.capture_mode),
            capabilities: intake::about_texts(&answer.capabilities),
            limitations: Vec::new(),
            resident_bytes: 0,
            cpu_ns: 0,
            connections: 0,
            series: 0,
            load_ns: 0,
        });
        Ok(answer.epoch)
    }

    async fn stats(&self) -> Result<(), SessionError> {
        let context = ttrpc::context::with_duration(CALL_DEADLINE);
        let answer = within("Stats", self.agent.stats(context, &agent::StatsRequest::default())).await?;
        self.control.release();
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
        Ok(())
    }

    async fn watch(&self) -> Result<ClientStreamReceiver<agent::Batch>, SessionError> {
        let request = agent::WatchRequest {
            interval_ms: u32::try_from(WATCH_INTERVAL.as_millis()).unwrap_or(1_000),
            ..Default::default()
        };
        within("Watch", self.agent.watch(ttrpc::context::Context::default(), &request)).await
    }
}

async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = ttrpc::Result<T>>,
) -> Result<T, SessionError> {
    timeout(CALL_DEADLINE, answer)
        .await
        .map_err(|_| SessionError::Deadline(call))?
        .map_err(|source| SessionError::Call { call, source: shortened(source) })
}

/// An error as it is kept: what a guest says of it is cut to size.
fn shortened(error: ttrpc::Error) -> ttrpc::Error {
    match error {
        ttrpc::Error::RpcStatus(status) => {
            let code = protobuf::Enum::from_i32(status.code.value()).unwrap_or(ttrpc::Code::UNKNOWN);
            ttrpc::Error::RpcStatus(ttrpc::get_status(code, intake::about_text(&status.message)))
        }
        ttrpc::Error::Others(text) => ttrpc::Error::Others(intake::about_text(&text)),
        other => other,
    }
}

/// What came over one `Watch`.
#[derive(Debug, Default)]
pub struct Received {
    /// Highest sequence number.
    sequence: u64,
    batches: u64,
    counters: AgentCounters,
}

impl Received {
    /// Batches that were sent, by their numbers, and did not come. A guest can lie; not without bound.
    fn missing(&self) -> u64 {
        self.sequence.saturating_sub(self.batches).min(MISSING_MAX)
    }
}

/// Counts a batch: what is good of it, series by series.
///
/// ttrpc hands messages over by tasks of their own, so batches may overtake each other. Values are cumulative: a batch
/// that comes late reports what is known already or what no later batch reported, and only its going backwards is no lie.
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
    let containers: Arc<_> = sandbox.containers();
    let mut accumulator = sandbox.accumulator.lock();
    for wire in batch.series {
        let id = wire.id;
        let taken = intake::check_series(wire).and_then(|reported| accumulator.apply(reported, &containers));
        match taken {
            Ok(outcome) => {
                fleet.own.series_updates.inc();
                if outcome == Outcome::Folded {
                    fleet.own.series_updates_folded.inc();
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
    if !batch.spans.is_empty() {
        let (identity, now) = (Arc::new(sandbox.identity.clone()), unix_ms());
        fleet.spans.expire(now);
        for wire in batch.spans {
            let known = accumulator.key_of(wire.series_id).ok_or(Rejection::SpanSeriesUnknown);
            match known.and_then(|known| Ok((known, intake::check_span(wire)?))) {
                Ok(((key, error), span)) => fleet.spans.put(&identity, key, error, span, now),
                Err(rejection) => sandbox.reject(rejection),
            }
        }
    }
    // Under the lock, so that whoever reads the new values sees that they are new.
    sandbox.changed();
    drop(accumulator);
    fleet.changed();
}
