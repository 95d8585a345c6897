//! `GET /api/v1/sandboxes`: every sandbox, its state, its agent.

use std::{collections::BTreeMap, time::Instant};

use axum::{
    extract::{Query, State},
    response::Response,
};
use porthole_registry::{AGENT_IMPOSTOR, Reason, SandboxState};
use serde::{Deserialize, Serialize};

use super::App;
use crate::{
    accumulate::{counters::AgentCounters, sandbox::ContainerNames},
    fleet::{
        Fleet,
        link::{AboutAgent, LinkState},
        sandbox::Sandbox,
    },
    identity::Identity,
};

/// Which sandboxes are listed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this application's.
    pub service_name: Option<String>,
}

impl Filter {
    /// Whether a tenant's application is asked for.
    pub fn admits(&self, tenant: &str, service_name: &str) -> bool {
        self.tenant.as_deref().is_none_or(|wanted| wanted == tenant)
            && self.service_name.as_deref().is_none_or(|wanted| wanted == service_name)
    }
}

#[derive(Serialize)]
pub(super) struct Listing {
    sandboxes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    identity: Identity,
    runtime: Option<String>,
    /// Container names by containerd's id.
    containers: ContainerNames,
    /// The record's state; `ended` once the sandbox is over.
    state: &'static str,
    reason: Option<Reason>,
    created_unix_ms: u64,
    ended_unix_ms: Option<u64>,
    channel: Option<String>,
    connection: Connection,
    agent: Option<AboutAgent>,
    series: usize,
    /// What the agent sent that was not counted, by why.
    rejected: BTreeMap<&'static str, u64>,
    counters: AgentCounters,
    capture_completeness_ratio: Option<f64>,
}

#[derive(Serialize)]
struct Connection {
    state: LinkState,
    /// Connections that came about.
    connections: u64,
    last_error: Option<String>,
    /// The companion is dead: no other connection is made.
    orphaned: bool,
    batches: u64,
    last_batch_age_seconds: Option<f64>,
}

pub(super) async fn list(State(app): State<App>, Query(filter): Query<Filter>) -> Response {
    app.listing(move |fleet| listing(fleet, &filter)).await
}

fn listing(fleet: &Fleet, filter: &Filter) -> Listing {
    let sandboxes = fleet
        .sandboxes()
        .iter()
        .filter(|sandbox| sandbox.phase().exposes_series())
        .filter(|sandbox| filter.admits(&sandbox.identity.tenant, &sandbox.identity.service_name))
        .map(|sandbox| row(sandbox))
        .collect();
    Listing { sandboxes }
}

/// Why a sandbox is unmonitored in which somebody else listens where the agent should.
fn impostor() -> Reason {
    Reason {
        code: AGENT_IMPOSTOR.to_owned(),
        message: "who listens on the agent's port does not hold the sandbox's secret".to_owned(),
    }
}

fn row(sandbox: &Sandbox) -> Row {
    let record = sandbox.record();
    let record = record.as_deref();
    let ended_unix_ms = sandbox.phase().ended_unix_ms();
    let link = sandbox.link.lock().clone();
    let (series, counters) = {
        let accumulator = sandbox.accumulator.lock();
        (accumulator.series(), accumulator.totals().counters())
    };
    Row {
        identity: sandbox.identity.clone(),
        runtime: record.map(|record| record.runtime.clone()),
        containers: sandbox.containers().as_ref().clone(),
        state: match (ended_unix_ms, record) {
            (None, Some(_)) if link.impostor => SandboxState::Unmonitored.as_str(),
            (None, Some(record)) => record.state.as_str(),
            (None, None) => "restored",
            (Some(_), _) => "ended",
        },
        reason: record.and_then(|record| record.reason.clone()).or_else(|| link.impostor.then(impostor)),
        created_unix_ms: sandbox.created_unix_ms(),
        ended_unix_ms,
        channel: record.and_then(|record| record.channel.as_ref()).map(ToString::to_string),
        connection: Connection {
            state: link.state,
            connections: link.connections,
            last_error: link.last_error,
            orphaned: link.orphaned,
            batches: link.batches,
            last_batch_age_seconds: link
                .last_batch
                .map(|at| Instant::now().saturating_duration_since(at).as_secs_f64()),
        },
        agent: link.agent,
        series,
        rejected: sandbox.rejections.met().map(|(reason, count)| (reason.as_str(), count)).collect(),
        counters,
        capture_completeness_ratio: counters.completeness(),
    }
}
