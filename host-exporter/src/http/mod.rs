//! The HTTP server: `/metrics`, health, and what the exporter knows as JSON.

pub mod applications;
pub mod encoding;
pub mod hosts;
pub mod sandboxes;
pub mod scrape;
pub mod server;
pub mod spans;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::fleet::Fleet;

/// What the routes share.
#[derive(Clone, Debug)]
pub struct App {
    /// All sandboxes.
    pub fleet: Arc<Fleet>,
    /// The registry was read at least once.
    pub ready: Arc<AtomicBool>,
    /// Encodings of the exposition.
    pub encodings: Arc<encoding::Encodings>,
    /// Bounds the listings at one time.
    pub listings: Arc<Semaphore>,
}

/// Listings made at one time; further ones wait.
pub const CONCURRENT_LISTINGS: usize = 2;

impl App {
    /// Makes a listing where it does not hold up the agents' tasks.
    async fn listing<T: Serialize + Send + 'static>(
        &self,
        make: impl FnOnce(&Fleet) -> T + Send + 'static,
    ) -> Response {
        // The semaphore is never closed.
        let _permit = self.listings.acquire().await;
        let fleet = Arc::clone(&self.fleet);
        match tokio::task::spawn_blocking(move || Json(make(&fleet)).into_response()).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "making a listing failed");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// All routes.
pub fn router(app: App, hosts: hosts::Hosts) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(scrape::metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/sandboxes", get(sandboxes::list))
        .route("/api/v1/spans", get(spans::list))
        .route("/api/v1/applications", get(applications::list))
        .with_state(app)
        .layer(axum::middleware::from_fn_with_state(hosts, hosts::check))
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
        "<li><a href=\"/api/v1/sandboxes\">/api/v1/sandboxes</a><li><a href=\"/api/v1/spans\">/api/v1/spans</a>",
        "<li><a href=\"/healthz\">/healthz</a>",
        "<li><a href=\"/readyz\">/readyz</a></ul>\n"
    ))
}
