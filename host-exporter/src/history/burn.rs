//! How fast an application uses up what its objectives allow to fail, over the last five minutes and the last hour.
//!
//! The same two windows and factor as the first pair of the alert `PortholeErrorBudgetBurnsFast` in `deploy/prometheus`
//! (Google, "The Site Reliability Workbook", chapter 5, "Multiwindow, Multi-Burn-Rate Alerts"). The other pairs of the
//! rules need more than the hour that the exporter has.

use serde::Serialize;

use super::{History, STEP};
use crate::{accumulate::golden::Golden, identity::Application, objectives::Objective};

/// How many times faster than allowed is too fast: 2 % of what 30 days allow, in one hour.
pub const FACTOR: f64 = 14.4;

/// So few requests in the last hour are no trend.
const FEW: u64 = 20;

/// Steps of the short window: five minutes.
const SHORT: u64 = 300 / STEP.as_secs();

/// One objective of an application, and how far it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Burn {
    /// `availability` or `latency`.
    pub objective: &'static str,
    /// Share of the requests that should meet it.
    pub share: f64,
    /// Share of the requests of the last five minutes that missed it; none without requests. Those whose status is not known are
    /// left out of `availability`.
    pub missed_5m: Option<f64>,
    /// The same of the last hour.
    pub missed_1h: Option<f64>,
    /// Both windows miss it [`FACTOR`] times as often as allowed, in more than a few requests.
    pub burns_fast: bool,
}

/// Both objectives of an application that serves requests; empty for one that served none in the last hour.
pub fn of(history: &History, application: &Application, objective: &Objective) -> Vec<Burn> {
    let [mut short, mut long] = [Missed::default(), Missed::default()];
    for (age, golden) in history.served(application) {
        let missed = Missed::of(&golden, objective);
        long.add(&missed);
        if age < SHORT {
            short.add(&missed);
        }
    }
    if long.requests == 0 {
        return Vec::new();
    }
    let burn = |name, share: f64, missed: fn(&Missed) -> Option<f64>| {
        let shares = [&short, &long].map(missed);
        let too_many = FACTOR * (1.0 - share);
        let burns_fast =
            long.requests > FEW && shares.iter().all(|missed| missed.is_some_and(|missed| missed > too_many));
        Burn { objective: name, share, missed_5m: shares[0], missed_1h: shares[1], burns_fast }
    };
    vec![
        burn("availability", objective.availability, Missed::failed_share),
        burn("latency", objective.latency_share, Missed::slow_share),
    ]
}

/// Requests of a window, and those that missed an objective.
#[derive(Default)]
struct Missed {
    requests: u64,
    /// Those of which it is known whether they failed.
    known: u64,
    failed: u64,
    slow: u64,
}

#[allow(clippy::cast_precision_loss)]
fn share(missed: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| missed as f64 / of as f64)
}

impl Missed {
    fn of(golden: &Golden, objective: &Objective) -> Self {
        Self {
            requests: golden.durations.count(),
            known: golden.known(),
            failed: golden.errors.server.saturating_add(golden.errors.no_response),
            slow: objective.latency.exceeded(&golden.durations),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.known = self.known.saturating_add(other.known);
        self.failed = self.failed.saturating_add(other.failed);
        self.slow = self.slow.saturating_add(other.slow);
    }

    /// Share of the failed ones among those of which that is known.
    fn failed_share(&self) -> Option<f64> {
        share(self.failed, self.known)
    }

    fn slow_share(&self) -> Option<f64> {
        share(self.slow, self.requests)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use porthole_histogram::Histogram;

    use super::*;
    use crate::{
        accumulate::golden::GoldenTable,
        objectives::Objectives,
        protocol::{ErrorClass, Protocol, Side},
    };

    fn application() -> Application {
        Application { tenant: "acme".to_owned(), service_name: "shop".to_owned() }
    }

    /// `minutes` of 4 steps, in each of which so many requests fail of 100.
    fn burn(minutes: &[(u64, u64)]) -> Vec<Burn> {
        burn_of(minutes, 0)
    }

    /// The same with requests besides of which it is not known whether they failed.
    fn burn_of(minutes: &[(u64, u64)], unknown: u64) -> Vec<Burn> {
        let history = History::new(1 << 20);
        let mut table = GoldenTable::default();
        let mut at = 1_000;
        history.record(at, &BTreeMap::new());
        for &(steps, failed) in minutes {
            for _ in 0..4 * steps {
                at += 1;
                let counts = [
                    (Some(ErrorClass::Server), failed),
                    (Some(ErrorClass::None), 100 - failed),
                    (None, unknown),
                ];
                for (class, count) in counts {
                    let mut durations = Histogram::default();
                    (0..count).for_each(|_| durations.record(1_000_000));
                    table.record(Side::Server, Protocol::Http1, class, &durations);
                }
                history.record(at, &BTreeMap::from([(application(), table.clone())]));
            }
        }
        let objectives = Objectives { availability: 0.99, ..Objectives::default() };
        of(&history, &application(), &objectives.of(&application()))
    }

    #[test]
    fn it_burns_while_both_windows_miss_the_objective_too_often() {
        let [availability, latency] = burn(&[(55, 15), (5, 15)]).try_into().unwrap();
        assert_eq!((availability.missed_5m, availability.missed_1h), (Some(0.15), Some(0.15)));
        assert!(availability.burns_fast && !latency.burns_fast);
        assert_eq!(latency.missed_1h, Some(0.0));
        assert!(!burn(&[(55, 15), (5, 0)])[0].burns_fast, "it has recovered");
        assert!(!burn(&[(55, 0), (5, 15)])[0].burns_fast, "it has only begun");
        assert!(!burn(&[(60, 14)])[0].burns_fast, "14 % are allowed by the factor");
        assert!(burn(&[]).is_empty(), "nothing was served");
    }

    #[test]
    fn requests_of_unknown_status_are_no_successes() {
        let [availability, latency] = burn_of(&[(60, 15)], 900).try_into().unwrap();
        assert_eq!((availability.missed_1h, latency.missed_1h), (Some(0.15), Some(0.0)));
        assert!(availability.burns_fast);
    }

    #[test]
    fn the_rules_have_the_same_factor_and_windows() {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/porthole.rules.yml");
        let rules = std::fs::read_to_string(rules).unwrap();
        for window in ["ratio1h", "ratio5m"] {
            let wanted = format!(
                "porthole:app_objective_missed:{window} > on (tenant, service_name, objective) {FACTOR} *"
            );
            assert!(rules.contains(&wanted), "{wanted}");
        }
        let few = format!("(increase(porthole_app_requests_total{{side=\"server\"}}[1h])) > {FEW}\n");
        assert!(rules.contains(&few), "{few}");
        assert!(rules.contains(&format!("alert: {}\n", super::super::webhook::ALERT)));
    }
}
