use porthole_registry::SandboxState;

use super::*;
use crate::{
    accumulate::{
        sandbox::Containers,
        series::{CheckedSeries, Labels, OTHER, SeriesKey},
        values::Values,
    },
    clock::unix_ms,
    protocol::{ErrorClass, Protocol, Side},
};

fn fleet() -> Fleet {
    let retention =
        Retention { scrapes: 2, at_least: Duration::from_secs(5), at_most: Duration::from_mins(1) };
    Fleet::new(Limits::of_series(100_000), retention)
}

fn record(id: &str, tenant: &str, created_unix_ms: u64) -> Arc<SandboxRecord> {
    let sandbox = format!("default@{id}").parse().expect("key");
    let record = SandboxRecord::new(sandbox, tenant, "shop", "test", created_unix_ms);
    Arc::new(SandboxRecord { state: SandboxState::Watching, ..record })
}

fn count(sandbox: &Sandbox, epoch: u64, requests: u64) {
    let mut values = Values::default();
    values.durations.add(0, requests, requests);
    let key = SeriesKey::new(
        Protocol::Http1,
        Side::Server,
        Labels { operation: "GET", resource: "/", status: "200", ..Labels::default() },
    )
    .expect("short texts");
    let reported = CheckedSeries { id: 1, container_id: String::new(), key, error: ErrorClass::None, values };
    let mut accumulator = sandbox.accumulator.lock();
    accumulator.begin_epoch(epoch).expect("epoch");
    accumulator.apply(reported, &Containers::new()).expect("accepted");
}

#[test]
fn applications_are_bounded_by_tenant_and_idle_ones_make_room() {
    let limits = ApplicationLimits { per_tenant: 3, idle: Duration::from_hours(1) };
    let fleet = fleet().with_applications(limits);
    let service = |number: u64, tenant: &str| {
        let record = record(&format!("{tenant}-{number}"), tenant, number);
        Arc::new(SandboxRecord { service_name: format!("job-{number}"), ..Arc::unwrap_or_clone(record) })
    };
    let names = || -> Vec<String> {
        fleet.applications().into_keys().map(|application| application.service_name).collect()
    };
    for number in 0..5 {
        count(&fleet.register(&service(number, "acme")), 1, 2);
    }
    assert_eq!(names(), ["job-0", "job-1", "job-2", OTHER]);
    let requests = |fleet: &Fleet| -> u64 {
        let tables = fleet.applications().into_values();
        tables.map(|table| table.iter().map(|(_, _, golden)| golden.durations.count()).sum::<u64>()).sum()
    };
    assert_eq!(requests(&fleet), 10, "retired, not lost");
    count(&fleet.register(&service(9, "calm")), 1, 1);
    assert!(names().contains(&"job-9".to_owned()), "another tenant's bound is its own");
    // Short jobs come and go: those that are over make room, and at last leave.
    for sandbox in fleet.sandboxes() {
        fleet.end(&sandbox);
    }
    let hours = |hours: u64| unix_ms() + hours * 3_600_000;
    fleet.retire(hours(1));
    fleet.retire(hours(3));
    assert!(fleet.sandboxes().is_empty());
    count(&fleet.register(&service(7, "acme")), 1, 1);
    assert!(names().contains(&"job-7".to_owned()), "{:?}", names());
    fleet.retire(hours(6));
    assert_eq!(names(), ["job-7"], "the others have had no sandbox for an hour");
}

#[test]
fn tenants_leave_that_have_had_nothing_for_long() {
    let limits = ApplicationLimits { per_tenant: 3, idle: Duration::from_hours(1) };
    let fleet = fleet().with_applications(limits);
    for tenant in ["acme", "calm"] {
        count(&fleet.register(&record(&format!("{tenant}-1"), tenant, 1)), 1, 2);
    }
    let tenants = || -> (Vec<String>, Vec<String>) {
        let budgets = fleet.budgets().into_iter().map(|(tenant, _)| tenant);
        (budgets.collect(), fleet.tenant_counters().into_keys().collect())
    };
    let both = || vec!["acme".to_owned(), "calm".to_owned()];
    for sandbox in fleet.sandboxes().iter().filter(|sandbox| sandbox.identity.tenant == "acme") {
        fleet.end(sandbox);
    }
    let hours = |hours: u64| unix_ms() + hours * 3_600_000;
    // The series go, then the sandbox, then the application; and an hour after that the tenant.
    for at in [1, 3, 3, 5] {
        fleet.retire(hours(at));
        assert_eq!(tenants(), (both(), both()), "after {at} hours");
    }
    assert!(fleet.applications().keys().all(|application| application.tenant == "calm"));
    fleet.retire(hours(7));
    let calm = vec!["calm".to_owned()];
    assert_eq!(tenants(), (calm.clone(), calm));
    count(&fleet.register(&record("acme-2", "acme", 2)), 1, 1);
    assert_eq!(tenants(), (both(), both()), "it may come back");
}

