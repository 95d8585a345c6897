//! The newest spans of each tenant, in memory.
//!
//! What failed or was slow and what was only sampled are kept apart, each with bounds of its own, so that samples push
//! out no error. A sandbox that is over its bound loses its own oldest spans, and so cannot push out its neighbours'; a
//! tenant that is over its bound loses its oldest ones.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    accumulate::series::SeriesKey,
    identity::Identity,
    protocol::{ErrorClass, SpanReason},
};

/// Most spans of one kind of a sandbox: failed or slow ones, sampled ones.
pub const SANDBOX_SPANS_MAX: [usize; 2] = [512, 256];

/// The same of a tenant.
pub const TENANT_SPANS_MAX: [usize; 2] = [4_096, 2_048];

/// How long a span is kept.
pub const KEEP: Duration = Duration::from_hours(1);

/// Why a span is no longer kept, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Its sandbox had newer ones.
    SandboxLimit,
    /// Its tenant had newer ones.
    TenantLimit,
    /// It was old.
    Age,
}

impl Eviction {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::SandboxLimit, Self::TenantLimit, Self::Age];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SandboxLimit => "sandbox_limit",
            Self::TenantLimit => "tenant_limit",
            Self::Age => "age",
        }
    }
}

/// A span as an agent reported it, after every check that needs no memory of what came before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedSpan {
    /// The guest's wall-clock time of the request's first byte, nanoseconds since 1970-01-01T00:00:00Z.
    pub start_unix_ns: u64,
    /// To the response's last byte, nanoseconds.
    pub duration_ns: u64,
    /// Size of the request, bytes.
    pub request_bytes: u64,
    /// Size of the response, bytes.
    pub response_bytes: u64,
    /// Why it was chosen.
    pub reason: SpanReason,
    /// Process in the guest; 0 where it is not known.
    pub process_id: u32,
    /// Thread in the guest; 0 where it is not known.
    pub thread_id: u32,
    /// This end of the connection; empty where it is not known.
    pub local: Box<str>,
    /// The other end.
    pub remote: Box<str>,
}

/// A span that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Counts up with every span of the tenant.
    pub number: u64,
    /// When it came, milliseconds since 1970-01-01T00:00:00Z.
    pub received_unix_ms: u64,
    /// Whose it is, as the host knows.
    pub identity: Arc<Identity>,
    /// What it has in common with its series.
    pub key: Arc<SeriesKey>,
    /// Whose fault its failure was.
    pub error: ErrorClass,
    /// The rest.
    pub span: CheckedSpan,
}

/// One kind of spans of a tenant.
#[derive(Debug, Default)]
struct Shelf {
    by_number: BTreeMap<u64, Kept>,
    /// Numbers of each sandbox, the oldest first.
    by_sandbox: BTreeMap<String, VecDeque<u64>>,
}

impl Shelf {
    /// Removes the tenant's oldest.
    fn remove_oldest(&mut self) {
        let Some((_, oldest)) = self.by_number.pop_first() else { return };
        let sandbox = &oldest.identity.sandbox_id;
        if let Some(numbers) = self.by_sandbox.get_mut(sandbox) {
            // The tenant's oldest is its sandbox's oldest.
            numbers.pop_front();
            if numbers.is_empty() {
                self.by_sandbox.remove(sandbox);
            }
        }
    }

    fn put(&mut self, kept: Kept, sandbox_max: usize, tenant_max: usize) -> Option<Eviction> {
        let numbers = self.by_sandbox.entry(kept.identity.sandbox_id.clone()).or_default();
        let evicted = if numbers.len() >= sandbox_max {
            if let Some(oldest) = numbers.pop_front() {
                self.by_number.remove(&oldest);
            }
            Some(Eviction::SandboxLimit)
        } else {
            (self.by_number.len() >= tenant_max).then_some(Eviction::TenantLimit)
        };
        numbers.push_back(kept.number);
        self.by_number.insert(kept.number, kept);
        if evicted == Some(Eviction::TenantLimit) {
            self.remove_oldest();
        }
        evicted
    }

    fn expire(&mut self, before_unix_ms: u64) -> u64 {
        let mut expired = 0;
        while self.by_number.first_key_value().is_some_and(|(_, kept)| kept.received_unix_ms < before_unix_ms)
        {
            self.remove_oldest();
            expired += 1;
        }
        expired
    }
}

#[derive(Debug, Default)]
struct OfTenant {
    next: u64,
    /// Failed or slow ones, sampled ones.
    shelves: [Shelf; 2],
}

/// The spans of all tenants.
#[derive(Debug, Default)]
pub struct SpanStore {
    tenants: Mutex<BTreeMap<String, OfTenant>>,
    received: AtomicU64,
    evicted: [AtomicU64; Eviction::ALL.len()],
}

/// Which spans are asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Only this tenant's.
    pub tenant: Option<&'a str>,
    /// Only this application's.
    pub service_name: Option<&'a str>,
    /// Only those that failed.
    pub errors: bool,
    /// Only those that took as long, nanoseconds.
    pub duration_ns_min: u64,
    /// Most of them.
    pub limit: usize,
}

