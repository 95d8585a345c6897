use super::*;
use crate::accumulate::series::Labels;
use crate::{
    accumulate::budget::{Limits, NodeBudget},
    protocol::{Protocol, Side},
};

fn identity(tenant: &str, sandbox: &str) -> Arc<Identity> {
    Arc::new(Identity::in_default(tenant, "shop", sandbox))
}

fn key() -> Arc<SeriesKey> {
    Arc::new(
        SeriesKey::new(
            Protocol::Http1,
            Side::Server,
            Labels { operation: "GET", resource: "/", status: "200", ..Labels::default() },
        )
        .expect("short texts"),
    )
}

fn put(store: &SpanStore, identity: &Arc<Identity>, reason: SpanReason, number: u64) {
    let error = if reason == SpanReason::Error { ErrorClass::Server } else { ErrorClass::None };
    let budget = Arc::new(TenantBudget::new(&NodeBudget::new(Limits::of_series(1))));
    store.put(identity, &budget, key(), error, CheckedSpan::lasting(reason, number), at(number));
}

fn at(unix_ms: u64) -> Reception {
    Reception { unix_ms, offset: Offset::default(), connection: None }
}

fn list(store: &SpanStore) -> Vec<Arc<Kept>> {
    let all =
        Wanted { tenant: None, service_name: None, errors: false, duration_ns_min: 0, limit: usize::MAX };
    store.list(&all).0
}

#[test]
fn samples_push_out_no_errors_and_a_sandbox_no_neighbours() {
    let store = SpanStore::default();
    let (calm, flood) = (identity("acme", "calm"), identity("acme", "flood"));
    put(&store, &calm, SpanReason::Error, 0);
    put(&store, &calm, SpanReason::Rate, 1);
    for number in 2..20_000 {
        put(&store, &flood, if number % 2 == 0 { SpanReason::Error } else { SpanReason::Rate }, number);
    }
    let of = |sandbox: &str| list(&store).iter().filter(|kept| kept.identity.sandbox_id == sandbox).count();
    assert_eq!((of("calm"), of("flood")), (2, SANDBOX_SPANS_MAX.iter().sum()));
    assert_eq!(list(&store)[0].span.duration_ns, 19_999, "the newest first");
    assert_eq!(store.received(), 20_000);
    let kept = 2 + SANDBOX_SPANS_MAX.map(|most| most as u64).iter().sum::<u64>();
    assert_eq!(store.evicted(Eviction::SandboxLimit), 20_000 - kept);
}

#[test]
fn samples_of_marked_traces_take_room_that_is_left_and_make_room_for_errors() {
    let store = SpanStore::default();
    let acme = identity("acme", "a");
    let [errors, samples] = SANDBOX_SPANS_MAX.map(|most| most as u64);
    let first = errors - 5;
    let all: Vec<_> = (0..first + 10)
        .map(|number| if number < first { SpanReason::Error } else { SpanReason::Rate })
        .collect();
    all.iter().zip(0..).for_each(|(reason, number)| put(&store, &acme, *reason, number));
    let numbers: Vec<u64> = (first..first + 10).collect();
    store.promote("acme", &numbers);
    let count = |reason| list(&store).iter().filter(|kept| kept.span.reason == reason).count() as u64;
    assert_eq!((count(SpanReason::Error), count(SpanReason::Rate)), (first, 10), "all are there still");
    for number in 0..samples {
        put(&store, &acme, SpanReason::Rate, first + 10 + number);
    }
    store.promote("acme", &numbers);
    let has = |number: u64| list(&store).iter().any(|kept| kept.number == number);
    let kept: Vec<bool> = numbers.iter().map(|number| has(*number)).collect();
    assert_eq!(kept, [[true; 5], [false; 5]].concat(), "those for which there was room");
    assert_eq!(store.evicted(Eviction::SandboxLimit), 5);
    for number in 0..5 {
        put(&store, &acme, SpanReason::Error, 2_000 + number);
    }
    assert_eq!((count(SpanReason::Error), count(SpanReason::Rate)), (errors, samples));
    put(&store, &acme, SpanReason::Error, 3_000);
    assert!(!has(0) && has(1), "without samples its oldest goes");
}

