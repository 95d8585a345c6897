//! What is charged to tenants is what things cost: bytes of memory, by an allocator that counts, and bytes of a scrape.

#![allow(clippy::cast_precision_loss, reason = "far below 2^52")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use porthole_exporter::{
    accumulate::{
        budget::Limits,
        cost,
        sandbox::Containers,
        series::{CheckedSeries, Labels, SeriesKey},
        values::Values,
    },
    config,
    exposition::{self, Format},
    fleet::{Fleet, Retention, sandbox::Sandbox},
    guest_clock::Offset,
    ids::{SpanId, TraceId},
    ledger::Durable,
    protocol::{ErrorClass, Protocol, Side, SpanReason},
    sampling::{Rule, Sampler},
    spans::{CheckedSpan, Exemplar, Lineage, Reception},
    topology::Topology,
    traces::assemble,
};
use porthole_histogram::{Histogram, INDEX_MAX, INDEX_MIN};
use porthole_registry::{ContainerRecord, SandboxKey, SandboxRecord, SandboxState};

/// Counts the blocks that are in use, with what glibc takes for each.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(cost::block(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps this function's contract, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(cost::block(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps this function's contract, which is that of the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn record(number: u64) -> SandboxRecord {
    let id: porthole_registry::SandboxId = format!("sandbox-{number:060}").parse().expect("id");
    SandboxRecord {
        k8s_namespace_name: Some("acme".into()),
        k8s_pod_name: Some(format!("catalog-7c9d8b6f5-{number:05}")),
        containers: [(id.clone(), ContainerRecord { name: "catalog".into() })].into(),
        state: SandboxState::Watching,
        ..SandboxRecord::new(
            SandboxKey { namespace: "k8s.io".parse().expect("namespace"), id },
            "acme",
            "catalog",
            "containerd-shim-kata-v2",
            number,
        )
    }
}

fn reported(id: u32, buckets: i32, texts: usize) -> CheckedSeries {
    let counts = (0..buckets).map(|index| (INDEX_MIN + index % (INDEX_MAX - INDEX_MIN), 7)).collect();
    let durations = Histogram::from_parts(1_000, counts).expect("well formed");
    let resource = format!("/{id:0texts$}");
    let labels = Labels {
        container: "catalog",
        operation: "GET",
        resource: &resource,
        status: "200",
        peer_address: "10.0.0.17",
        peer_port: "8080",
        ..Labels::default()
    };
    CheckedSeries {
        id,
        container_id: String::new(),
        key: SeriesKey::new(Protocol::Http1, Side::Client, labels).expect("short texts"),
        error: ErrorClass::None,
        values: Values { durations, request_bytes: 1, response_bytes: 1 },
    }
}

fn fleet() -> Arc<Fleet> {
    let plenty = 1 << 34;
    let limits = Limits {
        memory: plenty,
        memory_per_tenant: plenty,
        exposed: plenty,
        exposed_per_tenant: plenty,
        series_per_tenant: 1 << 30,
        ..config::Exporter::default().limits()
    };
    let retention = Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::from_mins(1) };
    Arc::new(Fleet::new(limits, retention))
}

fn fill(fleet: &Fleet, sandboxes: u64, series: u32, buckets: i32, texts: usize) -> Vec<Arc<Sandbox>> {
    let fill = |number| {
        let sandbox = fleet.register(&Arc::new(record(number)));
        let mut accumulator = sandbox.accumulator.lock();
        accumulator.begin_epoch(1).expect("first epoch");
        for id in 0..series {
            accumulator.apply(reported(id, buckets, texts), &Containers::new()).expect("accepted");
        }
        drop(accumulator);
        sandbox
    };
    (0..sandboxes).map(fill).collect()
}

fn put_span(fleet: &Fleet, sandbox: &Sandbox, key: SeriesKey, error: ErrorClass, number: u64) {
    let span = CheckedSpan {
        start_unix_ns: 1,
        duration_ns: number,
        request_bytes: 1,
        response_bytes: 1,
        reason: SpanReason::Slow,
        process_id: 1,
        thread_id: 1,
        local: "10.0.0.17:43210".into(),
        remote: "10.0.0.18:8080".into(),
        lineage: Lineage::default(),
    };
    let reception = Reception { unix_ms: number, offset: Offset::default(), connection: None };
    fleet.spans.put(&sandbox.identity, &sandbox.budget, Arc::new(key), error, span, reception);
}

fn scrape(fleet: &Fleet, format: Format) -> Vec<u8> {
    let mut text = Vec::new();
    exposition::encode(fleet, &Durable::default(), &Topology::new(0), None, format, &mut text);
    text
}

