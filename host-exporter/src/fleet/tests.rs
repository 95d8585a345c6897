use porthole_registry::{RECORD_VERSION, SandboxState};

use super::*;
use crate::{
    accumulate::{
        sandbox::ContainerNames,
        series::{CheckedSeries, SeriesKey},
        values::Values,
    },
    protocol::{ErrorClass, Protocol, Side},
};

fn fleet() -> Fleet {
    let retention =
        Retention { scrapes: 2, at_least: Duration::from_secs(5), at_most: Duration::from_mins(1) };
    Fleet::new(100_000, retention)
}

fn record(id: &str, tenant: &str, created_unix_ms: u64) -> SandboxRecord {
    SandboxRecord {
        version: RECORD_VERSION,
        sandbox_id: id.parse().expect("id"),
        containerd_namespace: "default".parse().expect("namespace"),
        tenant: tenant.into(),
        service_name: "shop".into(),
        k8s_namespace_name: None,
        k8s_pod_name: None,
        containers: BTreeMap::new(),
        runtime: "test".into(),
        channel: None,
        secret: None,
        state: SandboxState::Watching,
        reason: None,
        created_unix_ms,
    }
}

fn count(sandbox: &Sandbox, epoch: u64, requests: u64) {
    let mut values = Values::default();
    values.durations.add(0, requests, requests);
    let key = SeriesKey {
        protocol: Protocol::Http1,
        side: Side::Server,
        container: Box::default(),
        operation: "GET".into(),
        resource: "/".into(),
        status: "200".into(),
        error_type: Box::default(),
        peer_address: Box::default(),
        peer_port: Box::default(),
    };
    let reported = CheckedSeries { id: 1, container_id: String::new(), key, error: ErrorClass::None, values };
    let mut accumulator = sandbox.accumulator.lock();
    accumulator.begin_epoch(epoch).expect("epoch");
    accumulator.apply(reported, &ContainerNames::new()).expect("accepted");
}

#[test]
fn applications_are_bounded_by_tenant_and_idle_ones_make_room() {
    let limits = ApplicationLimits { per_tenant: 3, idle: Duration::from_hours(1) };
    let fleet = fleet().with_applications(limits);
    let service = |number: u64, tenant: &str| SandboxRecord {
        service_name: format!("job-{number}"),
        ..record(&format!("{tenant}-{number}"), tenant, number)
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
    assert_eq!(requests(&fleet), 10, "folded, not lost");
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
        "nobody scrapes, and the time for which series are kept is over"
    );
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
