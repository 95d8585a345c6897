//! The programs on system calls and the tracker, as the capture loop uses them.

use tokio::time::{Duration, Instant};

use porthole_agent_api::agent;
use porthole_bpf_types::record;

use super::tracker::{Event, Tracker};
use crate::{
    capture::{event_source::EventSource, parsed},
    kernel::{ProbeError, probes::Probes},
    recorder::SeriesTable,
    report::state::State,
    usage,
};

/// How often the number of lost records is read while the ring buffer is being emptied.
const LOST_INTERVAL: Duration = Duration::from_millis(2);

/// How often the number of skipped runs is read.
const SKIPPED_INTERVAL: Duration = Duration::from_secs(1);

/// In how many calls of [`EventSource::idle`] the kernel's tables are compared once.
const SWEEP_EVERY: u32 = 12;

/// The programs on system calls, and the tracker of their records.
#[allow(missing_debug_implementations)]
pub struct SyscallSource {
    probes: Probes,
    tracker: Tracker,
    /// The kernel's counts at the last reading.
    kernel: record::Counters,
    skipped_at: Instant,
    lost_at: Instant,
    idles: u32,
    /// Connections that the programs followed and that made room in their table for newer ones.
    swept: u64,
}

impl SyscallSource {
    /// A source of these programs' records.
    pub fn new(mut probes: Probes, mut tracker: Tracker) -> Self {
        tracker.set_offers(probes.offloads());
        if let Some(places) = probes.take_places() {
            tracker.set_places(places);
        }
        Self {
            probes,
            tracker,
            kernel: record::Counters::default(),
            skipped_at: Instant::now(),
            lost_at: Instant::now(),
            idles: 0,
            swept: 0,
        }
    }

    /// What is known without a call to the kernel.
    fn fill_counters(&self, counters: &mut agent::Counters) {
        let counts = self.tracker.counts();
        counters.events_captured = counts.records;
        counters.bytes_copied = counts.bytes;
        counters.connections_ignored = counts.ignored;
        parsed::fill(counters, self.tracker.context());
    }

    /// Every reason for which bytes of a connection that might have been understood did not come.
    fn events_lost(&self) -> u64 {
        let kernel = &self.kernel;
        let counts = self.tracker.counts();
        let in_kernel = kernel.lost + kernel.exhausted + kernel.table_full + kernel.skipped;
        in_kernel + counts.malformed + counts.late
    }
}

impl EventSource for SyscallSource {
    fn record(&mut self, record: &[u8], state: &mut State) {
        match self.tracker.record(record, &mut state.recorder) {
            Event::None => {}
            Event::ContainerExit(id, made) => {
                if let Some(made) = made {
                    state.milestones.process_made(made);
                }
                self.tracker.harvest(self.probes.slots(), &mut state.recorder);
                state.container_exited(id);
            }
            Event::Listen(at) => state.milestones.listens(at.0),
        }
    }

    fn end_batch(&mut self, more: bool, state: &mut State) {
        self.tracker.skip_missing(usage::monotonic_ns(), &mut state.recorder);
        self.tracker.harvest(self.probes.slots(), &mut state.recorder);
        self.fill_counters(&mut state.counters);
        // What was lost before the records just taken: a batch must not claim more than came. While there are more to
        // come, now and then is enough.
        let now = Instant::now();
        if (!more || now >= self.lost_at + LOST_INTERVAL)
            && let Ok(kernel) = self.probes.counters()
        {
            self.lost_at = now;
            self.kernel = kernel;
            state.counters.events_lost = self.events_lost();
        }
    }

    fn apply_commands(&mut self, more: bool) {
        self.tracker.offer(more);
        for command in self.tracker.take_commands() {
            if let Err(error) = self.probes.apply(command) {
                tracing::debug!(%error, ?command, "a command failed");
            }
        }
        if let Err(error) = self.probes.set_offers(self.tracker.has_offered()) {
            tracing::debug!(%error, "setting whether there are offers failed");
        }
    }

    fn poll(&mut self, state: &mut State) -> Result<(), ProbeError> {
        let now = Instant::now();
        if now >= self.skipped_at {
            self.skipped_at = now + SKIPPED_INTERVAL;
            self.probes.count_skipped();
        }
        self.kernel = self.probes.counters()?;
        let (kernel, counts) = (&self.kernel, self.tracker.counts());
        state.counters.events_lost = self.events_lost();
        // Those whose offer the programs accepted had been seen before.
        state.counters.connections_seen =
            (counts.connections + kernel.offloaded).saturating_sub(counts.accepted);
        state.connections = self.tracker.connections() as u64
            + kernel.offloaded.saturating_sub(kernel.offloaded_ended + self.swept);
        Ok(())
    }

    fn idle(&mut self, now_ns: u64, state: &mut State) {
        self.idles = self.idles.wrapping_add(1);
        if self.idles.is_multiple_of(SWEEP_EVERY) {
            self.swept += self.probes.sweep();
        }
        self.probes.log_runs();
        let (kernel, counts) = (&self.kernel, self.tracker.counts());
        tracing::debug!(?kernel, ?counts, exchanges = state.counters.exchanges, "so far");
        self.tracker.idle(now_ns, &mut state.recorder);
        self.tracker.reclaim_keys(now_ns, |key| self.probes.forget_key(key).is_ok());
    }

    fn series_renewed(&mut self, before: &SeriesTable) {
        self.tracker.series_renewed(before);
    }

    fn observed_limitations(&self) -> Vec<(u64, &'static str)> {
        let kernel = &self.kernel;
        let mut limitations = vec![
            (kernel.compat, "socket calls of 32-bit programs were not looked at"),
            (kernel.unreadable, "calls moved bytes in memory that could not be read"),
            (
                kernel.skipped,
                "calls ended while their CPU was in the middle of another, and were not looked at",
            ),
            (kernel.beyond_limit, "bytes of very large calls were not looked at"),
            (
                kernel.exhausted,
                "calls came before the protocol of their connection was detected, too many to keep",
            ),
            (self.swept, "connections that were aggregated in the kernel made room for newer ones"),
        ];
        limitations.extend(self.tracker.bounds_met());
        limitations
    }

    fn pause(&mut self, paused: bool) -> Result<(), ProbeError> {
        self.probes.pause(paused)
    }
}
