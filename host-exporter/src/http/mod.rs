//! The HTTP server: `/metrics`, health, the exporter's state as JSON, and the pages that show it.

pub mod access;
pub mod applications;
pub mod connections;
mod cookie;
pub mod delivery;
pub mod discovery;
pub mod encoding;
pub mod events;
pub mod history;
pub mod hosts;
pub mod interfaces;
mod no_answer;
pub mod nodes;
pub mod pages;
pub mod reload;
pub mod resources;
pub mod sandboxes;
pub mod scrape;
pub mod server;
mod session;
mod slots;
pub mod spans;
pub mod starts;
pub mod tenants;
pub mod tls;
pub mod topology;
pub mod traces;
pub mod viewer;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::Serialize;

use self::access::{Access, Guard, Shows};

use crate::{fleet::Fleet, history::History, query::Source, topology::Topology};

/// What the routes share.
#[derive(Clone, Debug)]
pub struct App {
    /// All sandboxes.
    pub fleet: Arc<Fleet>,
    /// The last hour of every application.
    pub history: Arc<History>,
    /// Where answers about the past come from.
    pub source: Source,
    /// The last hour of who calls whom.
    pub topology: Arc<Topology>,
    /// Who may look.
    pub access: Arc<Access>,
    /// The pages that wait for what is new.
    pub streams: Arc<events::Streams>,
    /// The registry was read at least once.
    pub ready: Arc<AtomicBool>,
    /// Encodings of the exposition.
    pub encodings: Arc<encoding::Encodings>,
    /// Protobuf has classic buckets besides native histograms.
    pub classic_with_native: bool,
}

impl App {
    /// Makes a listing where it does not hold up the agents' tasks. `name` is that of the listing
    /// and its filter.
    async fn listing<T: Serialize>(
        &self,
        name: String,
        make: impl FnOnce(&Fleet) -> T + Send + 'static,
    ) -> Response {
        let fleet = Arc::clone(&self.fleet);
        let Some(encoded) = self.encodings.listing(name, move || make(&fleet)).await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        deliver(encoded)
    }

    /// Sends what was made for one request, as a listing is sent.
    fn made(&self, encoded: serde_json::Result<Arc<encoding::Encoded>>) -> Response {
        match encoded {
            Ok(encoded) => {
                self.encodings.keep(&encoded);
                deliver(encoded)
            }
            Err(error) => {
                tracing::error!(%error, "an answer was not written");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

fn deliver(encoded: Arc<encoding::Encoded>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, delivery::body(encoded, |_| {})).into_response()
}

/// A route, what it shows, and how it is answered.
pub struct Route {
    /// The path, in axum's form.
    pub path: &'static str,
    /// What it shows, from which follows who is let through.
    pub shows: Shows,
    handler: fn() -> MethodRouter<App>,
}

const fn route(path: &'static str, shows: Shows, handler: fn() -> MethodRouter<App>) -> Route {
    Route { path, shows, handler }
}

/// All routes. There is no other way for a request to reach a handler.
pub const ROUTES: &[Route] = &[
    route("/", Shows::Nothing, || get(pages::index)),
    route("/assets/{name}", Shows::Nothing, || get(pages::asset)),
    route("/healthz", Shows::Nothing, || get(|| async { "ok\n" })),
    route("/readyz", Shows::Nothing, || get(ready)),
    route("/metrics", Shows::Everything, || get(scrape::metrics)),
    route("/tenants/{*rest}", Shows::TenantOfPath, || get(scrape::tenant_metrics)),
    route("/api/v1/sandboxes", Shows::OfViewer, || get(sandboxes::list)),
    route("/api/v1/spans", Shows::OfViewer, || get(spans::list)),
    route("/api/v1/traces", Shows::OfViewer, || get(traces::list)),
    route("/api/v1/traces/{id}", Shows::OfViewer, || get(traces::show)),
    route("/api/v1/applications", Shows::OfViewer, || get(applications::list)),
    route("/api/v1/interfaces", Shows::OfViewer, || get(interfaces::list)),
    route("/api/v1/connections", Shows::OfViewer, || get(connections::list)),
    route("/api/v1/resources", Shows::OfViewer, || get(resources::list)),
    route("/api/v1/starts", Shows::OfViewer, || get(starts::list)),
    route("/api/v1/tenants", Shows::OfViewer, || get(tenants::list)),
    route("/api/v1/viewer", Shows::OfViewer, || get(viewer::show)),
    // Its handlers check who sends the request: only its token's bearer begins a session.
    route("/api/v1/session", Shows::Nothing, || post(session::begin).delete(session::end)),
    route("/api/v1/events", Shows::OfViewer, || get(events::stream)),
    route("/api/v1/history", Shows::OfViewer, || get(history::list)),
    route("/api/v1/nodes", Shows::Everything, || get(nodes::list)),
    route("/api/v1/topology", Shows::OfViewer, || get(topology::show)),
    route("/api/v1/http_sd", Shows::OfViewer, || get(discovery::targets)),
];

/// The router of all routes.
pub fn router(app: App, hosts: hosts::Hosts) -> Router {
    let mut router = Router::new();
    for &Route { path, shows, handler } in ROUTES {
        let guard = Guard { access: Arc::clone(&app.access), shows, fleet: Arc::clone(&app.fleet) };
        router = router.route(path, handler().layer(from_fn_with_state(guard, access::check)));
    }
    router.with_state(app).layer(from_fn_with_state(hosts, hosts::check)).layer(from_fn(pages::protect))
}

async fn ready(State(app): State<App>) -> impl IntoResponse {
    if app.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the registry was not read yet\n")
    }
}
