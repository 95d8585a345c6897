//! `GET /api/v1/interfaces`: what an application serves and calls, interface by interface, over all statuses and instances;
//! and its instances, to compare.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use porthole_histogram::Histogram;
use serde::Serialize;

use super::{App, access::Selected, sandboxes::state_of};
use crate::{
    accumulate::{golden::Golden, values::Values},
    buckets::sum_seconds,
    fleet::{Fleet, sandbox::Sandbox},
    identity::Application,
    peer::joined,
    protocol::{Protocol, Side},
    query::Selection,
};

/// Interfaces in one answer; exchanges of further ones are counted in `requests_left_out`.
const INTERFACES_MAX: usize = 10_000;

/// Statuses that are listed of one interface.
const STATUSES_MAX: usize = 32;

#[derive(Serialize)]
struct Listing {
    applications: Vec<Row>,
    requests_left_out: u64,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    application: Application,
    instances: Vec<Instance>,
    interfaces: Vec<Interface>,
}

#[derive(Serialize)]
struct Instance {
    sandbox_id: String,
    k8s_namespace_name: String,
    k8s_pod_name: String,
    state: &'static str,
    /// What it served.
    served: Summary,
    /// What it called.
    called: Summary,
}

#[derive(Serialize)]
struct Interface {
    #[serde(with = "crate::protocol::by_name")]
    side: Side,
    #[serde(with = "crate::protocol::by_name")]
    protocol: Protocol,
    /// Method, command, SQL operation.
    operation: String,
    /// Route, table, topic.
    resource: String,
    /// Client side: the server, `address:port`.
    peer: String,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(flatten)]
    summary: Summary,
    /// Requests by status, the most frequent first.
    statuses: Vec<(String, u64)>,
}

/// Requests, those of them that failed, and how long they took.
#[derive(Serialize)]
struct Summary {
    requests: u64,
    errors: u64,
    duration_sum_seconds: f64,
    /// Upper bounds of the buckets with the quantiles.
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

impl Summary {
    fn of(durations: &Histogram, errors: u64) -> Self {
        Self {
            requests: durations.count(),
            errors,
            duration_sum_seconds: sum_seconds(durations),
            p50_seconds: durations.quantile(0.5),
            p90_seconds: durations.quantile(0.9),
            p99_seconds: durations.quantile(0.99),
        }
    }
}

/// Side, protocol, operation, resource, peer.
type Key = (Side, Protocol, String, String, String);

#[derive(Default)]
struct Merged {
    values: Values,
    errors: u64,
    statuses: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Gathered {
    instances: Vec<Instance>,
    interfaces: BTreeMap<Key, Merged>,
}

pub(super) async fn list(State(app): State<App>, Selected(selection): Selected) -> Response {
    app.listing(format!("interfaces {selection:?}"), move |fleet| listing(fleet, &selection)).await
}

fn listing(fleet: &Fleet, selection: &Selection) -> Listing {
    let mut applications = BTreeMap::<Application, Gathered>::new();
    let (mut room, mut requests_left_out) = (INTERFACES_MAX, 0_u64);
    for sandbox in selection.sandboxes(fleet) {
        let application = sandbox.application();
        let gathered = applications.entry(application.clone()).or_default();
        let left_out = gathered.add(&sandbox, &mut room);
        requests_left_out = requests_left_out.saturating_add(left_out);
    }
    let rows = applications.into_iter().map(|(application, gathered)| Row {
        application,
        instances: gathered.instances,
        interfaces: gathered.interfaces.into_iter().map(interface).collect(),
    });
    Listing { applications: rows.collect(), requests_left_out }
}

impl Gathered {
    /// Adds an instance; the requests for which there was no room.
    fn add(&mut self, sandbox: &Sandbox, room: &mut usize) -> u64 {
        let (mut left_out, [mut served, mut called]) = (0_u64, [(); 2].map(|()| Golden::default()));
        let accumulator = sandbox.accumulator.lock();
        for (side, _, golden) in accumulator.totals().golden().iter() {
            let sum = if side == Side::Server { &mut served } else { &mut called };
            sum.add(golden);
        }
        let visited = accumulator.for_each_series::<std::convert::Infallible>(|key, values| {
            let labels = key.labels();
            let peer = joined(labels.peer_address, labels.peer_port);
            let requests = values.durations.count();
            let key = (key.side, key.protocol, labels.operation.to_owned(), labels.resource.to_owned(), peer);
            if !self.interfaces.contains_key(&key) {
                let Some(less) = room.checked_sub(1) else {
                    left_out = left_out.saturating_add(requests);
                    return Ok(());
                };
                *room = less;
            }
            let merged = self.interfaces.entry(key).or_default();
            merged.values.add(values);
            if !labels.error_type.is_empty() {
                merged.errors = merged.errors.saturating_add(requests);
            }
            let status = merged.statuses.entry(labels.status.to_owned()).or_default();
            *status = status.saturating_add(requests);
            Ok(())
        });
        match visited {
            Ok(()) => {}
            Err(never) => match never {},
        }
        drop(accumulator);
        let summary = |golden: &Golden| Summary::of(&golden.durations, golden.errors.total());
        self.instances.push(Instance {
            sandbox_id: sandbox.identity.sandbox_id.clone(),
            k8s_namespace_name: sandbox.identity.k8s_namespace_name.clone(),
            k8s_pod_name: sandbox.identity.k8s_pod_name.clone(),
            state: state_of(sandbox).0,
            served: summary(&served),
            called: summary(&called),
        });
        left_out
    }
}

fn interface(((side, protocol, operation, resource, peer), merged): (Key, Merged)) -> Interface {
    let mut statuses: Vec<_> = merged.statuses.into_iter().collect();
    statuses.sort_by_key(|(_, requests)| std::cmp::Reverse(*requests));
    statuses.truncate(STATUSES_MAX);
    Interface {
        side,
        protocol,
        operation,
        resource,
        peer,
        request_bytes: merged.values.request_bytes,
        response_bytes: merged.values.response_bytes,
        summary: Summary::of(&merged.values.durations, merged.errors),
        statuses,
    }
}
