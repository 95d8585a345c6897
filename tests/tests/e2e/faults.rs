//! Does the workload live as usual when something of Porthole's is broken, and can the reason be read?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Container, Launch, PORTHOLE},
    environment::{Environment, Settings},
    exposition, http, scenario, shim, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("faults::without_the_agents_binary_the_workload_lives_and_the_reason_can_be_read", no_agent),
    ("faults::without_bpf_in_the_guest_the_workload_lives_and_the_reason_can_be_read", no_bpf),
    ("faults::a_killed_agent_leaves_the_workload_alone_and_the_reason_can_be_read", agent_killed),
    (
        "faults::a_broken_configuration_leaves_the_workload_alone_and_the_reason_can_be_read",
        bad_configuration,
    ),
];

/// Longest time from the start of a container to its first process, whatever is broken.
const START_MAX: Duration = Duration::from_secs(45);

/// Serves, takes an exec, stops within a second of SIGTERM's handling, and is removed.
fn lives_as_usual(
    environment: &Environment,
    container: Container,
    address: std::net::SocketAddr,
) -> Result<()> {
    ensure!(container.start < START_MAX, "started after {:?}", container.start);
    environment.from_hub(|| {
        let mut connection = wait::until("the server listens", Duration::from_secs(30), || {
            Ok(http::Connection::open(address).ok())
        })?;
        ensure!(connection.request("GET", "/")?.status == 200, "the workload does not serve");
        Ok(())
    })?;
    let exec = container.exec(&["echo", "alive"])?;
    ensure!(exec.text() == "alive\n" && exec.status.success(), "exec: {exec}");
    let begin = Instant::now();
    ensure!(container.kill("SIGTERM")?.status.success(), "SIGTERM was refused");
    container.wait_stopped(Duration::from_secs(20))?;
    ensure!(begin.elapsed() < Duration::from_secs(20), "stopped after {:?}", begin.elapsed());
    let id = container.id.clone();
    let before = porthole_testbed::footprint::Footprint::default();
    container.remove()?;
    environment.wait_gone(&id, &before, Duration::from_secs(30))
}

/// The reason is also a label of the exporter's gauge.
fn reason_is_exposed(environment: &Environment, code: &str) -> Result<()> {
    wait::until("the exporter tells the reason", Duration::from_secs(15), || {
        let samples = environment.exporter()?.samples()?;
        let count =
            exposition::sum(&samples, "porthole_sandboxes", &[("state", "unmonitored"), ("reason", code)]);
        Ok(count.is_some_and(|count| count >= 1.0).then_some(()))
    })
}

fn no_agent(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("noagent", 31)?;
    let id = environment.unique("noagent");
    let settings = Settings::default().with("shim", "sidecar_rootfs", "/nonexistent/rootfs");
    let container = environment.with_settings(&settings, || {
        let launch = Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
        let container = launch.start(&environment.containerd)?;
        let reason = scenario::wait_unmonitored(&environment, &id)?;
        ensure!(
            reason.code == "sidecar_missing" && reason.message.contains("/nonexistent/rootfs"),
            "{reason:?}"
        );
        Ok(container)
    })?;
    reason_is_exposed(&environment, "sidecar_missing")?;
    lives_as_usual(&environment, container, endpoint.at(80))
}

fn bad_configuration(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("badconf", 32)?;
    let id = environment.unique("badconf");
    let settings = Settings::default().with("shim", "sidecar_rotfs", "/x");
    let container = environment.with_settings(&settings, || {
        let launch = Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
        let container = launch.start(&environment.containerd)?;
        let reason = scenario::wait_unmonitored(&environment, &id)?;
        ensure!(
            reason.code == "configuration_invalid" && reason.message.contains("sidecar_rotfs"),
            "{reason:?}"
        );
        Ok(container)
    })?;
    lives_as_usual(&environment, container, endpoint.at(80))
}

fn no_bpf(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("nobpf", 33)?;
    let id = environment.unique("nobpf");
    // kernel_lockdown(7): confidentiality mode refuses BPF programs that read kernel memory. The agent would do with
    // packets, if it were let.
    let settings = Settings::default().with("microvm", "kernel_parameters", "lockdown=confidentiality").with(
        "shim",
        "agent_arguments",
        vec!["--capture", "system-calls"],
    );
    let container = environment.with_settings(&settings, || {
        Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command)
            .on(&endpoint)
            .start(&environment.containerd)
    })?;
    let said = wait::until("the reason can be read", Duration::from_mins(1), || {
        let record = scenario::record(&environment, &id)?;
        let agent = environment.exporter()?.sandbox(&id)?.unwrap_or_default();
        let limitations = agent["agent"]["limitations"].as_array().cloned().unwrap_or_default();
        let reason = record.reason.map(|reason| reason.message);
        Ok(reason.or_else(|| limitations.first().map(ToString::to_string)))
    })?;
    ensure!(!said.is_empty(), "an empty reason");
    lives_as_usual(&environment, container, endpoint.at(80))
}

fn agent_killed(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("agentkill", 34)?;
    let id = environment.unique("agentkill");
    let launch = Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
    let container = launch.start(&environment.containerd)?;
    scenario::wait_watched(&environment, &id)?;
    let key = scenario::record(&environment, &id)?.key();
    let sidecar = shim::sidecar(&environment, &key)?;
    let socket = container.shim_socket.clone().context("the shim's socket")?;
    shim::kill(&socket, &sidecar, 9)?;
    let reason = scenario::wait_unmonitored(&environment, &id)?;
    ensure!(reason.code == "agent_exited", "{reason:?}");
    reason_is_exposed(&environment, "agent_exited")?;
    lives_as_usual(&environment, container, endpoint.at(80))
}
