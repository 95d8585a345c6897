use porthole_histogram::Histogram;

use super::*;
use crate::accumulate::{golden::Golden, series::OTHER};

const NOBODY: ContainerNames = ContainerNames::new();

fn durations(count: u64) -> Histogram {
    let mut durations = Histogram::default();
    durations.add(-56, count, count * 7_000_000);
    durations
}

fn reported(id: u32, route: &str, count: u64) -> CheckedSeries {
    CheckedSeries {
        id,
        container_id: String::new(),
        key: SeriesKey {
            protocol: Protocol::Http1,
            side: Side::Server,
            container: Box::default(),
            operation: "GET".into(),
            resource: route.into(),
            status: "200".into(),
            error_type: Box::default(),
            peer_address: Box::default(),
            peer_port: Box::default(),
        },
        error: ErrorClass::None,
        values: Values { durations: durations(count), request_bytes: count, response_bytes: count },
    }
}

fn accumulator(limit: usize) -> (Accumulator, Arc<TenantBudget>) {
    let budget = Arc::new(TenantBudget::new(limit));
    let mut accumulator = Accumulator::new(Arc::clone(&budget));
    accumulator.begin_epoch(1).expect("first epoch");
    (accumulator, budget)
}

fn exposed(accumulator: &Accumulator) -> BTreeMap<String, u64> {
    let mut series = BTreeMap::new();
    accumulator
        .for_each_series::<()>(|key, values| {
            series.insert(key.resource.to_string(), values.durations.count());
            Ok(())
        })
        .expect("visited");
    series
}

fn requests(accumulator: &Accumulator) -> u64 {
    accumulator.totals().golden().iter().map(|(_, _, golden)| golden.durations.count()).sum()
}

#[test]
fn hearing_a_value_twice_counts_it_once() {
    let (mut accumulator, _) = accumulator(10);
    for count in [3, 3, 5, 5] {
        accumulator.apply(reported(1, "/", count), &NOBODY).expect("accepted");
    }
    assert_eq!(exposed(&accumulator), [("/".to_owned(), 5)].into());
    assert_eq!(requests(&accumulator), 5);
}

#[test]
fn values_that_go_backwards_are_refused_and_change_nothing() {
    let (mut accumulator, _) = accumulator(10);
    accumulator.apply(reported(1, "/", 5), &NOBODY).expect("accepted");
    assert_eq!(accumulator.apply(reported(1, "/", 4), &NOBODY), Err(Rejection::WentBackwards));
    let mut fewer_bytes = reported(1, "/", 6);
    fewer_bytes.values.request_bytes = 1;
    assert_eq!(accumulator.apply(fewer_bytes, &NOBODY), Err(Rejection::WentBackwards));
    assert_eq!(requests(&accumulator), 5);
    assert_eq!(exposed(&accumulator)["/"], 5);
}

#[test]
fn a_series_keeps_its_key_within_an_epoch() {
    let (mut accumulator, _) = accumulator(10);
    accumulator.apply(reported(1, "/", 5), &NOBODY).expect("accepted");
    assert_eq!(accumulator.apply(reported(1, "/other-route", 6), &NOBODY), Err(Rejection::KeyChanged));
    let mut failed = reported(1, "/", 6);
    failed.error = ErrorClass::Server;
    assert_eq!(accumulator.apply(failed, &NOBODY), Err(Rejection::KeyChanged));
    accumulator.begin_epoch(2).expect("next epoch");
    accumulator.apply(reported(1, "/other-route", 6), &NOBODY).expect("a new epoch has ids of its own");
    assert_eq!(exposed(&accumulator), [("/".to_owned(), 5), ("/other-route".to_owned(), 6)].into());
}

#[test]
fn ids_with_the_same_labels_are_one_series() {
    let (mut accumulator, budget) = accumulator(10);
    for id in 1..=4 {
        accumulator.apply(reported(id, "/", 2), &NOBODY).expect("accepted");
    }
    assert_eq!(exposed(&accumulator), [("/".to_owned(), 8)].into());
    assert_eq!(budget.exposed(), 1);
}

