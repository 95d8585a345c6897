//! Every few seconds the traces of tenants with new spans are looked through. What is there of one when it is decided is kept whole, or not
//! at all ([`crate::sampling`]): samples of a trace in which something failed or was slow stay as long as what failed, as far as there is
//! room. And they are sent to OTLP's destinations when they are quiet.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::unix_ms,
    exemplars,
    fleet::Fleet,
    otlp::{Destinations, Outgoing},
    protocol::SpanReason,
    sampling::{Rule, Sampler},
    traces,
};

/// How often traces are looked through.
const INTERVAL: Duration = Duration::from_secs(3);

/// Rounds after a tenant's last span in which it is still looked through: until its traces are quiet.
const ROUNDS_AFTER: u32 = 2;

/// What was seen of the tenants' traces, and where they are sent.
#[derive(Debug)]
pub struct Rounds {
    outgoing: Outgoing,
    sampler: Sampler,
    news: News,
}

/// Which tenants had spans that are new.
#[derive(Debug, Default)]
struct News {
    /// The number of each tenant's newest span, and rounds since it came.
    newest: BTreeMap<String, (u64, u32)>,
}

impl News {
    /// Takes the number of each tenant's newest span; gives the tenants with one that came since the last round, or in one of so many
    /// rounds before.
    fn tenants(&mut self, newest: Vec<(String, u64)>, rounds_after: u32) -> Vec<String> {
        let mut with_news = Vec::new();
        let mut seen = BTreeMap::new();
        for (tenant, number) in newest {
            let rounds = match self.newest.get(&tenant) {
                Some(&(before, rounds)) if before == number => rounds.saturating_add(1),
                _ => 0,
            };
            if rounds <= rounds_after {
                with_news.push(tenant.clone());
            }
            seen.insert(tenant, (number, rounds));
        }
        self.newest = seen;
        with_news
    }
}

impl Rounds {
    /// Before the first round.
    pub fn new(destinations: Arc<Destinations>, rule: Rule) -> Self {
        let outgoing = Outgoing::new(destinations);
        Self { outgoing, sampler: Sampler::new(rule), news: News::default() }
    }

    /// One round over all tenants. Spans are taken of one tenant at a time, and of tenants with news alone.
    pub fn run(&mut self, fleet: &Fleet, now_unix_ms: u64, now: Instant) {
        let spans = &fleet.spans;
        let waits = self.sampler.discards() || !self.outgoing.is_nowhere();
        let rounds_after = if waits { ROUNDS_AFTER } else { 0 };
        for tenant in self.news.tenants(spans.newest(None), rounds_after) {
            let all = spans.of_tenant(&tenant);
            let late = self.sampler.late(&tenant, &all, &spans.ids, now_unix_ms);
            let mut traces = if late.is_empty() {
                traces::assemble(&all, &spans.ids)
            } else {
                let others = all.iter().filter(|kept| !late.contains(&kept.number)).cloned();
                traces::assemble(&others.collect::<Vec<_>>(), &spans.ids)
            };
            let mut discarded = self.sampler.decide(&tenant, &mut traces, now_unix_ms, now);
            let [_, (_, sampled_out)] = &mut discarded;
            sampled_out.extend(late);
            let numbers: HashSet<u64> = sampled_out.iter().copied().collect();
            for (eviction, numbers) in discarded {
                spans.discard(&tenant, &numbers, eviction);
            }
            if let Some(budget) = fleet.budget_of(&tenant) {
                let gone = all.into_iter().filter(|kept| numbers.contains(&kept.number)).collect();
                self.sampler.remember(&tenant, gone, &budget, now);
            }
            // One of a trace that may yet be discarded would point to nothing.
            let stay = traces.iter().filter(|trace| self.sampler.is_kept(&tenant, trace));
            spans.set_exemplars(&tenant, exemplars::of(stay));
            self.outgoing.offer(&tenant, &traces, now_unix_ms);
            let marked = traces.iter().filter(|trace| trace.is_marked()).flat_map(|trace| &trace.spans);
            let samples = marked.filter(|span| span.kept.span.reason == SpanReason::Rate);
            let numbers: Vec<u64> = samples.map(|span| span.kept.number).collect();
            spans.promote(&tenant, &numbers);
        }
        self.outgoing.retain(|tenant| self.news.newest.contains_key(tenant));
        self.sampler.retain(|tenant| self.news.newest.contains_key(tenant));
    }
}

