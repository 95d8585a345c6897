//! Capture: which programs run in the kernel, and the loop that reads their records.
//!
//! ```text
//! ring buffer ──► CaptureLoop ──► EventSource: syscalls, or packets ──► State
//!                     └─ every 100 ms: the kernel's counts, the CPU limit; every 5 s: what is idle
//! ```
//!
//! - [`event_source`] is what both have in common, as far as the loop is concerned.
//! - [`cpu_limiter`] pauses the programs when the agent takes more than its share of a CPU.

pub mod cpu_limiter;
pub mod event_source;

use std::{sync::Arc, time::Duration};

use tokio::{
    io::unix::AsyncFd,
    time::{Instant, MissedTickBehavior, interval},
};

use self::{cpu_limiter::CpuLimiter, event_source::EventSource};
use crate::{
    kernel::{ProbeError, Records},
    report::state::{Shared, State},
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
        Self { records, source, shared, limiter, limitations, paused_until: None, idle_at }
    }

    /// Takes what is there, for the last time.
    pub fn finish(&mut self) {
        self.shared.lock().end();
        while self.read_batch() {}
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
            self.source.idle(usage::monotonic_ns(), &mut state);
            let pauses = (
                self.limiter.pauses(),
                "times capture paused because the agent took more than its share of CPU",
            );
            let observed = self.source.observed_limitations().into_iter().chain([pauses]);
            let observed =
                observed.filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
            state.limitations = self.limitations.iter().cloned().chain(observed).collect();
        }
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

/// What the series themselves count.
fn count_series(state: &mut State) {
    let State { recorder, counters, .. } = state;
    counters.folded += recorder.series.overflowed();
    counters.not_understood += recorder.series.dropped();
    counters.spans_dropped = recorder.spans.dropped();
    counters.exchanges = recorder.series.recorded();
}
