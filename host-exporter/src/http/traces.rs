//! `GET /api/v1/traces`: traces, the newest first, and `GET /api/v1/traces/<id>`: the tree of one.

use std::collections::BTreeSet;

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    App,
    access::{Denied, Viewer},
    spans::{self, Names},
};
use crate::{
    clock::unix_ms,
    fleet::Fleet,
    ids::TraceId,
    protocol::{Side, SpanReason, by_name},
    traces::{self, Trace, TraceSpan},
};

/// Which traces are listed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    tenant: Option<String>,
    /// Only those that went through this application.
    service_name: Option<String>,
    /// Only those with a call on this side: `server` or `client`. The calls that this, `service_name`, and the next four are about
    /// have to be the same.
    #[serde(default, deserialize_with = "some_side")]
    side: Option<Side>,
    /// Only those with a call that was received from then on, and before.
    received_from_unix_ms: Option<u64>,
    received_until_unix_ms: Option<u64>,
    /// Only those with a call that took as long, and no longer.
    call_ns_min: Option<u64>,
    call_ns_max: Option<u64>,
    /// Only those in which this route, table, or topic was served or called.
    route: Option<String>,
    /// Only those whose first span took as long.
    duration_ms_min: Option<u64>,
    /// Only those in which something failed.
    #[serde(default)]
    errors: bool,
    /// Only those of as many spans.
    spans_min: Option<usize>,
    limit: Option<usize>,
}

/// Of which tenant a trace is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    tenant: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    traces: Vec<Summary>,
    /// Traces that match the query and are beyond the limit.
    left_out: usize,
}

#[derive(Serialize)]
struct Found {
    /// One, but for an id that several have.
    traces: Vec<Whole>,
}

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    summary: Summary,
    /// Depth first, by their beginnings.
    tree: Vec<Node>,
}

/// A trace in a listing: its first span, and what all came to.
#[derive(Serialize)]
struct Summary {
    trace_id: String,
    /// Those of its first span.
    #[serde(flatten)]
    names: Names,
    /// By the host's clock.
    start_unix_ns: u64,
    duration_ns: u64,
    /// How far the host's clock can be from `start_unix_ns`.
    clock_error_ns: u64,
    received_unix_ms: u64,
    spans: usize,
    /// Spans that failed.
    errors: usize,
    /// The applications that it went through.
    services: BTreeSet<String>,
}

#[derive(Serialize)]
struct Node {
    span_id: String,
    parent_span_id: Option<String>,
    /// How it is known that it belongs below that one.
    certainty: Option<&'static str>,
    depth: usize,
    /// By the host's clock; `guest_start_unix_ns` is by the guest's.
    start_unix_ns: u64,
    /// How far it can be from there, relative to the first one.
    clock_error_ns: u64,
    guest_start_unix_ns: u64,
    duration_ns: u64,
    #[serde(flatten)]
    names: Names,
    request_bytes: u64,
    response_bytes: u64,
    reason: SpanReason,
    process_id: u32,
    thread_id: u32,
    local: Box<str>,
    remote: Box<str>,
    /// The context that its request carries.
    propagated_trace_id: Option<String>,
    propagated_parent_span_id: Option<String>,
}

pub(super) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(mut filter): Query<Filter>,
) -> Result<Response, Denied> {
    filter.tenant = viewer.narrow(filter.tenant)?;
    Ok(app.listing(format!("traces {filter:?}"), move |fleet| listing(fleet, &filter)).await)
}