#[test]
fn samples_of_marked_traces_leave_a_tenants_errors_their_room() {
    let store = SpanStore::default();
    let most = TENANT_SPANS_MAX[0] as u64;
    for number in 0..most - 1 {
        put(&store, &identity("acme", &format!("s{}", number % 100)), SpanReason::Error, number);
    }
    let calm = identity("acme", "calm");
    for number in [most - 1, most] {
        put(&store, &calm, SpanReason::Rate, number);
    }
    store.promote("acme", &[most - 1, most]);
    assert_eq!((list(&store).len() as u64, store.evicted(Eviction::TenantLimit)), (most + 1, 0));
    let has = |number: u64| list(&store).iter().any(|kept| kept.number == number);
    put(&store, &calm, SpanReason::Error, most + 1);
    assert!(has(0) && !has(most - 1) && has(most), "the sample that took room");
    put(&store, &calm, SpanReason::Error, most + 2);
    assert!(!has(0) && has(most), "the other one is a sample as before");
    assert_eq!(store.evicted(Eviction::TenantLimit), 2);
}

#[test]
fn spans_are_taken_by_tenant_and_in_the_order_in_which_they_came() {
    let store = SpanStore::default();
    let (acme, other) = (identity("acme", "a"), identity("other", "b"));
    put(&store, &acme, SpanReason::Rate, 0);
    put(&store, &acme, SpanReason::Rate, 1);
    put(&store, &acme, SpanReason::Error, 2);
    put(&store, &other, SpanReason::Error, 3);
    put(&store, &acme, SpanReason::Rate, 4);
    store.promote("acme", &[1]);
    let numbers = |tenant| store.of_tenant(tenant).iter().map(|kept| kept.number).collect::<Vec<_>>();
    assert_eq!((numbers("acme"), numbers("other"), numbers("none")), (vec![0, 1, 2, 4], vec![3], vec![]));
    assert_eq!(store.newest(None), [("acme".to_owned(), 4), ("other".to_owned(), 3)]);
    assert_eq!(store.newest(Some("other")), [("other".to_owned(), 3)]);
    assert!(store.newest(Some("none")).is_empty());
}

#[test]
fn a_tenant_is_bounded_and_loses_its_oldest() {
    let store = SpanStore::default();
    let other = identity("other", "other");
    put(&store, &other, SpanReason::Error, 0);
    let most = TENANT_SPANS_MAX[0] as u64;
    for number in 0..most + 100 {
        put(&store, &identity("acme", &format!("s{}", number % 100)), SpanReason::Error, number);
    }
    let all = list(&store);
    assert_eq!(all.len() as u64, most + 1);
    assert_eq!(store.evicted(Eviction::TenantLimit), 100);
    assert!(all.iter().all(|kept| kept.identity.tenant == "other" || kept.span.duration_ns >= 100));
}

#[test]
fn spans_are_charged_and_make_room_for_newer_ones() {
    let limits = Limits { memory_per_tenant: 40_000, ..Limits::of_series(1) };
    let budget = Arc::new(TenantBudget::new(&NodeBudget::new(limits)));
    let store = SpanStore::default();
    let acme = identity("acme", "a");
    for number in 0..500 {
        store.put(
            &acme,
            &budget,
            key(),
            ErrorClass::None,
            CheckedSpan::lasting(SpanReason::Slow, number),
            at(number),
        );
    }
    let kept = list(&store);
    assert!((20..500).contains(&kept.len()), "{} spans", kept.len());
    assert_eq!(kept[0].span.duration_ns, 499, "the newest are kept");
    assert!(budget.resident.taken() <= 40_000 && budget.resident.taken() > 30_000);
    assert_eq!(store.evicted(Eviction::MemoryLimit), 500 - kept.len() as u64);
    drop(store);
    assert_eq!(budget.resident.taken(), 0);
}

