//! `GET /api/v1/viewer`: who looks, as far as pages show it.

use axum::{Extension, Json};
use serde::Serialize;

use super::access::Viewer;
use crate::history::{STEP, STEPS};

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
    /// How far the history reaches back.
    range_seconds_max: u64,
}

pub(super) async fn show(Extension(viewer): Extension<Viewer>) -> Json<Shown> {
    Json(Shown {
        operator: viewer.is_operator(),
        tenant: viewer.tenant().map(str::to_owned),
        session: viewer.is_by_session(),
        version: env!("CARGO_PKG_VERSION"),
        step_seconds: STEP.as_secs(),
        range_seconds_max: STEPS * STEP.as_secs(),
    })
}