#[test]
fn beyond_the_tenants_budget_series_fold_and_counts_stay_exact() {
    let (mut accumulator, budget) = accumulator(3);
    for id in 0..8 {
        let outcome = accumulator.apply(reported(id, &format!("/{id}"), 1), &NOBODY).expect("counted");
        assert_eq!(outcome, if id < 3 { Outcome::Accepted } else { Outcome::Folded });
    }
    accumulator.apply(reported(7, "/7", 4), &NOBODY).expect("a folded id goes on");
    assert_eq!(exposed(&accumulator)[OTHER], 8);
    assert_eq!(requests(&accumulator), 11);
    assert_eq!(budget.exposed(), 4, "three of the budget, and other");
}

#[test]
fn beyond_the_tracked_ids_series_are_refused_and_memory_stays_bounded() {
    let (mut accumulator, _) = accumulator(2);
    let outcomes: Vec<_> =
        (0..50).map(|id| accumulator.apply(reported(id, &format!("/{id}"), 1), &NOBODY)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 8);
    assert!(outcomes[8..].iter().all(|outcome| *outcome == Err(Rejection::TenantSeriesLimit)));

    let (mut wide, _) = super::tests::accumulator(1_000_000);
    let refused = (0..5_000).filter(|&id| wide.apply(reported(id, &format!("/{id}"), 1), &NOBODY).is_err());
    assert_eq!(refused.count(), 5_000 - SANDBOX_SERIES_MAX);
}

#[test]
fn the_budget_is_free_again_when_the_series_are_forgotten() {
    let (mut accumulator, budget) = accumulator(10);
    for id in 0..5 {
        accumulator.apply(reported(id, &format!("/{id}"), 1), &NOBODY).expect("accepted");
    }
    accumulator.forget_series();
    assert_eq!((budget.exposed(), requests(&accumulator)), (0, 5));
    drop(accumulator);
    assert_eq!(budget.exposed(), 0, "not given back twice");
    for _ in 0..40 {
        assert!(budget.take_tracked());
    }
}

#[test]
fn an_epoch_that_was_left_does_not_come_back() {
    let (mut accumulator, _) = accumulator(10);
    accumulator.begin_epoch(1).expect("the same goes on");
    accumulator.begin_epoch(2).expect("next");
    assert_eq!(accumulator.begin_epoch(1), Err(Rejection::EpochReturned));
    for epoch in 3..200 {
        accumulator.begin_epoch(epoch).expect("next");
    }
    assert_eq!(accumulator.closed_epochs().count(), CLOSED_EPOCHS_MAX);
}

fn restored(floor: u64, carried: u64) -> Accumulator {
    let budget = Arc::new(TenantBudget::new(10));
    let golden = |count| {
        let mut table = GoldenTable::default();
        let golden = Golden { durations: durations(count), ..Golden::default() };
        table.insert_added((Side::Server, Protocol::Http1), &golden);
        table
    };
    let totals = Totals { closed: golden(carried), floor: golden(floor), ..Totals::default() };
    let reported = reported(1, "/", carried);
    Accumulator::restored(budget, Some(2), [1], totals, [(reported.key, reported.values)], false)
}

#[test]
fn after_a_restart_totals_do_not_fall_while_the_agent_tells_again() {
    let mut accumulator = restored(50, 10);
    assert_eq!(requests(&accumulator), 60);
    assert!(exposed(&accumulator).is_empty(), "10 where 60 were shown would be a reset");
    accumulator.begin_epoch(2).expect("the same epoch");
    accumulator.apply(reported(7, "/", 20), &NOBODY).expect("accepted");
    assert_eq!(requests(&accumulator), 60);
    accumulator.apply(reported(7, "/", 55), &NOBODY).expect("accepted");
    assert_eq!(requests(&accumulator), 65);
    assert_eq!(exposed(&accumulator)["/"], 65);
}

#[test]
fn an_agent_that_restarted_while_the_exporter_was_down_adds_to_what_was_known() {
    let mut accumulator = restored(50, 10);
    accumulator.begin_epoch(3).expect("another epoch");
    accumulator.apply(reported(1, "/", 3), &NOBODY).expect("accepted");
    assert_eq!(requests(&accumulator), 63);
    assert_eq!(exposed(&accumulator)["/"], 3, "the instance starts over, which Prometheus takes as a reset");
}
