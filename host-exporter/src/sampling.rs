//! Which traces are kept and sent: all that is there of one when it is decided, or nothing.
//!
//! A trace in which something failed or was slow by then is kept. Of the others a share is, by their ids, and of each route as many in a
//! minute as its reservoir has. The decision is made when a trace is quiet, so it follows the joined calls, and of the spans that agents sample each
//! by itself. A kept trace that has lost a span to a bound of memory is no longer whole: the rest of it goes too, unless something failed.
//! Before it is decided it loses that span alone: a sandbox that is over its bound loses what it has itself, and not its neighbours'
//! spans before they are sent. The newest spans of discarded traces are remembered for a while, apart from those that are kept: one that
//! comes later and would have been of such a trace goes, too, unless it failed or was slow.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    accumulate::budget::{Charge, TenantBudget},
    ids::{IdKeys, TraceId},
    spans::{Eviction, Kept},
    traces::{self, Trace},
};

/// A trace is whole when none of its spans came for so long: the intervals of all agents' batches, and what a busy host adds.
pub const QUIET_MS: u64 = 5_000;

/// Most routes of a tenant that have a reservoir of their own at one time. Its guests choose their names.
const RESERVOIRS_MAX: usize = 512;

/// In place of a route's hash: that of all others, which share a reservoir.
const OTHER_ROUTES: u64 = 0;

/// How many traces in which nothing failed or was slow are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The share of them, from 0 to 1.
    pub ratio: f64,
    /// How many of each route are kept in a minute in any case.
    pub reservoir_per_minute: f64,
}

impl Rule {
    /// The key that cannot be used, and what it must be.
    pub fn invalid(&self) -> Option<(&'static str, &'static str)> {
        if !(0.0..=1.0).contains(&self.ratio) {
            Some(("trace_ratio", "must lie between 0 and 1"))
        } else if !(0.0..=100_000.0).contains(&self.reservoir_per_minute) {
            Some(("trace_reservoir_per_minute", "must lie between 0 and 100000"))
        } else {
            None
        }
    }

    /// What a full reservoir has: at least one trace, where there is one in some minutes.
    fn reservoir(&self) -> f64 {
        if self.reservoir_per_minute > 0.0 { self.reservoir_per_minute.max(1.0) } else { 0.0 }
    }

    /// Whether the share has the trace with this id: the same in every exporter with this share, and for spans that come late. The last
    /// seven bytes are what is random of an id (W3C Trace Context Level 2, "Random Trace ID Flag").
    fn has(&self, id: TraceId) -> bool {
        let [.., a, b, c, d, _, _, _] = id.0;
        let place = f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0);
        place >= 1.0 - self.ratio
    }
}

/// What is left of a route's traces of a minute.
#[derive(Debug)]
struct Reservoir {
    left: f64,
    filled: Instant,
}

/// Those of the routes that were used last.
#[derive(Debug, Default)]
struct Reservoirs(HashMap<u64, Reservoir>);

/// For how long a span of a discarded trace is remembered.
const REMEMBERED: Duration = Duration::from_mins(2);

/// Most of a tenant that are remembered.
const REMEMBERED_MAX: usize = 1_024;

/// The same of a sandbox.
const REMEMBERED_OF_SANDBOX_MAX: usize = 256;

/// Spans of traces that were discarded lately, in the order in which they came, each with when it was.
#[derive(Debug, Default)]
struct Remembered {
    spans: Vec<(Arc<Kept>, Instant)>,
    charge: Option<Charge>,
}

