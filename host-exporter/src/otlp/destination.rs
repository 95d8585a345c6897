//! The destinations of the configuration in force, and the tasks that send them what waits.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    queue::{Queue, Queued},
    signal::Signal,
    transport::{Outcome, Transport, TransportError},
};
use crate::{
    config::{self, otlp::Otlp, seconds},
    fleet::Fleet,
};

/// First wait before a request is sent again; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// Longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Most bytes of traces that wait for one destination.
const TRACES_BYTES_MAX: usize = 16 << 20;

/// Most bytes of metrics that wait for one destination: histograms of 256 MiB as text (`exposed_mib`) take less.
const METRICS_BYTES_MAX: usize = 32 << 20;

/// Part of `memory_mib` that waits for all destinations together.
const MEMORY_PART: usize = 4;

/// All destinations.
pub struct Destinations {
    fleet: Arc<Fleet>,
    stop: watch::Receiver<bool>,
    metrics_interval: watch::Sender<Duration>,
    all: Mutex<Vec<Destination>>,
    /// Also of destinations that were removed, until what waits for them is sent or given up.
    queues: Mutex<Vec<(Signal, Weak<Queue>)>>,
}

/// One of the configuration in force.
struct Destination {
    settings: watch::Sender<Settings>,
    queues: Vec<(Signal, Arc<Queue>)>,
}

/// How requests are sent.
#[derive(Clone)]
struct Settings {
    otlp: Arc<Otlp>,
    transport: Transport,
    /// When what waits is given up: the destination was removed.
    ends: Option<Instant>,
}

impl std::fmt::Debug for Destinations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.all.lock();
        f.debug_list().entries(all.iter().map(|one| Arc::clone(&one.settings.borrow().otlp))).finish()
    }
}

