//! Does the workload live as usual when something of Porthole's is broken, and can the reason be read?

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write},
    net::SocketAddr,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use porthole_registry::channel::Channel;
use porthole_testbed::{
    container::{Container, Launch, PORTHOLE},
    environment::{Environment, Settings},
    exposition, http, scenario, shim, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("faults::without_the_agents_binary_the_workload_lives_and_the_reason_can_be_read", no_agent),
    ("faults::without_bpf_in_the_guest_the_workload_lives_and_the_reason_can_be_read", no_bpf),
    (
        "faults::connections_that_hang_or_flood_at_the_agent_leave_the_workload_and_its_counts_alone",
        hostile_exporters,
    ),
    ("faults::a_killed_agent_leaves_the_workload_alone_and_the_reason_can_be_read", agent_killed),
    (
        "faults::a_broken_configuration_leaves_the_workload_alone_and_the_reason_can_be_read",
        bad_configuration,
    ),
];

/// Longest time from the start of a container to its first process, whatever is broken.
const START_MAX: Duration = Duration::from_mins(3);

/// Serves, takes an exec, stops when it gets SIGTERM, and is removed.
fn lives_as_usual(environment: &Environment, container: Container, address: SocketAddr) -> Result<()> {
    ensure!(container.start < START_MAX, "started after {:?}", container.start);
    environment.from_hub(|| {
        let mut connection = http::Connection::open_once_listening(address)?;
        ensure!(connection.request("GET", "/")?.status == 200, "the workload does not serve");
        Ok(())
    })?;
    let exec = container.exec(&["echo", "alive"])?;
    ensure!(exec.text() == "alive\n" && exec.status.success(), "exec: {exec}");
    ensure!(container.kill("SIGTERM")?.status.success(), "SIGTERM was refused");
    container.wait_stopped(wait::SOON)?;
    let id = container.id.clone();
    let before = porthole_testbed::footprint::Footprint::default();
    container.remove()?;
    environment.wait_gone(&id, &before, wait::SOON)
}

/// The reason is also a label of the exporter's gauge.
fn reason_is_exposed(environment: &Environment, code: &str) -> Result<()> {
    wait::until("the exporter tells the reason", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        let count =
            exposition::sum(&samples, "porthole_sandboxes", &[("state", "unmonitored"), ("reason", code)]);
        Ok(count.is_some_and(|count| count >= 1.0).then_some(()))
    })
}

/// Guests as an image without the agent has them: the sidecar comes.
fn without_built_in() -> Settings {
    Settings::default().with("microvm", "kernel_parameters", "porthole.agent=off")
}

fn no_agent(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("noagent", 31)?;
    let id = environment.unique("noagent");
    let settings = without_built_in().with("shim", "sidecar_rootfs", "/nonexistent/rootfs");
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
    let settings = Settings::default()
        .with("microvm", "kernel_parameters", "lockdown=confidentiality")
        .with("microvm", "agent_arguments", vec!["--capture", "system-calls"])
        .with("shim", "call_deadline_s", 10);
    let container = environment.with_settings(&settings, || {
        Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command)
            .on(&endpoint)
            .start(&environment.containerd)
    })?;
    let said = wait::until("the reason can be read", wait::SOON, || {
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
    let container = environment.with_settings(&without_built_in(), || {
        let launch = Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
        let container = launch.start(&environment.containerd)?;
        scenario::wait_watched(&environment, &id)?;
        Ok(container)
    })?;
    let key = scenario::record(&environment, &id)?.key();
    let sidecar = shim::sidecar(&environment, &key)?;
    let socket = container.shim_socket.clone().context("the shim's socket")?;
    shim::kill(&socket, &sidecar, 9)?;
    let reason = scenario::wait_unmonitored(&environment, &id)?;
    ensure!(reason.code == "agent_exited", "{reason:?}");
    reason_is_exposed(&environment, "agent_exited")?;
    lives_as_usual(&environment, container, endpoint.at(80))
}

/// Connections at the agent that send nothing, half a header, or a header whose body never comes.
const HANGING: usize = 24;

/// Connections that send without end, and are made again when they are closed: garbage, and calls whose answers are not read.
const FLOODING: usize = 4;

/// ttrpc's header: length, stream, type (1 is a request), flags.
const HEADER: [u8; 10] = [0, 0, 1, 0, 0, 0, 0, 1, 1, 0];

/// Opens a connection to the agent, as an exporter would.
fn dial(channel: &Channel) -> Result<Box<dyn Write>> {
    Ok(match channel {
        Channel::Hybrid { path, port } => {
            let mut stream = UnixStream::connect(path).context("connect to the vsock device")?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
            // vhost-device-vsock 0.3.0 ends when it cannot write its answer, and keeps the descriptor where it is not read. The agent
            // may have no room for the connection: then there is none.
            stream.set_read_timeout(Some(wait::SOON))?;
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) && byte != *b"\n" {}
            Box::new(stream)
        }
        Channel::Unix { path } => Box::new(UnixStream::connect(path).context("connect to the agent")?),
        Channel::Vsock { cid, port } => {
            let stream = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
                .context("vsock")?;
            connect(stream.as_raw_fd(), &VsockAddr::new(*cid, *port)).context("connect to the agent")?;
            Box::new(File::from(stream))
        }
    })
}

/// Sends the same until it is stopped.
fn flood(channel: &Channel, bytes: &[u8], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = dial(channel) else { continue };
        while !stop.load(Ordering::Relaxed) && connection.write_all(bytes).is_ok() {}
    }
}

fn hostile_exporters(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("hanging", 35)?;
    let id = environment.unique("hanging");
    let launch = Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
    let container = launch.start(&environment.containerd)?;
    scenario::wait_watched(&environment, &id)?;
    let channel = scenario::record(&environment, &id)?.channel.context("a channel")?;
    let mut hanging = Vec::new();
    for number in 0..HANGING {
        let mut connection = dial(&channel)?;
        match connection.write_all(&HEADER[..[0, 5, 10][number % 3]]) {
            // The agent closes what it has no room for, perhaps before this is written.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            written => written?,
        }
        hanging.push(connection);
    }
    let stop = AtomicBool::new(false);
    // Nothing that is answered: vhost-device-vsock 0.3.0, which emulated guests have, keeps a connection that is closed while there
    // are bytes for it, and has descriptors for some thousands.
    let garbage = [0xa5; 4096];
    thread::scope(|scope| {
        for _ in 0..FLOODING {
            let (channel, stop, garbage) = (&channel, &stop, &garbage);
            scope.spawn(move || flood(channel, garbage, stop));
        }
        let done = is_served_and_counted(&environment, endpoint.at(80), &id);
        stop.store(true, Ordering::Relaxed);
        // A connection that is not read is written to no more when its sandbox ends.
        done.and(lives_as_usual(&environment, container, endpoint.at(80)))
    })
}

fn is_served_and_counted(environment: &Environment, address: SocketAddr, id: &str) -> Result<()> {
    let requests = 20;
    environment.from_hub(|| {
        let mut connection = http::Connection::open_once_listening(address)?;
        for _ in 0..requests {
            ensure!(connection.request("GET", "/")?.status == 200, "the workload does not serve");
        }
        Ok(())
    })?;
    wait::until("every request is counted", wait::SOON, || {
        let labels = [("tenant", "acme"), ("service_name", id), ("side", "server")];
        let samples = environment.exporter()?.samples()?;
        let counted = exposition::sum(&samples, "porthole_app_requests_total", &labels);
        ensure!(counted == Some(f64::from(requests)), "{counted:?} of {requests}");
        Ok(Some(()))
    })
}
