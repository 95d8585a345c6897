//! Spans: exchanges that the host gets one by one, and not only as part of a sum.
//!
//! ```text
//! exchange ──► sampled for its series? ──► within the budget? ──► kept until it is sent, once
//!                                                 └─ a call of a request that is sampled: behind that one ─┘
//! ```
//!
//! Each series, that is each outcome of each operation, is sampled by itself, so that rare outcomes are not crowded out by
//! frequent ones: a failed or slow exchange when the series' last span is a short while ago, any other when it is a long
//! while ago. The programs in the kernel sample what they aggregate by the same rule, and with a request that a thread,
//! goroutine or process serves alone the calls that it makes for it.

use std::collections::VecDeque;

use porthole_agent_api::{agent, agent::SpanReason};
use porthole_l7::{ErrorClass, Exchange, Side};
use protobuf::EnumOrUnknown;

use super::{Origin, ProcessServing, labels::cut, parents::Parents};

/// Spans that wait for being sent; beyond that the oldest are dropped.
pub const WAITING_MAX: usize = 512;

/// Least time between two spans of failed or slow exchanges of one series, nanoseconds.
pub const FAILURES_INTERVAL_NS: u64 = 100_000_000;

/// Seconds' worth of the budget that may be used at once.
const BURST_SECONDS: u64 = 2;

/// Which exchanges are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanPolicy {
    /// From this duration on an exchange is slow, nanoseconds.
    pub slow_ns: u64,
    /// Least time between two spans of failed or slow exchanges of one series, nanoseconds.
    pub failures_interval_ns: u64,
    /// Least time between two spans of one series otherwise, nanoseconds.
    pub interval_ns: u64,
    /// Most spans in a second, in the long run; 0 for none at all.
    pub per_second: u32,
}

impl Default for SpanPolicy {
    fn default() -> Self {
        Self {
            slow_ns: 1_000_000_000,
            failures_interval_ns: FAILURES_INTERVAL_NS,
            interval_ns: 10_000_000_000,
            per_second: 50,
        }
    }
}

impl SpanPolicy {
    /// Why an exchange would be sampled, and how long ago its series' last span must be, nanoseconds.
    fn reason(&self, exchange: &Exchange) -> (SpanReason, u64) {
        if exchange.error != ErrorClass::None {
            (SpanReason::SPAN_REASON_ERROR, self.failures_interval_ns)
        } else if exchange.duration_ns() >= self.slow_ns {
            (SpanReason::SPAN_REASON_SLOW, self.failures_interval_ns)
        } else {
            (SpanReason::SPAN_REASON_RATE, self.interval_ns)
        }
    }
}

/// The spans of this agent.
#[derive(Debug, Default)]
pub struct SpanSampler {
    policy: SpanPolicy,
    /// By series: when the last span's exchange ended, nanoseconds of the monotonic clock.
    last: Vec<Option<u64>>,
    /// Thousandths of spans that may still be taken.
    budget: u64,
    /// When the budget was last added to, nanoseconds.
    filled_ns: u64,
    waiting: VecDeque<agent::Span>,
    /// Calls whose request is still served.
    parents: Parents,
    /// The last exchange was a request that its process served alone, of which calls waited.
    claimed: bool,
    /// Exchanges that were sampled so far, in the agent's life: the last one's [`agent::Span::number`].
    numbered: u64,
    /// Number of the first one that waits.
    first: u64,
    /// Those before this number were sent to a host.
    sent: u64,
    dropped: u64,
}

impl SpanSampler {
    /// Samples by this policy from now on.
    pub fn set_policy(&mut self, policy: SpanPolicy) {
        self.policy = policy;
        self.budget = self.burst();
    }

    /// The series begin anew, so spans from now on are of others. Gives those that wait, with their numbers.
    #[must_use]
    pub fn renew(&mut self) -> Self {
        self.last.clear();
        self.release_all();
        let next = self.next();
        let waiting = std::mem::take(&mut self.waiting);
        let first = std::mem::replace(&mut self.first, next);
        Self { policy: self.policy, waiting, first, sent: self.sent, ..Self::default() }
    }