fn total(fleet: &Fleet, tenant: &str) -> u64 {
    let application = Application { tenant: tenant.into(), service_name: "shop".into() };
    fleet
        .applications()
        .get(&application)
        .map_or(0, |table| table.iter().map(|(_, _, golden)| golden.durations.count()).sum())
}

fn ended_at(sandbox: &Sandbox) -> u64 {
    sandbox.phase().ended_unix_ms().expect("ended")
}

#[test]
fn series_go_after_enough_scrapes_and_enough_time() {
    let fleet = fleet();
    let sandbox = fleet.register(&record("a", "acme", 1));
    count(&sandbox, 1, 5);
    fleet.end(&sandbox);
    let ended = ended_at(&sandbox);
    for _ in 0..5 {
        fleet.scraped(std::slice::from_ref(&sandbox));
    }
    assert!(sandbox.phase().exposes_series(), "scraped often, but too soon");
    fleet.retire(ended + 5_000);
    assert!(!sandbox.phase().exposes_series());
    assert_eq!(total(&fleet, "acme"), 5);

    let unscraped = fleet.register(&record("b", "acme", 1));
    fleet.end(&unscraped);
    fleet.retire(ended_at(&unscraped) + 59_000);
    assert!(unscraped.phase().exposes_series());
    fleet.retire(ended_at(&unscraped) + 60_000);
    assert!(
        !unscraped.phase().exposes_series(),
        "there are no scrapes, and the time for which series are kept is over"
    );
}

#[test]
fn series_that_were_not_sent_yet_stay_though_they_were_scraped() {
    let fleet = fleet();
    let sandbox = fleet.register(&record("a", "acme", 1));
    fleet.end(&sandbox);
    let ended = ended_at(&sandbox);
    fleet.hold_ended_since(ended);
    for _ in 0..5 {
        fleet.scraped(std::slice::from_ref(&sandbox));
    }
    fleet.retire(ended + 6_000);
    assert!(sandbox.phase().exposes_series());
    fleet.hold_ended_since(ended + 1);
    fleet.retire(ended + 6_000);
    assert!(!sandbox.phase().exposes_series());
}

#[test]
fn totals_stay_through_every_phase() {
    let fleet = fleet();
    let sandbox = fleet.register(&record("a", "acme", 1));
    count(&sandbox, 1, 5);
    fleet.end(&sandbox);
    let ended = ended_at(&sandbox);
    fleet.retire(ended + 60_000);
    assert_eq!((total(&fleet, "acme"), fleet.sandboxes().len()), (5, 1));
    fleet.retire(ended + 60_000 + u64::try_from(ENDED_KEEP.as_millis()).expect("small"));
    assert_eq!((total(&fleet, "acme"), fleet.sandboxes().len()), (5, 0));
}

#[test]
fn a_sandbox_whose_record_comes_back_is_not_counted_twice() {
    let fleet = fleet();
    let sandbox = fleet.register(&record("a", "acme", 1));
    count(&sandbox, 1, 5);
    fleet.end(&sandbox);
    fleet.retire(ended_at(&sandbox) + 60_000);
    let back = fleet.register(&record("a", "acme", 1));
    assert!(Arc::ptr_eq(&sandbox, &back));
    assert_eq!(total(&fleet, "acme"), 5);
}

#[test]
fn an_id_used_again_by_another_tenant_is_another_sandbox() {
    let fleet = fleet();
    let first = fleet.register(&record("a", "acme", 1));
    count(&first, 1, 5);
    fleet.end(&first);
    let second = fleet.register(&record("a", "globex", 2));
    assert!(!Arc::ptr_eq(&first, &second));
    count(&second, 2, 7);
    assert_eq!((total(&fleet, "acme"), total(&fleet, "globex")), (5, 7));
}

#[test]
fn too_many_remembered_sandboxes_fold_the_oldest_first() {
    let fleet = fleet();
    for created in 0..REMEMBERED_MAX as u64 + 20 {
        let sandbox = fleet.register(&record(&format!("s-{created}"), "acme", created));
        count(&sandbox, 1, 1);
        fleet.end(&sandbox);
    }
    let now = unix_ms() + 61_000;
    fleet.retire(now);
    fleet.retire(now);
    assert_eq!(fleet.sandboxes().len(), REMEMBERED_MAX);
    assert_eq!(total(&fleet, "acme"), REMEMBERED_MAX as u64 + 20);
}
