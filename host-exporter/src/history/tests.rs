use porthole_histogram::Histogram;

use super::*;
use crate::protocol::ErrorClass;

fn application(tenant: &str) -> Application {
    Application { tenant: tenant.to_owned(), service_name: "shop".to_owned() }
}

/// Totals of one application of each tenant: so many requests that were answered and that failed.
fn totals(tenants: &[(&str, u64, u64)]) -> BTreeMap<Application, GoldenTable> {
    let table = |answered, failed| {
        let mut table = GoldenTable::default();
        for (class, count) in [(ErrorClass::None, answered), (ErrorClass::Server, failed)] {
            let mut durations = Histogram::default();
            (0..count).for_each(|at| durations.record(1_000_000 << (at % 8)));
            table.record(Side::Server, Protocol::Http1, class, &durations);
        }
        table
    };
    tenants.iter().map(|&(tenant, answered, failed)| (application(tenant), table(answered, failed))).collect()
}

fn counts(history: &History, tenant: &str, steps: u64, each: u64) -> Vec<(StepNumber, u64, u64)> {
    let lines = history.points(|name, _| name == tenant, Range { steps, each, until: None }).lines;
    let points = lines.into_iter().flat_map(|line| line.points);
    points.map(|(step, golden)| (step, golden.durations.count(), golden.errors.server)).collect()
}

#[test]
fn a_step_has_what_came_in_it() {
    let history = History::new(1 << 20);
    history.record(10, &totals(&[("acme", 100, 5)]));
    history.record(11, &totals(&[("acme", 103, 6)]));
    history.record(12, &totals(&[("acme", 103, 6)]));
    history.record(13, &totals(&[("acme", 110, 6), ("beta", 2, 0)]));
    assert_eq!(counts(&history, "acme", STEPS, 1), [(12, 4, 1), (14, 7, 0)], "not what was before the first");
    assert_eq!(counts(&history, "beta", STEPS, 1), [(14, 2, 0)], "all of one that is new");
    assert_eq!(counts(&history, "acme", STEPS, 4), [(12, 4, 1), (16, 7, 0)]);
    assert_eq!(counts(&history, "acme", 2, 1), [(14, 7, 0)]);
    let until = |until| history.points(|_, _| true, Range { steps: STEPS, each: 4, until });
    assert_eq!((until(None).end, until(None).recorded), (16, 14));
    let earlier = until(Some(11));
    assert_eq!((earlier.end, earlier.recorded), (12, 12));
    assert!(earlier.lines.iter().flat_map(|line| &line.points).all(|(end, _)| *end == 12), "{earlier:?}");
}

#[test]
fn two_records_of_one_step_and_totals_that_went_back_are_added() {
    let history = History::new(1 << 20);
    history.record(10, &totals(&[]));
    history.record(11, &totals(&[("acme", 3, 0)]));
    history.record(11, &totals(&[("acme", 5, 1)]));
    assert_eq!(counts(&history, "acme", STEPS, 1), [(12, 6, 1)]);
    history.record(12, &totals(&[("acme", 2, 0)]));
    assert_eq!(counts(&history, "acme", STEPS, 1), [(12, 6, 1), (13, 2, 0)]);
}

#[test]
fn what_is_an_hour_old_leaves_and_so_does_an_application_that_is_gone() {
    let history = History::new(1 << 20);
    history.record(10, &totals(&[]));
    history.record(11, &totals(&[("acme", 3, 0)]));
    history.record(11 + STEPS - 1, &totals(&[("acme", 3, 0)]));
    assert_eq!(counts(&history, "acme", 2 * STEPS, 1).len(), 1);
    history.record(11 + STEPS, &totals(&[("acme", 3, 0)]));
    assert_eq!(counts(&history, "acme", 2 * STEPS, 1).len(), 0);
    history.record(12 + STEPS, &totals(&[("acme", 4, 0)]));
    assert_eq!(counts(&history, "acme", STEPS, 1), [(13 + STEPS, 1, 0)], "its totals were still known");
    history.record(13 + 2 * STEPS, &totals(&[]));
    assert_eq!(history.held(), 0);
}

#[test]
fn a_tenant_over_the_budget_loses_its_own_oldest_steps() {
    let history = History::new(32 << 10);
    let mut busy = BTreeMap::new();
    for step in 0..STEPS {
        busy = totals(&[("acme", step, 0)]);
        for service in 0..20 {
            let mut table = GoldenTable::default();
            let mut durations = Histogram::default();
            (0..=step).for_each(|at| durations.record(1_000_000 << (at % 8)));
            table.record(Side::Client, Protocol::Redis, ErrorClass::None, &durations);
            let application =
                Application { tenant: "busy".to_owned(), service_name: format!("app-{service}") };
            busy.insert(application, table);
        }
        history.record(step, &busy);
        assert!(history.held() <= 32 << 10, "{}", history.held());
    }
    assert_eq!(busy.len(), 21);
    assert_eq!(counts(&history, "acme", STEPS, 1).len() as u64, STEPS - 1, "a neighbour's steps stay");
    let steps = counts(&history, "busy", STEPS, 1);
    assert!(
        !steps.is_empty() && steps.iter().all(|&(step, ..)| step > STEPS / 2),
        "the newest stay: {steps:?}"
    );
}

#[test]
fn what_it_holds_is_what_the_allocator_gave() {
    let history = History::new(1 << 20);
    history.record(0, &totals(&[]));
    assert_eq!(history.held(), 0);
    history.record(1, &totals(&[("acme", 100, 1)]));
    let one = history.held();
    history.record(2, &totals(&[("acme", 200, 1)]));
    assert!(one > 0 && history.held() > one);
}
