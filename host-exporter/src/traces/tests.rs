use std::collections::BTreeMap;

use super::*;
use crate::{
    accumulate::{
        budget::{Limits, NodeBudget, TenantBudget},
        series::{Labels, SeriesKey},
    },
    guest_clock::Offset,
    identity::Identity,
    protocol::{Protocol, Side},
    spans::{CheckedSpan, Connection, Context, Lineage, Reception, SANDBOX_SPANS_MAX, SpanStore},
};

mod contexts;
mod hostile;

/// Nanoseconds of a millisecond, and a time of today.
const MS: u64 = 1_000_000;
const BEGIN: u64 = 1_700_000_000_000 * MS;

/// A sandbox with its address, and by how many milliseconds its clock is behind the host's.
struct Guest {
    identity: Arc<Identity>,
    address: &'static str,
    behind_ms: i64,
    offset: Offset,
}

fn guest(name: &str, address: &'static str, behind_ms: i64) -> Guest {
    let behind = behind_ms * MS.cast_signed();
    Guest {
        identity: Arc::new(Identity::in_default("acme", name, &format!("{name}-1"))),
        address,
        behind_ms,
        // As exactly as a call of a millisecond gives it.
        offset: Offset { low_ns: behind - 600_000, high_ns: behind + 400_000 },
    }
}

impl Guest {
    fn inexact(self, ms: i64) -> Self {
        let ns = ms * MS.cast_signed();
        Self { offset: Offset { low_ns: self.offset.high_ns - ns, ..self.offset }, ..self }
    }
}

/// What the spans of a test have.
#[derive(Clone, Copy)]
struct Made<'a> {
    of: &'a Guest,
    side: Side,
    operation: &'static str,
    local: &'static str,
    remote: &'static str,
    /// By the host's clock, milliseconds since the test's beginning.
    from: u64,
    to: u64,
    thread: u32,
    reason: SpanReason,
}

fn client<'a>(of: &'a Guest, local: &'static str, remote: &'static str, from: u64, to: u64) -> Made<'a> {
    let reason = SpanReason::Rate;
    Made { of, side: Side::Client, operation: "GET", local, remote, from, to, thread: 7, reason }
}

fn server<'a>(of: &'a Guest, local: &'static str, remote: &'static str, from: u64, to: u64) -> Made<'a> {
    Made { side: Side::Server, ..client(of, local, remote, from, to) }
}

