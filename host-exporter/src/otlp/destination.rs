//! Which spans a destination gets, in which requests, and the task that sends them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    queue::{QUEUE_BYTES_MAX, Queue, Queued},
    spans,
    transport::{Outcome, Transport, TransportError},
};
use crate::{
    config::{otlp::Otlp, seconds},
    fleet::Fleet,
    own::OwnCounts,
    sampling::QUIET_MS,
    traces::Trace,
};

/// Spans of one request.
const REQUEST_SPANS_MAX: usize = 512;

/// First wait before a request is sent again; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// Longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// All destinations, and what was sent to them.
pub struct Destinations {
    queues: Vec<(Otlp, Arc<Queue>)>,
    /// Numbers of spans that were sent and are kept, by tenant.
    sent: BTreeMap<String, HashSet<u64>>,
}

impl std::fmt::Debug for Destinations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.queues.iter().map(|(otlp, _)| otlp)).finish()
    }
}

impl Destinations {
    /// Starts the tasks of all destinations; within a runtime.
    pub fn start(
        all: &[Otlp],
        fleet: &Arc<Fleet>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Self, TransportError> {
        let mut queues = Vec::new();
        for otlp in all {
            let transport = Transport::new(otlp)?;
            let queue = Arc::new(Queue::new(otlp.queue_requests, QUEUE_BYTES_MAX));
            tokio::spawn(empty(otlp.clone(), transport, Arc::clone(&queue), Arc::clone(fleet), stop.clone()));
            queues.push((otlp.clone(), queue));
        }
        Ok(Self { queues, sent: BTreeMap::new() })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Queues those traces of a tenant that are quiet, each span once.
    pub fn offer(&mut self, tenant: &str, traces: &[Trace], now_unix_ms: u64, own: &OwnCounts) {
        let wanting: Vec<_> = self.queues.iter().filter(|(otlp, _)| otlp.admits(tenant)).collect();
        if wanting.is_empty() {
            return;
        }
        let sent = self.sent.entry(tenant.to_owned()).or_default();
        let before = now_unix_ms.saturating_sub(QUIET_MS);
        let mut unsent = Vec::new();
        let mut kept = HashSet::new();
        for trace in traces {
            let numbers = trace.spans.iter().map(|span| span.kept.number);
            if trace.received_unix_ms() > before {
                kept.extend(numbers.filter(|number| sent.contains(number)));
                continue;
            }
            let of_trace = trace.spans.iter().filter(|span| !sent.contains(&span.kept.number));
            unsent.push(of_trace.map(|span| (trace, span)).collect::<Vec<_>>());
            kept.extend(numbers);
        }
        for spans in requests(&unsent) {
            let request = spans::request(&spans).encode_to_vec().into();
            let queued = Queued { request, spans: spans.len() as u64 };
            for (_, queue) in &wanting {
                own.otlp_spans_undelivered.inc_by(queue.add(tenant, queued.clone()));
            }
        }
        *sent = kept;
    }

    /// Forgets tenants without spans.
    pub fn retain(&mut self, has_spans: impl Fn(&str) -> bool) {
        self.sent.retain(|tenant, _| has_spans(tenant));
    }
}

/// The spans of each request: those of one trace together, where a request has room for them.
fn requests<T: Copy>(traces: &[Vec<T>]) -> Vec<Vec<T>> {
    let mut requests: Vec<Vec<T>> = Vec::new();
    for part in traces.iter().flat_map(|spans| spans.chunks(REQUEST_SPANS_MAX)) {
        match requests.last_mut() {
            Some(last) if last.len() + part.len() <= REQUEST_SPANS_MAX => last.extend(part),
            _ => requests.push(part.to_vec()),
        }
    }
    requests
}

/// Sends what is queued, one request after the other, until the exporter stops.
async fn empty(
    otlp: Otlp,
    mut transport: Transport,
    queue: Arc<Queue>,
    fleet: Arc<Fleet>,
    mut stop: watch::Receiver<bool>,
) {
    let own = &fleet.own;
    let sending = async {
        loop {
            let Queued { request, spans } = queue.take().await;
            match deliver(&otlp, &mut transport, &request).await {
                Outcome::Taken { refused } => {
                    let refused = refused.min(spans);
                    own.otlp_spans_sent.inc_by(spans - refused);
                    own.otlp_spans_refused.inc_by(refused);
                }
                Outcome::Refused(why) => {
                    own.otlp_spans_refused.inc_by(spans);
                    tracing::warn!(endpoint = otlp.endpoint, spans, why, "spans were refused");
                }
                Outcome::Later(_, why) => {
                    own.otlp_spans_undelivered.inc_by(spans);
                    tracing::warn!(endpoint = otlp.endpoint, spans, why, "spans could not be delivered");
                }
            }
        }
    };
    tokio::select! {
        () = sending => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Sends a request until it is taken or refused, or its time is over.
async fn deliver(otlp: &Otlp, transport: &mut Transport, request: &Bytes) -> Outcome {
    let until = Instant::now() + seconds(otlp.retry_seconds);
    let mut backoff = BACKOFF_FIRST;
    loop {
        let outcome = transport.send(request, seconds(otlp.timeout_seconds)).await;
        let Outcome::Later(given, why) = &outcome else { return outcome };
        let left = until.saturating_duration_since(Instant::now());
        let Some(wait) = wait(*given, backoff, left) else { return outcome };
        if backoff == BACKOFF_FIRST {
            tracing::info!(endpoint = otlp.endpoint, why, "spans could not be sent, and are sent again");
        } else {
            tracing::debug!(endpoint = otlp.endpoint, why, ?wait, "spans are sent again");
        }
        sleep(wait).await;
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

    #[test]
    fn a_request_has_at_most_512_spans_and_whole_traces_where_they_fit() {
        let sizes = |traces: &[usize]| {
            let traces: Vec<_> =
                traces.iter().enumerate().map(|(trace, &spans)| vec![trace; spans]).collect();
            let of = |request: &Vec<usize>| {
                let in_request = |trace: &usize| request.iter().filter(|of| *of == trace).count();
                (0..traces.len())
                    .filter(|trace| request.contains(trace))
                    .map(|trace| in_request(&trace))
                    .collect()
            };
            requests(&traces).iter().map(of).collect::<Vec<Vec<usize>>>()
        };
        assert_eq!(sizes(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(sizes(&[0, 3, 0, 509]), [vec![3, 509]]);
        assert_eq!(sizes(&[300, 300, 212]), [vec![300], vec![300, 212]]);
        assert_eq!(sizes(&[2, 1_500, 1]), [vec![2], vec![512], vec![512], vec![476, 1]]);
    }

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
}
