//! `GET /api/v1/connections`: TCP connections that applications make, by the address that they go to, over all instances; since
//! their agents' start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use porthole_agent_api::dependencies::Failure;
use serde::Serialize;

use super::{App, access::Selected};
use crate::{
    accumulate::dependencies::{Connections, Failures},
    clock,
    fleet::Fleet,
    identity::Application,
    peer::{Peer, joined},
    query::Selection,
    topology::{Name, Target, Topology, addresses::AddressBook},
};

/// Addresses in one answer; further ones are counted in `addresses_left_out`.
const ADDRESSES_MAX: usize = 10_000;

#[derive(Serialize)]
struct Listing {
    applications: Vec<Row>,
    addresses_left_out: usize,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    application: Application,
    connections: Vec<OfAddress>,
}

#[derive(Serialize)]
struct OfAddress {
    /// `address:port`.
    peer: String,
    /// The application of the same tenant that is there.
    application: Option<String>,
    /// What the host's table names there, or the cluster's API.
    name: Option<String>,
    /// The name for which containers looked the address up: their guests' word.
    looked_up: Option<String>,
    made: u64,
    /// Until they were made; upper bounds of the buckets with the quantiles.
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// Attempts that failed, by why.
    failed: BTreeMap<&'static str, u64>,
    /// Connections that did not end by being closed, by why.
    broken: BTreeMap<&'static str, u64>,
    /// Of connections that have ended.
    retransmitted_segments: u64,
    /// Smoothed, of the one that ended last; of several instances the longest.
    round_trip_seconds: Option<f64>,
}

pub(super) async fn list(State(app): State<App>, Selected(selection): Selected) -> Response {
    let topology = Arc::clone(&app.topology);
    let name = format!("connections {selection:?}");
    app.listing(name, move |fleet| listing(fleet, &topology, &selection)).await
}

/// What is at an address, and the connections to it.
type Known = (Target, Connections);

fn listing(fleet: &Fleet, topology: &Topology, selection: &Selection) -> Listing {
    let all = fleet.sandboxes();
    let book = AddressBook::of(all.iter().map(|sandbox| &**sandbox), clock::unix_ms());
    let names = topology.names();
    let mut applications = BTreeMap::<Application, BTreeMap<String, Known>>::new();
    let (mut room, mut addresses_left_out) = (ADDRESSES_MAX, 0);
    for sandbox in selection.sandboxes(fleet) {
        let application = sandbox.application();
        let known = applications.entry(application.clone()).or_default();
        let (shared, looked_up) = {
            let dependencies = sandbox.dependencies.lock();
            (dependencies.shared(), dependencies.names())
        };
        for (key, connections) in shared {
            let [_, address, port] = &*key;
            let peer = joined(address, port);
            if let Some((_, sum)) = known.get_mut(&peer) {
                sum.add(&connections);
            } else if room > 0 {
                room -= 1;
                let target = book.target(&sandbox, Peer::of(address, port), &names, &looked_up);
                known.insert(peer, (target, (*connections).clone()));
            } else {
                addresses_left_out += 1;
            }
        }
    }
    let rows = applications.into_iter().map(|(application, known)| Row {
        application,
        connections: known.into_iter().map(of_address).collect(),
    });
    Listing { applications: rows.collect(), addresses_left_out }
}

fn of_address((peer, (target, connections)): (String, Known)) -> OfAddress {
    let quantile = |q| connections.made.quantile(q);
    let round_trip = Duration::from_micros(connections.round_trip_us.into());
    let (application, name, looked_up) = match target {
        Target::Application(name) => (Some(name), None, None),
        Target::Named(name) => (None, Some(name), None),
        Target::Address(_, Some(Name::Cluster(name))) => (None, Some(name.into()), None),
        Target::Address(_, Some(Name::LookedUp(name))) => (None, None, Some(name.into())),
        Target::Address(_, None) | Target::Itself | Target::AnotherTenant => (None, None, None),
    };
    OfAddress {
        peer,
        application,
        name,
        looked_up,
        made: connections.made.count(),
        p50_seconds: quantile(0.5),
        p90_seconds: quantile(0.9),
        p99_seconds: quantile(0.99),
        failed: by_reason(&connections.failed),
        broken: by_reason(&connections.broken),
        retransmitted_segments: connections.retransmitted_segments,
        round_trip_seconds: (!round_trip.is_zero()).then_some(round_trip.as_secs_f64()),
    }
}

/// The reasons that were met.
fn by_reason(counts: &Failures) -> BTreeMap<&'static str, u64> {
    let reasons = Failure::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
    reasons.map(|(failure, count)| (failure.as_str(), *count)).collect()
}