impl Remembered {
    /// Adds those of discarded traces, and forgets what is old or beyond the limits, the oldest first. All of it where the tenant's memory
    /// is used up.
    fn add(&mut self, discarded: Vec<Arc<Kept>>, budget: &Arc<TenantBudget>, now: Instant) {
        self.spans.extend(discarded.into_iter().map(|kept| (kept, now)));
        self.spans.sort_unstable_by_key(|(kept, _)| Reverse(kept.number));
        let mut of_sandboxes: HashMap<usize, usize> = HashMap::new();
        let mut left = REMEMBERED_MAX;
        self.spans.retain(|(kept, when)| {
            let of_sandbox = of_sandboxes.entry(Arc::as_ptr(&kept.identity).addr()).or_default();
            let stays = left > 0
                && *of_sandbox < REMEMBERED_OF_SANDBOX_MAX
                && now.saturating_duration_since(*when) < REMEMBERED;
            *of_sandbox += usize::from(stays);
            left -= usize::from(stays);
            stays
        });
        self.spans.reverse();
        let charge = self.charge.get_or_insert_with(|| Charge::new(Arc::clone(budget)));
        let bytes = self.spans.iter().map(|(kept, _)| kept.bytes()).sum::<usize>();
        if !budget.resident.admits(bytes.saturating_sub(charge.resident())) {
            self.spans = Vec::new();
        }
        charge.set_resident(if self.spans.is_empty() { 0 } else { bytes });
    }
}

#[derive(Debug, Default)]
struct OfTenant {
    remembered: Remembered,
    /// The spans of traces that were kept at the last look, each with the lowest number of its trace.
    kept: HashMap<u64, u64>,
    reservoirs: Reservoirs,
}

/// What was decided of each tenant's traces.
#[derive(Debug)]
pub struct Sampler {
    rule: Rule,
    routes: RandomState,
    tenants: BTreeMap<String, OfTenant>,
}

/// Numbers of spans that are not kept, by why.
pub type Discarded = [(Eviction, Vec<u64>); 2];

impl Sampler {
    /// Nothing is decided yet.
    pub fn new(rule: Rule) -> Self {
        Self { rule, routes: RandomState::new(), tenants: BTreeMap::new() }
    }

    /// Whether there are traces that are not kept, and so have to be looked at until they are quiet.
    pub fn discards(&self) -> bool {
        self.rule.ratio < 1.0
    }

    /// Whether a trace of the last look stays, as far as it is decided.
    pub fn is_kept(&self, tenant: &str, trace: &Trace) -> bool {
        let kept = self.tenants.get(tenant).map(|of| &of.kept);
        let is_decided =
            |kept: &HashMap<u64, u64>| trace.spans.iter().any(|span| kept.contains_key(&span.kept.number));
        !self.discards() || kept.is_some_and(is_decided)
    }

    /// Forgets tenants without spans.
    pub fn retain(&mut self, has_spans: impl Fn(&str) -> bool) {
        self.tenants.retain(|tenant, _| has_spans(tenant));
    }

    /// Numbers of spans that came after their trace was discarded, and in which nothing failed or was slow.
    pub fn late(&self, tenant: &str, spans: &[Arc<Kept>], ids: &IdKeys, now_unix_ms: u64) -> HashSet<u64> {
        let Some(of) = self.tenants.get(tenant).filter(|of| !of.remembered.spans.is_empty()) else {
            return HashSet::new();
        };
        let before = now_unix_ms.saturating_sub(QUIET_MS);
        let discarded: HashSet<u64> = of.remembered.spans.iter().map(|(kept, _)| kept.number).collect();
        let mut all: Vec<_> = of.remembered.spans.iter().map(|(kept, _)| Arc::clone(kept)).collect();
        all.extend(spans.iter().cloned());
        all.sort_by_key(|kept| kept.number);
        let mut late = HashSet::new();
        for trace in traces::assemble(&all, ids) {
            let numbers = || trace.spans.iter().map(|span| span.kept.number);
            let is_late = numbers().any(|number| discarded.contains(&number))
                && !trace.is_marked()
                && trace.received_unix_ms() <= before
                && !numbers().any(|number| of.kept.contains_key(&number));
            if is_late {
                late.extend(numbers().filter(|number| !discarded.contains(number)));
            }
        }
        late
    }

    /// Remembers spans whose trace was discarded.
    pub fn remember(
        &mut self,
        tenant: &str,
        discarded: Vec<Arc<Kept>>,
        budget: &Arc<TenantBudget>,
        now: Instant,
    ) {
        if let Some(of) = self.tenants.get_mut(tenant) {
            of.remembered.add(discarded, budget, now);
        }
    }

