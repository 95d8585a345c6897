//! Which spans are the exemplars of histograms: for each power of two of a series' durations the newest one of a trace in which something
//! failed or was slow, else of any.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use crate::{
    spans::{Exemplar, TENANT_EXEMPLARS_MAX},
    traces::{Trace, TraceSpan},
};

/// Those of traces of one tenant.
pub fn of<'a>(traces: impl IntoIterator<Item = &'a Trace>) -> Vec<Exemplar> {
    let mut all = Vec::new();
    for trace in traces {
        all.extend(trace.spans.iter().map(|span| (trace, span)));
    }
    all.sort_by_key(|(trace, span)| Reverse((trace.is_marked(), span.kept.number)));
    let mut places = HashSet::new();
    all.retain(|(_, span)| {
        let kept = &span.kept;
        places.insert((&kept.identity, &kept.key, kept.span.duration_ns.leading_zeros()))
    });
    let exemplar = |(trace, span): (&Trace, &TraceSpan)| Exemplar {
        identity: Arc::clone(&span.kept.identity),
        key: Arc::clone(&span.kept.key),
        trace: trace.id,
        span: span.id,
        duration_ns: span.kept.span.duration_ns,
        unix_ms: span.start_unix_ns.saturating_add(span.kept.span.duration_ns) / 1_000_000,
    };
    all.into_iter().take(TENANT_EXEMPLARS_MAX).map(exemplar).collect()
}
