use porthole_histogram::Histogram;

use super::*;
use crate::accumulate::{
    budget::{Limits, NodeBudget},
    golden::{Golden, GoldenTable},
    series::{Labels, OTHER},
};

const NO_NAMES: Containers = Containers::new();

fn durations(count: u64) -> Histogram {
    let mut durations = Histogram::default();
    durations.add(-56, count, count * 7_000_000);
    durations
}

fn reported(id: u32, route: &str, count: u64) -> CheckedSeries {
    CheckedSeries {
        id,
        container_id: String::new(),
        key: SeriesKey::new(
            Protocol::Http1,
            Side::Server,
            Labels { operation: "GET", resource: route, status: "200", ..Labels::default() },
        )
        .expect("short texts"),
        error: ErrorClass::None,
        values: Values { durations: durations(count), request_bytes: count, response_bytes: count },
    }
}

fn accumulator(limit: usize) -> (Accumulator, Arc<TenantBudget>) {
    within(Limits::of_series(limit))
}

fn within(limits: Limits) -> (Accumulator, Arc<TenantBudget>) {
    let budget = Arc::new(TenantBudget::new(&NodeBudget::new(limits)));
    let mut accumulator = Accumulator::new(Arc::clone(&budget), 100);
    accumulator.begin_epoch(1).expect("first epoch");
    (accumulator, budget)
}

