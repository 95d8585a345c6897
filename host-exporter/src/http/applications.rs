//! `GET /api/v1/applications`: golden values of each application and of its instances, interface by interface.

use std::collections::BTreeMap;

use axum::{
    extract::{Query, State},
    response::Response,
};
use porthole_histogram::{Histogram, bucket_upper_bound_seconds};
use serde::Serialize;

use super::{App, sandboxes::Filter};
use crate::{
    accumulate::golden::Errors,
    exposition::buckets::sum_seconds,
    fleet::{Fleet, sandbox::Sandbox},
    identity::Application,
    protocol::{Protocol, Side},
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
    #[serde(flatten)]
    durations: Durations,
    /// Buckets of the durations that hold something: upper bound in seconds, count. Whoever asks twice learns the
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
    /// Upper bound of the bucket in which the quantile lies.
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

pub(super) async fn list(State(app): State<App>, Query(filter): Query<Filter>) -> Response {
    app.listing(move |fleet| listing(fleet, &filter)).await
}

fn listing(fleet: &Fleet, filter: &Filter) -> Listing {
    let mut rows = BTreeMap::new();
    for (application, table) in fleet.applications() {
        if !filter.admits(&application.tenant, &application.service_name) {
            continue;
        }
        let totals = table.iter().map(|(side, protocol, golden)| Total {
            side,
            protocol,
            requests: golden.durations.count(),
            errors: golden.errors.total(),
            errors_by_class: golden.errors,
            durations: Durations::of(&golden.durations),
            duration_buckets: golden
                .durations
                .buckets()
                .iter()
                .map(|&(index, count)| (bucket_upper_bound_seconds(index), count))
                .collect(),
        });
        let row = Row { application: application.clone(), totals: totals.collect(), instances: Vec::new() };
        rows.insert(application, row);
    }
    let mut listed = 0_usize;
    for sandbox in fleet.sandboxes() {
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
        interfaces.push(Interface {
            side: key.side,
            protocol: key.protocol,
            container: key.container.to_string(),
            operation: key.operation.to_string(),
            resource: key.resource.to_string(),
            status: key.status.to_string(),
            error_type: key.error_type.to_string(),
            peer: match (&*key.peer_address, &*key.peer_port) {
                (address, "") => address.to_owned(),
                (address, port) if address.contains(':') => format!("[{address}]:{port}"),
                (address, port) => format!("{address}:{port}"),
            },
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
