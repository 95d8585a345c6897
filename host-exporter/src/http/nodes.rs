//! `GET /api/v1/nodes`: the exporters of all nodes, where a Prometheus server scrapes them. For operators.

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use super::{App, access::Viewer, encoding::json_once, no_answer};
use crate::{
    clock,
    query::{Source, prometheus::nodes::Nodes},
};

#[derive(Serialize)]
struct Listing {
    /// Whether there is a server that knows of the nodes (`prometheus_url`).
    configured: bool,
    #[serde(flatten)]
    nodes: Nodes,
}

pub(super) async fn list(State(app): State<App>, Extension(viewer): Extension<Viewer>) -> Response {
    let Source::Prometheus(server) = &app.source else {
        return Json(Listing { configured: false, nodes: Nodes::default() }).into_response();
    };
    match server.nodes(clock::unix_ms() / 1_000).await {
        Ok(nodes) => app.made(json_once(&Listing { configured: true, nodes })),
        Err(error) => {
            tracing::warn!(%error, "no answer about the nodes");
            no_answer::response(&error, &viewer)
        }
    }
}
