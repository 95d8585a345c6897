//! `GET /api/v1/starts`: how long the sandboxes of each application took to start, phase by phase, of those that were created
//! since the exporter began; also of those that are gone.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use porthole_histogram::Histogram;
use serde::Serialize;

use super::{App, access::Selected};
use crate::{
    fleet::{Fleet, starts::Phase},
    identity::Application,
    query::Selection,
};

#[derive(Serialize)]
struct Listing {
    applications: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    application: Application,
    /// In the order in which a sandbox with a built-in agent reaches them; those that none reached are absent.
    phases: Vec<Times>,
}

/// Times from the sandboxes' creation. Quantiles are upper bounds of buckets.
#[derive(Serialize)]
struct Times {
    phase: &'static str,
    /// Sandboxes that reached it.
    sandboxes: u64,
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

impl Times {
    fn of(phase: Phase, durations: &Histogram) -> Self {
        Self {
            phase: phase.as_str(),
            sandboxes: durations.count(),
            p50_seconds: durations.quantile(0.5),
            p90_seconds: durations.quantile(0.9),
            p99_seconds: durations.quantile(0.99),
        }
    }
}

pub(super) async fn list(State(app): State<App>, Selected(selection): Selected) -> Response {
    app.listing(format!("starts {selection:?}"), move |fleet| listing(fleet, &selection)).await
}

fn listing(fleet: &Fleet, selection: &Selection) -> Listing {
    let mut rows = BTreeMap::<Application, Vec<Times>>::new();
    for (application, phase, durations) in fleet.starts(selection.tenant.as_deref()) {
        if selection.admits(&application.tenant, &application.service_name) {
            rows.entry(application).or_default().push(Times::of(phase, &durations));
        }
    }
    let applications = rows.into_iter().map(|(application, phases)| Row { application, phases }).collect();
    Listing { applications }
}