fn spans(all: &[Made<'_>]) -> Vec<Arc<Kept>> {
    let kept = |(number, made): (usize, &Made<'_>)| {
        let labels = Labels { operation: made.operation, resource: "/", status: "200", ..Labels::default() };
        let span = CheckedSpan {
            start_unix_ns: (BEGIN + made.from * MS)
                .saturating_add_signed(-made.of.behind_ms * MS.cast_signed()),
            duration_ns: (made.to - made.from) * MS,
            request_bytes: 0,
            response_bytes: 0,
            reason: made.reason,
            process_id: 1,
            thread_id: made.thread,
            local: made.local.into(),
            remote: made.remote.into(),
            lineage: Lineage::default(),
        };
        let connection = Connection::of(&span, &[made.of.address.parse().expect("an address")]);
        Arc::new(Kept {
            number: number as u64,
            reception: Reception { unix_ms: made.to, offset: made.of.offset, connection },
            identity: Arc::clone(&made.of.identity),
            key: Arc::new(SeriesKey::new(Protocol::Http1, made.side, labels).expect("short")),
            error: ErrorClass::None,
            span,
        })
    };
    all.iter().enumerate().map(kept).collect()
}

/// The traces, each as the numbers of its spans with that of the span above, by the number of the first.
fn shapes(spans: &[Arc<Kept>]) -> Vec<BTreeMap<u64, Option<u64>>> {
    let mut shapes: Vec<_> = assemble(spans, &IdKeys::default())
        .iter()
        .map(|trace| {
            let number = |at: usize| trace.spans[at].kept.number;
            let shape = (0..trace.spans.len())
                .map(|at| (number(at), trace.spans[at].parent.map(|(parent, _)| number(parent))));
            shape.collect::<BTreeMap<_, _>>()
        })
        .collect();
    shapes.sort();
    shapes
}

fn joined(pairs: &[(u64, Option<u64>)]) -> BTreeMap<u64, Option<u64>> {
    pairs.iter().copied().collect()
}

#[test]
fn a_request_through_three_sandboxes_is_one_trace_whatever_their_clocks_show() {
    let shop = guest("shop", "10.0.0.1", 0);
    let catalog = guest("catalog", "10.0.0.2", 3_600_000);
    let db = guest("db", "fd00::3", -40);
    let all = [
        // The deeper a span is, the earlier it comes.
        server(&db, "[fd00::3]:80", "[::ffff:10.0.0.2]:5000", 33, 36),
        client(&catalog, "10.0.0.2:5000", "[fd00::3]:80", 30, 40),
        server(&catalog, "10.0.0.2:80", "10.0.0.1:4000", 21, 45),
        client(&shop, "10.0.0.1:4000", "10.0.0.2:80", 20, 50),
        client(&shop, "10.0.0.1:4001", "10.9.9.9:80", 60, 70),
        server(&shop, "10.0.0.1:80", "10.0.0.100:3000", 10, 100),
    ];
    let spans = spans(&all);
    let trace = assemble(&spans, &IdKeys::default()).pop().expect("a trace");
    let shape: Vec<_> = trace.spans.iter().map(|span| (span.kept.number, span.depth)).collect();
    assert_eq!(shape, [(5, 0), (3, 1), (2, 2), (1, 3), (0, 4), (4, 1)], "depth first, by time");
    let certainties: Vec<_> =
        trace.spans.iter().map(|span| span.parent.map_or("", |(_, certainty)| certainty.as_str())).collect();
    assert_eq!(certainties, ["", "thread", "connection", "thread", "connection", "thread"]);
    for span in &trace.spans {
        let made = &all[usize::try_from(span.kept.number).expect("small")];
        let expected = BEGIN + made.from * MS;
        let off = span.start_unix_ns.abs_diff(expected);
        assert!(off <= span.clock_error_ns + trace.clock_error_ns, "{span:?}: {off}");
        assert!(span.clock_error_ns < 10 * MS, "{span:?}");
    }
    assert_eq!(trace.services().into_iter().collect::<Vec<_>>(), ["catalog", "db", "shop"]);
}

#[test]
fn a_trace_has_the_same_id_while_it_grows() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 5));
    let spans = spans(&[
        client(&shop, "10.0.0.1:4000", "10.0.0.2:80", 20, 50),
        server(&db, "10.0.0.2:80", "10.0.0.1:4000", 22, 48),
        server(&shop, "10.0.0.1:80", "10.0.0.100:3000", 10, 100),
    ]);
    let keys = IdKeys::default();
    let ids: Vec<_> = (1..=3).map(|count| assemble(&spans[..count], &keys)[0].id).collect();
    assert_eq!(assemble(&spans, &keys).len(), 1);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn the_samples_of_a_slow_trace_are_kept_as_long_as_it() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 5));
    let store = SpanStore::default();
    let budget = Arc::new(TenantBudget::new(&NodeBudget::new(Limits::of_series(1))));
    let put = |of: &[Made<'_>]| {
        for kept in spans(of) {
            store.put(
                &kept.identity,
                &budget,
                Arc::clone(&kept.key),
                kept.error,
                kept.span.clone(),
                kept.reception,
            );
        }
    };
    put(&[
        Made { reason: SpanReason::Slow, ..client(&shop, "10.0.0.1:4000", "10.0.0.2:80", 20, 50) },
        server(&db, "10.0.0.2:80", "10.0.0.1:4000", 22, 48),
        server(&db, "10.0.0.2:80", "10.0.0.9:4000", 60, 61),
    ]);
    let traces = assemble(&store.of_tenant("acme"), &store.ids);
    let marked: Vec<_> = traces.iter().filter(|trace| trace.is_marked()).collect();
    assert_eq!(marked.len(), 1);
    let numbers: Vec<_> = marked[0].spans.iter().map(|span| span.kept.number).collect();
    store.promote("acme", &numbers);
    put(&vec![server(&db, "10.0.0.2:80", "10.0.0.8:1", 70, 71); SANDBOX_SPANS_MAX[1]]);
    let first: Vec<_> = store.of_tenant("acme").iter().map(|kept| kept.number).take(3).collect();
    assert_eq!(first, [0, 1, 3], "the sample of a trace of its own made room");
    drop(store);
    assert_eq!(budget.resident.taken(), 0);
}

