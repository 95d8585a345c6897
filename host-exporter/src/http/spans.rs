//! `GET /api/v1/spans`: exchanges that agents sampled as spans, the newest first.

use axum::{
    extract::{Query, State},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::App;
use crate::{
    clock::unix_ms,
    fleet::Fleet,
    identity::Identity,
    protocol::{ErrorClass, Protocol, Side},
    spans::{CheckedSpan, Kept, Wanted},
};

/// Spans in one answer, unless fewer or more are asked for.
const LIMIT: usize = 100;

/// Most spans in one answer.
const LIMIT_MAX: usize = 10_000;

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
    /// Spans that are kept, are asked for, and are beyond the limit.
    left_out: usize,
}

#[derive(Serialize)]
struct Row {
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
    received_unix_ms: u64,
    #[serde(flatten)]
    span: CheckedSpan,
}

pub(super) async fn list(State(app): State<App>, Query(filter): Query<Filter>) -> Response {
    app.listing(move |fleet| listing(fleet, &filter)).await
}

fn listing(fleet: &Fleet, filter: &Filter) -> Listing {
    fleet.spans.expire(unix_ms());
    let wanted = Wanted {
        tenant: filter.tenant.as_deref(),
        service_name: filter.service_name.as_deref(),
        errors: filter.errors,
        duration_ns_min: filter.duration_ms_min.unwrap_or(0).saturating_mul(1_000_000),
        limit: filter.limit.unwrap_or(LIMIT).min(LIMIT_MAX),
    };
    let (spans, left_out) = fleet.spans.list(&wanted);
    Listing { spans: spans.into_iter().map(row).collect(), left_out }
}

fn row(kept: Kept) -> Row {
    let key = kept.key.as_ref().clone();
    Row {
        identity: kept.identity.as_ref().clone(),
        k8s_container_name: key.container,
        protocol: key.protocol,
        side: key.side,
        operation: key.operation,
        resource: key.resource,
        status: key.status,
        error: kept.error,
        error_type: key.error_type,
        received_unix_ms: kept.received_unix_ms,
        span: kept.span,
    }
}
