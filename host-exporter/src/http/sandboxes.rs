//! `GET /api/v1/sandboxes`: every sandbox, its state, its agent.

use std::{collections::BTreeMap, time::Instant};

use axum::{Extension, extract::State, response::Response};
use porthole_registry::Reason;
use serde::Serialize;

use super::{
    App,
    access::{Selected, Viewer},
};
use crate::{
    accumulate::{counters::AgentCounters, sandbox::Containers},
    fleet::{
        Fleet,
        link::{AboutAgent, LinkState},
        sandbox::Sandbox,
        starts::Phase,
    },
    identity::Identity,
    query::Selection,
};

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
    containers: BTreeMap<String, String>,
    /// The record's state; `ended` once the sandbox is over.
    state: &'static str,
    reason: Option<Reason>,
    created_unix_ms: u64,
    ended_unix_ms: Option<u64>,
    /// Time from its creation until its agent was reached, and until it had answered its first request.
    start: StartTimes,
    /// It ended without its agent's last state.
    abrupt_end: bool,
    /// How its agent is reached on this host: for operators.
    channel: Option<String>,
    connection: Connection,
    agent: Option<AboutAgent>,
    series: usize,
    /// Bytes that it holds of its tenant's budget of memory.
    resident_bytes: usize,
    /// Bytes of its series in a scrape as text.
    exposed_bytes: usize,
    /// Bytes that its agent sent.
    ingest_bytes: u64,
    /// For how long its agent was held back.
    ingest_cpu_seconds: f64,
    throttled_seconds: f64,
    /// What the agent sent that was not counted, by why.
    rejected: BTreeMap<&'static str, u64>,
    counters: AgentCounters,
    capture_completeness_ratio: Option<f64>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the listing's names have their unit")]
struct StartTimes {
    machine_seconds: Option<f64>,
    agent_seconds: Option<f64>,
    first_process_seconds: Option<f64>,
    first_listen_seconds: Option<f64>,
    first_request_seconds: Option<f64>,
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

pub(super) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Selected(selection): Selected,
) -> Response {
    let operator = viewer.is_operator();
    let name = format!("sandboxes {operator} {selection:?}");
    app.listing(name, move |fleet| listing(fleet, &selection, operator)).await
}

fn listing(fleet: &Fleet, selection: &Selection, operator: bool) -> Listing {
    let sandboxes = fleet
        .sandboxes()
        .iter()
        .filter(|sandbox| sandbox.phase().exposes_series())
        .filter(|sandbox| selection.admits(&sandbox.identity.tenant, &sandbox.identity.service_name))
        .map(|sandbox| row(sandbox, operator))
        .collect();
    Listing { sandboxes }
}

fn names(containers: &Containers) -> BTreeMap<String, String> {
    containers.iter().map(|(id, container)| (id.to_string(), container.name.clone())).collect()
}

/// The state of a sandbox as it is shown, and its reason.
pub(super) fn state_of(sandbox: &Sandbox) -> (&'static str, Option<Reason>) {
    let record = sandbox.record();
    let state = record.map(|record| sandbox.link.lock().state_of(&record));
    match (sandbox.phase().ended_unix_ms(), state) {
        (None, Some((state, reason))) => (state.as_str(), reason),
        (None, None) => ("restored", None),
        (Some(_), state) => ("ended", state.and_then(|(_, reason)| reason)),
    }
}

fn row(sandbox: &Sandbox, operator: bool) -> Row {
    let record = sandbox.record();
    let record = record.as_deref();
    let ended_unix_ms = sandbox.phase().ended_unix_ms();
    let link = sandbox.link.lock().clone();
    let channel = record.and_then(|record| record.channel.as_ref()).filter(|_| operator);
    let (series, counters) = {
        let accumulator = sandbox.accumulator.lock();
        (accumulator.series(), accumulator.totals().counters())
    };
    let (resident_bytes, exposed_bytes) = sandbox.charged();
    let start = *sandbox.start.lock();
    let time = |phase| start.time(phase).map(|time| time.as_secs_f64());
    let (state, reason) = state_of(sandbox);
    Row {
        identity: sandbox.identity.as_ref().clone(),
        runtime: record.map(|record| record.runtime.clone()),
        containers: record.map(|record| names(&record.containers)).unwrap_or_default(),
        state,
        reason,
        created_unix_ms: sandbox.created_unix_ms(),
        ended_unix_ms,
        start: StartTimes {
            machine_seconds: time(Phase::Machine),
            agent_seconds: time(Phase::Agent),
            first_process_seconds: time(Phase::FirstProcess),
            first_listen_seconds: time(Phase::FirstListen),
            first_request_seconds: time(Phase::FirstRequest),
        },
        abrupt_end: record.is_some_and(|record| record.abrupt_end),
        channel: channel.map(ToString::to_string),
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
        resident_bytes,
        exposed_bytes,
        ingest_bytes: sandbox.ingested(),
        ingest_cpu_seconds: sandbox.cpu_time().as_secs_f64(),
        throttled_seconds: sandbox.throttled().as_secs_f64(),
        rejected: sandbox.rejections.met().map(|(reason, count)| (reason.as_str(), count)).collect(),
        counters,
        capture_completeness_ratio: counters.completeness(),
    }
}
