//! The loop that empties the ring buffer.

use std::{sync::Arc, time::Duration};

use porthole_agent_api::agent;
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    probes::{ProbeError, Probes, Records},
    state::Shared,
    tracker::{Command, Event, Tracker},
    usage::{self, Brake},
};

/// How often the ring buffer is looked at without being woken: the kernel side wakes only when a good part of it is
/// full.
const LOOK: Duration = Duration::from_millis(100);

/// Records taken before the service gets its turn.
const RECORDS_AT_A_TIME: usize = 4096;

/// How often the kernel is asked what it lost while the ring buffer is being emptied.
const COUNT_EVERY: Duration = Duration::from_millis(2);

/// How often the kernel is asked for runs that it left out.
const SKIPPED_EVERY: Duration = Duration::from_secs(1);

/// How often connections are looked through for silent ones.
const IDLE_EVERY: Duration = Duration::from_secs(5);

/// In how many of these the kernel side's tables are compared.
const SWEEP_EVERY: u32 = 12;

/// The capture loop.
#[allow(missing_debug_implementations)]
pub struct Capture {
    probes: Probes,
    records: AsyncFd<Records>,
    tracker: Tracker,
    shared: Arc<Shared>,
    brake: Brake,
    /// What was said of the kernel and configuration at the start.
    limitations: Vec<String>,
    paused_until: Option<Instant>,
    idle_at: Instant,
    skipped_at: Instant,
    /// How often that was done.
    idles: u32,
    /// Connections that the kernel side followed and that made room there for newer ones.
    swept: u64,
    counted_at: Instant,
}

impl Capture {
    /// A loop over these probes' records.
    pub fn new(
        probes: Probes,
        records: AsyncFd<Records>,
        shared: Arc<Shared>,
        brake: Brake,
        limitations: Vec<String>,
    ) -> Self {
        let unix_offset_ns = usage::unix_ns().saturating_sub(usage::monotonic_ns());
        let mut tracker = Tracker::new(unix_offset_ns);
        tracker.set_offers(probes.counts());
        shared.lock().limitations.clone_from(&limitations);
        Self {
            probes,
            records,
            tracker,
            shared,
            brake,
            limitations,
            paused_until: None,
            idle_at: Instant::now() + IDLE_EVERY,
            skipped_at: Instant::now(),
            idles: 0,
            swept: 0,
            counted_at: Instant::now(),
        }
    }

    /// Sets the route templates that win over what is found by looking at the traffic.
    pub fn set_route_templates(&mut self, templates: &[String]) -> Result<(), porthole_l7::TemplateError> {
        self.tracker.set_route_templates(templates)
    }

