//! Capture: which programs run in the kernel, and the loop that reads their records.
//!
//! ```text
//! ring buffer ──► CaptureLoop ──► EventSource: syscalls, or packets ──► State
//!                     └─ every 100 ms: the kernel's counts, the CPU limit; every 2 s: resources; every 5 s: what is idle
//! ```
//!
//! - [`event_source`] is what both have in common, as far as the loop is concerned.
//! - [`cpu_limiter`] pauses the programs when the agent takes more than its share of a CPU.

pub mod cpu_limiter;
pub mod event_source;
pub mod parsed;

use std::{sync::Arc, time::Duration};

use tokio::{
    io::unix::AsyncFd,
    time::{Instant, MissedTickBehavior, interval},
};

use self::{cpu_limiter::CpuLimiter, event_source::EventSource};
use crate::{
    kernel::{ProbeError, Records},
    report::{
        epochs::Epoch,
        state::{Shared, State},
    },
    resources::{SAMPLE_INTERVAL, Sampler},
    usage,
};

/// How often the ring buffer is read without being woken: the programs wake the agent only when a good part of it is full.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often connections are searched for idle ones.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// Records taken before the service gets its turn.
const BATCH_RECORDS_MAX: usize = 4096;

/// The capture loop.
#[allow(missing_debug_implementations)]
pub struct CaptureLoop {
    records: AsyncFd<Records>,
    source: Box<dyn EventSource>,
    shared: Arc<Shared>,
    limiter: CpuLimiter,
    /// What is known of kernel and configuration from the start.
    limitations: Vec<String>,
    paused_until: Option<Instant>,
    idle_at: Instant,
    resources: Option<Resources>,
}

/// What measures resources, and when it did last.
struct Resources {
    sampler: Sampler,
    sample_at: Instant,
    /// Containers that had exited then.
    exits: u64,
}

impl CaptureLoop {
    /// A loop over these records.
    pub fn new(
        records: AsyncFd<Records>,
        source: Box<dyn EventSource>,
        shared: Arc<Shared>,
        limiter: CpuLimiter,
        limitations: Vec<String>,
    ) -> Self {
        let mut state = shared.lock();
        state.limitations.clone_from(&limitations);
        state.recorder.set_unix_offset(usage::unix_offset_ns());
        drop(state);
        let idle_at = Instant::now() + IDLE_INTERVAL;
        Self { records, source, shared, limiter, limitations, paused_until: None, idle_at, resources: None }
    }

    /// Measures resources as well, from now on.
    pub fn measure(&mut self, sampler: Sampler) {
        self.resources = Some(Resources { sampler, sample_at: Instant::now(), exits: 0 });
    }

    /// Takes what is there, for the last time.
    pub fn finish(&mut self) {
        self.shared.lock().end();
        while self.read_batch() {}
        if let Some(resources) = &mut self.resources {
            resources.sample_at = Instant::now();
        }
        let mut state = self.shared.lock();
        state.recorder.spans.release_all();
        measure(&mut self.resources, &mut state, true);
        let signal = state.signal();
        drop(state);
        self.shared.publish(signal);
    }

    /// Reads until the future is dropped.
    pub async fn run(&mut self) -> Result<(), ProbeError> {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let woken = tokio::select! {
                ready = self.records.readable_mut() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    true
                }
                _ = poll.tick() => false,
            };
            while self.read_batch() {
                tokio::task::yield_now().await;
            }
            if !woken {
                self.poll()?;
            }
        }
    }

    /// Takes what is in the ring buffer; true when there may be more.
    fn read_batch(&mut self) -> bool {
        let mut state = self.shared.lock();
        let records = self.records.get_mut();
        let mut taken = 0;
        while taken < BATCH_RECORDS_MAX
            && let Some(record) = records.next()
        {
            taken += 1;
            self.source.record(&record, &mut state);
        }
        let more = taken == BATCH_RECORDS_MAX;
        self.source.end_batch(more, &mut state);
        count_series(&mut state);
        // The control group of a container that has exited is there for a moment only.
        measure(&mut self.resources, &mut state, false);
        let signal = state.signal();
        drop(state);
        self.source.apply_commands(more);
        self.shared.publish(signal);
        more
    }

    /// Once every [`POLL_INTERVAL`].
    fn poll(&mut self) -> Result<(), ProbeError> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        self.source.poll(&mut state)?;
        if now >= self.idle_at {
            self.idle_at = now + IDLE_INTERVAL;
            state.recorder.set_unix_offset(usage::unix_offset_ns());
            let now_ns = usage::monotonic_ns();
            self.source.idle(now_ns, &mut state);
            if state.wants_epoch(now_ns) {
                self.source.end_batch(false, &mut state);
                count_series(&mut state);
                self.source.series_renewed(state.begin_epoch(Epoch::beginning_at(usage::unix_ns()), now_ns));
                tracing::info!("many series are not used: another epoch begins");
            }
            let left_out = self.resources.as_ref().map_or(0, |resources| resources.sampler.left_out());
            let observed = self.source.observed_limitations().into_iter().chain([
                (
                    self.limiter.pauses(),
                    "times capture paused because the agent took more than its share of CPU",
                ),
                (left_out, "containers were not measured: there are more than the agent measures"),
                (
                    state.recorder.dependencies.overflowed(),
                    "connections went to more addresses than are told apart, and count under `other`",
                ),
                (
                    state.recorder.dependencies.dropped(),
                    "connections went to more addresses than are told apart, and are not counted",
                ),
            ]);
            let observed =
                observed.filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
            state.limitations = self.limitations.iter().cloned().chain(observed).collect();
        }
        // Values that no host gets are not measured.
        measure(&mut self.resources, &mut state, self.shared.is_watched());
        let signal = state.signal();
        drop(state);
        self.shared.publish(signal);
        self.limit_cpu(now)
    }

    fn limit_cpu(&mut self, now: Instant) -> Result<(), ProbeError> {
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            self.source.pause(false)?;
        }
        let uptime = Duration::from_nanos(usage::monotonic_ns());
        if let Some(pause) = self.limiter.check(uptime, usage::cpu_time()) {
            tracing::warn!(?pause, "took more than its share of CPU: capture pauses");
            self.paused_until = Some(now + pause);
            self.source.pause(true)?;
        }
        Ok(())
    }
}

/// Measures resources when a container has exited, and where they are wanted when it is time.
fn measure(resources: &mut Option<Resources>, state: &mut State, wanted: bool) {
    let Some(Resources { sampler, sample_at, exits }) = resources else { return };
    let exited = state.exits_after(*exits);
    let now = Instant::now();
    if exited.is_empty() && !(wanted && now >= *sample_at) {
        return;
    }
    *exits = state.signal().exits;
    *sample_at = now + SAMPLE_INTERVAL;
    let resources = sampler.sample(&exited);
    // The guest itself is the first.
    if resources.len() > 1 {
        state.milestones.find_process(sampler.proc());
    }
    state.measured(resources);
}

/// What the series themselves count.
fn count_series(state: &mut State) {
    let State { recorder, counters, .. } = state;
    counters.overflowed = recorder.series.overflowed();
    counters.unparsed += recorder.series.dropped();
    counters.spans_dropped = recorder.spans.dropped();
    counters.exchanges = recorder.series.recorded();
    counters.bytes_accounted = recorder.series.bytes();
}
