//! Spans: exchanges that the host gets one by one, and not only as part of a sum.
//!
//! ```text
//! exchange ──► sampled for its series? ──► within the budget? ──► kept until it is sent, once
//! ```
//!
//! Each series, that is each outcome of each operation, is sampled by itself, so that rare outcomes are not crowded out by
//! frequent ones: a failed or slow exchange when the series' last span is a short while ago, any other when it is a long
//! while ago. The programs in the kernel sample what they aggregate by the same rule.

use std::collections::VecDeque;

use porthole_agent_api::{agent, agent::SpanReason};
use porthole_l7::{ErrorClass, Exchange};
use protobuf::EnumOrUnknown;

use super::{Origin, labels::cut};

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
    /// Number of the first one that waits.
    first: u64,
    /// Those before this number were sent to somebody.
    sent: u64,
    dropped: u64,
}

impl SpanSampler {
    /// Samples by this policy from now on.
    pub fn set_policy(&mut self, policy: SpanPolicy) {
        self.policy = policy;
        self.budget = self.burst();
    }

    fn burst(&self) -> u64 {
        u64::from(self.policy.per_second) * BURST_SECONDS * 1000
    }

    /// Takes an exchange of a series if it is sampled; `unix_ns` is when it ended, nanoseconds since 1970.
    pub fn consider(&mut self, series: usize, exchange: &Exchange, origin: &Origin<'_>, unix_ns: u64) {
        if self.policy.per_second == 0 {
            return;
        }
        let now = exchange.end.0;
        let (reason, interval) = self.policy.reason(exchange);
        if self.last.len() <= series {
            self.last.resize(series + 1, None);
        }
        let last = &mut self.last[series];
        if !origin.details.sampled && last.is_some_and(|last| now.saturating_sub(last) < interval) {
            return;
        }
        *last = Some(now);
        if !self.afford(now) {
            self.dropped += 1;
            return;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.dropped += u64::from(self.first >= self.sent);
            self.first += 1;
        }
        self.waiting.push_back(agent::Span {
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
            ..agent::Span::default()
        });
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

    /// Number of the first span that was not sent to anybody.
    pub fn unsent(&self) -> u64 {
        self.sent.max(self.first)
    }

    /// Spans from this number on, and the number behind them. They count as sent.
    pub fn take_from(&mut self, number: u64) -> (Vec<agent::Span>, u64) {
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let next = self.first + self.waiting.len() as u64;
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
    use porthole_l7::{Protocol, Side, Status, Symbol, Timestamp};

    use super::*;
    use crate::recorder::{Details, containers::ContainerIndex, peer::Peer};

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
