//! `GET /api/v1/resources`: what containers and guests take, as their agents measured it last, with rates of the last seconds.

use std::time::Duration;

use axum::{extract::State, response::Response};
use porthole_agent_api::resources::Resource;
use serde::Serialize;

use super::{App, access::Selected, sandboxes::state_of};
use crate::{
    accumulate::resources::Taken,
    fleet::{Fleet, sandbox::Sandbox},
    identity::Application,
    query::Selection,
};

#[derive(Serialize)]
struct Listing {
    sandboxes: Vec<Row>,
}

/// A sandbox of which anything was measured.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    application: Application,
    sandbox_id: String,
    k8s_namespace_name: String,
    k8s_pod_name: String,
    state: &'static str,
    guest: Option<Guest>,
    containers: Vec<Container>,
}

/// What is absent was not measured.
#[derive(Serialize)]
struct Guest {
    /// CPU time a second, its containers included.
    cpu_cores: Option<f64>,
    /// Share of the time for which the host let one of its CPUs wait.
    cpu_steal_cores: Option<f64>,
    memory_bytes: Option<u64>,
    memory_used_bytes: Option<u64>,
    network_received_bytes_per_second: Option<f64>,
    network_sent_bytes_per_second: Option<f64>,
    network_dropped: Option<u64>,
    tcp_retransmitted_segments: Option<u64>,
    tcp_accept_queue_overflows: Option<u64>,
}

#[derive(Serialize)]
struct Container {
    name: String,
    cpu_cores: Option<f64>,
    cpu_limit_cores: Option<f64>,
    /// Since it was started.
    cpu_seconds: Option<f64>,
    /// Share of the time for which it was not allowed to run.
    cpu_throttled_ratio: Option<f64>,
    /// Since it was started.
    cpu_throttled_seconds: Option<f64>,
    /// Without the page cache that was not used lately.
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    memory_oom_kills: Option<u64>,
    disk_read_bytes_per_second: Option<f64>,
    disk_write_bytes_per_second: Option<f64>,
    /// Share of the time for which some of its threads waited, by what for.
    waiting_cpu_ratio: Option<f64>,
    waiting_memory_ratio: Option<f64>,
    waiting_io_ratio: Option<f64>,
    threads: Option<u64>,
    threads_limit: Option<u64>,
    open_file_descriptors: Option<u64>,
}

pub(super) async fn list(State(app): State<App>, Selected(selection): Selected) -> Response {
    app.listing(format!("resources {selection:?}"), move |fleet| listing(fleet, &selection)).await
}

fn listing(fleet: &Fleet, selection: &Selection) -> Listing {
    let rows = selection.sandboxes(fleet).map(|sandbox| row(&sandbox));
    Listing { sandboxes: rows.filter(|row| row.guest.is_some() || !row.containers.is_empty()).collect() }
}

fn row(sandbox: &Sandbox) -> Row {
    let (mut guest, mut containers) = (None, Vec::new());
    for (name, taken) in sandbox.resources.lock().taken() {
        match name {
            None => guest = Some(of_guest(taken)),
            Some(name) => containers.push(of_container(name, taken)),
        }
    }
    Row {
        application: sandbox.application().clone(),
        sandbox_id: sandbox.identity.sandbox_id.clone(),
        k8s_namespace_name: sandbox.identity.k8s_namespace_name.clone(),
        k8s_pod_name: sandbox.identity.k8s_pod_name.clone(),
        state: state_of(sandbox).0,
        guest,
        containers,
    }
}

fn of_guest(taken: Taken<'_>) -> Guest {
    Guest {
        cpu_cores: cores(taken, &[Resource::GuestCpuUser, Resource::GuestCpuSystem]),
        cpu_steal_cores: cores(taken, &[Resource::GuestCpuSteal]),
        memory_bytes: taken.get(Resource::GuestMemory),
        memory_used_bytes: taken.get(Resource::GuestMemoryUsed),
        network_received_bytes_per_second: taken.per_second(Resource::NetworkReceivedBytes),
        network_sent_bytes_per_second: taken.per_second(Resource::NetworkSentBytes),
        network_dropped: sum(taken, &[Resource::NetworkReceivedDropped, Resource::NetworkSentDropped]),
        tcp_retransmitted_segments: taken.get(Resource::TcpRetransmittedSegments),
        tcp_accept_queue_overflows: taken.get(Resource::TcpAcceptQueueOverflows),
    }
}

fn of_container(name: &str, taken: Taken<'_>) -> Container {
    let time = [Resource::CpuUser, Resource::CpuSystem];
    Container {
        name: name.to_owned(),
        cpu_cores: cores(taken, &time),
        cpu_limit_cores: taken.get(Resource::CpuLimit).map(seconds),
        cpu_seconds: sum(taken, &time).map(seconds),
        cpu_throttled_ratio: cores(taken, &[Resource::CpuThrottled]),
        cpu_throttled_seconds: taken.get(Resource::CpuThrottled).map(seconds),
        memory_bytes: taken.get(Resource::MemoryWorkingSet),
        memory_limit_bytes: taken.get(Resource::MemoryLimit),
        memory_oom_kills: taken.get(Resource::MemoryOomKills),
        disk_read_bytes_per_second: taken.per_second(Resource::DiskReadBytes),
        disk_write_bytes_per_second: taken.per_second(Resource::DiskWriteBytes),
        waiting_cpu_ratio: cores(taken, &[Resource::PressureCpuSome]),
        waiting_memory_ratio: cores(taken, &[Resource::PressureMemorySome]),
        waiting_io_ratio: cores(taken, &[Resource::PressureIoSome]),
        threads: taken.get(Resource::Threads),
        threads_limit: taken.get(Resource::ThreadsLimit),
        open_file_descriptors: taken.get(Resource::OpenDescriptors),
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// The sum of times in nanoseconds, as seconds a second; none unless each is known.
fn cores(taken: Taken<'_>, of: &[Resource]) -> Option<f64> {
    let rates = of.iter().map(|resource| taken.per_second(*resource));
    rates.sum::<Option<f64>>().map(|nanoseconds| nanoseconds / 1e9)
}

fn sum(taken: Taken<'_>, of: &[Resource]) -> Option<u64> {
    of.iter().try_fold(0_u64, |sum, resource| Some(sum.saturating_add(taken.get(*resource)?)))
}