    /// Takes those of a tenant's traces out that are not kept, and gives their spans.
    pub fn decide(
        &mut self,
        tenant: &str,
        traces: &mut Vec<Trace>,
        now_unix_ms: u64,
        now: Instant,
    ) -> Discarded {
        let discards = self.discards();
        let of = self.tenants.entry(tenant.to_owned()).or_default();
        let cut = cut(&of.kept, traces);
        let before = now_unix_ms.saturating_sub(QUIET_MS);
        let mut kept = HashMap::new();
        let mut discarded = [(Eviction::CutTrace, Vec::new()), (Eviction::Sampling, Vec::new())];
        // Those that came first have no advantage.
        fastrand::shuffle(traces);
        traces.retain(|trace| {
            let numbers = || trace.spans.iter().map(|span| span.kept.number);
            let mut earlier = numbers().filter_map(|number| of.kept.get(&number)).peekable();
            let was_kept = earlier.peek().is_some();
            let decision = if trace.is_marked() {
                Some(true)
            } else if earlier.any(|trace| cut.contains(trace)) {
                discarded[0].1.extend(numbers());
                Some(false)
            } else if was_kept {
                Some(true)
            } else if trace.received_unix_ms() > before {
                None
            } else {
                let route = self.routes.hash_one(route(trace));
                let is_kept = !discards || of.reservoirs.admit(route, self.rule, trace.id, now);
                if !is_kept {
                    discarded[1].1.extend(numbers());
                }
                Some(is_kept)
            };
            if decision == Some(true) {
                let first = numbers().min().unwrap_or_default();
                kept.extend(numbers().map(|number| (number, first)));
            }
            decision != Some(false)
        });
        of.kept = kept;
        of.reservoirs.drop_full(self.rule, now);
        discarded
    }
}

/// The kept traces of which a span is no longer there.
fn cut(kept: &HashMap<u64, u64>, traces: &[Trace]) -> HashSet<u64> {
    let mut missing: HashMap<u64, usize> = HashMap::new();
    for trace in kept.values() {
        *missing.entry(*trace).or_default() += 1;
    }
    let there = traces.iter().flat_map(|trace| &trace.spans);
    for trace in there.filter_map(|span| kept.get(&span.kept.number)) {
        if let Some(missing) = missing.get_mut(trace) {
            *missing = missing.saturating_sub(1);
        }
    }
    missing.into_iter().filter(|(_, missing)| *missing > 0).map(|(trace, _)| trace).collect()
}

/// What requests of one kind have in common: that of the trace's first span.
fn route(trace: &Trace) -> [&str; 5] {
    let kept = &trace.root().kept;
    let labels = kept.key.labels();
    let service = kept.identity.service_name.as_str();
    [service, kept.key.protocol.row().name, kept.key.side.name(), labels.operation, labels.resource]
}

impl Reservoir {
    fn fill(&mut self, rule: Rule, now: Instant) {
        let minutes = now.saturating_duration_since(self.filled).as_secs_f64() / 60.0;
        self.left = rule.reservoir().min(self.left + minutes * rule.reservoir_per_minute);
        self.filled = now;
    }
}

impl Reservoirs {
    /// Whether a trace is kept. One that the share has counts for the reservoir, and needs none.
    fn admit(&mut self, route: u64, rule: Rule, id: TraceId, now: Instant) -> bool {
        let has_room = self.0.len() < RESERVOIRS_MAX || self.0.contains_key(&route);
        let route = if has_room { route } else { OTHER_ROUTES };
        let full = || Reservoir { left: rule.reservoir(), filled: now };
        let reservoir = self.0.entry(route).or_insert_with(full);
        reservoir.fill(rule, now);
        let is_kept = rule.has(id) || reservoir.left >= 1.0;
        if is_kept {
            reservoir.left = (reservoir.left - 1.0).max(0.0);
        }
        is_kept
    }

