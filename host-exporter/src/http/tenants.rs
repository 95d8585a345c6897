//! `GET /api/v1/tenants`: each tenant's sandboxes by state, what it takes of its budgets, and how complete its numbers are;
//! for operators also what the exporter itself takes.

use std::collections::BTreeMap;

use axum::{
    Extension,
    extract::{Query, State},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    access::{Denied, Viewer},
    sandboxes::state_of,
};
use crate::{accumulate::budget::TenantBudget, fleet::Fleet, history::History, memory};

/// Which tenants are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    tenant: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    tenants: Vec<Row>,
    /// Of the whole exporter; for operators.
    exporter: Option<Own>,
}

#[derive(Default, Serialize)]
struct Row {
    tenant: String,
    applications: usize,
    /// Sandboxes by state.
    sandboxes: BTreeMap<&'static str, u64>,
    budgets: Vec<Budget>,
    ingest_bytes: u64,
    ingest_cpu_seconds: f64,
    throttled_seconds: f64,
    /// What its agents sent that was not counted, by why.
    rejected: BTreeMap<&'static str, u64>,
    capture_completeness_ratio: Option<f64>,
}

/// What is taken of a budget.
#[derive(Serialize)]
struct Budget {
    name: &'static str,
    taken: usize,
    limit: usize,
}

#[derive(Serialize)]
struct Own {
    resident_bytes: Option<usize>,
    scrapes: u64,
    scrapes_failed: u64,
    requests_denied: u64,
    reloads_failed: u64,
    budgets: Vec<Budget>,
}

pub(super) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Denied> {
    let tenant = viewer.narrow(wanted.tenant)?;
    let operator = viewer.is_operator();
    let history = app.history.clone();
    let name = format!("tenants {operator} {tenant:?}");
    Ok(app
        .listing(name, move |fleet| Listing {
            tenants: rows(fleet, tenant.as_deref()),
            exporter: operator.then(|| own(fleet, &history)),
        })
        .await)
}

fn rows(fleet: &Fleet, tenant: Option<&str>) -> Vec<Row> {
    let mut rows = BTreeMap::<String, Row>::new();
    let wanted = |name: &str| tenant.is_none_or(|wanted| wanted == name);
    let budgets = match tenant {
        Some(tenant) => {
            fleet.budget_of(tenant).map(|budget| (tenant.to_owned(), budget)).into_iter().collect()
        }
        None => fleet.budgets(),
    };
    for (name, budget) in budgets {
        let row = rows.entry(name).or_default();
        row.budgets = budgets_of(&budget);
        row.ingest_bytes = budget.ingested();
        row.ingest_cpu_seconds = budget.cpu_time().as_secs_f64();
        row.throttled_seconds = budget.throttled().as_secs_f64();
        row.rejected = budget.rejections.met().map(|(reason, count)| (reason.as_str(), count)).collect();
    }
    for application in fleet.application_names().into_iter().filter(|application| wanted(&application.tenant))
    {
        rows.entry(application.tenant).or_default().applications += 1;
    }
    for (name, counters) in fleet.tenant_counters().into_iter().filter(|(name, _)| wanted(name)) {
        rows.entry(name).or_default().capture_completeness_ratio = counters.completeness();
    }
    for sandbox in fleet.sandboxes_of(tenant) {
        if sandbox.phase().exposes_series() {
            let row = rows.entry(sandbox.identity.tenant.clone()).or_default();
            *row.sandboxes.entry(state_of(&sandbox).0).or_default() += 1;
        }
    }
    rows.into_iter().map(|(tenant, row)| Row { tenant, ..row }).collect()
}

fn budgets_of(budget: &TenantBudget) -> Vec<Budget> {
    vec![
        Budget { name: "series", taken: budget.exposed_series(), limit: budget.series_max() },
        Budget {
            name: "resident_bytes",
            taken: budget.resident.taken(),
            limit: budget.resident.tenant_limit(),
        },
        Budget { name: "exposed_bytes", taken: budget.exposed.taken(), limit: budget.exposed.tenant_limit() },
    ]
}

fn own(fleet: &Fleet, history: &History) -> Own {
    let (resident, exposed) = (fleet.budget.resident(), fleet.budget.exposed());
    let process = memory::resident_bytes().ok();
    Own {
        resident_bytes: process,
        scrapes: fleet.own.scrapes.get(),
        scrapes_failed: fleet.own.scrapes_failed.get(),
        requests_denied: fleet.own.requests_denied.get(),
        reloads_failed: fleet.own.reloads_failed.get(),
        budgets: vec![
            Budget { name: "memory_bytes", taken: process.unwrap_or(0), limit: fleet.budget.limits().memory },
            Budget { name: "resident_bytes", taken: resident.taken(), limit: resident.limit() },
            Budget { name: "exposed_bytes", taken: exposed.taken(), limit: exposed.limit() },
            Budget { name: "history_bytes", taken: history.held(), limit: history.budget() },
        ],
    }
}