#[test]
fn requests_of_one_connection_are_paired_by_time_also_where_one_was_not_sampled() {
    let (shop, db) = (guest("shop", "10.0.0.1", -900), guest("db", "10.0.0.2", 77_000));
    let (local, remote) = ("10.0.0.1:4000", "10.0.0.2:80");
    let spans = spans(&[
        client(&shop, local, remote, 100, 120),
        client(&shop, local, remote, 200, 220),
        client(&shop, local, remote, 300, 320),
        server(&db, remote, local, 201, 219),
        server(&db, remote, local, 301, 319),
        server(&db, remote, local, 401, 419),
    ]);
    let single = |number| joined(&[(number, None)]);
    let call = |client, server| joined(&[(client, None), (server, Some(client))]);
    assert_eq!(shapes(&spans), [single(0), call(1, 3), call(2, 4), single(5)]);
}

#[test]
fn what_times_do_not_distinguish_is_paired_in_order_where_it_is_whole_and_else_not_at_all() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 0).inexact(30));
    let (local, remote) = ("10.0.0.1:4000", "10.0.0.2:80");
    let quick = |at| [client(&shop, local, remote, at, at + 3), server(&db, remote, local, at + 1, at + 2)];
    let call = |client, server| joined(&[(client, None), (server, Some(client))]);
    let whole = [quick(10), quick(20), quick(30)].concat();
    assert_eq!(shapes(&spans(&whole)), [call(0, 1), call(2, 3), call(4, 5)]);
    let without_a_server = [&whole[..1], &whole[2..]].concat();
    assert_eq!(shapes(&spans(&without_a_server)).len(), 5, "one is missing");
    let swapped = Made { operation: "POST", ..whole[3] };
    assert_eq!(
        shapes(&spans(&[whole[0], whole[1], whole[2], swapped])),
        [call(0, 1), joined(&[(2, None)]), joined(&[(3, None)])]
    );
    // At the same time, on separate connections, nothing is to be distinguished.
    let other = ("10.0.0.1:4001", "10.0.0.2:80");
    let separate =
        [quick(10), [client(&shop, other.0, other.1, 11, 14), server(&db, other.1, other.0, 12, 13)]]
            .concat();
    assert_eq!(shapes(&spans(&separate)), [call(0, 1), call(2, 3)]);
}

#[test]
fn a_pair_that_contradicts_the_others_about_the_clocks_is_none() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 0).inexact(2_000));
    let remote = "10.0.0.2:80";
    let good =
        |local, at| [client(&shop, local, remote, at, at + 3), server(&db, remote, local, at + 1, at + 2)];
    let odd = [
        client(&shop, "10.0.0.1:4009", remote, 100, 103),
        // Another request of that connection.
        server(&db, remote, "10.0.0.1:4009", 500, 502),
    ];
    let agreed = [good("10.0.0.1:4000", 100), good("10.0.0.1:4001", 900), odd].concat();
    let call = |client, server| joined(&[(client, None), (server, Some(client))]);
    let single = |number| joined(&[(number, None)]);
    assert_eq!(shapes(&spans(&agreed)), [call(0, 1), call(2, 3), single(4), single(5)]);
    let undecided = [good("10.0.0.1:4000", 100), odd].concat();
    assert_eq!(shapes(&spans(&undecided)).len(), 4, "one against one");
}

