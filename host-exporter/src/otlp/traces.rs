//! Which spans are sent, and in which requests.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use prost::Message as _;

use super::{Destinations, queue::Queued, signal::Signal, spans};
use crate::{sampling::QUIET_MS, traces::Trace};

/// Spans of one request.
const REQUEST_SPANS_MAX: usize = 512;

/// Traces on their way to the destinations.
#[derive(Debug)]
pub struct Outgoing {
    destinations: Arc<Destinations>,
    /// Numbers of spans that were sent and are kept, by tenant.
    sent: BTreeMap<String, HashSet<u64>>,
}

impl Outgoing {
    /// Nothing is sent yet.
    pub fn new(destinations: Arc<Destinations>) -> Self {
        Self { destinations, sent: BTreeMap::new() }
    }

    /// Whether there is no destination.
    pub fn is_nowhere(&self) -> bool {
        !self.destinations.has(Signal::Traces)
    }

    /// Queues those traces of a tenant that are quiet, each span once.
    pub fn offer(&mut self, tenant: &str, traces: &[Trace], now_unix_ms: u64) {
        let to = self.destinations.queues(Signal::Traces, tenant);
        if to.is_empty() {
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
            let queued = Queued { request, items: spans.len() as u64 };
            self.destinations.queue(Signal::Traces, &to, tenant, &queued);
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
}
