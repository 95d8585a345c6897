//! `GET /api/v1/applications`: golden values of each application and of its instances, interface by interface unless the
//! query leaves them out.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension,
    extract::{Query, State},
    response::Response,
};
use porthole_histogram::{Histogram, bucket_upper_bound_seconds};
use serde::{Deserialize, Serialize};

use super::{
    App,
    access::{Denied, Viewer},
};
use crate::{
    accumulate::golden::Errors,
    buckets::sum_seconds,
    fleet::{Fleet, sandbox::Sandbox},
    history::{
        History,
        burn::{self, Burn},
    },
    identity::Application,
    peer::joined,
    protocol::{Protocol, Side},
    query::Selection,
};

/// Interfaces in one answer; further ones are counted in `interfaces_left_out`.
const INTERFACES_MAX: usize = 50_000;

#[derive(Serialize)]
pub(super) struct Listing {
    applications: Vec<Row>,
    interfaces_left_out: usize,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    application: Application,
    /// Over all instances, for good.
    totals: Vec<Total>,
    /// Its objectives, and how far the last hour missed them; empty where it served nothing.
    objectives: Vec<Burn>,
    /// Instances whose series are exposed.
    instances: Vec<Instance>,
}

#[derive(Serialize)]
struct Total {
    #[serde(with = "crate::protocol::by_name")]
    side: Side,
    #[serde(with = "crate::protocol::by_name")]
    protocol: Protocol,
    requests: u64,
    errors: u64,
    errors_by_class: Errors,
    /// Neither successes nor failures.
    unknown: u64,
    #[serde(flatten)]
    durations: Durations,
    /// Buckets of the durations that hold something: upper bound in seconds, count. Two requests give the
    /// quantiles of the time between.
    duration_buckets: Vec<(f64, u64)>,
}

#[derive(Serialize)]
struct Instance {
    sandbox_id: String,
    k8s_namespace_name: String,
    k8s_pod_name: String,
    ended: bool,
    interfaces: Vec<Interface>,
}

#[derive(Serialize)]
struct Interface {
    #[serde(with = "crate::protocol::by_name")]
    side: Side,
    #[serde(with = "crate::protocol::by_name")]
    protocol: Protocol,
    container: String,
    /// Method, command, SQL operation.
    operation: String,
    /// Route, table, topic.
    resource: String,
    status: String,
    error_type: String,
    /// Client side: the server, `address:port`.
    peer: String,
    requests: u64,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(flatten)]
    durations: Durations,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name in JSON")]
struct Durations {
    duration_sum_seconds: f64,
    /// Upper bound of the bucket with the quantile.
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

impl Durations {
    fn of(histogram: &Histogram) -> Self {
        Self {
            duration_sum_seconds: sum_seconds(histogram),
            p50_seconds: histogram.quantile(0.5),
            p99_seconds: histogram.quantile(0.99),
        }
    }
}

/// What is requested.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    tenant: Option<String>,
    service_name: Option<String>,
    /// Instances with their interfaces; listed unless given.
    instances: Option<bool>,
}

pub(super) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Denied> {
    let instances = wanted.instances.unwrap_or(true);
    let selection = Selection { tenant: wanted.tenant, service_name: wanted.service_name };
    let selection = viewer.narrow_selection(selection)?;
    let history = Arc::clone(&app.history);
    let name = format!("applications {selection:?} {instances}");
    Ok(app.listing(name, move |fleet| listing(fleet, &history, &selection, instances)).await)
}

fn listing(fleet: &Fleet, history: &History, selection: &Selection, instances: bool) -> Listing {
    let mut rows = BTreeMap::new();
    for (application, table) in fleet.applications() {
        if !selection.admits(&application.tenant, &application.service_name) {
            continue;
        }
        let totals = table.iter().map(|(side, protocol, golden)| Total {
            side,
            protocol,
            requests: golden.durations.count(),
            errors: golden.errors.total(),
            errors_by_class: golden.errors,
            unknown: golden.unknown,
            durations: Durations::of(&golden.durations),
            duration_buckets: golden
                .durations
                .buckets()
                .iter()
                .map(|&(index, count)| (bucket_upper_bound_seconds(index), count))
                .collect(),
        });
        let row = Row {
            totals: totals.collect(),
            objectives: burn::of(history, &application, &fleet.objectives.of(&application)),
            application: application.clone(),
            instances: Vec::new(),
        };
        rows.insert(application, row);
    }
    let mut listed = 0_usize;
    let sandboxes = if instances { fleet.sandboxes_of(selection.tenant.as_deref()) } else { Vec::new() };
    for sandbox in sandboxes {
        let Some(row) = rows.get_mut(sandbox.application()) else { continue };
        if sandbox.phase().exposes_series() {
            row.instances.push(instance(&sandbox, &mut listed));
        }
    }
    Listing {
        applications: rows.into_values().collect(),
        interfaces_left_out: listed.saturating_sub(INTERFACES_MAX),
    }
}

fn instance(sandbox: &Sandbox, listed: &mut usize) -> Instance {
    let mut interfaces = Vec::new();
    let visited = sandbox.accumulator.lock().for_each_series::<std::convert::Infallible>(|key, values| {
        *listed += 1;
        if *listed > INTERFACES_MAX {
            return Ok(());
        }
        let labels = key.labels();
        interfaces.push(Interface {
            side: key.side,
            protocol: key.protocol,
            container: labels.container.to_owned(),
            operation: labels.operation.to_owned(),
            resource: labels.resource.to_owned(),
            status: labels.status.to_owned(),
            error_type: labels.error_type.to_owned(),
            peer: joined(labels.peer_address, labels.peer_port),
            requests: values.durations.count(),
            request_bytes: values.request_bytes,
            response_bytes: values.response_bytes,
            durations: Durations::of(&values.durations),
        });
        Ok(())
    });
    match visited {
        Ok(()) => {}
        Err(never) => match never {},
    }
    Instance {
        sandbox_id: sandbox.identity.sandbox_id.clone(),
        k8s_namespace_name: sandbox.identity.k8s_namespace_name.clone(),
        k8s_pod_name: sandbox.identity.k8s_pod_name.clone(),
        ended: sandbox.phase().ended_unix_ms().is_some(),
        interfaces,
    }
}
