//! The response to a request that the Prometheus server has no answer for.

use axum::{
    http::header::HeaderName,
    response::{IntoResponse as _, Response},
};

use super::access::Viewer;
use crate::query::prometheus::QueryError;

/// Distinguishes these responses from those of a proxy before the exporter, which can have the same status.
const FAILED_SOURCE: HeaderName = HeaderName::from_static("porthole-failed-source");

/// The status of the error, and for operators its text.
pub(super) fn response(error: &QueryError, viewer: &Viewer) -> Response {
    let reason = if viewer.is_operator() { format!("{error}\n") } else { String::new() };
    (error.status(), [(FAILED_SOURCE, "prometheus")], reason).into_response()
}
