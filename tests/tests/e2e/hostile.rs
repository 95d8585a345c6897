//! Does anything crash, or is anything counted that was no request, when bytes are not what they seem?

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Launch, PORTHOLE},
    environment::Settings,
    exposition,
    http::Connection,
    scenario, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("hostile::garbage_half_requests_giant_headers_and_websockets_are_not_counted", hostile_bytes),
    ("hostile::a_guest_cannot_change_the_agent_that_other_sandboxes_run", hostile_guest),
];

/// Reproducible noise (xorshift).
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hostile_bytes(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("hostile", 51)?;
    let id = environment.unique("hostile");
    let command = ["/usr/bin/python3", "/srv/raw.py"];
    let container =
        Launch::new("globex", &id, PORTHOLE, &command).on(&endpoint).start(&environment.containerd)?;
    scenario::wait_watched(&environment, &id)?;
    let address = endpoint.at(8001);
    environment.from_hub(|| {
        Connection::open_once_listening(address)?;
        // Noise in both directions, on many connections and in one large transfer.
        for seed in 1..=20 {
            echo(address, &noise(4096, seed))?;
        }
        echo(address, &noise(4 << 20, 77))?;
        // A request cut off in its first line, in its header, and in its body.
        for half in [
            "GET /nev",
            "GET /never HTTP/1.1\r\nHost: x\r\n",
            "POST /never HTTP/1.1\r\nContent-Length: 9\r\n\r\n123",
        ] {
            sink(address, half.as_bytes())?;
        }
        // A header of a mebibyte that never ends.
        let mut giant = b"GET /never HTTP/1.1\r\nX-Giant: ".to_vec();
        giant.resize(1 << 20, b'g');
        sink(address, &giant)?;
        web_socket(address)
    })?;
    // What is a request is counted, before and after all that, on the same agent.
    let labels = [("sandbox_id", id.as_str())];
    let unanswered = |sample: &exposition::Sample| sample.has(&[("error_type", "no_response")]);
    let counted = wait::until("the WebSocket's handshake is counted", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        let matching = |sample: &&exposition::Sample| {
            sample.name == "http_server_request_duration_seconds_count" && sample.has(&labels)
        };
        let counted: Vec<_> = samples.iter().filter(matching).cloned().collect();
        // Those without a response may come in a batch before.
        Ok(counted.iter().any(|sample| !unanswered(sample)).then_some(counted))
    })?;
    ensure!(container.status()?.as_deref() == Some("RUNNING"), "the workload is {:?}", container.status()?);
    let answered: Vec<_> = counted.iter().filter(|sample| !unanswered(sample)).collect();
    ensure!(
        answered.len() == 1
            && (answered[0].value - 1.0).abs() < 0.5
            && answered[0].has(&[("http_route", "/ws"), ("http_response_status_code", "101")]),
        "expected one 101 on /ws: {counted:#?}"
    );
    // Requests whose header was complete and which got no response may be there as such, and as nothing else.
    ensure!(
        counted.iter().filter(|sample| unanswered(sample)).all(|sample| sample.value <= 3.0),
        "{counted:#?}"
    );
    scenario::wait_watched(&environment, &id).context("the agent is gone")?;
    container.remove()
}

/// Sends bytes that come back, and checks that they do: capturing must not touch them.
fn echo(address: std::net::SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut connection = Connection::open(address)?;
    connection.raw(b"ECHO\n")?;
    for part in bytes.chunks(16 << 10) {
        connection.raw(part)?;
        ensure!(connection.exactly(part.len())? == part, "the echo differs");
    }
    Ok(())
}

/// Sends bytes, ends, and checks that all arrived.
fn sink(address: std::net::SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut connection = Connection::open(address)?;
    connection.raw(b"SINK\n")?;
    connection.raw(bytes)?;
    connection.finish()?;
    let count = String::from_utf8(connection.drain()?).context("a number")?;
    ensure!(count.trim() == bytes.len().to_string(), "{} bytes sent, {count} arrived", bytes.len());
    Ok(())
}

/// An upgrade, then frames whose payload looks like requests and responses.
fn web_socket(address: std::net::SocketAddr) -> Result<()> {
    let mut connection = Connection::open(address)?;
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    connection.send("GET", "/ws", upgrade)?;
    let response = connection.receive("GET")?;
    ensure!(response.status == 101, "the upgrade was answered with {}", response.status);
    for number in 0..50 {
        let frame = format!(
            "GET /trap/{number} HTTP/1.1\r\nHost: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        );
        connection.raw(frame.as_bytes())?;
        ensure!(connection.exactly(frame.len())? == frame.as_bytes(), "the echo differs");
    }
    Ok(())
}

/// With every capability in its guest, a workload mounts what the host shares with it and writes to all of it.
fn hostile_guest(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let agent = environment.dist.sidecar().join("porthole-agent");
    let before = std::fs::read(&agent).with_context(|| format!("read {}", agent.display()))?;
    let id = environment.unique("takeover");
    // With the sidecar, whose files the guest has too.
    let settings = Settings::default().with("shim", "agent", "sidecar").with(
        "microvm",
        "kernel_parameters",
        "porthole.agent=off",
    );
    let container = environment.with_settings(&settings, || {
        let launch = Launch::new("globex", &id, PORTHOLE, &["sleep", "600"]).privileged();
        let container = launch.start(&environment.containerd)?;
        scenario::wait_watched(&environment, &id)?;
        Ok(container)
    })?;
    // Which of the shared trees the kernel gives for the tag is its choice: the sidecar's is found by the agent in it.
    let script = "mkdir /all && mount -t virtiofs porthole /all || exit 9
        agent=$(find /all -name porthole-agent | head -n 1)
        test -s \"$agent\" || exit 8
        for file in $agent ${agent%/*}/planted ${agent%/*}/dev/planted; do
            chmod 777 $file; (echo owned >> $file) && echo wrote $file
        done; true";
    let finished = container.exec(&["sh", "-c", script])?;
    let code = finished.status.code();
    ensure!(code == Some(0), "the attempt itself failed: {finished}");
    ensure!(finished.text().is_empty(), "the guest could write: {}", finished.text());
    let sidecar = environment.dist.sidecar();
    ensure!(std::fs::read(&agent)? == before, "the agent was changed");
    for planted in ["planted", "dev/planted"] {
        ensure!(!sidecar.join(planted).exists(), "{planted} was left in the sidecar's root file system");
    }
    container.remove()
}