#[test]
fn exemplars_are_found_by_series_and_charged_to_scrapes_as_far_as_there_is_room() {
    let fits = 3;
    let limits = Limits { exposed_per_tenant: fits * cost::EXPOSED_EXEMPLAR, ..Limits::of_series(1) };
    let budget = Arc::new(TenantBudget::new(&NodeBudget::new(limits)));
    let store = SpanStore::default();
    let sandboxes = [identity("acme", "a"), identity("acme", "b")];
    let span = CheckedSpan::lasting(SpanReason::Slow, 1);
    store.put(&sandboxes[0], &budget, key(), ErrorClass::None, span, at(0));
    let other = SeriesKey::new(Protocol::Http1, Side::Client, Labels::default()).expect("short texts");
    let exemplar = |sandbox: usize, key: SeriesKey, number: u64| Exemplar {
        identity: Arc::clone(&sandboxes[sandbox]),
        key: Arc::new(key),
        trace: TraceId([1; 16]),
        span: SpanId(number.to_be_bytes()),
        duration_ns: number,
        unix_ms: 1,
    };
    let same = || SeriesKey::clone(&key());
    let all = vec![
        exemplar(1, same(), 9),
        exemplar(0, other.clone(), 8),
        exemplar(1, same(), 7),
        exemplar(0, same(), 6),
    ];
    store.set_exemplars("acme", all.clone());
    let found = |sandbox: usize, key: &SeriesKey| {
        let exemplars = store.exemplars(Some("acme"));
        let of_series = Exemplars::of_series(exemplars.of_sandbox(&sandboxes[sandbox]), key);
        of_series.iter().map(|exemplar| exemplar.duration_ns).collect::<Vec<_>>()
    };
    assert_eq!((found(1, &key()), found(0, &other)), (vec![9, 7], vec![8]), "in their order");
    assert_eq!((found(0, &key()), found(1, &other)), (vec![], vec![]), "the last one has no room");
    assert_eq!(budget.exposed.taken(), fits * cost::EXPOSED_EXEMPLAR);
    store.set_exemplars("acme", all);
    assert_eq!(budget.exposed.taken(), fits * cost::EXPOSED_EXEMPLAR, "in place of those before");
    assert!(store.exemplars(Some("other")).of_sandbox(&sandboxes[1]).is_empty());
    drop(store);
    assert_eq!(budget.exposed.taken(), 0);
}

#[test]
fn what_is_old_goes() {
    let store = SpanStore::default();
    let hour = u64::try_from(KEEP.as_millis()).expect("small");
    put(&store, &identity("acme", "a"), SpanReason::Error, 5);
    put(&store, &identity("acme", "a"), SpanReason::Rate, 7);
    store.expire(hour + 6);
    assert_eq!((list(&store).len(), store.evicted(Eviction::Age)), (1, 1));
    store.expire(2 * hour);
    assert!(list(&store).is_empty() && store.tenants.lock().is_empty());
}

#[test]
fn only_what_is_asked_for_is_listed() {
    let store = SpanStore::default();
    put(&store, &identity("acme", "a"), SpanReason::Error, 5);
    put(&store, &identity("acme", "a"), SpanReason::Slow, 50);
    put(&store, &identity("other", "b"), SpanReason::Rate, 7);
    let all =
        Wanted { tenant: None, service_name: None, errors: false, duration_ns_min: 0, limit: usize::MAX };
    let count = |wanted: Wanted<'_>| store.list(&wanted).0.len();
    assert_eq!(count(all.clone()), 3);
    assert_eq!(count(Wanted { tenant: Some("acme"), ..all.clone() }), 2);
    assert_eq!(count(Wanted { service_name: Some("blog"), ..all.clone() }), 0);
    assert_eq!(count(Wanted { errors: true, ..all.clone() }), 1);
    assert_eq!(count(Wanted { duration_ns_min: 7, ..all.clone() }), 2);
    let (listed, beyond) = store.list(&Wanted { limit: 1, ..all });
    assert_eq!((listed.len(), beyond), (1, 2));
}
