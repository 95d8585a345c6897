//! The newest spans of each tenant, in memory.
//!
//! What failed or was slow and what was only sampled are kept apart, each with bounds of its own, so that samples push
//! out no error. A sample of a trace in which something failed or was slow takes room that the former leave ([`SpanStore::promote`]),
//! until they need it, so that the trace stays whole. A sandbox that is over its bound loses its own oldest spans, and so cannot push out
//! its neighbours', but for what is left of kept traces that its own were of ([`crate::sampling`]); a tenant that is over its bound loses its oldest ones, and samples before others.

mod exemplar;
mod shelf;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

pub use self::exemplar::{Exemplar, Exemplars, TENANT_EXEMPLARS_MAX};
use self::shelf::{MARKED, OfTenant, SAMPLED};
use crate::{
    accumulate::{budget::TenantBudget, cost, series::SeriesKey},
    guest_clock::Offset,
    identity::Identity,
    ids::{IdKeys, SpanId, TraceId},
    protocol::{ErrorClass, ParentCertainty, SpanReason},
};

/// Most spans of one kind of a sandbox: failed or slow ones, sampled ones. An agent sends 50 in a second, and twice as many at once; there
/// is room for them until their traces are decided ([`crate::trace_rounds`]).
pub const SANDBOX_SPANS_MAX: [usize; 2] = [512, 512];

/// The same of a tenant: room for eight sandboxes that send as many as they may.
pub const TENANT_SPANS_MAX: [usize; 2] = [4_096, 4_096];

/// How long a span is kept.
pub const KEEP: Duration = Duration::from_hours(1);

/// Why a span is no longer kept, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Its sandbox had newer ones.
    SandboxLimit,
    /// Its tenant had newer ones.
    TenantLimit,
    /// Its tenant's budget of memory was needed for newer ones, or for something else.
    MemoryLimit,
    /// It was old.
    Age,
    /// Its trace was not sampled.
    Sampling,
    /// Another span of its trace, in which nothing failed, is no longer kept.
    CutTrace,
}

impl Eviction {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::SandboxLimit, Self::TenantLimit, Self::MemoryLimit, Self::Age, Self::Sampling, Self::CutTrace];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SandboxLimit => "sandbox_limit",
            Self::TenantLimit => "tenant_limit",
            Self::MemoryLimit => "memory_limit",
            Self::Age => "age",
            Self::Sampling => "sampling",
            Self::CutTrace => "cut_trace",
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
    /// Where it belongs.
    #[serde(skip)]
    pub lineage: Lineage,
}

#[cfg(test)]
impl CheckedSpan {
    /// One of which no more is known.
    pub(crate) fn lasting(reason: SpanReason, duration_ns: u64) -> Self {
        Self {
            start_unix_ns: 1,
            duration_ns,
            request_bytes: 0,
            response_bytes: 0,
            reason,
            process_id: 0,
            thread_id: 0,
            local: Box::default(),
            remote: Box::default(),
            lineage: Lineage::default(),
        }
    }
}

/// Which trace and which exchange a span belongs to, as its agent reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The context that its request carries.
    pub context: Option<Context>,
    /// Its number in its agent's life; 0 from an agent that gives none.
    pub number: u64,
    /// The number of the server's exchange during which it was made; 0 where that is not known.
    pub parent: u64,
    /// How that is known.
    pub certainty: Option<ParentCertainty>,
}

/// A trace context that a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// Whether the trace is marked as sampled.
    pub is_sampled: bool,
}

/// Both ends of a TCP or UDP connection, as a span's sandbox sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Whether the host knows this end's address as the sandbox's own.
    pub is_own: bool,
}

impl Connection {
    /// The connection of a span; none of a socket path and where an end is not known.
    pub fn of(span: &CheckedSpan, own: &[IpAddr]) -> Option<Self> {
        let end = |text: &str| {
            let end: SocketAddr = text.parse().ok()?;
            Some(SocketAddr::new(end.ip().to_canonical(), end.port()))
        };
        let (local, remote) = (end(&span.local)?, end(&span.remote)?);
        let is_own = own.iter().any(|address| address.to_canonical() == local.ip());
        Some(Self { local, remote, is_own })
    }

    /// Whether both ends are in one network namespace.
    pub fn is_inside(&self) -> bool {
        self.local.ip().is_loopback() && self.remote.ip().is_loopback()
    }
}

/// What the host adds to a span when it comes.
#[derive(Clone, Copy, Debug)]
pub struct Reception {
    /// When it came, milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
    /// The host's clock less the guest's.
    pub offset: Offset,
    /// Its connection.
    pub connection: Option<Connection>,
}

/// A span that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Counts up with every span.
    pub number: u64,
    /// What the host added.
    pub reception: Reception,
    /// The identity of its sandbox, from the host.
    pub identity: Arc<Identity>,
    /// What it has in common with its series.
    pub key: Arc<SeriesKey>,
    /// Whose fault its failure was.
    pub error: ErrorClass,
    /// The rest.
    pub span: CheckedSpan,
}

impl Kept {
    /// Bytes of memory, with what is remembered of it: that its trace is kept, and that it was sent. The key counts with each: its
    /// series may be gone.
    pub(crate) fn bytes(&self) -> usize {
        cost::ascending_map_entry::<u64, Arc<Self>>()
            + cost::block(size_of::<Self>() + 16)
            + 2 * size_of::<u64>()
            + cost::table_entry::<u64, u64>()
            + cost::table_entry::<u64, ()>()
            + cost::key(&self.key)
            + cost::text(&self.span.local)
            + cost::text(&self.span.remote)
    }
}