fn exposed(accumulator: &Accumulator) -> BTreeMap<String, u64> {
    let mut series = BTreeMap::new();
    accumulator
        .for_each_series::<()>(|key, values| {
            series.insert(key.labels().resource.to_owned(), values.durations.count());
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
        accumulator.apply(reported(1, "/", count), &NO_NAMES).expect("accepted");
    }
    assert_eq!(exposed(&accumulator), [("/".to_owned(), 5)].into());
    assert_eq!(requests(&accumulator), 5);
}

#[test]
fn a_successor_counts_what_comes_after_its_predecessor_also_through_a_further_one_and_the_next_epoch() {
    let (mut first, budget) = accumulator(10);
    first.apply(reported(1, "/", 5), &NO_NAMES).expect("accepted");
    first.apply_counters(&AgentCounters { exchanges: 5, ..AgentCounters::default() });
    let successor = |of: &Accumulator| {
        let mut successor = of.successor(Arc::clone(&budget), 100);
        successor.begin_epoch(1).expect("the same epoch");
        successor.carried_written(Some(1));
        successor
    };
    let mut second = successor(&first);
    for count in [5, 5, 8] {
        second.apply(reported(1, "/", count), &NO_NAMES).expect("accepted");
        second.apply_counters(&AgentCounters { exchanges: count, ..AgentCounters::default() });
        assert_eq!((exposed(&second)["/"], requests(&second)), (count - 5, count - 5));
        assert_eq!(second.totals().counters().exchanges, count - 5);
    }
    second.apply(reported(2, "/b", 4), &NO_NAMES).expect("accepted");
    let mut third = successor(&second);
    assert_eq!(third.apply(reported(1, "/", 7), &NO_NAMES), Err(Rejection::WentBackwards));
    for (id, route, count) in [(1, "/", 9), (2, "/b", 4)] {
        third.apply(reported(id, route, count), &NO_NAMES).expect("accepted");
    }
    third.apply_counters(&AgentCounters { exchanges: 10, ..AgentCounters::default() });
    assert_eq!((requests(&first), requests(&second), requests(&third)), (5, 7, 1));
    assert_eq!(third.totals().counters().exchanges, 2);
    third.begin_epoch(2).expect("next epoch");
    third.apply(reported(1, "/", 2), &NO_NAMES).expect("accepted");
    assert_eq!((exposed(&third)["/"], requests(&third)), (3, 3));
    drop((first, second, third));
    assert_eq!(budget.resident.taken(), 0);
}

#[test]
fn values_that_go_backwards_are_refused_and_change_nothing() {
    let (mut accumulator, _) = accumulator(10);
    accumulator.apply(reported(1, "/", 5), &NO_NAMES).expect("accepted");
    assert_eq!(accumulator.apply(reported(1, "/", 4), &NO_NAMES), Err(Rejection::WentBackwards));
    let mut fewer_bytes = reported(1, "/", 6);
    fewer_bytes.values.request_bytes = 1;
    assert_eq!(accumulator.apply(fewer_bytes, &NO_NAMES), Err(Rejection::WentBackwards));
    assert_eq!(requests(&accumulator), 5);
    assert_eq!(exposed(&accumulator)["/"], 5);
}

#[test]
fn a_series_keeps_its_key_within_an_epoch() {
    let (mut accumulator, _) = accumulator(10);
    accumulator.apply(reported(1, "/", 5), &NO_NAMES).expect("accepted");
    assert_eq!(accumulator.apply(reported(1, "/other-route", 6), &NO_NAMES), Err(Rejection::KeyChanged));
    let mut failed = reported(1, "/", 6);
    failed.error = ErrorClass::Server;
    assert_eq!(accumulator.apply(failed, &NO_NAMES), Err(Rejection::KeyChanged));
    accumulator.begin_epoch(2).expect("next epoch");
    accumulator.apply(reported(1, "/other-route", 6), &NO_NAMES).expect("a new epoch has ids of its own");
    assert_eq!(exposed(&accumulator), [("/".to_owned(), 5), ("/other-route".to_owned(), 6)].into());
}

#[test]
fn values_of_a_new_epoch_are_shown_once_those_of_the_last_are_written() {
    let (mut accumulator, _) = accumulator(10);
    let shown = |accumulator: &Accumulator| -> Vec<(String, u64)> {
        let mut copied = Vec::new();
        accumulator.copy_series((Protocol::Http1, Side::Server), None, 10, &mut copied);
        copied.iter().map(|shown| (shown.key.labels().resource.to_owned(), shown.durations.count())).collect()
    };
    let apply = |accumulator: &mut Accumulator, id, route, count| {
        accumulator.apply(reported(id, route, count), &NO_NAMES).expect("accepted");
    };
    apply(&mut accumulator, 1, "/", 5);
    assert_eq!(shown(&accumulator), [("/".to_owned(), 5)]);
    accumulator.begin_epoch(2).expect("next epoch");
    apply(&mut accumulator, 1, "/", 2);
    apply(&mut accumulator, 2, "/new", 1);
    assert_eq!(shown(&accumulator), [("/".to_owned(), 5)], "no less, and nothing of the new epoch");
    accumulator.carried_written(Some(1));
    assert_eq!(shown(&accumulator), [("/".to_owned(), 5)], "another epoch was written");
    accumulator.carried_written(Some(2));
    assert_eq!(shown(&accumulator), [("/".to_owned(), 7), ("/new".to_owned(), 1)]);
}

#[test]
fn ids_with_the_same_labels_are_one_series() {
    let (mut accumulator, budget) = accumulator(10);
    for id in 1..=4 {
        accumulator.apply(reported(id, "/", 2), &NO_NAMES).expect("accepted");
    }
    assert_eq!(exposed(&accumulator), [("/".to_owned(), 8)].into());
    assert_eq!(budget.exposed_series(), 1);
}

#[test]
fn a_crowded_sandbox_forgets_what_an_epoch_had_nothing_of_and_counts_stay_exact() {
    let (mut accumulator, budget) = accumulator(4);
    let apply = |accumulator: &mut Accumulator, id, route: &str| {
        accumulator.apply(reported(id, route, 1), &NO_NAMES).expect("counted")
    };
    let routes = |accumulator: &Accumulator| exposed(accumulator).into_keys().collect::<Vec<_>>();
    for (epoch, added) in (2_u64..).zip(["/b", "/c", "/d", "/e", "/f"]) {
        assert_eq!(apply(&mut accumulator, 1, "/a"), Outcome::Accepted);
        assert_eq!(apply(&mut accumulator, 2, added), Outcome::Accepted, "{:?}", routes(&accumulator));
        accumulator.begin_epoch(epoch).expect("next epoch");
    }
    assert_eq!(routes(&accumulator), ["/a", "/f"], "it was full at the last end, and only used ones stayed");
    assert_eq!((exposed(&accumulator)["/a"], requests(&accumulator), budget.exposed_series()), (5, 10, 2));
}

#[test]
fn beyond_the_tenants_budget_series_fold_and_counts_stay_exact() {
    let (mut accumulator, budget) = accumulator(3);
    for id in 0..8 {
        let outcome = accumulator.apply(reported(id, &format!("/{id}"), 1), &NO_NAMES).expect("counted");
        assert_eq!(outcome, if id < 3 { Outcome::Accepted } else { Outcome::Overflowed });
    }
    accumulator.apply(reported(7, "/7", 4), &NO_NAMES).expect("an overflowed id goes on");
    assert_eq!(exposed(&accumulator)[OTHER], 8);
    assert_eq!(requests(&accumulator), 11);
    assert_eq!(budget.exposed_series(), 4, "three of the budget, and other");
}

#[test]
fn beyond_the_tracked_ids_series_are_refused_and_memory_stays_bounded() {
    let (mut accumulator, _) = accumulator(2);
    let outcomes: Vec<_> =
        (0..50).map(|id| accumulator.apply(reported(id, &format!("/{id}"), 1), &NO_NAMES)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 8);
    assert!(outcomes[8..].iter().all(|outcome| *outcome == Err(Rejection::TenantSeriesLimit)));

    let (mut wide, _) = super::tests::accumulator(1_000_000);
    let refused = (0..5_000).filter(|&id| wide.apply(reported(id, &format!("/{id}"), 1), &NO_NAMES).is_err());
    assert_eq!(refused.count(), 5_000 - SANDBOX_SERIES_MAX);
}

#[test]
fn the_budget_is_free_again_when_the_series_are_forgotten() {
    let (mut accumulator, budget) = accumulator(10);
    for id in 0..5 {
        accumulator.apply(reported(id, &format!("/{id}"), 1), &NO_NAMES).expect("accepted");
    }
    accumulator.forget_series();
    assert_eq!((budget.exposed_series(), requests(&accumulator)), (0, 5));
    drop(accumulator);
    assert_eq!(budget.exposed_series(), 0, "not given back twice");
    for _ in 0..40 {
        assert!(budget.take_tracked());
    }
}

#[test]
fn what_an_agent_reports_again_to_a_sandbox_that_came_back_is_not_counted_twice() {
    let (mut accumulator, _) = accumulator(10);
    let client = || {
        let mut series = reported(1, "/called", 3);
        series.key.side = Side::Client;
        series
    };
    accumulator.apply(reported(0, "/", 5), &NO_NAMES).expect("accepted");
    accumulator.apply(client(), &NO_NAMES).expect("accepted");
    assert_eq!(accumulator.take_calls().len(), 1);
    for more in 1..4 {
        accumulator.forget_series();
        assert_eq!(requests(&accumulator), 7 + more);
        accumulator.begin_epoch(1).expect("the same goes on");
        accumulator.apply(client(), &NO_NAMES).expect("accepted");
        accumulator.apply(reported(0, "/", 5 + more), &NO_NAMES).expect("accepted");
        assert_eq!(requests(&accumulator), 8 + more);
        assert_eq!(exposed(&accumulator), [("/".to_owned(), 5 + more), ("/called".to_owned(), 3)].into());
        assert_eq!(accumulator.take_calls().len(), 0, "no call of now");
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
    let budget = Arc::new(TenantBudget::new(&NodeBudget::new(Limits::of_series(10))));
    let golden = |count| {
        let mut table = GoldenTable::default();
        let golden = Golden { durations: durations(count), ..Golden::default() };
        table.insert_added((Side::Server, Protocol::Http1), &golden);
        table
    };
    let totals = Totals { closed: golden(carried), floor: golden(floor), ..Totals::default() };
    let reported = reported(1, "/", carried);
    Accumulator::new(budget, 100).restored(Some(2), [1], totals, [(reported.key, reported.values)], false)
}

#[test]
fn after_a_restart_totals_do_not_fall_while_the_agent_tells_again() {
    let mut accumulator = restored(50, 10);
    assert_eq!(requests(&accumulator), 60);
    assert!(exposed(&accumulator).is_empty(), "10 where 60 were shown would be a reset");
    accumulator.begin_epoch(2).expect("the same epoch");
    accumulator.apply(reported(7, "/", 20), &NO_NAMES).expect("accepted");
    assert_eq!(requests(&accumulator), 60);
    accumulator.apply(reported(7, "/", 55), &NO_NAMES).expect("accepted");
    assert_eq!(requests(&accumulator), 65);
    assert_eq!(exposed(&accumulator)["/"], 65);
}

#[test]
fn an_agent_that_restarted_while_the_exporter_was_down_adds_to_what_was_known() {
    let mut accumulator = restored(50, 10);
    accumulator.begin_epoch(3).expect("another epoch");
    accumulator.apply(reported(1, "/", 3), &NO_NAMES).expect("accepted");
    assert_eq!(requests(&accumulator), 63);
    assert_eq!(exposed(&accumulator)["/"], 3, "the instance starts over, which Prometheus takes as a reset");
}

fn containers(id: &str, name: &str) -> Containers {
    [(id.parse().expect("id"), ContainerRecord { name: name.to_owned() })].into()
}

/// The charge recomputed from all that is held.
fn held(accumulator: &Accumulator) -> (usize, usize) {
    let series = accumulator.exposed.values().flatten();
    let (entries, exposed): (Vec<_>, Vec<_>) = series
        .map(|(key, exposed)| (exposed_entry(key) + exposed.bytes(), cost::exposed_series(key, 100)))
        .unzip();
    let tracked: usize = accumulator.by_id.values().map(Tracked::bytes).sum();
    let unlisted: usize = accumulator.unlisted.values().map(|container| unlisted_entry(container)).sum();
    let resident = entries.iter().sum::<usize>() + tracked + unlisted + cost::table(&accumulator.by_id);
    (resident + accumulator.totals.bytes(), exposed.iter().sum())
}

#[test]
fn what_is_charged_is_what_is_held_whatever_happens() {
    let mut random = fastrand::Rng::with_seed(5);
    let (mut accumulator, budget) = accumulator(40);
    let mut counts = HashMap::new();
    for round in 0..4_000_u64 {
        let id = random.u32(0..80);
        let count: &mut u64 = counts.entry(id).or_default();
        *count += random.u64(0..3);
        let mut series = reported(id, &format!("/{}", id / 2), *count);
        let buckets = (0..i32::try_from(*count % 40).expect("small")).map(|index| (index, *count));
        let grown = Histogram::from_parts(*count, buckets.collect()).expect("well formed");
        series.values.durations.merge(&grown);
        series.container_id = ["", "listed", "later"][id as usize % 3].to_owned();
        let _ = accumulator.apply(series, &containers("listed", "shop"));
        if round == 1_000 {
            accumulator.containers_changed(&containers("later", "a container that came later"));
        }
        if round % 1_500 == 1_499 {
            accumulator.begin_epoch(round).expect("next epoch");
            counts.clear();
        }
        let charge = accumulator.charge();
        assert_eq!((charge.resident(), charge.exposed()), held(&accumulator), "in round {round}");
    }
    assert_eq!(budget.resident.taken(), accumulator.charge().resident());
    accumulator.forget_series();
    assert_eq!(budget.exposed.taken(), 0);
    drop(accumulator);
    assert_eq!((budget.resident.taken(), budget.exposed_series()), (0, 0));
}

#[test]
fn beyond_the_memory_of_the_tenant_nothing_more_is_held_and_what_is_held_goes_on() {
    // Whether the last bytes suffice for an id that is counted in an overflow series depends on how many are left.
    let overflowed: usize = (80_000..80_400).step_by(20).map(overflowed_within).sum();
    assert!(overflowed > 0, "none was counted in an overflow series");
}

/// Checks what happens at the end of a tenant's memory; how many series were counted in an overflow series.
fn overflowed_within(memory: usize) -> usize {
    let (mut accumulator, budget) =
        within(Limits { memory_per_tenant: memory, ..Limits::of_series(1_000_000) });
    let outcomes: Vec<_> =
        (0..2_000).map(|id| accumulator.apply(reported(id, &format!("/{id}"), 1), &NO_NAMES)).collect();
    let counted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let overflowed = outcomes.iter().filter(|outcome| **outcome == Ok(Outcome::Overflowed)).count();
    assert!(counted > 100, "{counted} were counted");
    assert_eq!(outcomes.last(), Some(&Err(Rejection::TenantMemoryLimit)));
    assert!(budget.resident.taken() < 90_000, "{}", budget.resident.taken());
    accumulator.apply(reported(1, "/1", 5), &NO_NAMES).expect("no further bucket is needed");
    let mut wider = reported(1, "/1", 9);
    for index in -50..40 {
        wider.values.durations.add(index, 1, 1);
    }
    assert_eq!(accumulator.apply(wider, &NO_NAMES), Err(Rejection::TenantMemoryLimit));
    assert_eq!(requests(&accumulator), counted as u64 + 4);
    overflowed
}

#[test]
fn beyond_what_the_tenant_may_expose_series_overflow() {
    let (mut accumulator, budget) =
        within(Limits { exposed_per_tenant: 200_000, ..Limits::of_series(1_000_000) });
    for id in 0..500 {
        accumulator.apply(reported(id, &format!("/{id}"), 1), &NO_NAMES).expect("counted");
    }
    assert!(budget.exposed.taken() < 220_000, "{}", budget.exposed.taken());
    assert_eq!(exposed(&accumulator).values().sum::<u64>(), 500);
    assert!(exposed(&accumulator)[OTHER] > 400);
}