impl Destinations {
    /// Starts the tasks of all destinations; within a runtime.
    pub fn start(
        config: &config::Exporter,
        fleet: &Arc<Fleet>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Self, TransportError> {
        let destinations = Self {
            fleet: Arc::clone(fleet),
            stop: stop.clone(),
            metrics_interval: watch::Sender::new(Duration::ZERO),
            all: Mutex::default(),
            queues: Mutex::default(),
        };
        destinations.apply(config)?;
        Ok(destinations)
    }

    /// Takes those of another configuration in place of these; of one that cannot be used, none. What waits for one whose endpoint,
    /// protocol, tenants and signals are the same is sent by its new settings; to others what waits is sent as before, until the time
    /// for which requests are sent again is over.
    pub fn apply(&self, config: &config::Exporter) -> Result<(), TransportError> {
        let transports = config.otlp.iter().map(Transport::new).collect::<Result<Vec<_>, _>>()?;
        self.metrics_interval.send_replace(seconds(config.otlp_metrics_seconds));
        let mut all = self.all.lock();
        let mut before = std::mem::take(&mut *all);
        for (otlp, transport) in config.otlp.iter().zip(transports) {
            let settings = Settings { otlp: Arc::new(otlp.clone()), transport, ends: None };
            let same = before.iter().position(|one| is_continued(&one.settings.borrow().otlp, otlp));
            all.push(match same {
                Some(at) => before.remove(at).with(settings),
                None => self.add(settings),
            });
        }
        for removed in before {
            removed.settings.send_modify(|settings| {
                settings.ends = Some(Instant::now() + seconds(settings.otlp.retry_seconds));
            });
        }
        Ok(())
    }

    fn add(&self, settings: Settings) -> Destination {
        let wanted = Signal::ALL.into_iter().filter(|signal| signal.is_of(&settings.otlp));
        let queue =
            |signal| (signal, Arc::new(Queue::new(requests_max(signal, &settings.otlp), bytes_max(signal))));
        let queues: Vec<_> = wanted.map(queue).collect();
        let weak = queues.iter().map(|(signal, queue)| (*signal, Arc::downgrade(queue)));
        self.queues.lock().extend(weak);
        let sender = watch::Sender::new(settings);
        for (signal, queue) in &queues {
            let (queue, fleet, stop) = (Arc::clone(queue), Arc::clone(&self.fleet), self.stop.clone());
            tokio::spawn(empty(*signal, sender.subscribe(), queue, fleet, stop));
        }
        Destination { settings: sender, queues }
    }

    /// Whether there is one that gets this.
    pub(super) fn has(&self, signal: Signal) -> bool {
        self.all.lock().iter().any(|one| one.queue(signal).is_some())
    }

    /// The queues of those that get this of a tenant.
    pub(super) fn queues(&self, signal: Signal, tenant: &str) -> Vec<Arc<Queue>> {
        let all = self.all.lock();
        let admitting = all.iter().filter(|one| one.settings.borrow().otlp.admits(tenant));
        admitting.filter_map(|one| one.queue(signal).cloned()).collect()
    }

    /// Queues a request of a tenant for each.
    pub(super) fn queue(&self, signal: Signal, to: &[Arc<Queue>], tenant: &str, queued: &Queued) {
        let undelivered = to.iter().map(|queue| queue.add(tenant, queued.clone())).sum();
        signal.counts(&self.fleet.own).undelivered.inc_by(undelivered);
        self.shrink(self.fleet.budget.limits().memory / MEMORY_PART);
    }

    /// Drops what waits for the destinations that have the most until all have so many bytes.
    fn shrink(&self, bytes_max: usize) {
        let mut queues = self.queues.lock();
        queues.retain(|(_, queue)| queue.strong_count() > 0);
        let living = queues.iter().filter_map(|(signal, queue)| Some((*signal, queue.upgrade()?)));
        let mut by_bytes: Vec<_> = living.map(|(signal, queue)| (queue.bytes(), signal, queue)).collect();
        by_bytes.sort_by_key(|(bytes, ..)| *bytes);
        let (mut room, mut left) = (bytes_max, by_bytes.len());
        for (bytes, signal, queue) in by_bytes {
            // What smaller ones leave of their shares is for the larger ones.
            let share = room / left;
            let dropped = queue.shrink(share);
            signal.counts(&self.fleet.own).undelivered.inc_by(dropped);
            room -= bytes.min(share);
            left -= 1;
        }
    }

    /// Drops half of what waits, of the destinations that have the most: memory is scarce.
    pub fn shed(&self) {
        let held: usize = self
            .queues
            .lock()
            .iter()
            .filter_map(|(_, queue)| queue.upgrade())
            .map(|queue| queue.bytes())
            .sum();
        self.shrink(held / 2);
    }

    /// Time between two times that metrics are sent.
    pub(super) fn metrics_interval(&self) -> watch::Receiver<Duration> {
        self.metrics_interval.subscribe()
    }
}

impl Destination {
    fn queue(&self, signal: Signal) -> Option<&Arc<Queue>> {
        self.queues.iter().find(|(of, _)| *of == signal).map(|(_, queue)| queue)
    }

