//! `GET /api/v1/viewer`: who looks, as far as pages show it.

use axum::{Extension, Json, extract::State};
use serde::Serialize;

use super::{App, access::Viewer};
use crate::history::STEP;

#[derive(Serialize)]
pub(super) struct Shown {
    operator: bool,
    /// The only tenant that they may read.
    tenant: Option<String>,
    /// Their browser has signed in, and can sign out.
    session: bool,
    version: &'static str,
    /// What one step of the history covers.
    step_seconds: u64,
    /// The longest range of the history: more than an hour where a Prometheus server answers.
    range_seconds_max: u64,
}

pub(super) async fn show(State(app): State<App>, Extension(viewer): Extension<Viewer>) -> Json<Shown> {
    Json(Shown {
        operator: viewer.is_operator(),
        tenant: viewer.tenant().map(str::to_owned),
        session: viewer.is_by_session(),
        version: env!("CARGO_PKG_VERSION"),
        step_seconds: STEP.as_secs(),
        range_seconds_max: app.source.steps_max() * STEP.as_secs(),
    })
}
