use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use porthole_histogram::Histogram;
use porthole_registry::{ContainerRecord, SandboxKey, SandboxRecord, SandboxState};

use serde_json::json;

use super::*;
use crate::{
    accumulate::{
        dependencies::{Connections, LookedUp, Reported},
        sandbox::Containers,
        series::{CheckedSeries, Labels, SeriesKey},
        values::Values,
    },
    config::{self, kubernetes::Kubernetes},
    fleet::{Retention, sandbox::Sandbox},
    history::{History, STEPS},
    kubernetes::{
        objects::{Kind, Object},
        table::Cluster,
    },
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
    let looked_up = LookedUp::from(
        ["10.0.0.2", "10.0.0.9"].map(|of| (of.parse().expect("address"), "db.example".into())),
    );
    let target =
        |address: &str| book.target(&shop, Peer::of(address, "3306"), &HostNames::default(), &looked_up);
    assert_eq!(target("10.0.0.2"), Target::Application("db".to_owned()));
    assert_eq!(target("::ffff:10.0.0.2"), Target::Application("db".to_owned()));
    assert_eq!(target("10.0.0.3"), Target::AnotherTenant);
    assert_eq!(
        target("10.0.0.9"),
        Target::Address(Peer::of("10.0.0.9", "3306"), Some(Name::LookedUp("db.example".into())))
    );
    assert_eq!(target("fd00::2"), Target::Address(Peer::of("fd00::2", "3306"), None));
    for own in ["10.0.0.1", "fd00::1", "127.0.0.1", "::1", "/run/mysqld.sock", "@mysql"] {
        assert_eq!(target(own), Target::Itself, "{own}");
    }
    fleet.end(&sandboxes[0]);
    let later = AddressBook::of(sandboxes.iter().map(|sandbox| &**sandbox), clock::unix_ms() + 61_000);
    assert_eq!(
        later.target(&shop, Peer::of("10.0.0.9", "1"), &HostNames::default(), &looked_up),
        Target::AnotherTenant,
        "the address of one that has ended is free"
    );
}

#[test]
fn what_a_cluster_has_at_an_address_is_shown_to_the_tenants_of_its_namespace() {
    let fleet = fleet();
    let in_namespace = |tenant: &str, service: &str, namespace: &str| {
        let key = SandboxKey {
            namespace: "default".parse().expect("namespace"),
            id: format!("{tenant}-{service}").parse().expect("id"),
        };
        let record = SandboxRecord {
            state: SandboxState::Watching,
            k8s_namespace_name: Some(namespace.to_owned()),
            ..SandboxRecord::new(key, tenant, service, "test", 1)
        };
        fleet.register(&Arc::new(record))
    };
    let [acme, rival] = [in_namespace("acme", "a", "shop"), in_namespace("rival", "b", "bank")];
    in_namespace("acme", "c", "both");
    in_namespace("rival", "d", "both");
    let tenants = [("configured", "acme"), ("both", "rival")].map(|(of, tenant)| (of.into(), tenant.into()));
    let cluster = |tenants| {
        let shared_namespaces = vec!["kube-system".to_owned()];
        Cluster::new(&Kubernetes { shared_namespaces, tenants, ..Kubernetes::default() })
    };
    let (cluster, configured) = (cluster(BTreeMap::new()), cluster(tenants.into()));
    for (namespace, address) in [
        ("shop", "10.96.0.1"),
        ("bank", "10.96.0.2"),
        ("both", "10.96.0.3"),
        ("elsewhere", "10.96.0.4"),
        ("kube-system", "10.96.0.5"),
        ("configured", "10.96.0.6"),
    ] {
        let addresses = vec![address.parse().expect("address")];
        let object = Object { key: (namespace.into(), "db".into()), name: "db".into(), addresses };
        cluster.put(Kind::Services, object.clone());
        configured.put(Kind::Services, object);
    }
    let topology = Topology::new(1 << 20);
    topology.follow(Arc::new(cluster));
    let sandboxes = fleet.sandboxes();
    let book = AddressBook::of(sandboxes.iter().map(|sandbox| &**sandbox), clock::unix_ms());
    let looked_up = LookedUp::from([("10.96.0.4".parse().expect("address"), "db.example".into())]);
    let target = |caller: &Sandbox, address: &str| {
        book.target(caller, Peer::of(address, "1"), &topology.names(), &looked_up)
    };
    let address = |address: &str, name| Target::Address(Peer::of(address, "1"), name);
    let named = |at: &str, name: &str| address(at, Some(Name::Cluster(name.into())));
    for (caller, own, others, own_name) in
        [(&acme, "10.96.0.1", "10.96.0.2", "db.shop"), (&rival, "10.96.0.2", "10.96.0.1", "db.bank")]
    {
        assert_eq!(target(caller, own), named(own, own_name));
        assert_eq!(target(caller, others), Target::AnotherTenant);
        assert_eq!(target(caller, "10.96.0.3"), address("10.96.0.3", None), "whose it is, is not known");
        let by_lookup = Some(Name::LookedUp("db.example".into()));
        assert_eq!(target(caller, "10.96.0.4"), address("10.96.0.4", by_lookup));
        assert_eq!(target(caller, "10.96.0.5"), named("10.96.0.5", "db.kube-system"));
        assert_eq!(target(caller, "10.96.0.6"), address("10.96.0.6", None));
    }
    topology.follow(Arc::new(configured));
    assert_eq!(target(&acme, "10.96.0.6"), named("10.96.0.6", "db.configured"), "without sandboxes");
    assert_eq!(target(&rival, "10.96.0.6"), Target::AnotherTenant);
    assert_eq!(target(&rival, "10.96.0.3"), named("10.96.0.3", "db.both"), "whatever sandboxes there are");
    assert_eq!(target(&acme, "10.96.0.3"), Target::AnotherTenant);
    assert_eq!(target(&acme, "10.96.0.1"), named("10.96.0.1", "db.shop"));
}