    /// Number of the next one that waits.
    fn next(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    fn burst(&self) -> u64 {
        u64::from(self.policy.per_second) * BURST_SECONDS * 1000
    }

    /// Takes an exchange of a series if it is sampled; `unix_ns` is when it ended, nanoseconds since 1970.
    pub fn consider(&mut self, series: usize, exchange: &Exchange, origin: &Origin<'_>, unix_ns: u64) {
        if self.policy.per_second == 0 {
            return;
        }
        let (details, times) = (&origin.details, (exchange.start.0, exchange.end.0));
        let has_calls = exchange.side == Side::Server && self.parents.has_calls_of(details, times);
        let span = self
            .reason(series, exchange, origin, has_calls)
            .map(|reason| self.span(series, exchange, origin, (unix_ns, reason)));
        self.claimed = has_calls;
        if exchange.side == Side::Server && !self.parents.is_empty() {
            for call in self.parents.of_request(details, times, span.as_ref()) {
                self.push(call);
            }
        }
        let waits = exchange.side == Side::Client
            && (details.is_sampled_with_request() || details.process_serving == ProcessServing::Followed);
        let done = if let Some(span) = span {
            if waits { self.parents.wait(span, details, times) } else { Some(span) }
        } else {
            None
        };
        if let Some(span) = done {
            self.push(span);
        }
    }

    /// Why an exchange is sampled, if it is.
    fn reason(
        &mut self,
        series: usize,
        exchange: &Exchange,
        origin: &Origin<'_>,
        has_calls: bool,
    ) -> Option<SpanReason> {
        let now = exchange.end.0;
        let (reason, interval) = self.policy.reason(exchange);
        if self.last.len() <= series {
            self.last.resize(series + 1, None);
        }
        let last = &mut self.last[series];
        let is_due = last.is_none_or(|last| now.saturating_sub(last) >= interval);
        if !is_due && !has_calls && !origin.details.sampled && !origin.details.is_sampled_with_request() {
            return None;
        }
        *last = Some(now);
        if !self.afford(now) {
            self.dropped += 1;
            return None;
        }
        Some(reason)
    }

    fn push(&mut self, span: agent::Span) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.dropped += u64::from(self.first >= self.sent);
            self.first += 1;
        }
        self.waiting.push_back(span);
    }

    /// Least time between two spans of one series that are sampled by rate, nanoseconds; none where nothing is sampled.
    pub fn interval_ns(&self) -> Option<u64> {
        (self.policy.per_second > 0).then_some(self.policy.interval_ns)
    }

    /// Whether the exchange that came last was a request that its process served alone, and of which calls waited.
    pub fn has_claimed(&self) -> bool {
        self.claimed
    }

    /// Lets go of calls whose request is served too long. Call it every few seconds.
    pub fn release(&mut self, now_ns: u64) {
        for call in self.parents.expired(now_ns) {
            self.push(call);
        }
    }

    /// Lets go of all calls whose request is still served.
    pub fn release_all(&mut self) {
        for call in self.parents.take() {
            self.push(call);
        }
    }

    /// A span, which gets the next number.
    fn span(
        &mut self,
        series: usize,
        exchange: &Exchange,
        origin: &Origin<'_>,
        (unix_ns, reason): (u64, SpanReason),
    ) -> agent::Span {
        let trace = exchange.trace;
        // On the wire 0 is no number.
        self.numbered += 1;
        agent::Span {
            series_id: u32::try_from(series).unwrap_or(u32::MAX),
            start_unix_ns: unix_ns.saturating_sub(exchange.duration_ns()),
            duration_ns: exchange.duration_ns(),
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
            reason: EnumOrUnknown::new(reason),
            process_id: origin.details.process,
            thread_id: origin.details.thread,
            local: origin.details.local.map(|local| cut(local.to_string())).unwrap_or_default(),
            remote: cut(origin.peer.to_string()),
            trace_id: trace.map(|trace| trace.trace_id.to_vec()).unwrap_or_default(),
            parent_span_id: trace.map(|trace| trace.parent_span_id.to_vec()).unwrap_or_default(),
            trace_sampled: trace.is_some_and(|trace| trace.sampled),
            number: self.numbered,
            ..agent::Span::default()
        }
    }

    /// Takes one span out of the budget; false when there is none left.
    fn afford(&mut self, now_ns: u64) -> bool {
        let elapsed = now_ns.saturating_sub(self.filled_ns);
        let earned = u128::from(elapsed) * u128::from(self.policy.per_second) / 1_000_000;
        if earned > 0 {
            self.filled_ns = self.filled_ns.max(now_ns);
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.budget = self.budget.saturating_add(earned).min(self.burst());
        }
        if self.budget < 1000 {
            return false;
        }
        self.budget -= 1000;
        true
    }

    /// Number of the first span that was sent to no host.
    pub fn unsent(&self) -> u64 {
        self.sent.max(self.first)
    }

    /// Spans from this number on, and the number behind them. They count as sent.
    pub fn take_from(&mut self, number: u64) -> (Vec<agent::Span>, u64) {
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let next = self.next();
        self.sent = self.sent.max(next);
        (self.waiting.iter().skip(skipped).cloned().collect(), next)
    }

    /// Exchanges that were sampled and never sent.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use SpanReason::{SPAN_REASON_ERROR as ERROR, SPAN_REASON_RATE as RATE, SPAN_REASON_SLOW as SLOW};
    use porthole_agent_api::agent::ParentCertainty;
    use porthole_l7::{Protocol, Status, Symbol, Timestamp, TraceContext};

    use super::*;
    use crate::recorder::{Details, Serving, containers::ContainerIndex, peer::Peer};

    const MS: u64 = 1_000_000;

    fn exchange(end_ms: u64, took_ms: u64, error: ErrorClass) -> Exchange {
        Exchange {
            protocol: Protocol::Http1,
            side: Side::Server,
            operation: Symbol::NONE,
            resource: Symbol::NONE,
            status: Status::Code(200),
            error,
            start: Timestamp((end_ms - took_ms) * MS),
            end: Timestamp(end_ms * MS),
            request_bytes: 1,
            response_bytes: 2,
            peer: None,
            trace: None,
            overflowed: false,
        }
    }

    fn spans(policy: SpanPolicy) -> SpanSampler {
        let mut spans = SpanSampler::default();
        spans.set_policy(policy);
        spans
    }

    fn consider(spans: &mut SpanSampler, series: usize, exchange: &Exchange, sampled: bool) {
        let details = Details { sampled, ..Details::default() };
        let origin =
            Origin { container: ContainerIndex(0), container_id: "c", peer: &Peer::Unknown, details };
        spans.consider(series, exchange, &origin, exchange.end.0 + 7);
    }

    fn reasons(spans: &mut SpanSampler) -> Vec<SpanReason> {
        let (taken, _) = spans.take_from(0);
        taken.iter().map(|span| span.reason.enum_value_or_default()).collect()
    }

    #[test]
    fn each_series_is_sampled_by_itself_and_failures_more_often() {
        let mut spans = spans(SpanPolicy::default());
        for ms in 2_000..12_100 {
            consider(&mut spans, 0, &exchange(ms, 1, ErrorClass::None), false);
        }
        consider(&mut spans, 1, &exchange(12_100, 1, ErrorClass::Server), false);
        consider(&mut spans, 1, &exchange(12_150, 1, ErrorClass::Server), false);
        consider(&mut spans, 1, &exchange(12_200, 1, ErrorClass::Server), false);
        consider(&mut spans, 0, &exchange(12_300, 1_000, ErrorClass::None), false);
        assert_eq!(reasons(&mut spans), [RATE, RATE, ERROR, ERROR, SLOW]);
        let (all, _) = spans.take_from(0);
        assert_eq!((all[4].duration_ns, all[4].start_unix_ns), (1_000 * MS, 11_300 * MS + 7));
    }

    #[test]
    fn a_span_has_a_number_of_its_own_and_the_trace_of_its_request() {
        let policy = SpanPolicy { interval_ns: 0, ..SpanPolicy::default() };
        let mut spans = spans(policy);
        let trace = TraceContext { trace_id: [7; 16], parent_span_id: [8; 8], sampled: true };
        let traced = Exchange { trace: Some(trace), ..exchange(2_000, 1, ErrorClass::None) };
        consider(&mut spans, 0, &traced, false);
        let (mut before, _) = spans.renew().take_from(0);
        consider(&mut spans, 0, &exchange(2_001, 1, ErrorClass::None), false);
        before.extend(spans.take_from(0).0);
        let [traced, other] = &before[..] else { panic!("{before:?}") };
        assert_eq!((&traced.trace_id[..], &traced.parent_span_id[..]), (&[7; 16][..], &[8; 8][..]));
        assert!(traced.trace_sampled && !other.trace_sampled && other.trace_id.is_empty());
        assert_eq!((traced.number, other.number), (1, 2));
    }

    /// An exchange of a side, from one time to the other, by a thread that serves this.
    fn moved(spans: &mut SpanSampler, (side, thread): (Side, u32), times: (u64, u64), serving: Serving) {
        let exchange = Exchange { side, ..exchange(times.1, times.1 - times.0, ErrorClass::None) };
        let details = Details { process: 7, thread, serving, ..Details::default() };
        let origin =
            Origin { container: ContainerIndex(0), container_id: "c", peer: &Peer::Unknown, details };
        spans.consider(0, &exchange, &origin, exchange.end.0);
    }

    /// Of each span its thread, its number and its parent's.
    fn parents(spans: &mut SpanSampler) -> Vec<(u32, u64, u64)> {
        let (taken, _) = spans.take_from(spans.unsent());
        for span in &taken {
            let certainty = span.certainty.enum_value_or_default();
            assert_eq!(span.parent != 0, certainty == ParentCertainty::PARENT_CERTAINTY_THREAD, "{span:?}");
        }
        taken.iter().map(|span| (span.thread_id, span.number, span.parent)).collect()
    }

    const CLIENT: Side = Side::Client;
    const SERVER: Side = Side::Server;
    const ALONE: Serving = Serving::One { always: true, sampled: false };
    const SAMPLED: Serving = Serving::One { always: true, sampled: true };

    #[test]
    fn calls_wait_for_the_request_that_their_thread_serves_and_are_below_it() {
        let mut spans = spans(SpanPolicy { interval_ns: 0, ..SpanPolicy::default() });
        moved(&mut spans, (CLIENT, 8), (1_010, 1_020), SAMPLED);
        moved(&mut spans, (CLIENT, 9), (1_011, 1_021), SAMPLED);
        moved(&mut spans, (CLIENT, 8), (1_030, 1_040), SAMPLED);
        assert_eq!(parents(&mut spans), [], "the requests are served");
        moved(&mut spans, (SERVER, 8), (1_000, 1_050), ALONE);
        assert_eq!(parents(&mut spans), [(8, 1, 4), (8, 3, 4), (8, 4, 0)]);
        moved(&mut spans, (SERVER, 9), (1_001, 1_051), SAMPLED);
        assert_eq!(parents(&mut spans), [(9, 2, 5), (9, 5, 0)]);
    }

    #[test]
    fn an_event_loops_calls_are_below_the_only_request_by_its_task() {
        let only = Serving::One { always: false, sampled: true };
        let mut spans = spans(SpanPolicy::default());
        moved(&mut spans, (CLIENT, 8), (1_010, 1_020), only);
        moved(&mut spans, (SERVER, 8), (1_000, 1_050), only);
        let (taken, _) = spans.take_from(0);
        let task = ParentCertainty::PARENT_CERTAINTY_TASK;
        assert_eq!((taken[0].parent, taken[0].certainty.enum_value()), (2, Ok(task)));
    }

    #[test]
    fn calls_of_a_goroutine_are_below_its_request_in_whichever_threads_it_is() {
        let mut spans = spans(SpanPolicy { interval_ns: 0, ..SpanPolicy::default() });
        let mut moved = |side, (thread, goroutine), times: (u64, u64)| {
            let exchange = Exchange { side, ..exchange(times.1, times.1 - times.0, ErrorClass::None) };
            let details = Details { process: 7, thread, goroutine, serving: SAMPLED, ..Details::default() };
            let origin =
                Origin { container: ContainerIndex(0), container_id: "c", peer: &Peer::Unknown, details };
            spans.consider(0, &exchange, &origin, exchange.end.0);
        };
        moved(CLIENT, (8, Some(14)), (1_010, 1_020));
        moved(CLIENT, (8, Some(28)), (1_011, 1_021));
        // A number of a thread is none of a goroutine.
        moved(SERVER, (14, None), (1_000, 1_030));
        moved(SERVER, (9, Some(14)), (1_000, 1_050));
        moved(SERVER, (8, Some(28)), (1_000, 1_060));
        let (taken, _) = spans.take_from(0);
        let goroutine = ParentCertainty::PARENT_CERTAINTY_GOROUTINE;
        let claimed: Vec<_> =
            taken.iter().filter(|span| span.certainty.enum_value() == Ok(goroutine)).collect();
        assert_eq!(
            claimed.iter().map(|span| (span.number, span.parent)).collect::<Vec<_>>(),
            [(1, 4), (2, 5)]
        );
        assert_eq!(taken.len(), 5);
    }

    #[test]
    fn calls_are_below_no_request_that_they_were_not_made_during_or_that_was_not_served_alone() {
        let mut spans = spans(SpanPolicy { interval_ns: 0, ..SpanPolicy::default() });
        moved(&mut spans, (CLIENT, 8), (1_010, 1_020), SAMPLED);
        moved(&mut spans, (SERVER, 8), (1_015, 1_050), ALONE);
        moved(&mut spans, (CLIENT, 8), (1_060, 1_070), SAMPLED);
        moved(&mut spans, (SERVER, 8), (1_055, 1_080), Serving::Unknown);
        moved(&mut spans, (CLIENT, 8), (1_090, 1_100), ALONE);
        assert_eq!(parents(&mut spans), [1, 2, 3, 4, 5].map(|number| (8, number, 0)));
    }

    #[test]
    fn calls_of_a_request_that_is_sampled_are_sampled_whatever_the_interval() {
        let mut spans = spans(SpanPolicy::default());
        moved(&mut spans, (CLIENT, 8), (2_010, 2_020), Serving::Unknown);
        moved(&mut spans, (CLIENT, 8), (2_030, 2_040), ALONE);
        moved(&mut spans, (CLIENT, 8), (2_050, 2_060), SAMPLED);
        moved(&mut spans, (SERVER, 8), (2_045, 2_070), SAMPLED);
        assert_eq!(parents(&mut spans), [(8, 1, 0), (8, 2, 3), (8, 3, 0)]);
    }

    #[test]
    fn calls_whose_request_does_not_end_go_on_without_a_parent() {
        let policy = SpanPolicy { interval_ns: 0, per_second: u32::MAX, ..SpanPolicy::default() };
        let mut spans = spans(policy);
        for thread in 1..=300 {
            moved(&mut spans, (CLIENT, thread), (1_000, 1_001), SAMPLED);
        }
        assert_eq!(parents(&mut spans).len(), 300 - 256, "no more wait");
        spans.release(1_001 * MS + 30_000 * MS);
        assert_eq!(parents(&mut spans), []);
        spans.release(1_002 * MS + 30_000 * MS);
        assert_eq!(parents(&mut spans).len(), 256);
        moved(&mut spans, (CLIENT, 8), (1_000, 1_001), SAMPLED);
        let (ended, _) = spans.renew().take_from(0);
        assert_eq!(ended.len(), 301, "the series of the one that waits ends");
    }

    #[test]
    fn what_the_kernel_sampled_is_taken() {
        let mut spans = spans(SpanPolicy::default());
        for _ in 0..3 {
            consider(&mut spans, 0, &exchange(2_000, 1, ErrorClass::None), true);
        }
        assert_eq!(reasons(&mut spans).len(), 3);
    }

    #[test]
    fn the_budget_holds_and_what_is_over_it_is_counted() {
        let policy = SpanPolicy { interval_ns: 0, per_second: 10, ..SpanPolicy::default() };
        let mut spans = spans(policy);
        for ms in 0..10_000 {
            consider(&mut spans, 0, &exchange(100_000 + ms, 1, ErrorClass::None), false);
        }
        let taken = spans.take_from(0).0.len() as u64;
        assert!((100..=10 * (10 + BURST_SECONDS)).contains(&taken), "{taken}");
        assert_eq!(taken + spans.dropped(), 10_000);
        let mut none = self::spans(SpanPolicy { per_second: 0, ..policy });
        consider(&mut none, 0, &exchange(1, 1, ErrorClass::Server), true);
        assert!(none.take_from(0).0.is_empty());
    }

    #[test]
    fn those_that_wait_go_with_the_series_that_they_are_of() {
        let policy = SpanPolicy { interval_ns: 1_000 * MS, per_second: 100, ..SpanPolicy::default() };
        let mut spans = spans(policy);
        consider(&mut spans, 7, &exchange(1_000, 1, ErrorClass::None), false);
        let mut ended = spans.renew();
        consider(&mut spans, 7, &exchange(1_001, 1, ErrorClass::None), false);
        let (before, next) = ended.take_from(0);
        let (after, end) = spans.take_from(next);
        assert_eq!((before.len(), next, after.len(), end), (1, 1, 1, 2), "another series has the id now");
    }

    #[test]
    fn each_is_sent_once_and_those_that_nobody_took_are_counted() {
        let policy = SpanPolicy { interval_ns: 0, per_second: u32::MAX, ..SpanPolicy::default() };
        let mut spans = spans(policy);
        let fill = |spans: &mut SpanSampler, count| {
            for _ in 0..count {
                consider(spans, 0, &exchange(1, 1, ErrorClass::None), false);
            }
        };
        fill(&mut spans, 3);
        let (first, next) = spans.take_from(spans.unsent());
        assert_eq!((first.len(), next, spans.unsent()), (3, 3, 3));
        fill(&mut spans, WAITING_MAX);
        assert_eq!(spans.dropped(), 0, "those that made room were sent");
        fill(&mut spans, 5);
        assert_eq!(spans.dropped(), 5);
        let (rest, _) = spans.take_from(next);
        assert_eq!(rest.len(), WAITING_MAX);
    }
}