/// Runs rounds until the exporter stops.
pub async fn keep(fleet: Arc<Fleet>, mut rounds: Rounds, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let fleet = Arc::clone(&fleet);
        let round = tokio::task::spawn_blocking(move || {
            rounds.run(&fleet, unix_ms(), Instant::now());
            rounds
        });
        match round.await {
            Ok(after) => rounds = after,
            Err(error) => {
                tracing::error!(%error, "traces are not looked through any more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accumulate::{
            budget::{Limits, TenantBudget},
            series::{Labels, SeriesKey},
        },
        config,
        fleet::Retention,
        guest_clock::Offset,
        identity::Identity,
        protocol::{ErrorClass, Protocol, Side},
        spans::{CheckedSpan, Connection, Eviction, Reception},
    };

    /// What an agent sends of spans in a second, and at once.
    const PER_SECOND: u64 = 50;
    const AT_ONCE: u64 = 2 * PER_SECOND;

    /// Rounds over the spans of one sandbox, at times of the test.
    struct Sampled {
        fleet: Arc<Fleet>,
        rounds: Rounds,
        began: Instant,
        identity: Arc<Identity>,
        key: Arc<SeriesKey>,
        budget: Arc<TenantBudget>,
    }

    impl Sampled {
        fn new(rule: Rule) -> Self {
            let retention = Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::ZERO };
            let fleet = Arc::new(Fleet::new(Limits::of_series(1), retention));
            let labels = Labels { operation: "GET", resource: "/", status: "200", ..Labels::default() };
            let key = SeriesKey::new(Protocol::Http1, Side::Server, labels).expect("short texts");
            let identity = Identity::in_default("acme", "shop", "shop-1");
            let (config, stop) = (config::Exporter::default(), watch::channel(false).1);
            let destinations = Destinations::start(&config, &fleet, &stop).expect("no destinations");
            let rounds = Rounds::new(Arc::new(destinations), rule);
            let budget = fleet.tenant_budget("acme");
            let (identity, key) = (Arc::new(identity), Arc::new(key));
            Self { fleet, rounds, began: Instant::now(), identity, key, budget }
        }

        fn put(&self, reason: SpanReason, ms: u64) {
            let reception = Reception { unix_ms: ms, offset: Offset::default(), connection: None };
            let (key, span) = (Arc::clone(&self.key), CheckedSpan::lasting(reason, ms));
            self.fleet.spans.put(&self.identity, &self.budget, key, ErrorClass::None, span, reception);
        }

        /// A sample of one end of a call over a connection from this port.
        fn put_end(&self, side: Side, port: u16, ms: u64) {
            let (client, server) = (format!("10.0.0.1:{port}"), "10.0.0.2:80".to_owned());
            let (local, remote, own) = match side {
                Side::Client => (client, server, [10, 0, 0, 1]),
                Side::Server => (server, client, [10, 0, 0, 2]),
            };
            let span = CheckedSpan {
                local: local.into(),
                remote: remote.into(),
                ..CheckedSpan::lasting(SpanReason::Rate, 1)
            };
            let connection = Connection::of(&span, &[own.into()]);
            let reception = Reception { unix_ms: ms, offset: Offset::default(), connection };
            let labels = Labels { operation: "GET", ..Labels::default() };
            let key = Arc::new(SeriesKey::new(Protocol::Http1, side, labels).expect("short texts"));
            let identity = Arc::new(Identity::in_default("acme", side.name(), side.name()));
            self.fleet.spans.put(&identity, &self.budget, key, ErrorClass::None, span, reception);
        }

        fn round(&mut self, ms: u64) {
            self.rounds.run(&self.fleet, ms, self.began + Duration::from_millis(ms));
        }

        /// The durations of exemplars.
        fn exemplars(&self) -> Vec<u64> {
            let exemplars = self.fleet.spans.exemplars(None);
            let mut durations: Vec<_> =
                exemplars.of_tenant("acme").iter().map(|exemplar| exemplar.duration_ns).collect();
            durations.sort_unstable();
            durations
        }
    }

    #[test]
    fn a_sandbox_that_sends_as_many_spans_as_it_may_has_each_until_its_trace_is_decided() {
        let mut sampled = Sampled::new(Rule { ratio: 0.0, reservoir_per_minute: 0.0 });
        let interval = u64::try_from(INTERVAL.as_millis()).expect("small");
        let quiet_from = 20 * interval;
        let (mut sent, mut at_once) = (0, AT_ONCE);
        for ms in 0..quiet_from {
            if ms % interval == 0 {
                sampled.round(ms);
            }
            if ms % (1_000 / PER_SECOND) == 0 {
                for _ in 0..=at_once {
                    sampled.put(SpanReason::Rate, ms);
                    sent += 1;
                }
                at_once = 0;
            }
        }
        for round in 0..=u64::from(ROUNDS_AFTER) {
            sampled.round(quiet_from + round * interval);
        }
        let evicted = |eviction| sampled.fleet.spans.evicted(eviction);
        assert_eq!(Eviction::ALL.map(evicted).iter().sum::<u64>(), sent);
        assert_eq!(evicted(Eviction::Sampling), sent, "each by its trace's decision");
    }

    #[test]
    fn a_call_that_comes_late_follows_the_decision_about_what_its_server_did() {
        // One of each route is kept: of the servers' traces, and of clients' without a server.
        let mut sampled = Sampled::new(Rule { ratio: 0.0, reservoir_per_minute: 1.0 });
        let evicted = |sampled: &Sampled| sampled.fleet.spans.evicted(Eviction::Sampling);
        for port in [4_000, 4_001] {
            sampled.put_end(Side::Server, port, 1);
        }
        sampled.round(5_500);
        assert_eq!(evicted(&sampled), 1);
        for port in [4_000, 4_001] {
            sampled.put_end(Side::Client, port, 6_000);
        }
        sampled.round(11_500);
        let spans = sampled.fleet.spans.of_tenant("acme");
        assert_eq!((spans.len(), evicted(&sampled)), (2, 2), "both ends of one call: {spans:?}");
        assert_eq!(traces::assemble(&spans, &sampled.fleet.spans.ids).len(), 1);
    }

    #[test]
    fn exemplars_are_of_traces_that_stay() {
        let mut sampled = Sampled::new(Rule { ratio: 0.0, reservoir_per_minute: 1.0 });
        sampled.put(SpanReason::Rate, 1);
        sampled.put(SpanReason::Slow, 4);
        sampled.round(1_000);
        assert_eq!(sampled.exemplars(), [4], "the other one is not decided");
        sampled.put(SpanReason::Rate, 1_000);
        sampled.round(5_500);
        assert_eq!(sampled.exemplars(), [1, 4], "it has the reservoir");
        sampled.round(8_500);
        assert_eq!((sampled.exemplars(), sampled.fleet.spans.evicted(Eviction::Sampling)), (vec![1, 4], 1));
        let mut sampled = Sampled::new(Rule { ratio: 1.0, reservoir_per_minute: 0.0 });
        sampled.put(SpanReason::Rate, 1);
        sampled.round(1_000);
        assert_eq!(sampled.exemplars(), [1], "nothing is discarded");
    }

    #[test]
    fn tenants_are_looked_through_while_they_have_news_and_some_rounds_after() {
        let mut news = News::default();
        let mut round = |newest: &[(&str, u64)], rounds_after| {
            let newest = newest.iter().map(|&(tenant, number)| (tenant.to_owned(), number)).collect();
            news.tenants(newest, rounds_after).concat()
        };
        assert_eq!(round(&[("a", 1), ("b", 7)], 0), "ab");
        assert_eq!(round(&[("a", 1), ("b", 7)], 0), "");
        assert_eq!(round(&[("a", 8), ("b", 7)], 0), "a");
        assert_eq!(round(&[("a", 8), ("b", 7)], 1), "a", "the other one's is too old");
        assert_eq!(round(&[("a", 8), ("b", 7), ("c", 9)], 1), "c");
        assert_eq!(round(&[("b", 7)], 0), "");
        assert_eq!(round(&[("a", 8), ("b", 7)], 0), "a", "it had none for a round");
    }
}