#[test]
fn addresses_of_one_name_that_a_guest_looked_up_are_one_node_of_its_tenant() {
    let fleet = fleet();
    let topology = Topology::new(1 << 20);
    let (shop, other) = (sandbox(&fleet, "acme", "shop", &[]), sandbox(&fleet, "rival", "shop", &[]));
    let containers: Containers =
        [("c1".parse().expect("an id"), ContainerRecord { name: "shop".to_owned() })].into_iter().collect();
    // Of a sandbox that is not young, only what comes to an address later counts.
    for (address, times) in [("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.1", 2), ("192.0.2.2", 2)] {
        let mut connections = Connections::default();
        (0..times).for_each(|_| connections.made.record(1_000_000));
        let reported = Reported {
            container_id: "c1".to_owned(),
            address: address.into(),
            port: "3306".into(),
            name: Some("db.example".into()),
            connections,
            begun: 1,
        };
        shop.dependencies.lock().apply(reported, &containers, false, Instant::now()).expect("room");
    }
    for (id, address) in [(1, "192.0.2.1"), (2, "192.0.2.2"), (3, "192.0.2.3")] {
        call(&shop, id, address, 2);
        call(&other, id, address, 2);
    }
    topology.record(10, &fleet);
    let graph = |tenant| {
        let graph = graph::of(&topology, &History::new(1 << 20), Some(tenant), STEPS);
        serde_json::to_value(graph).expect("JSON")
    };
    let edges = |graph: &serde_json::Value, list: &str, count: &str| {
        let edges = graph[list].as_array().expect("a list").iter();
        let mut edges: Vec<_> = edges
            .map(|edge| (edge["to"].as_str().expect("an id").to_owned(), edge[count].as_u64()))
            .collect();
        edges.sort();
        edges
    };
    let to = |id: &str, count| (id.to_owned(), Some(count));
    let acme = graph("acme");
    let (named, unnamed) = ("looked-up/acme/db.example:3306", "address/acme/192.0.2.3:3306");
    assert_eq!(edges(&acme, "edges", "requests"), [to(unnamed, 2), to(named, 4)]);
    assert_eq!(edges(&acme, "connections", "made"), [to(named, 2)]);
    let node = acme["nodes"].as_array().expect("nodes").iter().find(|node| node["id"] == named).expect("it");
    assert_eq!((&node["name"], &node["looked_up"]), (&json!("db.example:3306"), &json!(true)));
    assert!(!graph("rival").to_string().contains("db.example"), "another tenant's name");
    let exposed = topology.exposed(Some("acme")).remove(0).edges;
    let exposed: Vec<_> = exposed.iter().map(|edge| (&*edge.server, &*edge.address, &*edge.port)).collect();
    assert!(exposed.contains(&("db.example:3306", "192.0.2.2", "3306")), "{exposed:?}");
}

#[test]
fn servers_that_a_guest_gives_one_name_are_one_edge_of_scrapes() {
    let fleet = fleet();
    let topology = Topology::new(1 << 20);
    let shop = sandbox(&fleet, "acme", "shop", &[]);
    let by = |name: Option<Name>| Edge {
        from: "shop".to_owned(),
        to: Target::Address(Peer::of("192.0.2.1", "3306"), name),
        protocol: Protocol::Mysql,
    };
    call(&shop, 1, "192.0.2.1", 2);
    topology.record(10, &fleet);
    let mut one = Golden::default();
    one.durations.record(1_000_000);
    for name in [Name::LookedUp("db.shop".into()), Name::Cluster("db.shop".into())] {
        let mut hour = topology.hour.lock();
        let line = line_of(&mut hour.tenant("acme").lines, by(Some(name)), |edge| &mut edge.to);
        line.totals = PackedGolden::from(&one);
        line.exposed = true;
    }
    let exposed = topology.exposed(Some("acme")).remove(0);
    let edges: Vec<_> =
        exposed.edges.iter().map(|edge| (&*edge.server, edge.totals.durations.count())).collect();
    assert_eq!(edges, [("192.0.2.1:3306", 2), ("db.shop:3306", 2)]);
    assert_eq!(exposed.left_out, 0);
}

#[test]
fn an_address_is_no_name_that_a_guest_may_give() {
    let fleet = fleet();
    let shop = sandbox(&fleet, "acme", "shop", &[]);
    let book = AddressBook::of([&*shop], clock::unix_ms());
    for name in ["192.0.2.9", "192.0.2.9.", "fd00::1", "[fd00::1]"] {
        let looked_up = LookedUp::from([("192.0.2.1".parse().expect("address"), name.into())]);
        let target = book.target(&shop, Peer::of("192.0.2.1", "1"), &HostNames::default(), &looked_up);
        assert_eq!(target, Target::Address(Peer::of("192.0.2.1", "1"), None), "{name}");
    }
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
    let to = || Target::Address(Peer::of("10.0.0.2", "3306"), None);
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
            let other = requests(&topology, "busy", 0).into_iter().filter(|(to, _)| *to == of_others());
            let other: u64 = other.map(|(_, count)| count).sum();
            assert_eq!(other, 8 * 800 - EDGES_PER_TENANT_MAX as u64);
        }
    }
    assert_eq!(requests(&topology, "acme", 0).len(), 1, "a neighbour's edge stays");
    assert!(!requests(&topology, "busy", 39).is_empty(), "the newest stay");
}