    /// Forgets those that are full: they are as they were before their first trace.
    fn drop_full(&mut self, rule: Rule, now: Instant) {
        self.0.retain(|_, reservoir| {
            reservoir.fill(rule, now);
            reservoir.left < rule.reservoir()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accumulate::{
            budget::{Limits, NodeBudget},
            series::{Labels, SeriesKey},
        },
        guest_clock::Offset,
        identity::Identity,
        ids::SpanId,
        protocol::{ErrorClass, Protocol, Side, SpanReason},
        spans::{CheckedSpan, Connection, Reception},
        traces::TraceSpan,
    };

    /// A time by which every trace of a test is quiet.
    const LATER: u64 = 1_000_000;

    const NONE: Rule = Rule { ratio: 0.0, reservoir_per_minute: 0.0 };

    /// A trace of these spans, which came at a time.
    fn trace(numbers: &[u64], route: &str, reason: SpanReason, unix_ms: u64) -> Trace {
        let labels = Labels { operation: "GET", resource: route, ..Labels::default() };
        let key = Arc::new(SeriesKey::new(Protocol::Http1, Side::Server, labels).expect("short"));
        let identity = Arc::new(Identity::in_default("acme", "shop", "shop-1"));
        let span = |number: &u64| TraceSpan {
            kept: Arc::new(Kept {
                number: *number,
                reception: Reception { unix_ms, offset: Offset::default(), connection: None },
                identity: Arc::clone(&identity),
                key: Arc::clone(&key),
                error: ErrorClass::None,
                span: CheckedSpan::lasting(reason, 1),
            }),
            id: SpanId(number.to_be_bytes()),
            parent: None,
            depth: 0,
            start_unix_ns: 1,
            clock_error_ns: 0,
        };
        // Ids that are evenly distributed, and the same in every run.
        let random = numbers[0].wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let id = TraceId((u128::from(random) << 64 | u128::from(random)).to_be_bytes());
        Trace { id, spans: numbers.iter().map(span).collect(), clock_error_ns: 0 }
    }

    fn samples(numbers: std::ops::Range<u64>, route: &'static str) -> Vec<Trace> {
        numbers.map(|number| trace(&[number], route, SpanReason::Rate, 0)).collect()
    }

    /// The numbers of what is kept of these, and of what is not by why.
    fn decide(sampler: &mut Sampler, mut traces: Vec<Trace>, now: Instant) -> (Vec<u64>, [usize; 2]) {
        let discarded = sampler.decide("acme", &mut traces, LATER, now).map(|(_, numbers)| numbers.len());
        let spans = traces.iter().flat_map(|trace| &trace.spans);
        let mut kept: Vec<_> = spans.map(|span| span.kept.number).collect();
        kept.sort_unstable();
        (kept, discarded)
    }

    #[test]
    fn each_route_keeps_its_reservoir_and_what_failed_or_was_slow_is_always_kept() {
        let mut sampler = Sampler::new(Rule { ratio: 0.0, reservoir_per_minute: 10.0 });
        let began = Instant::now();
        let marked = [SpanReason::Error, SpanReason::Slow].map(|reason| trace(&[900], "/often", reason, 0));
        let mut traces = samples(0..100, "/often");
        traces.extend(samples(200..203, "/seldom"));
        traces.extend(marked);
        let (kept, discarded) = decide(&mut sampler, traces, began);
        assert_eq!((kept.len(), discarded), (10 + 3 + 2, [0, 90]));
        assert!(kept.ends_with(&[200, 201, 202, 900, 900]), "{kept:?}");
        let later = began + Duration::from_secs(30);
        let (kept, _) = decide(&mut sampler, samples(300..400, "/often"), later);
        assert_eq!(kept.len(), 5, "half of a minute's");
    }

    #[test]
    fn a_reservoir_of_less_than_one_in_a_minute_keeps_one_in_some_minutes() {
        let mut sampler = Sampler::new(Rule { ratio: 0.0, reservoir_per_minute: 0.5 });
        let began = Instant::now();
        for (minute, kept) in [(0, 1), (1, 0), (2, 1), (3, 0), (100, 1)] {
            let now = began + Duration::from_mins(minute);
            let numbers = 10 * minute..10 * minute + 5;
            assert_eq!(decide(&mut sampler, samples(numbers, "/"), now).0.len(), kept, "minute {minute}");
        }
        assert!(decide(&mut Sampler::new(NONE), samples(0..5, "/"), began).0.is_empty());
    }

    #[test]
    fn routes_beyond_a_number_share_a_reservoir() {
        let mut sampler = Sampler::new(Rule { ratio: 0.0, reservoir_per_minute: 2.0 });
        let routes = 2 * RESERVOIRS_MAX as u64;
        let traces = (0..routes).map(|number| trace(&[number], &format!("/{number}"), SpanReason::Rate, 0));
        let (kept, _) = decide(&mut sampler, traces.collect(), Instant::now());
        assert_eq!(kept.len(), RESERVOIRS_MAX + 2);
        assert_eq!(sampler.tenants["acme"].reservoirs.0.len(), RESERVOIRS_MAX + 1);
    }

    #[test]
    fn the_share_is_decided_by_the_id_alone() {
        let rule = Rule { ratio: 0.25, ..NONE };
        let now = Instant::now();
        let (kept, _) = decide(&mut Sampler::new(rule), samples(0..1_000, "/"), now);
        assert!((200..300).contains(&kept.len()), "{}", kept.len());
        assert_eq!(decide(&mut Sampler::new(rule), samples(0..1_000, "/"), now).0, kept);
        let (all, _) = decide(&mut Sampler::new(Rule { ratio: 1.0, ..NONE }), samples(0..1_000, "/"), now);
        assert_eq!(all.len(), 1_000);
    }

    #[test]
    fn a_decision_is_made_once_and_when_the_trace_is_quiet() {
        let mut sampler = Sampler::new(Rule { ratio: 0.0, reservoir_per_minute: 1.0 });
        let now = Instant::now();
        let growing = || trace(&[1], "/", SpanReason::Rate, LATER - QUIET_MS + 1);
        assert_eq!(decide(&mut sampler, vec![growing()], now).0, [1]);
        let grown = || trace(&[1, 2], "/", SpanReason::Rate, 0);
        assert_eq!(decide(&mut sampler, vec![grown()], now).0, [1, 2], "it takes the reservoir");
        let (kept, discarded) =
            decide(&mut sampler, vec![grown(), trace(&[3], "/", SpanReason::Rate, 0)], now);
        assert_eq!((kept, discarded), (vec![1, 2], [0, 1]));
        let late = trace(&[1, 2, 4], "/", SpanReason::Rate, 0);
        assert_eq!(decide(&mut sampler, vec![late], now).0, [1, 2, 4], "as the trace was decided");
    }

    fn budget(series: usize) -> Arc<TenantBudget> {
        Arc::new(TenantBudget::new(&NodeBudget::new(Limits::of_series(series))))
    }

    /// A span of an end of one call.
    fn end(number: u64, side: Side, reason: SpanReason) -> Arc<Kept> {
        let [local, remote] = match side {
            Side::Client => ["10.0.0.1:4000", "10.0.0.2:80"],
            Side::Server => ["10.0.0.2:80", "10.0.0.1:4000"],
        };
        let span =
            CheckedSpan { local: local.into(), remote: remote.into(), ..CheckedSpan::lasting(reason, 1) };
        let own = local.parse::<std::net::SocketAddr>().expect("an address").ip();
        let connection = Connection::of(&span, &[own]);
        let labels = Labels { operation: "GET", ..Labels::default() };
        Arc::new(Kept {
            number,
            reception: Reception { unix_ms: 1, offset: Offset::default(), connection },
            identity: Arc::new(Identity::in_default("acme", side.name(), side.name())),
            key: Arc::new(SeriesKey::new(Protocol::Http1, side, labels).expect("short")),
            error: ErrorClass::None,
            span,
        })
    }

    #[test]
    fn what_comes_after_its_trace_was_discarded_goes_unless_it_failed() {
        let (ids, now) = (IdKeys::default(), Instant::now());
        let mut sampler = Sampler::new(NONE);
        sampler.decide("acme", &mut Vec::new(), LATER, now);
        let served = end(1, Side::Server, SpanReason::Rate);
        let late =
            |sampler: &Sampler, reason| sampler.late("acme", &[end(2, Side::Client, reason)], &ids, LATER);
        assert!(late(&sampler, SpanReason::Rate).is_empty(), "nothing was discarded");
        sampler.remember("acme", vec![Arc::clone(&served)], &budget(1), now);
        assert_eq!(late(&sampler, SpanReason::Rate), HashSet::from([2]));
        assert!(late(&sampler, SpanReason::Slow).is_empty());
        let early = [end(2, Side::Client, SpanReason::Rate)];
        assert!(sampler.late("acme", &early, &ids, QUIET_MS).is_empty(), "more can come");
        assert!(sampler.late("rival", &early, &ids, LATER).is_empty());
        sampler.remember("acme", Vec::new(), &budget(1), now + REMEMBERED);
        assert!(late(&sampler, SpanReason::Rate).is_empty(), "it is long ago");
    }

    #[test]
    fn what_is_remembered_of_discarded_traces_is_bounded_and_charged() {
        let (tenant, now) = (budget(1_000_000), Instant::now());
        let mut remembered = Remembered::default();
        let calm = end(0, Side::Client, SpanReason::Rate);
        let busy = end(0, Side::Server, SpanReason::Rate);
        let numbered = |of: &Arc<Kept>, number| Arc::new(Kept { number, ..Kept::clone(of) });
        let mut all = vec![numbered(&calm, 1)];
        all.extend((2..1_000).map(|number| numbered(&busy, number)));
        remembered.add(all, &tenant, now);
        let numbers: Vec<_> = remembered.spans.iter().map(|(kept, _)| kept.number).collect();
        assert_eq!((numbers.len(), numbers[0]), (1 + REMEMBERED_OF_SANDBOX_MAX, 1), "and the newest");
        assert!(numbers.is_sorted());
        assert!(tenant.resident.taken() >= numbers.len() * size_of::<Kept>());
        tenant.resident.take(tenant.resident.tenant_limit());
        remembered.add(vec![numbered(&calm, 1_001)], &tenant, now);
        tenant.resident.give_back(tenant.resident.tenant_limit());
        assert_eq!((remembered.spans.len(), tenant.resident.taken()), (0, 0));
    }

    #[test]
    fn what_is_left_of_a_trace_that_lost_a_span_goes_unless_something_failed() {
        let now = Instant::now();
        for (reason, left, cut) in [(SpanReason::Rate, vec![], [1, 0]), (SpanReason::Error, vec![2], [0, 0])]
        {
            let mut sampler = Sampler::new(Rule { ratio: 1.0, ..NONE });
            assert_eq!(decide(&mut sampler, vec![trace(&[1, 2], "/", reason, 0)], now).0, [1, 2]);
            assert_eq!(decide(&mut sampler, vec![trace(&[2], "/", reason, 0)], now), (left, cut));
        }
    }

    #[test]
    fn a_trace_that_loses_a_span_before_it_is_decided_keeps_the_others() {
        let mut sampler = Sampler::new(Rule { ratio: 1.0, ..NONE });
        let now = Instant::now();
        let growing = trace(&[1, 2], "/", SpanReason::Rate, LATER);
        assert_eq!(decide(&mut sampler, vec![growing], now).0, [1, 2]);
        let rest = || vec![trace(&[2], "/", SpanReason::Rate, 0)];
        assert_eq!(decide(&mut sampler, rest(), now), (vec![2], [0, 0]));
        assert_eq!(decide(&mut sampler, rest(), now), (vec![2], [0, 0]), "as it was decided");
    }
}
