//! A span that shows where in its series' histogram a trace is.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    accumulate::{cost, series::SeriesKey},
    identity::Identity,
    ids::{SpanId, TraceId},
};

/// Most exemplars of a tenant.
pub const TENANT_EXEMPLARS_MAX: usize = 256;

/// A span with its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// Its sandbox.
    pub identity: Arc<Identity>,
    /// Its series.
    pub key: Arc<SeriesKey>,
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// How long it took.
    pub duration_ns: u64,
    /// When it ended by the host's clock, milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

impl Exemplar {
    /// How long it took, seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.duration_ns).as_secs_f64()
    }

    /// Whether it is in the bucket with these bounds, seconds: above one, and up to the other.
    pub fn is_between(&self, above: f64, bound: f64) -> bool {
        self.seconds() > above && self.seconds() <= bound
    }

    /// Bytes of memory. The key counts with each: its series may be gone.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + cost::key(&self.key)
    }
}

/// The exemplars of tenants, by sandbox and series; of each series those come first that are preferred.
#[derive(Clone, Debug, Default)]
pub struct Exemplars(pub(super) BTreeMap<String, Arc<[Exemplar]>>);

impl Exemplars {
    /// All of a tenant's.
    pub fn of_tenant(&self, tenant: &str) -> &[Exemplar] {
        self.0.get(tenant).map_or(&[][..], |exemplars| exemplars)
    }

    /// Those of one sandbox.
    pub fn of_sandbox(&self, identity: &Identity) -> &[Exemplar] {
        equal(self.of_tenant(&identity.tenant), |exemplar| (*exemplar.identity).cmp(identity))
    }

    /// Those of one series among a sandbox's.
    pub fn of_series<'a>(of_sandbox: &'a [Exemplar], key: &SeriesKey) -> &'a [Exemplar] {
        equal(of_sandbox, |exemplar| (*exemplar.key).cmp(key))
    }
}

/// The part of what is sorted that is equal to something.
fn equal(sorted: &[Exemplar], compare: impl Fn(&Exemplar) -> Ordering) -> &[Exemplar] {
    let from = sorted.partition_point(|exemplar| compare(exemplar).is_lt());
    let to = sorted.partition_point(|exemplar| compare(exemplar).is_le());
    &sorted[from..to]
}
