//! The HTTP server: `/metrics`, health, and what the exporter knows as JSON.

pub mod applications;
pub mod sandboxes;
pub mod scrape;
pub mod server;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse},
    routing::get,
};
use tokio::sync::Semaphore;

use crate::fleet::Fleet;

/// What the routes share.
#[derive(Clone, Debug)]
pub struct App {
    /// All sandboxes.
    pub fleet: Arc<Fleet>,
    /// The registry was read at least once.
    pub ready: Arc<AtomicBool>,
    /// Bounds the scrapes at one time.
    pub scrapes: Arc<Semaphore>,
    /// Time for a client to take each part of a response.
    pub timeout: std::time::Duration,
}

/// All routes.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(scrape::metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/sandboxes", get(sandboxes::list))
        .route("/api/v1/applications", get(applications::list))
        .with_state(app)
}

async fn ready(State(app): State<App>) -> impl IntoResponse {
    if app.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the registry was not read yet\n")
    }
}

async fn index() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html><title>porthole-exporter</title><h1>porthole-exporter ",
        env!("CARGO_PKG_VERSION"),
        "</h1><ul><li><a href=\"/metrics\">/metrics</a><li><a href=\"/api/v1/applications\">/api/v1/applications</a>",
        "<li><a href=\"/api/v1/sandboxes\">/api/v1/sandboxes</a><li><a href=\"/healthz\">/healthz</a>",
        "<li><a href=\"/readyz\">/readyz</a></ul>\n"
    ))
}