#[test]
fn a_thread_with_several_requests_in_progress_links_nothing() {
    let shop = guest("shop", "10.0.0.1", 0);
    let call = client(&shop, "10.0.0.1:4000", "10.9.9.9:80", 30, 40);
    let one = server(&shop, "10.0.0.1:80", "10.0.0.100:1", 20, 50);
    let linked = joined(&[(0, None), (1, Some(0))]);
    assert_eq!(shapes(&spans(&[one, call])), [linked]);
    let unlinked = |all: &[Made<'_>]| shapes(&spans(all)).len() == all.len();
    assert!(unlinked(&[one, Made { thread: 8, ..call }]), "of another thread");
    assert!(unlinked(&[Made { thread: 0, ..one }, Made { thread: 0, ..call }]), "threads are not known");
    assert!(unlinked(&[one, Made { from: 60, to: 70, ..call }]), "after it");
    assert!(unlinked(&[one, Made { to: 51, ..call }]), "beyond it");
    assert!(unlinked(&[one, server(&shop, "10.0.0.1:80", "10.0.0.100:2", 45, 60), call]), "two requests");
    assert!(unlinked(&[one, call, client(&shop, "10.0.0.1:4001", "10.9.9.9:80", 35, 39)]), "two calls");
    let pipelined = [one, call, Made { from: 35, to: 45, ..call }];
    assert_eq!(shapes(&spans(&pipelined)), [joined(&[(0, None), (1, Some(0)), (2, Some(0))])]);
}

/// The spans of these, with what their agents report of where they belong.
fn with_lineages(all: &[(Made<'_>, Lineage)]) -> Vec<Arc<Kept>> {
    let mut spans = spans(&all.iter().map(|(made, _)| *made).collect::<Vec<_>>());
    for (kept, (_, lineage)) in spans.iter_mut().zip(all) {
        Arc::make_mut(kept).span.lineage = *lineage;
    }
    spans
}

#[test]
fn what_an_agent_reports_of_the_parent_counts_and_threads_of_others_alone() {
    let shop = guest("shop", "10.0.0.1", 0);
    let of = |number, parent, certainty| Lineage { number, parent, certainty, context: None };
    let one = server(&shop, "10.0.0.1:80", "10.0.0.100:1", 20, 50);
    let two = server(&shop, "10.0.0.1:80", "10.0.0.100:2", 25, 60);
    let call = client(&shop, "10.0.0.1:4000", "10.9.9.9:80", 30, 40);
    let task = Some(ParentCertainty::Task);
    let all = [(one, of(1, 0, None)), (two, of(2, 0, None)), (call, of(3, 2, task)), (call, of(4, 0, None))];
    let spans = with_lineages(&all);
    let single = |number| joined(&[(number, None)]);
    assert_eq!(shapes(&spans), [single(0), joined(&[(1, None), (2, Some(1))]), single(3)]);
    for (certainty, name) in [(ParentCertainty::Task, "task"), (ParentCertainty::Process, "process")] {
        let spans = with_lineages(&[all[0], all[1], (call, of(3, 2, Some(certainty))), all[3]]);
        let traces = assemble(&spans, &IdKeys::default());
        let certainties = traces.iter().flat_map(|trace| &trace.spans).filter_map(|span| span.parent);
        assert_eq!(certainties.map(|(_, certainty)| certainty.as_str()).collect::<Vec<_>>(), [name]);
    }
    // An agent that was started again numbers anew.
    let again = with_lineages(&[all[0], all[1], all[2], (one, of(2, 0, None))]);
    assert_eq!(shapes(&again).len(), 4);
    let not_sampled = with_lineages(&[all[0], all[2]]);
    assert_eq!(shapes(&not_sampled).len(), 2, "its request is not among the spans");
    for (from, to) in [(70, 80), (61, 63), (62, 90), (24, 40)] {
        let of_another_life = Made { from, to, ..call };
        let joins = shapes(&with_lineages(&[all[1], (of_another_life, of(3, 2, task))])).len() == 1;
        assert_eq!(joins, from > 25 && from <= 62, "begins at {from}, the request is from 25 to 60");
    }
}

fn carrying(trace: u8, parent: u8) -> Lineage {
    let (trace, parent) = (TraceId([trace; 16]), Some(SpanId([parent; 8])));
    Lineage { context: Some(Context { trace, parent, is_sampled: true }), ..Lineage::default() }
}

#[test]
fn a_call_with_the_trace_of_the_only_request_during_which_it_was_made_is_below_that() {
    let (shop, evil) = (guest("shop", "10.0.0.1", 0), guest("evil", "10.0.0.66", 0));
    let numbered = |lineage, number| Lineage { number, ..lineage };
    let request = |ends: (u64, u64), trace, number| {
        let made = server(&shop, "10.0.0.1:80", "10.0.0.100:1", ends.0, ends.1);
        (made, numbered(carrying(trace, 1), number))
    };
    let call = |of, ends: (u64, u64), trace| {
        (client(of, "10.0.0.1:4000", "10.9.9.9:80", ends.0, ends.1), numbered(carrying(trace, 5), 9))
    };
    let one = request((20, 50), 7, 1);
    let spans = with_lineages(&[one, call(&shop, (30, 40), 7), request((10, 60), 8, 2)]);
    assert_eq!(shapes(&spans), [joined(&[(0, None), (1, Some(0))]), joined(&[(2, None)])]);
    let traces = assemble(&spans, &IdKeys::default());
    let certainties = traces.iter().flat_map(|trace| &trace.spans).filter_map(|span| span.parent);
    assert_eq!(certainties.map(|(_, certainty)| certainty.as_str()).collect::<Vec<_>>(), ["propagated"]);
    let is_alone = |others: &[(Made<'_>, Lineage)]| shapes(&with_lineages(others)).len() == others.len();
    assert!(is_alone(&[one, call(&shop, (30, 40), 8)]), "of another trace");
    assert!(is_alone(&[one, call(&shop, (10, 40), 7)]) && is_alone(&[one, call(&shop, (40, 60), 7)]));
    assert!(is_alone(&[one, call(&evil, (30, 40), 7)]), "of another sandbox");
    assert!(is_alone(&[one, request((25, 60), 7, 2), call(&shop, (30, 40), 7)]), "two requests of the trace");
    assert!(
        is_alone(&[one, (call(&shop, (30, 40), 7).0, numbered(Lineage::default(), 9))]),
        "without a context"
    );
}

#[test]
fn ids_that_requests_carry_name_the_trace_and_join_what_addresses_do_not() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 900));
    let evil = guest("evil", "10.0.0.66", 0);
    // By way of an address that is translated.
    let call = (client(&shop, "10.0.0.1:4000", "10.96.0.7:80", 20, 50), carrying(1, 1));
    let served = (server(&db, "10.0.0.2:80", "10.0.0.1:4000", 22, 48), carrying(1, 1));
    let spans = with_lineages(&[call, served]);
    let traces = assemble(&spans, &IdKeys::default());
    assert_eq!((traces.len(), traces[0].id), (1, TraceId([1; 16])));
    assert_eq!(traces[0].spans[1].parent, Some((0, Certainty::Propagated)));
    let joined_with = |other: (Made<'_>, Lineage)| shapes(&with_lineages(&[call, other])).len() == 1;
    assert!(!joined_with((served.0, carrying(2, 1))) && !joined_with((served.0, carrying(1, 2))));
    assert!(
        !joined_with((server(&db, "10.0.0.2:80", "10.0.0.1:4000", 22, 60), carrying(1, 1))),
        "times contradict"
    );
    // The id of the trace of others, and a caller's that no call has.
    let lie = (server(&evil, "10.0.0.66:80", "10.0.0.9:4000", 22, 48), carrying(1, 9));
    assert_eq!(shapes(&with_lineages(&[call, served, lie])).len(), 2);
    // A caller's that it knows, and its address: within the tenant it changes what is joined by these alone.
    let repeated = (server(&evil, "10.0.0.66:80", "10.0.0.1:4000", 22, 48), carrying(1, 1));
    assert_eq!(shapes(&with_lineages(&[call, served, repeated])).len(), 3);
    let direct = [
        (client(&shop, "10.0.0.1:4002", "10.0.0.2:80", 20, 50), carrying(1, 1)),
        (server(&db, "10.0.0.2:80", "10.0.0.1:4002", 22, 48), carrying(1, 1)),
    ];
    let by_connection = joined(&[(0, None), (1, Some(0))]);
    assert_eq!(
        shapes(&with_lineages(&[direct[0], direct[1], repeated])),
        [by_connection, joined(&[(2, None)])]
    );
    // A context below the first span names nothing.
    let below = with_lineages(&[(direct[0].0, Lineage::default()), (direct[1].0, carrying(7, 7))]);
    let keys = IdKeys::default();
    let traces = assemble(&below, &keys);
    assert_eq!((traces.len(), traces[0].id), (1, keys.trace(0)));
    let twice = (client(&shop, "10.0.0.1:4001", "10.96.0.7:80", 10, 60), carrying(1, 1));
    let translated = (server(&db, "10.0.0.2:80", "10.0.0.50:4000", 22, 48), carrying(1, 1));
    assert_eq!(shapes(&with_lineages(&[call, translated])).len(), 1);
    assert_eq!(shapes(&with_lineages(&[call, translated, twice])).len(), 3, "sent again");
}