/// The spans of all tenants.
#[derive(Debug, Default)]
pub struct SpanStore {
    tenants: Mutex<BTreeMap<String, OfTenant>>,
    /// The number of the next span, which is also that of all spans so far.
    received: AtomicU64,
    evicted: [AtomicU64; Eviction::ALL.len()],
    /// What the ids of traces and spans are made with.
    pub ids: IdKeys,
}

/// Which spans a query selects.
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
        budget: &Arc<TenantBudget>,
        key: Arc<SeriesKey>,
        error: ErrorClass,
        span: CheckedSpan,
        reception: Reception,
    ) {
        let mut tenants = self.tenants.lock();
        // Under the lock: numbers of a tenant ascend in the order in which its spans come.
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        if !tenants.contains_key(&identity.tenant) {
            tenants.insert(identity.tenant.clone(), OfTenant::new(budget));
        }
        let Some(tenant) = tenants.get_mut(&identity.tenant) else { return };
        let kind = if span.reason == SpanReason::Rate { SAMPLED } else { MARKED };
        let kept = Kept { number, reception, identity: Arc::clone(identity), key, error, span };
        self.count(Eviction::MemoryLimit, tenant.make_room(kept.bytes(), kind));
        if !budget.resident.admits(kept.bytes()) {
            self.count(Eviction::MemoryLimit, 1);
            return;
        }
        if let Some(eviction) = tenant.put(Arc::new(kept), kind) {
            self.count(eviction, 1);
        }
    }

    /// Keeps samples as long as what failed or was slow, of whose traces they are, as far as there is room. The others stay samples.
    pub fn promote(&self, tenant: &str, numbers: &[u64]) {
        if let Some(tenant) = self.tenants.lock().get_mut(tenant) {
            for number in numbers {
                tenant.promote(*number);
            }
        }
    }

    /// Lets go of these.
    pub fn discard(&self, tenant: &str, numbers: &[u64], eviction: Eviction) {
        if let Some(tenant) = self.tenants.lock().get_mut(tenant) {
            self.count(eviction, tenant.discard(numbers));
        }
    }

    /// Keeps a tenant's exemplars in place of those before, as far as its memory and its part of scrapes have room.
    pub fn set_exemplars(&self, tenant: &str, exemplars: Vec<Exemplar>) {
        if let Some(tenant) = self.tenants.lock().get_mut(tenant) {
            tenant.set_exemplars(exemplars);
        }
    }

    /// The exemplars of all tenants' sandboxes, or of one tenant's.
    pub fn exemplars(&self, of: Option<&str>) -> Exemplars {
        let tenants = self.tenants.lock();
        let wanted = tenants.iter().filter(|(name, _)| of.is_none_or(|of| of == *name));
        // Shared, not copied: batches wait for the lock.
        Exemplars(wanted.map(|(name, tenant)| (name.clone(), Arc::clone(tenant.exemplars()))).collect())
    }

    /// Each tenant that has spans, or the one of them that is wanted, with the number of its newest.
    pub fn newest(&self, wanted: Option<&str>) -> Vec<(String, u64)> {
        let tenants = self.tenants.lock();
        let wanted = tenants.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
        wanted.filter_map(|(name, tenant)| Some((name.clone(), tenant.newest()?))).collect()
    }

    /// The spans of a tenant, in the order in which they came.
    pub fn of_tenant(&self, tenant: &str) -> Vec<Arc<Kept>> {
        let mut spans: Vec<_> = self
            .tenants
            .lock()
            .get(tenant)
            .map(|tenant| tenant.spans().cloned().collect())
            .unwrap_or_default();
        // Those of each shelf are in order, which the stable sort only merges; batches do not wait for it.
        spans.sort_by_key(|kept| kept.number);
        spans
    }

    /// Lets go of what is too old.
    pub fn expire(&self, now_unix_ms: u64) {
        let keep = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
        let before = now_unix_ms.saturating_sub(keep);
        self.tenants.lock().retain(|_, tenant| {
            self.count(Eviction::Age, tenant.expire(before));
            tenant.newest().is_some()
        });
    }

    /// The newest ones that match the query, the newest first, and the number of those beyond the limit.
    pub fn list(&self, wanted: &Wanted<'_>) -> (Vec<Arc<Kept>>, usize) {
        // One tenant at a time: batches wait for the lock.
        let tenants = self.newest(wanted.tenant).into_iter();
        let mut found: Vec<Arc<Kept>> = tenants
            .flat_map(|(tenant, _)| self.of_tenant(&tenant))
            .filter(|kept| wanted.service_name.is_none_or(|name| name == kept.identity.service_name))
            .filter(|kept| !wanted.errors || kept.error != ErrorClass::None)
            .filter(|kept| kept.span.duration_ns >= wanted.duration_ns_min)
            .collect();
        found.sort_by_key(|kept| std::cmp::Reverse((kept.reception.unix_ms, kept.number)));
        let beyond = found.len().saturating_sub(wanted.limit);
        found.truncate(wanted.limit);
        (found, beyond)
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
mod tests;
