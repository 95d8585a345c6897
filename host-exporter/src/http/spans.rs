//! `GET /api/v1/spans`: exchanges that agents sampled as spans, the newest first.

use axum::{
    Extension,
    extract::{Query, State},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    access::{Denied, Viewer},
};
use crate::{
    clock::unix_ms,
    fleet::Fleet,
    identity::Identity,
    protocol::{ErrorClass, Protocol, Side},
    spans::{CheckedSpan, Kept, Wanted},
};

/// Spans or traces in one answer, unless the query has another limit.
const LIMIT: usize = 100;

/// Most of them in one answer.
const LIMIT_MAX: usize = 10_000;

/// How many a query gets.
pub(super) fn limit(wanted: Option<usize>) -> usize {
    wanted.unwrap_or(LIMIT).min(LIMIT_MAX)
}

/// Which spans are listed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    tenant: Option<String>,
    service_name: Option<String>,
    /// Only those that failed.
    #[serde(default)]
    errors: bool,
    /// Only those that took as long.
    duration_ms_min: Option<u64>,
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Listing {
    spans: Vec<Row>,
    /// Spans that are kept, match the query, and are beyond the limit.
    left_out: usize,
}

#[derive(Serialize)]
struct Row {
    /// Its trace.
    trace_id: String,
    #[serde(flatten)]
    names: Names,
    received_unix_ms: u64,
    #[serde(flatten)]
    span: CheckedSpan,
}

/// What listings have of a span besides its times and sizes.
#[derive(Serialize)]
pub(super) struct Names {
    #[serde(flatten)]
    identity: Identity,
    k8s_container_name: Box<str>,
    #[serde(with = "crate::protocol::by_name")]
    protocol: Protocol,
    #[serde(with = "crate::protocol::by_name")]
    side: Side,
    operation: Box<str>,
    resource: Box<str>,
    status: Box<str>,
    #[serde(with = "crate::protocol::by_name")]
    error: ErrorClass,
    error_type: Box<str>,
}

impl Names {
    pub fn of(kept: &Kept) -> Self {
        let (key, labels) = (&kept.key, kept.key.labels());
        Self {
            identity: kept.identity.as_ref().clone(),
            k8s_container_name: labels.container.into(),
            protocol: key.protocol,
            side: key.side,
            operation: labels.operation.into(),
            resource: labels.resource.into(),
            status: labels.status.into(),
            error: kept.error,
            error_type: labels.error_type.into(),
        }
    }
}

pub(super) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(mut filter): Query<Filter>,
) -> Result<Response, Denied> {
    filter.tenant = viewer.narrow(filter.tenant)?;
    Ok(app.listing(format!("spans {filter:?}"), move |fleet| listing(fleet, &filter)).await)
}

fn listing(fleet: &Fleet, filter: &Filter) -> Listing {
    fleet.spans.expire(unix_ms());
    let wanted = Wanted {
        tenant: filter.tenant.as_deref(),
        service_name: filter.service_name.as_deref(),
        errors: filter.errors,
        duration_ns_min: filter.duration_ms_min.unwrap_or(0).saturating_mul(1_000_000),
        limit: limit(filter.limit),
    };
    let (spans, left_out) = fleet.spans.list(&wanted);
    Listing { spans: spans.iter().map(|kept| row(fleet, kept)).collect(), left_out }
}

fn row(fleet: &Fleet, kept: &Kept) -> Row {
    Row {
        // Its own finds the trace that it is part of.
        trace_id: fleet.spans.ids.trace(kept.number).to_string(),
        names: Names::of(kept),
        received_unix_ms: kept.reception.unix_ms,
        span: kept.span.clone(),
    }
}
