//! `GET /api/v1/topology`: who calls whom, over the last minutes.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;

use super::{App, access::Viewer};
use crate::{
    history::{STEP, STEPS},
    topology::graph,
};

/// Covered unless the request has another time, seconds.
const DEFAULT_SECONDS: u64 = 300;

/// What is requested.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    tenant: Option<String>,
    /// How far back; rounded up to whole steps.
    seconds: Option<u64>,
}

pub(super) async fn show(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let tenant = match viewer.narrow(wanted.tenant) {
        Ok(tenant) => tenant,
        Err(denied) => return denied.into_response(),
    };
    let seconds = wanted.seconds.unwrap_or(DEFAULT_SECONDS);
    let longest = STEPS * STEP.as_secs();
    if !(1..=longest).contains(&seconds) {
        return (StatusCode::BAD_REQUEST, format!("seconds: 1 to {longest} are wanted\n")).into_response();
    }
    let steps = seconds.div_ceil(STEP.as_secs());
    let name = format!("topology {tenant:?} {steps}");
    let (topology, history) = (Arc::clone(&app.topology), Arc::clone(&app.history));
    app.listing(name, move |_| graph::of(&topology, &history, tenant.as_deref(), steps)).await
}