/// Those of each of some series, as OpenMetrics has them, whose form is the longest.
fn exemplars_are_charged() {
    const SERIES: u32 = 200;
    let fleet = fleet();
    let all = fill(&fleet, 1, SERIES, 1, 4);
    let of_series = |id| all[0].accumulator.lock().key_of(id).expect("known");
    let (first, error) = of_series(0);
    put_span(&fleet, &all[0], SeriesKey::clone(&first), error, 1);
    let formats = [Format::OpenMetrics, Format::Text, Format::Protobuf { classic: true }];
    let lengths = || formats.map(|format| scrape(&fleet, format).len());
    let exposed = || fleet.budget.exposed().taken();
    let (before, charged_before) = (lengths(), exposed());
    let exemplar = |id: u32| Exemplar {
        identity: Arc::clone(&all[0].identity),
        key: of_series(id).0,
        trace: TraceId([0xaf; 16]),
        span: SpanId([0xaf; 8]),
        duration_ns: 123_456_789 + u64::from(id),
        unix_ms: 1_700_000_000_123,
    };
    fleet.spans.set_exemplars("acme", (0..SERIES).map(exemplar).collect());
    let after = lengths();
    let (written, charged) = (after[0] - before[0], exposed() - charged_before);
    assert!(written >= 90 * SERIES as usize, "an exemplar of each series: {written} bytes");
    let ratio = charged as f64 / written as f64;
    assert!((0.95..1.1).contains(&ratio), "exemplars: {charged} by account, {written} bytes");
    assert_eq!(after[1], before[1], "text has none");
    // Twice with the classic buckets; the form in all is far shorter than what is charged.
    assert!(before[2] < after[2] && after[2] < exposed(), "as protobuf: {} bytes", after[2]);
}

/// One test, because the allocator counts for the whole process.
#[test]
fn what_is_charged_is_what_it_costs() {
    for (sandboxes, series, buckets, texts) in
        [(400, 20, 12, 12), (200, 1, 3, 4), (4, 4_000, 1, 8), (4, 500, 200, 200), (2_000, 0, 0, 0)]
    {
        let what = format!("{sandboxes} sandboxes of {series} series of {buckets} buckets");
        let fleet = fleet();
        let before = IN_USE.load(Ordering::Relaxed);
        let all = fill(&fleet, sandboxes, series, buckets, texts);
        let used = IN_USE.load(Ordering::Relaxed) - before;
        let charged = fleet.budget.resident().taken();
        let ratio = charged as f64 / used as f64;
        println!("{what}: charged {charged}, used {used}: {ratio:.3}");
        // More than it costs where a sandbox has places in maps that do not exist here.
        let most = if series < 20 { 1.9 } else { 1.15 };
        assert!((0.93..most).contains(&ratio), "{what}: charged {charged}, used {used}");

        let text = scrape(&fleet, Format::OpenMetrics);
        let exposed = fleet.budget.exposed().taken();
        println!("{what}: exposed {exposed} by account, {} bytes in all", text.len());
        if series > 1 {
            let ratio = exposed as f64 / text.len() as f64;
            assert!(
                (0.9..1.15).contains(&ratio),
                "{what}: {exposed} by account, {} bytes in all",
                text.len()
            );
        }
        drop((all, fleet));
    }

    exemplars_are_charged();

    let fleet = fleet();
    let all = fill(&fleet, 1, 1, 1, 4);
    let (key, error) = all[0].accumulator.lock().key_of(0).expect("known");
    let (before, charged_before) = (IN_USE.load(Ordering::Relaxed), fleet.budget.resident().taken());
    for number in 0..500 {
        // A key of its own: the series may be gone.
        put_span(&fleet, &all[0], SeriesKey::clone(&key), error, number);
    }
    let mut sampler = Sampler::new(Rule { ratio: 0.0, reservoir_per_minute: 0.0 });
    let mut traces = assemble(&fleet.spans.of_tenant("acme"), &fleet.spans.ids);
    sampler.decide("acme", &mut traces, u64::MAX, Instant::now());
    assert_eq!(traces.len(), 500, "all are slow");
    drop(traces);
    let used = IN_USE.load(Ordering::Relaxed) - before;
    let charged = fleet.budget.resident().taken() - charged_before;
    let ratio = charged as f64 / used as f64;
    println!("500 spans: charged {charged}, used {used}: {ratio:.3}");
    assert!((0.97..1.15).contains(&ratio), "500 spans: charged {charged}, used {used}");
}
