//! Every bound of the agent: what exceeds it, and how what is not used any more makes room.
//!
//! [`BOUNDS`] lists the constants of the agent's sources that bound something; a new one that is not in it fails a test. A table is
//! filled far beyond its bound. It must hold no more, what it drops must be counted where an operator can see it, and later, when
//! nothing of it is used any more, what is new must find room.

use std::{collections::BTreeSet, fs, path::Path};

use porthole_agent_api::dependencies::{DEPENDENCIES_MAX, UNUSED};
use porthole_bpf_types::{
    kernel_key::{KERNEL_KEYS_MAX, RequestKey},
    record::{CGROUP_DEPTH_MAX, CGROUP_NAME_MAX, ClientSocket, Close, Open, Plain, client_event, kind},
};
use porthole_l7::{Exchange, Limits, ParserContext, Side, Status};
use porthole_protocol::Offload;

use crate::{
    recorder::{
        Place, Recorder, SpanPolicy,
        containers::{CONTAINERS_MAX, ContainerIndex, Containers},
        dependencies::Dependencies,
        peer::{Peer, tests::open},
        series::{RENEWAL_INTERVAL_NS, SERIES_WITH_OVERFLOW_MAX, SeriesTable},
        spans::WAITING_MAX,
        testing::{exchange, origin},
    },
    syscalls::{
        connections::CONNECTIONS_MAX,
        kernel_keys::KernelKeys,
        record_order::HELD_MAX,
        request_names::{NAMES_MAX, RequestName, RequestNames},
        tracker::Tracker,
    },
};

const SECOND_NS: u64 = 1_000_000_000;