impl SpanStore {
    /// Keeps a span.
    pub fn put(
        &self,
        identity: &Arc<Identity>,
        key: Arc<SeriesKey>,
        error: ErrorClass,
        span: CheckedSpan,
        now_unix_ms: u64,
    ) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let mut tenants = self.tenants.lock();
        if !tenants.contains_key(&identity.tenant) {
            tenants.insert(identity.tenant.clone(), OfTenant::default());
        }
        let Some(tenant) = tenants.get_mut(&identity.tenant) else { return };
        let kind = usize::from(span.reason == SpanReason::Rate);
        let number = tenant.next;
        tenant.next += 1;
        let kept =
            Kept { number, received_unix_ms: now_unix_ms, identity: Arc::clone(identity), key, error, span };
        let evicted = tenant.shelves[kind].put(kept, SANDBOX_SPANS_MAX[kind], TENANT_SPANS_MAX[kind]);
        if let Some(eviction) = evicted {
            self.count(eviction, 1);
        }
    }

    /// Lets go of what is too old.
    pub fn expire(&self, now_unix_ms: u64) {
        let keep = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
        let before = now_unix_ms.saturating_sub(keep);
        self.tenants.lock().retain(|_, tenant| {
            let expired = tenant.shelves.iter_mut().map(|shelf| shelf.expire(before)).sum();
            self.count(Eviction::Age, expired);
            tenant.shelves.iter().any(|shelf| !shelf.by_number.is_empty())
        });
    }

    /// The newest ones that are asked for, the newest first, and the number of those beyond the limit.
    pub fn list(&self, wanted: &Wanted<'_>) -> (Vec<Kept>, usize) {
        let tenants = self.tenants.lock();
        let of_tenants =
            tenants.iter().filter(|(tenant, _)| wanted.tenant.is_none_or(|name| name == *tenant));
        let mut found: Vec<&Kept> = of_tenants
            .flat_map(|(_, tenant)| &tenant.shelves)
            .flat_map(|shelf| shelf.by_number.values())
            .filter(|kept| wanted.service_name.is_none_or(|name| name == kept.identity.service_name))
            .filter(|kept| !wanted.errors || kept.error != ErrorClass::None)
            .filter(|kept| kept.span.duration_ns >= wanted.duration_ns_min)
            .collect();
        found.sort_by_key(|kept| std::cmp::Reverse((kept.received_unix_ms, kept.number)));
        let beyond = found.len().saturating_sub(wanted.limit);
        (found.into_iter().take(wanted.limit).cloned().collect(), beyond)
    }

    /// Spans that were taken.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Spans that are no longer kept, by why.
    pub fn evicted(&self, eviction: Eviction) -> u64 {
        self.evicted[eviction as usize].load(Ordering::Relaxed)
    }

    fn count(&self, eviction: Eviction, more: u64) {
        self.evicted[eviction as usize].fetch_add(more, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Protocol, Side};

    fn identity(tenant: &str, sandbox: &str) -> Arc<Identity> {
        Arc::new(Identity {
            tenant: tenant.into(),
            service_name: "shop".into(),
            k8s_namespace_name: String::new(),
            k8s_pod_name: String::new(),
            containerd_namespace: "default".into(),
            sandbox_id: sandbox.into(),
        })
    }

    fn key() -> Arc<SeriesKey> {
        Arc::new(SeriesKey {
            protocol: Protocol::Http1,
            side: Side::Server,
            container: Box::default(),
            operation: "GET".into(),
            resource: "/".into(),
            status: "200".into(),
            error_type: Box::default(),
            peer_address: Box::default(),
            peer_port: Box::default(),
        })
    }

    fn span(reason: SpanReason, duration_ns: u64) -> CheckedSpan {
        CheckedSpan {
            start_unix_ns: 1,
            duration_ns,
            request_bytes: 0,
            response_bytes: 0,
            reason,
            process_id: 0,
            thread_id: 0,
            local: Box::default(),
            remote: Box::default(),
        }
    }

    fn put(store: &SpanStore, identity: &Arc<Identity>, reason: SpanReason, number: u64) {
        let error = if reason == SpanReason::Error { ErrorClass::Server } else { ErrorClass::None };
        store.put(identity, key(), error, span(reason, number), number);
    }

    fn list(store: &SpanStore) -> Vec<Kept> {
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
        let of =
            |sandbox: &str| list(&store).iter().filter(|kept| kept.identity.sandbox_id == sandbox).count();
        assert_eq!((of("calm"), of("flood")), (2, SANDBOX_SPANS_MAX.iter().sum()));
        assert_eq!(list(&store)[0].span.duration_ns, 19_999, "the newest first");
        assert_eq!(store.received(), 20_000);
        assert_eq!(store.evicted(Eviction::SandboxLimit), 20_000 - 2 - 768);
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
}