    fn with(self, settings: Settings) -> Self {
        for (signal, queue) in &self.queues {
            queue.set_requests_max(requests_max(*signal, &settings.otlp));
        }
        self.settings.send_replace(settings);
        self
    }
}

/// Whether what waits for one destination may be sent to another one: it is the same but for how it is reached.
fn is_continued(before: &Otlp, now: &Otlp) -> bool {
    let identity = |otlp: &Otlp| (otlp.endpoint.clone(), otlp.tenants.clone(), otlp.traces, otlp.metrics);
    identity(before) == identity(now) && before.protocol == now.protocol
}

fn requests_max(signal: Signal, otlp: &Otlp) -> usize {
    match signal {
        Signal::Traces => otlp.queue_requests,
        // Their bytes are bounded.
        Signal::Metrics => usize::MAX,
    }
}

fn bytes_max(signal: Signal) -> usize {
    match signal {
        Signal::Traces => TRACES_BYTES_MAX,
        Signal::Metrics => METRICS_BYTES_MAX,
    }
}

/// Sends what is queued, one request after the other, until the exporter stops, or all that waited for a destination that was removed is
/// sent or given up.
async fn empty(
    signal: Signal,
    mut settings: watch::Receiver<Settings>,
    queue: Arc<Queue>,
    fleet: Arc<Fleet>,
    mut stop: watch::Receiver<bool>,
) {
    let counts = signal.counts(&fleet.own);
    let sending = async {
        while let Some(Queued { request, items }) = next(&queue, &mut settings).await {
            let outcome = deliver(signal, &mut settings, &request).await;
            let endpoint = settings.borrow().otlp.endpoint.clone();
            match outcome {
                Outcome::Taken { refused } => {
                    let refused = refused.min(items);
                    counts.sent.inc_by(items - refused);
                    counts.refused.inc_by(refused);
                }
                Outcome::Refused(why) => {
                    counts.refused.inc_by(items);
                    tracing::warn!(endpoint, items, why, "{} were refused", signal.items());
                }
                Outcome::Later(_, why) => {
                    counts.undelivered.inc_by(items);
                    tracing::warn!(endpoint, items, why, "{} could not be delivered", signal.items());
                }
            }
        }
    };
    tokio::select! {
        () = sending => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// The next request; none once the destination was removed and nothing waits.
async fn next(queue: &Queue, settings: &mut watch::Receiver<Settings>) -> Option<Queued> {
    tokio::select! {
        biased;
        queued = queue.take() => Some(queued),
        _ = settings.wait_for(|settings| settings.ends.is_some()) => queue.take_or_close(),
    }
}

/// Sends a request until it is taken or refused, or its time is over.
async fn deliver(signal: Signal, settings: &mut watch::Receiver<Settings>, request: &Bytes) -> Outcome {
    let began = Instant::now();
    let mut backoff = BACKOFF_FIRST;
    loop {
        let Settings { otlp, transport, ends } = settings.borrow_and_update().clone();
        let until = began + seconds(otlp.retry_seconds);
        let until = ends.map_or(until, |ends| ends.min(until));
        if ends.is_some_and(|ends| ends <= Instant::now()) {
            return Outcome::Later(Duration::ZERO, "the destination was removed".to_owned());
        }
        let outcome = transport.send(signal, request, seconds(otlp.timeout_seconds)).await;
        let Outcome::Later(given, why) = &outcome else { return outcome };
        let left = until.saturating_duration_since(Instant::now());
        let Some(wait) = wait(*given, backoff, left) else { return outcome };
        let (endpoint, items) = (&otlp.endpoint, signal.items());
        if backoff == BACKOFF_FIRST {
            tracing::info!(endpoint, why, "{items} could not be sent, and are sent again");
        } else {
            tracing::debug!(endpoint, why, ?wait, "{items} are sent again");
        }
        tokio::select! {
            () = sleep(wait) => {}
            // By others they may be taken at once.
            Ok(()) = settings.changed() => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// The wait before a request is sent again: as long as its destination gave, and at least the backoff's, less up to a half at
/// random. None where that is more than what is left.
fn wait(given: Duration, backoff: Duration, left: Duration) -> Option<Duration> {
    // Destinations that were away at one time are not tried again at one time.
    let wait = given.max(backoff.mul_f64(0.5 + fastrand::f64() / 2.0));
    (wait < left).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accumulate::budget::Limits, fleet::Retention};

    #[test]
    fn a_request_is_not_sent_again_at_once_whatever_its_answer_gives() {
        let (backoff, left) = (Duration::from_secs(8), Duration::from_mins(5));
        for _ in 0..100 {
            let wait = wait(Duration::ZERO, backoff, left).expect("in time");
            assert!((backoff / 2..=backoff).contains(&wait), "{wait:?}");
        }
        assert_eq!(wait(Duration::from_secs(20), backoff, left), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_wait_beyond_the_time_of_a_request_ends_it() {
        let left = Duration::from_mins(5);
        for given in [left, Duration::from_secs(u64::MAX), Duration::MAX] {
            assert_eq!(wait(given, BACKOFF_FIRST, left), None, "{given:?}");
        }
        assert_eq!(wait(Duration::ZERO, BACKOFF_FIRST, Duration::ZERO), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_removed_destination_is_given_up_in_time_and_counted() {
        let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
        let fleet = Arc::new(Fleet::new(Limits::of_series(1), retention));
        // Nothing listens there.
        let otlp = Otlp { endpoint: "http://127.0.0.1:1".into(), ..Otlp::default() };
        let config = config::Exporter { otlp: vec![otlp], ..config::Exporter::default() };
        let (_stop, stopped) = watch::channel(false);
        let destinations = Destinations::start(&config, &fleet, &stopped).expect("started");
        let to = destinations.queues(Signal::Traces, "acme");
        let queued = || Queued { request: Bytes::new(), items: 3 };
        for _ in 0..2 {
            destinations.queue(Signal::Traces, &to, "acme", &queued());
        }
        destinations.apply(&config::Exporter::default()).expect("none");
        assert!(destinations.queues(Signal::Traces, "acme").is_empty());
        let undelivered = || fleet.own.otlp_spans_undelivered.get();
        // Time goes on while nothing else can.
        let began = Instant::now();
        while undelivered() < 6 {
            assert!(began.elapsed() < Duration::from_hours(1), "{}", undelivered());
            sleep(Duration::from_secs(1)).await;
        }
        while to[0].add("acme", queued()) == 0 {
            assert!(began.elapsed() < Duration::from_hours(1), "it is not closed");
            sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test]
    async fn what_waits_for_all_destinations_is_bounded_and_shed_where_there_is_most() {
        let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
        let limits = Limits { memory: 4_000, ..Limits::of_series(1) };
        let fleet = Arc::new(Fleet::new(limits, retention));
        let to = |tenant: &str| Otlp {
            endpoint: "http://127.0.0.1:1".into(),
            tenants: Some(vec![tenant.to_owned()]),
            ..Otlp::default()
        };
        let config = config::Exporter { otlp: vec![to("acme"), to("rival")], ..config::Exporter::default() };
        let (_stop, stopped) = watch::channel(false);
        let destinations = Destinations::start(&config, &fleet, &stopped).expect("started");
        // The tasks that send have no turn before the test waits.
        let [acme, rival] = ["acme", "rival"].map(|tenant| destinations.queues(Signal::Traces, tenant));
        let add = |tenant, to: &[Arc<Queue>], bytes| {
            let request = vec![0; bytes].into();
            destinations.queue(Signal::Traces, to, tenant, &Queued { request, items: 1 });
        };
        add("rival", &rival, 300);
        for _ in 0..10 {
            add("acme", &acme, 100);
        }
        assert_eq!((acme[0].bytes(), rival[0].bytes()), (700, 300));
        assert_eq!(fleet.own.otlp_spans_undelivered.get(), 3);
        destinations.shed();
        assert_eq!((acme[0].bytes(), rival[0].bytes()), (200, 0), "requests of 100 bytes, and of 300");
        destinations.apply(&config::Exporter::default()).expect("none");
        destinations.shed();
        assert_eq!(acme[0].bytes(), 100, "also of those that were removed");
    }

    #[test]
    fn what_waits_goes_to_the_same_tenants_destination_alone() {
        let otlp =
            Otlp { endpoint: "http://a".into(), tenants: Some(vec!["acme".into()]), ..Otlp::default() };
        let renewed = Otlp { headers: [("token".into(), "new".into())].into(), ..otlp.clone() };
        assert!(is_continued(&otlp, &renewed));
        for other in [
            Otlp { endpoint: "http://b".into(), ..otlp.clone() },
            Otlp { tenants: Some(vec!["rival".into()]), ..otlp.clone() },
            Otlp { tenants: None, ..otlp.clone() },
            Otlp { metrics: true, ..otlp.clone() },
        ] {
            assert!(!is_continued(&otlp, &other), "{other:?}");
        }
    }
}
