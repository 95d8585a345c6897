//! `GET /api/v1/http_sd`: what the viewer may scrape, in the form of Prometheus' HTTP service discovery.

use std::collections::BTreeMap;

use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{App, access::Viewer};
use crate::fleet::Fleet;

/// Which targets are listed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// For operators: everything as one target, or a target for each tenant.
    #[serde(default)]
    by: By,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    #[default]
    Node,
    Tenant,
}

/// A group of targets (Prometheus, "HTTP SD").
#[derive(Serialize)]
struct Group {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

impl Group {
    fn of_tenant(target: &str, tenant: &str) -> Self {
        // Prometheus escapes the path, so it must not be escaped here.
        let labels = BTreeMap::from([
            ("__metrics_path__", format!("/tenants/{tenant}/metrics")),
            ("__meta_porthole_tenant", tenant.to_owned()),
        ]);
        Self { targets: [target.to_owned()], labels }
    }
}

pub(super) async fn targets(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Response {
    // The address that reaches this server: only the client knows it.
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned) else {
        return (StatusCode::BAD_REQUEST, "the request has no Host\n").into_response();
    };
    let tenant = viewer.tenant().map(str::to_owned);
    let name = format!("http_sd {host:?} {tenant:?} {filter:?}");
    app.listing(name, move |fleet| groups(fleet, &host, tenant.as_deref(), filter.by)).await
}

fn groups(fleet: &Fleet, host: &str, tenant: Option<&str>, by: By) -> Vec<Group> {
    match (tenant, by) {
        (Some(tenant), _) => vec![Group::of_tenant(host, tenant)],
        (None, By::Node) => {
            let labels = BTreeMap::from([("__metrics_path__", "/metrics".to_owned())]);
            vec![Group { targets: [host.to_owned()], labels }]
        }
        (None, By::Tenant) => {
            fleet.budgets().iter().map(|(tenant, _)| Group::of_tenant(host, tenant)).collect()
        }
    }
}