    /// Reads until it is dropped.
    pub async fn run(mut self) -> Result<(), ProbeError> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let woken = tokio::select! {
                ready = self.records.readable_mut() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    true
                }
                _ = look.tick() => false,
            };
            while self.drain() {
                tokio::task::yield_now().await;
            }
            if !woken {
                self.tick()?;
            }
        }
    }

    /// Takes what is in the ring buffer; true when there may be more.
    fn drain(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let records = self.records.get_mut();
        let mut taken = 0;
        while taken < RECORDS_AT_A_TIME
            && let Some(record) = records.next()
        {
            taken += 1;
            if let Event::ContainerExit(id) = self.tracker.record(&record, &mut state.series) {
                self.tracker.harvest(self.probes.slots(), &mut state.series);
                state.container_exited(id);
            }
        }
        self.tracker.settle(usage::monotonic_ns(), &mut state.series);
        self.tracker.harvest(self.probes.slots(), &mut state.series);
        self.fill_counters(&mut state.counters);
        let more = taken == RECORDS_AT_A_TIME;
        // What was lost before the records just taken: a batch must not claim more than came. While there are more to
        // come, now and then is enough.
        let now = Instant::now();
        if (!more || now >= self.counted_at + COUNT_EVERY)
            && let Ok(kernel) = self.probes.counters()
        {
            self.counted_at = now;
            state.counters.events_lost = events_lost(&kernel, self.tracker.counts().malformed);
        }
        state.counters.folded += state.series.folded();
        state.counters.not_understood += state.series.dropped();
        state.counters.spans_dropped = state.series.spans.dropped();
        state.counters.exchanges = state.series.recorded();
        let signal = state.signal();
        drop(state);
        self.tracker.offer(more);
        for command in self.tracker.take_commands() {
            self.obey(command);
        }
        if let Err(error) = self.probes.set_offers(self.tracker.has_offered()) {
            tracing::debug!(%error, "telling the probes of offers");
        }
        self.shared.publish(signal);
        more
    }

    fn obey(&mut self, command: Command) {
        let done = match command {
            Command::Follow(connection) => self.probes.decide(connection, true),
            Command::Ignore(connection) => self.probes.decide(connection, false),
            Command::Forget(connection) => {
                self.probes.forget(connection);
                Ok(())
            }
            Command::Name(hash) => self.probes.name(hash, true),
            Command::Unname(hash) => self.probes.name(hash, false),
            Command::Learn { place, entry } => self.probes.learn(place, entry),
            Command::Request { key, place } => self.probes.request(key, place),
            Command::Statement { key, request } => self.probes.statement(key, request),
            Command::Offer { connection, offer } => self.probes.offer(connection, &offer),
            Command::Evict { socket, connection } => {
                self.probes.evict(socket, connection);
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "telling the probes");
        }
    }

    /// What is known without asking the kernel.
    fn fill_counters(&self, counters: &mut agent::Counters) {
        let (counts, tally) = (self.tracker.counts(), self.tracker.engine().tally());
        counters.events_captured = counts.records;
        counters.bytes_copied = counts.bytes;
        counters.connections_ignored = counts.ignored;
        counters.messages_seen = tally.messages_seen;
        counters.not_understood = tally.not_understood;
        counters.folded = tally.folded;
    }

    /// Once every [`LOOK`].
    fn tick(&mut self) -> Result<(), ProbeError> {
        let now = Instant::now();
        if now >= self.skipped_at {
            self.skipped_at = now + SKIPPED_EVERY;
            self.probes.count_skipped();
        }
        let kernel = self.probes.counters()?;
        let counts = self.tracker.counts();
        let mut state = self.shared.lock();
        state.counters.events_lost = events_lost(&kernel, counts.malformed);
        // Those that it took had been seen before.
        state.counters.connections_seen =
            (counts.connections + kernel.offloaded).saturating_sub(counts.taken);
        state.connections = self.tracker.connections() as u64
            + kernel.offloaded.saturating_sub(kernel.offloaded_ended + self.swept);
        if now >= self.idle_at {
            self.idle_at = now + IDLE_EVERY;
            self.idles += 1;
            if self.idles.is_multiple_of(SWEEP_EVERY) {
                self.swept += self.probes.sweep();
            }
            self.probes.log_runs();
            tracing::debug!(?kernel, ?counts, exchanges = state.counters.exchanges, "so far");
            let now_ns = usage::monotonic_ns();
            self.tracker.idle(now_ns, &mut state.series);
            self.tracker.reclaim_keys(now_ns, |key| self.probes.unrequest(key).is_ok());
            state.limitations.clone_from(&self.limitations);
            state.limitations.extend(observed_limitations(
                &kernel,
                counts.evicted + self.swept,
                self.brake.pauses(),
            ));
        }
        let signal = state.signal();
        drop(state);
        self.shared.publish(signal);
        self.apply_brake(now)
    }

    fn apply_brake(&mut self, now: Instant) -> Result<(), ProbeError> {
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            self.probes.pause(false)?;
        }
        let uptime = Duration::from_nanos(usage::monotonic_ns());
        if let Some(pause) = self.brake.check(uptime, usage::cpu_time()) {
            tracing::warn!(?pause, "took more than its share of CPU: capture pauses");
            self.paused_until = Some(now + pause);
            self.probes.pause(true)?;
        }
        Ok(())
    }
}

/// Every reason for which bytes of a connection that might have been understood did not come.
fn events_lost(kernel: &porthole_bpf_types::record::Counters, malformed: u64) -> u64 {
    kernel.lost + kernel.exhausted + kernel.table_full + kernel.skipped + malformed
}

/// Limitations that only showed while running.
fn observed_limitations(
    kernel: &porthole_bpf_types::record::Counters,
    evicted: u64,
    pauses: u64,
) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            sentences.push(format!("{count} {what}"));
        }
    };
    say(kernel.compat, "socket calls of 32-bit programs were not looked at");
    say(kernel.unreadable, "calls moved bytes in memory that could not be read");
    say(kernel.skipped, "calls ended while their CPU was in the middle of another, and were not looked at");
    say(kernel.beyond, "messages of large sendmmsg or recvmmsg calls were not looked at");
    say(kernel.exhausted, "calls came before it was decided what their connection speaks, too many to keep");
    say(evicted, "connections made room for newer ones");
    say(pauses, "times capture paused because the agent took more than its share of CPU");
    sentences
}
