//! The process stays below its ceiling, whatever guests send, and honest tenants are counted exactly.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod program;
mod support;

use std::collections::BTreeSet;

use porthole_agent_api::agent;
use program::{Program, scrape};
use support::{
    Host,
    agent::{TestAgent, http},
    get, record, wait_for,
};

/// Of which the program itself takes a quarter: it is built without optimisation here.
const CEILING_MIB: usize = 96;

const HOSTILE_TENANTS: usize = 4;

/// Of each tenant; many, so that none is held back because of CPU time.
const SANDBOXES: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tenants_reach_their_budgets_and_the_process_stays_below_its_ceiling() {
    let host = Host::new();
    let keys = format!(
        "hosts = [\"test\"]\nmemory_mib = {CEILING_MIB}\nmemory_mib_per_tenant = 64\nledger_interval_seconds = 0.1\n"
    );
    let program = Program::new(&host, &keys);
    let exporter = program.start();
    let mut hostile = Vec::new();
    for number in 0..HOSTILE_TENANTS * SANDBOXES {
        let (tenant, id) = (format!("evil-{}", number % HOSTILE_TENANTS), format!("flood-{number}"));
        let socket = host.socket(&id);
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell((0..100).map(|series| wide(series, &id)).collect());
        let companion = host.companion(&record(&id, &tenant, &id, &socket));
        hostile.push((agent, companion));
    }
    let sandboxes = async || {
        let (status, _, body) = get(program.address, "/api/v1/sandboxes", "").await;
        assert_eq!(status, 200, "{body}");
        let listing: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        listing["sandboxes"].as_array().cloned().unwrap_or_default()
    };
    wait_for("the exporter", async || tokio::net::TcpStream::connect(program.address).await.is_ok()).await;
    wait_for("every hostile tenant to be refused", async || {
        let refused = |row: &&serde_json::Value| row["rejected"]["tenant_memory_limit"].as_u64() >= Some(1);
        let rows = sandboxes().await;
        let tenants: BTreeSet<_> = rows.iter().filter(refused).map(|row| row["tenant"].to_string()).collect();
        tenants.len() == HOSTILE_TENANTS
    })
    .await;
    // One that comes late finds room all the same.
    let socket = host.socket("honest");
    let honest = TestAgent::start(&socket, 7).await;
    honest.tell((0..200).map(|id| http(id, "honest-1", &format!("/{id}"), "200", 3, 1)).collect());
    let _companion = host.companion(&record("honest-1", "good", "honest", &socket));
    wait_for("the honest tenant's counts", async || {
        sandboxes().await.iter().any(|row| row["sandbox_id"] == "honest-1" && row["series"] == 200)
    })
    .await;
    let exposition = scrape(program.address).await.expect("a scrape");
    let of_instances = exposition.select("http_server_request_duration_seconds_count", &[("tenant", "good")]);
    assert_eq!(of_instances.len(), 200, "none of them overflowed");
    assert_eq!(exposition.sum("porthole_app_requests_total", &[("tenant", "good")]), 600.0);
    let accounted = exposition.sum("porthole_exporter_accounted_bytes", &[]);
    let limit = exposition.sum("porthole_exporter_accounted_bytes_limit", &[]);
    assert!(accounted > limit / 2.0 && accounted <= 1.01 * limit, "{accounted} of {limit}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.id())).expect("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak: usize = peak.and_then(|peak| peak.parse().ok()).expect("its peak");
    println!("peak {} MiB, accounted {} MiB", peak >> 10, accounted / f64::from(1 << 20));
    assert!(peak <= CEILING_MIB << 10, "{peak} KiB of {CEILING_MIB} MiB");
}

/// A series with labels as long as they may be and every bucket in use, by numbers that take many bytes.
fn wide(id: u32, container: &str) -> agent::Series {
    let mut series = http(id, container, &format!("/{id:0>250}"), "200", 1, 1);
    let mut durations = porthole_histogram::Histogram::default();
    for index in porthole_histogram::INDEX_MIN..=porthole_histogram::INDEX_MAX {
        durations.add(index, 1 << 35, 1);
    }
    series.duration = Some(agent::Histogram::from(&durations)).into();
    let key = series.key.as_mut().expect("key");
    key.side = agent::Side::SIDE_CLIENT.into();
    key.peer = format!("{id:0>250}:80");
    series
}
