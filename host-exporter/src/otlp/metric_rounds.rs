//! Rounds in which the metrics of each tenant are sent to its destinations: the same values as a scrape of the tenant has.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Destinations, metrics::Metrics, signal::Signal, starts::Starts};
use crate::{
    clock::{unix_ms, unix_ns},
    exposition,
    fleet::Fleet,
    ledger::{self, Store},
    topology::Topology,
};

/// Name of the file of starts in the state directory.
const FILE: &str = "otlp-starts";

/// What rounds are made of.
#[derive(Debug)]
pub struct MetricRounds {
    fleet: Arc<Fleet>,
    store: Arc<Store>,
    topology: Arc<Topology>,
    destinations: Arc<Destinations>,
    starts: Starts,
    file: PathBuf,
    host: String,
    /// When the last round began; 0 before the first.
    last_unix_ms: u64,
}

impl MetricRounds {
    /// Before the first round.
    pub fn new(
        fleet: Arc<Fleet>,
        store: Arc<Store>,
        topology: Arc<Topology>,
        destinations: Arc<Destinations>,
        state_directory: &Path,
    ) -> Self {
        let file = state_directory.join(FILE);
        let starts = Starts::read(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %file.display(), "since when values of metrics count is not known");
            Starts::default()
        });
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let rounds = Self { fleet, store, topology, destinations, starts, file, host, last_unix_ms: 0 };
        rounds.hold_ended();
        rounds
    }

    /// Where metrics are sent, those of a sandbox that ends stay until they were.
    fn hold_ended(&self) {
        if self.destinations.has(Signal::Metrics) {
            self.fleet.hold_ended_since(self.last_unix_ms);
        } else {
            self.fleet.hold_no_ended();
        }
    }

    /// One round over all tenants.
    fn run(&mut self) {
        if !self.destinations.has(Signal::Metrics) {
            self.hold_ended();
            self.starts = Starts::default();
            // Absent, most likely.
            let _ = std::fs::remove_file(&self.file);
            return;
        }
        let began_unix_ms = unix_ms();
        let now_unix_ns = unix_ns();
        // None once the exporter ends.
        let Some(totals) = ledger::save(&self.fleet, &self.store) else { return };
        let budgets = self.fleet.budgets();
        let known = budgets.iter().map(|(tenant, _)| tenant.clone()).collect();
        for (tenant, budget) in budgets {
            let to = self.destinations.queues(Signal::Metrics, &tenant);
            if to.is_empty() {
                self.starts.forget(&tenant);
                continue;
            }
            let starts = self.starts.of_tenant(&tenant);
            starts.begin(now_unix_ns);
            let destinations = &self.destinations;
            let mut send = |queued| destinations.queue(Signal::Metrics, &to, &tenant, &queued);
            let mut sink = Metrics::new([&tenant, &self.host], now_unix_ns, starts, &mut send);
            let exemplars = self.fleet.spans.exemplars(Some(&tenant));
            exposition::write(&self.fleet, &totals, &self.topology, Some(&tenant), &exemplars, &mut sink);
            sink.finish();
            starts.end(now_unix_ns, &budget);
        }
        self.starts.end(now_unix_ns, known);
        if let Err(error) = self.starts.write(&self.file) {
            tracing::error!(%error, path = %self.file.display(), "after a restart it would not be known since when values of metrics count");
        }
        self.last_unix_ms = began_unix_ms;
        self.hold_ended();
    }
}

/// Waits until the interval since a time is over. A change does not begin it anew: files can change more often than rounds are due.
async fn due(since: Instant, intervals: &mut watch::Receiver<Duration>, changed: impl Fn()) {
    loop {
        let interval = *intervals.borrow_and_update();
        tokio::select! {
            biased;
            () = sleep_until(since + interval) => return,
            Ok(()) = intervals.changed() => changed(),
        }
    }
}

/// Runs rounds until the exporter stops.
pub async fn keep(mut rounds: MetricRounds, mut stop: watch::Receiver<bool>) {
    let mut intervals = rounds.destinations.metrics_interval();
    loop {
        tokio::select! {
            // Also where destinations alone were changed, ended sandboxes are held or not.
            () = due(Instant::now(), &mut intervals, || rounds.hold_ended()) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let round = tokio::task::spawn_blocking(move || {
            rounds.run();
            rounds
        });
        match round.await {
            Ok(after) => rounds = after,
            Err(error) => {
                tracing::error!(%error, "metrics are not sent any more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_is_due_in_time_however_often_the_configuration_changes() {
        let minute = Duration::from_mins(1);
        let (interval, mut intervals) = watch::channel(minute);
        let (began, seen) = (Instant::now(), Cell::new(0));
        let changes = async {
            loop {
                sleep(Duration::from_secs(7)).await;
                interval.send_replace(minute);
            }
        };
        tokio::select! {
            () = due(began, &mut intervals, || seen.set(seen.get() + 1)) => {}
            () = changes => unreachable!("it goes on"),
        }
        assert_eq!((began.elapsed().as_secs(), seen.get()), (60, 8));
        let shorter = async {
            sleep(Duration::from_secs(20)).await;
            interval.send_replace(Duration::from_secs(10));
        };
        let began = Instant::now();
        tokio::join!(due(began, &mut intervals, || {}), shorter);
        assert_eq!(began.elapsed().as_secs(), 20, "a shorter one is over at once");
    }
}
