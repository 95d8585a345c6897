use std::{sync::Arc, time::Duration};

use porthole_histogram::Histogram;
use porthole_registry::{SandboxKey, SandboxRecord, SandboxState};

use super::*;
use crate::{
    accumulate::{
        sandbox::Containers,
        series::{CheckedSeries, Labels, SeriesKey},
        values::Values,
    },
    config,
    fleet::{Retention, sandbox::Sandbox},
    history::STEPS,
    protocol::{ErrorClass, Side},
};

fn fleet() -> Fleet {
    let limits = config::Exporter { memory_mib_per_tenant: 1 << 10, ..config::Exporter::default() }.limits();
    Fleet::new(limits, Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::from_mins(1) })
}

fn sandbox(fleet: &Fleet, tenant: &str, service: &str, addresses: &[&str]) -> Arc<Sandbox> {
    let key = SandboxKey {
        namespace: "default".parse().expect("namespace"),
        id: format!("{tenant}-{service}").parse().expect("id"),
    };
    let record = SandboxRecord {
        state: SandboxState::Watching,
        addresses: addresses.iter().map(|address| address.parse().expect("address")).collect(),
        ..SandboxRecord::new(key, tenant, service, "test", 1)
    };
    let sandbox = fleet.register(&Arc::new(record));
    sandbox.accumulator.lock().begin_epoch(1).expect("first epoch");
    sandbox
}

/// So many calls to a server, by the series' id.
fn call(sandbox: &Sandbox, id: u32, address: &str, total: u64) {
    let mut durations = Histogram::default();
    (0..total).for_each(|_| durations.record(1_000_000));
    let labels = Labels { peer_address: address, peer_port: "3306", ..Labels::default() };
    let series = CheckedSeries {
        id,
        container_id: String::new(),
        key: SeriesKey::new(Protocol::Mysql, Side::Client, labels).expect("short texts"),
        error: ErrorClass::None,
        values: Values { durations, ..Values::default() },
    };
    sandbox.accumulator.lock().apply(series, &Containers::new()).expect("accepted");
}

fn requests(topology: &Topology, tenant: &str, from: StepNumber) -> Vec<(Target, u64)> {
    let sums = topology.since(Some(tenant), from).into_iter();
    sums.map(|(_, edge, sum)| (edge.to, sum.durations.count())).collect()
}

#[test]
fn an_address_is_named_only_where_it_is_one_applications_alone() {
    let fleet = fleet();
    let shop = sandbox(&fleet, "acme", "shop", &["10.0.0.1", "fd00::1"]);
    let _db = sandbox(&fleet, "acme", "db", &["10.0.0.2"]);
    // Networks that do not know each other.
    let _cache = sandbox(&fleet, "acme", "cache", &["10.0.0.9"]);
    let _other = sandbox(&fleet, "rival", "cache", &["10.0.0.9", "10.0.0.3"]);
    let sandboxes = fleet.sandboxes();
    let book = AddressBook::of(sandboxes.iter().map(|sandbox| &**sandbox), clock::unix_ms());
    let target = |address: &str| book.target(&shop, [address, "3306"], &Names::default());
    assert_eq!(target("10.0.0.2"), Target::Application("db".to_owned()));
    assert_eq!(target("::ffff:10.0.0.2"), Target::Application("db".to_owned()));
    assert_eq!(target("10.0.0.3"), Target::AnotherTenant);
    assert_eq!(target("10.0.0.9"), Target::Address("10.0.0.9:3306".to_owned()));
    assert_eq!(target("fd00::2"), Target::Address("[fd00::2]:3306".to_owned()));
    for own in ["10.0.0.1", "fd00::1", "127.0.0.1", "::1", "/run/mysqld.sock", "@mysql"] {
        assert_eq!(target(own), Target::Itself, "{own}");
    }
    fleet.end(&sandboxes[0]);
    let later = AddressBook::of(sandboxes.iter().map(|sandbox| &**sandbox), clock::unix_ms() + 61_000);
    assert_eq!(
        later.target(&shop, ["10.0.0.9", "1"], &Names::default()),
        Target::AnotherTenant,
        "the address of one that has ended is free"
    );
}

#[test]
fn calls_are_in_the_step_in_which_they_came_and_leave_after_an_hour() {
    let fleet = fleet();
    let topology = Topology::new(1 << 20);
    let shop = sandbox(&fleet, "acme", "shop", &[]);
    call(&shop, 1, "10.0.0.2", 3);
    topology.record(10, &fleet);
    call(&shop, 1, "10.0.0.2", 7);
    topology.record(11, &fleet);
    let to = || Target::Address("10.0.0.2:3306".to_owned());
    assert_eq!(requests(&topology, "acme", 0), [(to(), 7)]);
    assert_eq!(requests(&topology, "acme", 11), [(to(), 4)]);
    assert_eq!(requests(&topology, "rival", 0), []);
    topology.record(10 + STEPS, &fleet);
    assert_eq!(requests(&topology, "acme", 0), [(to(), 4)]);
    topology.record(11 + STEPS, &fleet);
    assert_eq!((requests(&topology, "acme", 0).len(), topology.held()), (0, 0));
}

#[test]
fn a_tenant_has_so_many_edges_and_displaces_only_its_own() {
    let fleet = fleet();
    let budget = 6 << 20;
    let topology = Topology::new(budget);
    let quiet = sandbox(&fleet, "acme", "shop", &[]);
    call(&quiet, 1, "10.0.0.2", 1);
    topology.record(0, &fleet);
    let apps: Vec<_> = (0..8).map(|at| sandbox(&fleet, "busy", &format!("app-{at}"), &[])).collect();
    for step in 1..40_u64 {
        for (at, app) in apps.iter().enumerate() {
            for id in 0..800_u32 {
                let address = format!("10.{}.{}.{}", at + 1, id / 256, id % 256);
                call(app, id, &address, step);
            }
        }
        topology.record(step, &fleet);
        assert!(topology.held() <= budget, "{}", topology.held());
        let edges = topology.hour.lock().of("busy").map_or(0, |tenant| tenant.lines.len());
        assert!(edges <= EDGES_PER_TENANT_MAX + apps.len(), "{edges}");
        if step == 1 {
            println!("{} bytes for each of {edges} edges with one step", topology.held() / edges);
            let other = requests(&topology, "busy", 0)
                .into_iter()
                .filter(|(to, _)| *to == Target::Address(OTHER.to_owned()));
            let other: u64 = other.map(|(_, count)| count).sum();
            assert_eq!(other, 8 * 800 - EDGES_PER_TENANT_MAX as u64);
        }
    }
    assert_eq!(requests(&topology, "acme", 0).len(), 1, "a neighbour's edge stays");
    assert!(!requests(&topology, "busy", 39).is_empty(), "the newest stay");
}
