//! The loop that empties the ring buffer in packet mode.

use std::{sync::Arc, time::Duration};

use porthole_agent_api::agent;
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, MissedTickBehavior, interval},
};

use super::flows::Flows;
use crate::{
    probes::{ProbeError, Records, packets::PacketProbes},
    state::Shared,
    usage::{self, Brake},
};

/// How often the ring buffer is looked at without being woken: the kernel side wakes only when a good part of it is
/// full.
const LOOK: Duration = Duration::from_millis(100);

/// Records taken before the service gets its turn.
const RECORDS_AT_A_TIME: usize = 4096;

/// How often flows are looked through for silent ones.
const IDLE_EVERY: Duration = Duration::from_secs(5);

/// What packets do not tell, one sentence each.
const LIMITATIONS: [&str; 3] = [
    "Connections over unix-domain sockets are not seen: they have no packets.",
    "Packets do not tell which process sent them, nor when a container's last process ends: what it did in its last \
     second may be missing.",
    "Durations are between packets: what a message waits for before it is sent, or after it was received, is not in them.",
];

/// The capture loop.
#[allow(missing_debug_implementations)]
pub struct PacketCapture {
    probes: PacketProbes,
    records: AsyncFd<Records>,
    flows: Flows,
    shared: Arc<Shared>,
    brake: Brake,
    /// What was said of the kernel and configuration at the start.
    limitations: Vec<String>,
    paused_until: Option<Instant>,
    idle_at: Instant,
}

impl PacketCapture {
    /// A loop over these probes' records; `why` this mode was taken.
    pub fn new(
        probes: PacketProbes,
        records: AsyncFd<Records>,
        flows: Flows,
        shared: Arc<Shared>,
        brake: Brake,
        why: Option<String>,
    ) -> Self {
        let why = why.map(|why| format!("Packets are looked at, because system calls cannot be: {why}."));
        let limitations: Vec<String> = why.into_iter().chain(LIMITATIONS.map(str::to_owned)).collect();
        shared.lock().limitations.clone_from(&limitations);
        let idle_at = Instant::now() + IDLE_EVERY;
        Self { probes, records, flows, shared, brake, limitations, paused_until: None, idle_at }
    }

    /// Sets the route templates that win over what is found by looking at the traffic.
    pub fn set_route_templates(&mut self, templates: &[String]) -> Result<(), porthole_l7::TemplateError> {
        self.flows.set_route_templates(templates)
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
            self.flows.record(&record, &mut state.series);
        }
        state.connections = self.flows.len() as u64;
        self.fill_counters(&mut state.counters);
        state.counters.folded += state.series.folded();
        state.counters.not_understood += state.series.dropped();
        state.counters.spans_dropped = state.series.spans.dropped();
        state.counters.exchanges = state.series.recorded();
        let signal = state.signal();
        drop(state);
        for cookie in self.flows.take_dull() {
            if let Err(error) = self.probes.ignore(cookie) {
                tracing::debug!(%error, "telling the probes");
            }
        }
        self.shared.publish(signal);
        taken == RECORDS_AT_A_TIME
    }

    /// What is known without asking the kernel.
    fn fill_counters(&self, counters: &mut agent::Counters) {
        let (counts, tally) = (self.flows.counts(), self.flows.engine().tally());
        counters.events_captured = counts.packets;
        counters.bytes_copied = counts.bytes;
        counters.connections_seen = counts.flows;
        counters.connections_ignored = counts.ignored;
        counters.messages_seen = tally.messages_seen;
        counters.not_understood = tally.not_understood;
        counters.folded = tally.folded;
    }

    /// Once every [`LOOK`].
    fn tick(&mut self) -> Result<(), ProbeError> {
        let now = Instant::now();
        let lost = self.probes.lost()?;
        let counts = self.flows.counts();
        let mut state = self.shared.lock();
        state.counters.events_lost = lost + counts.malformed;
        if now >= self.idle_at {
            self.idle_at = now + IDLE_EVERY;
            tracing::debug!(lost, ?counts, exchanges = state.counters.exchanges, "so far");
            self.flows.idle(usage::monotonic_ns(), &mut state.series);
            state.limitations.clone_from(&self.limitations);
            let mut say = |count: u64, what: &str| {
                if count > 0 {
                    state.limitations.push(format!("{count} {what}"));
                }
            };
            say(counts.lost_bytes, "bytes of streams were not seen");
            say(counts.evicted, "connections made room for newer ones");
            say(
                self.brake.pauses(),
                "times capture paused because the agent took more than its share of CPU",
            );
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