/// What is done about a bound.
enum Held {
    /// A table, and what comes of filling it.
    Table(fn() -> Filled),
    /// It bounds one message or one look, and this is why nothing is lost in silence.
    Because(&'static str),
}

use Held::{Because, Table};

/// A table that was filled beyond its bound, and used again later.
#[derive(Debug)]
struct Filled {
    /// Most that it held.
    held: usize,
    /// Its bound.
    most: usize,
    /// What was dropped or folded, by the counts that become public; none where nothing is lost.
    counted: Option<u64>,
    /// Later, what is new found room.
    is_free_again: bool,
}

/// The constants by file, and what is done about each.
const BOUNDS: &[(&str, &str, Held)] = &[
    ("capture/mod.rs", "BATCH_RECORDS_MAX", Because("the rest of the ring buffer is read at once after it")),
    ("cgroups.rs", "DEPTH_MAX", Because("what is not found counts, without a container")),
    ("cgroups.rs", "DIRECTORIES_MAX", Because("what is not found counts, without a container")),
    ("kernel/bpf.rs", "LOG_BYTES", Because("the verifier's log is for messages alone")),
    ("kernel/btf.rs", "NESTING_MAX", Because("a member that is not found is an error")),
    ("kernel/btf.rs", "STATE_CHANGES", Because("a number of the kernel's")),
    ("recorder/containers.rs", "CGROUPS_MAX", Table(control_groups)),
    ("recorder/containers.rs", "CONTAINERS_MAX", Table(containers)),
    ("recorder/parents.rs", "WAITING_MAX", Because("the oldest call goes on without a parent")),
    ("recorder/peers.rs", "PEERS_MAX", Table(peers)),
    ("recorder/series.rs", "CROWDED", Table(series)),
    ("recorder/series.rs", "SERIES_MAX", Table(series)),
    ("recorder/series.rs", "SERIES_WITH_OVERFLOW_MAX", Table(series)),
    ("recorder/series.rs", "UNUSED_MIN", Table(series)),
    ("recorder/spans.rs", "WAITING_MAX", Table(spans)),
    ("report/listen.rs", "CONNECTIONS_MAX", Because("a caller beyond it is refused")),
    ("report/service.rs", "SERIES_BYTES_MAX", Because("the rest is in the next batch")),
    ("report/service.rs", "WATCHES_MAX", Because("a caller beyond it is refused")),
    ("report/state.rs", "EXITS_MAX", Because("an exit only hastens the batch of what is counted")),
    ("resources/descriptors.rs", "PROCESSES_MAX", Because("beyond it there is no value")),
    ("resources/mod.rs", "CONTAINERS_MAX", Because("what is left out is a limitation that is listed")),
    ("resources/mod.rs", "DEPTH_MAX", Because("containers are not so deep")),
    ("resources/mod.rs", "DIRECTORIES_MAX", Because("what is left out is a limitation that is listed")),
    ("syscalls/connections.rs", "CALLS_MAX", Because("of an older call no parent is claimed")),
    ("syscalls/connections.rs", "CONNECTIONS_MAX", Table(connections)),
    (
        "syscalls/kernel_keys.rs",
        "IN_USE_FORGOTTEN_MAX",
        Because(
            "further ones are forgotten the next time, and meanwhile exchanges are records with the same counts",
        ),
    ),
    ("syscalls/record_order.rs", "HELD_MAX", Table(held_records)),
    ("syscalls/request_names.rs", "NAMES_MAX", Table(request_names)),
    (
        "syscalls/request_names.rs",
        "NAME_BYTES_MAX",
        Because("a longer request line is named by its beginning"),
    ),
    (
        "syscalls/processes.rs",
        "PROCESSES_MAX",
        Because("beyond it no parents are claimed in others for a while"),
    ),
    (
        "syscalls/threads.rs",
        "WORKERS_MAX",
        Because("beyond it no parents are claimed in that process for a while"),
    ),
    ("syscalls/threads.rs", "WORKERS_IN_ALL", Because("see WORKERS_MAX")),
    ("syscalls/threads.rs", "WORKERS_OF_MANY", Because("see WORKERS_MAX")),
    (
        "syscalls/threads.rs",
        "PROCESSES_MAX",
        Because("beyond it no parents are claimed in others for a while"),
    ),
];

/// Those of other crates that the agent's tables have.
const SHARED: &[(&str, Held)] = &[
    ("DEPENDENCIES_MAX", Table(dependencies)),
    ("KERNEL_KEYS_MAX", Table(kernel_keys)),
    ("NAMES_MAX, of prepared statements", Table(prepared_names)),
];

fn path_of(name: &str) -> [[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX] {
    let mut path = [[0; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX];
    path[0][..name.len()].copy_from_slice(name.as_bytes());
    path
}

fn containers() -> Filled {
    let mut containers = Containers::default();
    let mut last = ContainerIndex::default();
    let mut named = 0;
    for number in 0..3 * CONTAINERS_MAX as u64 {
        containers.learn(number, &path_of(&format!("c{number}")));
        last = containers.of_cgroup(number);
        named = (0..=last.0).filter(|index| !containers.id(ContainerIndex(*index)).is_empty()).count();
    }
    let counted = Some(containers.displaced());
    Filled { held: named, most: CONTAINERS_MAX, counted, is_free_again: containers.id(last) == "c767" }
}

fn control_groups() -> Filled {
    let (mut containers, most) = (Containers::default(), 4096);
    for number in 0..3 * most {
        containers.learn(number, &path_of(""));
    }
    let held = (0..3 * most).filter(|number| containers.knows(*number)).count();
    // A group outside of any container has no name to lose.
    Filled { held, most: 4096, counted: None, is_free_again: containers.knows(3 * most - 1) }
}

/// A client's exchange with a peer of that number, which ended at that time.
fn call(recorder: &mut Recorder, context: &mut ParserContext, number: u32, at_ns: u64) {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    let peer = Peer::Internet((address, 80).into());
    let exchange = exchange(context, Side::Client, "/a", 200);
    let exchange = Exchange { start: exchange.start, end: porthole_l7::Timestamp(at_ns), ..exchange };
    recorder.record(&exchange, origin(&peer), context);
}

fn peers() -> Filled {
    let (mut recorder, mut context) = (Recorder::default(), ParserContext::new(Limits::default()));
    let start = 100 * SECOND_NS;
    for number in 0..1_000 {
        call(&mut recorder, &mut context, number, start);
    }
    let of = |recorder: &Recorder, peer: &str| {
        recorder.series.all().iter().any(|series| series.key.as_ref().is_some_and(|key| key.peer == peer))
    };
    let held = recorder.series.len() - usize::from(of(&recorder, "other"));
    let counted = Some(recorder.series.overflowed());
    call(&mut recorder, &mut context, 5_000, start + 20 * SECOND_NS);
    let is_free_again = of(&recorder, "10.0.19.136:80");
    Filled { held, most: 512, counted, is_free_again }
}

/// Records an exchange with that status.
fn outcome(table: &mut SeriesTable, context: &mut ParserContext, status: Status, resource: &str) {
    let base = exchange(context, Side::Server, resource, 200);
    table.record(&Exchange { status, ..base }, origin(&Peer::Unknown), context, 0);
}

fn series() -> Filled {
    let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
    for code in 0..6_000 {
        outcome(&mut table, &mut context, Status::Code(code), "/a");
    }
    // What has no known status must not become a success where it finds no room of its own.
    outcome(&mut table, &mut context, Status::UNKNOWN, "/b");
    let unknown = |table: &SeriesTable| {
        let is = |key: &porthole_agent_api::agent::SeriesKey| key.status == "other";
        table.all().iter().any(|series| series.key.as_ref().is_some_and(is))
    };
    assert!(unknown(&table));
    let (held, counted) = (table.len(), Some(table.overflowed() + table.dropped()));
    let later = RENEWAL_INTERVAL_NS;
    let is_worth_it = (1..4).map(|times| table.is_worth_renewal(times * later)).last();
    // The old series leave with the epoch.
    let before = table.renew(later, 0);
    outcome(&mut table, &mut context, Status::Code(7_000), "/a");
    let is_free_again = is_worth_it == Some(true) && before.len() == held && table.len() == 1;
    Filled { held, most: SERIES_WITH_OVERFLOW_MAX, counted, is_free_again }
}

fn spans() -> Filled {
    let (mut recorder, mut context) = (Recorder::default(), ParserContext::new(Limits::default()));
    recorder.spans.set_policy(SpanPolicy { interval_ns: 0, per_second: u32::MAX, ..SpanPolicy::default() });
    for number in 0..2 * WAITING_MAX as u64 {
        call(&mut recorder, &mut context, 1, (number + 1) * SECOND_NS);
    }
    let dropped = recorder.spans.dropped();
    let (taken, next) = recorder.spans.take_from(0);
    call(&mut recorder, &mut context, 1, 5_000 * SECOND_NS);
    let is_free_again = recorder.spans.take_from(next).0.len() == 1 && recorder.spans.dropped() == dropped;
    Filled { held: taken.len(), most: WAITING_MAX, counted: Some(dropped), is_free_again }
}

fn dependencies() -> Filled {
    let mut dependencies = Dependencies::default();
    let record = |dependencies: &mut Dependencies, host: u32, container: u32| {
        let mut remote = [0; 16];
        remote[..4].copy_from_slice(&host.to_be_bytes());
        let socket = ClientSocket {
            event: client_event::MADE,
            family: 2,
            remote,
            remote_port: 80,
            ..ClientSocket::default()
        };
        dependencies.record(&socket, ContainerIndex(container), "c", |_| None);
    };
    // More containers than there are places for what has none of its own.
    for host in 0..1_000 {
        record(&mut dependencies, host, host % 50);
    }
    let held = dependencies.changed_since(0).len();
    let counted = Some(dependencies.overflowed() + dependencies.dropped());
    let kept: u64 =
        dependencies.changed_since(0).iter().map(|one| one.made.as_ref().map_or(0, |made| made.count)).sum();
    assert_eq!(kept + dependencies.dropped(), 1_000);
    let version = dependencies.version();
    for times in 1..3 {
        dependencies.observe(times * u64::try_from(UNUSED.as_nanos()).expect("fits"));
    }
    record(&mut dependencies, 5_000, 1);
    let new = dependencies.changed_since(version);
    let is_free_again =
        new.len() == 1 && new[0].peer == "0.0.19.136:80" && dependencies.changed_since(0).len() == 1;
    Filled { held, most: DEPENDENCIES_MAX, counted, is_free_again }
}

fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    // SAFETY: the value is borrowed for its whole length, and types of the trait have no padding.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

fn tracker() -> Tracker {
    Tracker::new(ParserContext::new(Limits::default()))
}

/// What the tracker lists of its bounds that were met.
fn met(tracker: &Tracker) -> u64 {
    tracker.bounds_met().iter().map(|(count, _)| count).sum()
}

fn connections() -> Filled {
    let (mut tracker, mut recorder) = (tracker(), Recorder::default());
    let mut held = 0;
    let many = 2 * CONNECTIONS_MAX as u64;
    for connection in 0..many {
        tracker.record(&bytes_of(&Open { timestamp: connection, ..open(connection) }), &mut recorder);
        held = held.max(tracker.connections());
    }
    let counted = Some(met(&tracker));
    tracker.idle(many + 24 * 3600 * SECOND_NS, &mut recorder);
    Filled { held, most: CONNECTIONS_MAX, counted, is_free_again: tracker.connections() == 0 }
}

fn held_records() -> Filled {
    let (mut tracker, mut recorder) = (tracker(), Recorder::default());
    tracker.record(&bytes_of(&open(1)), &mut recorder);
    // The first record is missing.
    let close = |sequence| Close { kind: kind::CLOSE, connection: 1, sequence, ..Close::default() };
    let fallback = |number: u64| bytes_of(&close(number));
    let mut held = 0;
    while tracker.connections() > 0 && held < 2 * HELD_MAX {
        held += 1;
        tracker.record(&fallback(1 + held as u64), &mut recorder);
    }
    let counted = Some(tracker.counts().missing);
    Filled { held, most: HELD_MAX, counted, is_free_again: tracker.connections() == 0 }
}

fn request_names() -> Filled {
    let (mut names, mut commands) = (RequestNames::default(), Vec::new());
    let line = || RequestName::of(Offload::Http1.number().into(), b"GET /a HTTP/1.1\r\n");
    for hash in 0..6 * NAMES_MAX as u64 {
        names.learn(hash, line(), &mut commands);
    }
    // The programs send a name again that is not known.
    let is_free_again = names.get(6 * NAMES_MAX as u64 - 1).is_some() && names.get(0).is_none();
    Filled { held: names.kept(), most: 2 * NAMES_MAX, counted: None, is_free_again }
}

fn prepared_names() -> Filled {
    let mut names = RequestNames::default();
    let used = names.prepared("SELECT", "used");
    let mut last = 0;
    for table in 0..6 * NAMES_MAX {
        last = names.prepared("SELECT", &format!("t{table}"));
        assert!(names.recurs(used), "in use all the time");
    }
    let is_free_again = names.get(last).is_some() && names.get(used).is_some();
    Filled {
        held: names.kept_prepared(),
        most: 2 * NAMES_MAX,
        counted: Some(names.displaced()),
        is_free_again,
    }
}

fn kernel_keys() -> Filled {
    let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
    // Numbered ones need no name.
    let key =
        |request| RequestKey { request, protocol: Offload::Redis.number().into(), ..RequestKey::default() };
    let many = u64::from(KERNEL_KEYS_MAX);
    for request in 0..2 * many {
        keys.learn(&key(request), 0, Place { at: 0, overflows: false }, &mut commands);
    }
    let held = keys.len();
    for second in 1..60 {
        keys.learn(&key(2 * many), 0, Place { at: 0, overflows: false }, &mut commands);
        keys.make_room(second * SECOND_NS, |_| true, &mut commands);
    }
    commands.clear();
    keys.learn(&key(3 * many), 0, Place { at: 0, overflows: false }, &mut commands);
    // Exchanges of a key without an entry come one by one, with the same counts.
    Filled { held, most: KERNEL_KEYS_MAX as usize, counted: None, is_free_again: !commands.is_empty() }
}

#[test]
fn every_bound_holds_counts_what_it_drops_and_is_free_again_later() {
    let own = BOUNDS.iter().map(|(_, name, held)| (name, held));
    for (name, held) in own.chain(SHARED.iter().map(|(name, held)| (name, held))) {
        let Table(fill) = held else { continue };
        let filled = fill();
        assert!((1..=filled.most).contains(&filled.held), "{name}: {filled:?}");
        assert!(filled.counted.is_none_or(|counted| counted > 0), "{name}: {filled:?}");
        assert!(filled.is_free_again, "{name}: {filled:?}");
    }
}

/// The constants of a source file that bound something.
fn bounds_in(source: &str) -> impl Iterator<Item = &str> {
    let of_code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    of_code.lines().filter_map(|line| {
        let constant = line.trim_start().trim_start_matches("pub ").strip_prefix("const ")?;
        let (name, rest) = constant.split_once(": ")?;
        rest.starts_with("usize").then_some(name)
    })
}

fn collect(directory: &Path, root: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, root, found);
        } else if entry.file_name().is_some_and(|name| name != "bounds.rs") {
            let source = fs::read_to_string(&entry).expect("read");
            let file = entry.strip_prefix(root).expect("below").display().to_string();
            if !file.ends_with("tests.rs") {
                found.extend(bounds_in(&source).map(|name| (file.clone(), name.to_owned())));
            }
        }
    }
}

#[test]
fn every_bound_of_the_sources_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    collect(&root, &root, &mut found);
    let listed: BTreeSet<_> =
        BOUNDS.iter().map(|(file, name, _)| ((*file).to_owned(), (*name).to_owned())).collect();
    assert_eq!(found, listed, "list it in BOUNDS, with what becomes of what exceeds it");
    for (file, name, held) in BOUNDS {
        assert!(!matches!(held, Because("")), "{file}: {name}");
    }
}