pub(super) async fn show(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Denied> {
    let tenant = viewer.narrow(wanted.tenant)?;
    let Some(id) = TraceId::parse(&id) else {
        return Ok((StatusCode::BAD_REQUEST, "a trace's id has 32 hexadecimal digits\n").into_response());
    };
    let name = format!("trace {id} {tenant:?}");
    Ok(app.listing(name, move |fleet| found(fleet, tenant.as_deref(), id)).await)
}

fn some_side<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Side>, D::Error> {
    by_name::deserialize(deserializer).map(Some)
}

impl Filter {
    /// Whether a call is one that the trace has to have.
    fn admits_call(&self, span: &TraceSpan) -> bool {
        let kept = &span.kept;
        let (received, took) = (kept.reception.unix_ms, kept.span.duration_ns);
        self.service_name.as_ref().is_none_or(|name| kept.identity.service_name == *name)
            && self.side.is_none_or(|side| kept.key.side == side)
            && self.received_from_unix_ms.is_none_or(|from| received >= from)
            && self.received_until_unix_ms.is_none_or(|until| received < until)
            && self.call_ns_min.is_none_or(|least| took >= least)
            && self.call_ns_max.is_none_or(|most| took <= most)
    }

    fn admits(&self, trace: &Trace) -> bool {
        let any = |holds: &dyn Fn(&TraceSpan) -> bool| trace.spans.iter().any(holds);
        any(&|span| self.admits_call(span))
            && self.route.as_ref().is_none_or(|route| any(&|span| span.kept.key.labels().resource == route))
            && trace.root().kept.span.duration_ns
                >= self.duration_ms_min.unwrap_or_default().saturating_mul(1_000_000)
            && (!self.errors || trace.errors() > 0)
            && trace.spans.len() >= self.spans_min.unwrap_or_default()
    }
}

/// The traces of one tenant, or of all, one tenant after the other.
fn assembled(fleet: &Fleet, tenant: Option<&str>) -> impl Iterator<Item = Trace> {
    let spans = &fleet.spans;
    spans.expire(unix_ms());
    let tenants = spans.newest(tenant).into_iter();
    tenants.flat_map(move |(tenant, _)| traces::assemble(&spans.of_tenant(&tenant), &spans.ids))
}

fn listing(fleet: &Fleet, filter: &Filter) -> Listing {
    let assembled = assembled(fleet, filter.tenant.as_deref());
    let mut admitted: Vec<Trace> = assembled.filter(|trace| filter.admits(trace)).collect();
    admitted
        .sort_by_cached_key(|trace| std::cmp::Reverse((trace.received_unix_ms(), trace.root().kept.number)));
    let limit = spans::limit(filter.limit);
    let left_out = admitted.len().saturating_sub(limit);
    Listing { traces: admitted.iter().take(limit).map(summary).collect(), left_out }
}

/// Traces by their id, by that of any of their spans that was a trace of its own before, and by that of a context. Sandboxes can
/// claim any context, so it may be of several, which are not joined by it.
fn found(fleet: &Fleet, tenant: Option<&str>, id: TraceId) -> Found {
    let ids = &fleet.spans.ids;
    let is_of = |span: &TraceSpan| {
        let context = span.kept.span.lineage.context;
        ids.trace(span.kept.number) == id || context.is_some_and(|context| context.trace == id)
    };
    let has = |trace: &Trace| trace.spans.iter().any(is_of);
    Found { traces: assembled(fleet, tenant).filter(has).map(|trace| whole(&trace)).collect() }
}

fn summary(trace: &Trace) -> Summary {
    let root = trace.root();
    Summary {
        trace_id: trace.id.to_string(),
        names: Names::of(&root.kept),
        start_unix_ns: root.start_unix_ns,
        duration_ns: root.kept.span.duration_ns,
        clock_error_ns: trace.clock_error_ns,
        received_unix_ms: trace.received_unix_ms(),
        spans: trace.spans.len(),
        errors: trace.errors(),
        services: trace.services().into_iter().map(str::to_owned).collect(),
    }
}

fn whole(trace: &Trace) -> Whole {
    let tree = trace.spans.iter().map(|span| {
        let reported = &span.kept.span;
        let context = reported.lineage.context;
        Node {
            span_id: span.id.to_string(),
            parent_span_id: span.parent.map(|(parent, _)| trace.spans[parent].id.to_string()),
            certainty: span.parent.map(|(_, certainty)| certainty.as_str()),
            depth: span.depth,
            start_unix_ns: span.start_unix_ns,
            clock_error_ns: span.clock_error_ns,
            guest_start_unix_ns: reported.start_unix_ns,
            duration_ns: reported.duration_ns,
            names: Names::of(&span.kept),
            request_bytes: reported.request_bytes,
            response_bytes: reported.response_bytes,
            reason: reported.reason,
            process_id: reported.process_id,
            thread_id: reported.thread_id,
            local: reported.local.clone(),
            remote: reported.remote.clone(),
            propagated_trace_id: context.map(|context| context.trace.to_string()),
            propagated_parent_span_id: context.and_then(|context| context.parent).map(|id| id.to_string()),
        }
    });
    Whole { summary: summary(trace), tree: tree.collect() }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        accumulate::{
            budget::{Limits, TenantBudget},
            series::{Labels, SeriesKey},
        },
        fleet::Retention,
        guest_clock::Offset,
        identity::Identity,
        protocol::{ErrorClass, Protocol},
        spans::{CheckedSpan, Lineage, Reception},
    };

    /// Keeps a span that came at that time, of a request that `shop` answered in a nanosecond.
    fn put(fleet: &Fleet, tenant: &str, unix_ms: u64) {
        put_of(fleet, tenant, unix_ms, Side::Server, 1);
    }

    fn put_of(fleet: &Fleet, tenant: &str, unix_ms: u64, side: Side, duration_ns: u64) {
        let identity = Identity::in_default(tenant, "shop", "shop-1");
        let key = SeriesKey::new(Protocol::Http1, side, Labels::default()).expect("short texts");
        let span = CheckedSpan {
            start_unix_ns: 1,
            duration_ns,
            request_bytes: 0,
            response_bytes: 0,
            reason: SpanReason::Rate,
            process_id: 0,
            thread_id: 0,
            local: Box::default(),
            remote: Box::default(),
            lineage: Lineage::default(),
        };
        let reception = Reception { unix_ms, offset: Offset::default(), connection: None };
        let budget = Arc::new(TenantBudget::new(&fleet.budget));
        fleet.spans.put(&Arc::new(identity), &budget, Arc::new(key), ErrorClass::None, span, reception);
    }

    #[test]
    fn traces_are_of_the_tenant_and_old_ones_are_neither_found_nor_listed() {
        let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
        let fleet = Fleet::new(Limits::of_series(1), retention);
        let found = |tenant, number| found(&fleet, tenant, fleet.spans.ids.trace(number)).traces.len();
        put(&fleet, "acme", 1);
        assert_eq!(found(None, 0), 0, "old");
        put(&fleet, "acme", 1);
        put(&fleet, "acme", unix_ms());
        put(&fleet, "other", unix_ms());
        let listed = |tenant: Option<&str>| {
            let filter = Filter { tenant: tenant.map(str::to_owned), ..Filter::default() };
            listing(&fleet, &filter).traces.len()
        };
        assert_eq!((listed(None), listed(Some("acme")), listed(Some("none"))), (2, 1, 0));
        assert_eq!((found(None, 2), found(Some("acme"), 2), found(Some("other"), 2)), (1, 1, 0));
    }

    #[test]
    fn traces_of_one_cell_of_a_heat_map_have_one_call_that_is_all_of_it() {
        let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
        let fleet = Fleet::new(Limits::of_series(1), retention);
        let now = unix_ms();
        put_of(&fleet, "acme", now, Side::Server, 500);
        put_of(&fleet, "acme", now + 10, Side::Client, 500);
        put_of(&fleet, "acme", now + 10, Side::Server, 900);
        let listed = |query: &str| {
            let uri = format!("/?{query}").parse().expect("an address");
            let Query(filter) = Query::<Filter>::try_from_uri(&uri).expect("a query");
            listing(&fleet, &filter).traces.len()
        };
        let cell = |side: &str, from: u64, until: u64, least: u64, most: u64| {
            listed(&format!(
                "service_name=shop&side={side}&received_from_unix_ms={from}&received_until_unix_ms={until}\
                 &call_ns_min={least}&call_ns_max={most}"
            ))
        };
        assert_eq!((listed(""), listed("side=server"), listed("side=client")), (3, 2, 1));
        assert_eq!(cell("server", now, now + 11, 1, 1_000), 2);
        assert_eq!(cell("server", now, now + 10, 1, 1_000), 1, "before its end");
        assert_eq!(cell("server", now + 1, now + 11, 1, 1_000), 1, "from its beginning on");
        assert_eq!(cell("server", now, now + 11, 501, 900), 1, "as long, and no longer");
        assert_eq!(cell("server", now, now + 10, 501, 900), 0, "one call is all of it");
        assert_eq!(listed("service_name=cart&side=server"), 0);
        let uri = "/?side=both".parse().expect("an address");
        assert!(Query::<Filter>::try_from_uri(&uri).is_err());
    }
}
