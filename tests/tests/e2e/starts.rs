//! From the first request to the last one: is everything in the numbers, however shortly a sandbox lives? The short form of
//! `cargo xtask bench starts`.

use anyhow::{Context, Result, bail, ensure};
use porthole_testbed::{
    container::{Launch, PORTHOLE},
    environment::Environment,
    scenario,
    starts::{NAMESPACE, loops, pod, sequence},
    wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("starts::a_workload_whose_first_act_is_to_be_the_agent_or_to_enrol_itself_gets_nothing", usurper),
    (
        "starts::sandboxes_that_serve_one_request_at_once_and_end_are_counted_whatever_the_exporter_does",
        short,
    ),
    ("starts::requests_are_counted_from_the_first_accepted_connection_on", loops_of_requests),
    ("starts::containers_that_crash_in_a_running_sandbox_are_counted_under_their_name", crashing),
];

fn quiet(_: &str) {}

/// Listens on the agent's port, and connects to it by the numbers that a guest has for itself (vsock(7)). To what accepts, it sends
/// a frame of ttrpc that enrols the agent with a secret of its own, and prints what comes back.
const USURPER: &str = r#"
import errno, socket, struct
def act(what, action):
    try:
        print(what, action(), flush=True)
    except OSError as error:
        print(what, errno.errorcode.get(error.errno, "ETIMEDOUT"), flush=True)
def listen():
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, 1000))
    listener.listen()
    return "LISTENS"
def field(number, value):
    return bytes([number << 3 | 2, len(value)]) + value
def enrol(cid):
    client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    client.settimeout(3)
    client.connect((cid, 1000))
    body = field(1, b"porthole.agent.v1.Agent") + field(2, b"Enroll") + field(3, field(1, b"\x07" * 32))
    client.sendall(struct.pack(">IIBB", len(body), 1, 1, 0) + body)
    answer = client.recv(4096)
    return "ANSWERED" if answer else "CLOSED"
act("listen", listen)
for number in (1, 3):
    act("enrol", lambda: enrol(number))
print("tried", flush=True)
"#;

fn usurper(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let id = environment.unique("usurper");
    let script = format!("/usr/bin/python3 -c '{USURPER}' > /tmp/said 2>&1; sleep 600");
    let command = ["sh", "-c", &script];
    let launch = Launch::new(NAMESPACE, &id, PORTHOLE, &command).privileged();
    let container = launch.start(&environment.containerd)?;
    // The agent that the exporter is connected to has proved that it holds the secret in the record.
    scenario::wait_watched(&environment, &id)?;
    let said = wait::until("the workload has tried", wait::SOON, || {
        let said = container.exec(&["cat", "/tmp/said"])?.text();
        ensure!(said.contains("tried"), "it has said {said:?}");
        Ok(Some(said))
    })?;
    let lines: Vec<_> = said.lines().collect();
    ensure!(lines.first() == Some(&"listen EADDRINUSE"), "the agent's port was free:\n{said}");
    ensure!(lines.len() == 4 && !said.contains("ANSWERED"), "the agent answers the workload:\n{said}");
    scenario::wait_watched(&environment, &id)?;
    container.remove()
}

/// Sandboxes of each of the three runs: more are in the long form.
const SEQUENCE: u32 = 3;

fn short(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let exporters = [
        ("up", sequence::Exporter::Up),
        ("down", sequence::Exporter::Down),
        ("killed", sequence::Exporter::Killed { seed: 1 }),
    ];
    for (name, exporter) in exporters {
        let service = environment.unique(&format!("short-{name}"));
        let ran = sequence::run(&environment, &service, SEQUENCE, exporter, &quiet)?;
        ensure!(ran.is_exact(), "with the exporter {name}: {ran:?}");
    }
    Ok(())
}

fn loops_of_requests(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    loops::run(&environment, &environment.unique("loops"), 3, 50, &quiet)?.check()
}

fn crashing(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    for exporter_down in [false, true] {
        let service = environment.unique(if exporter_down { "crash-down" } else { "crash" });
        let pod = pod::run(&environment, &service, 4, exporter_down, &quiet)?;
        pod.counted.check()?;
        ensure!(pod.named == pod.counted.sent, "under the name: {pod:?}");
    }
    Ok(())
}

/// Demands that the times of the start of a sandbox are known, and in order.
pub fn assert_in_order(environment: &Environment, id: &str) -> Result<()> {
    /// By how much the clocks of guest and host can disagree on a busy machine, seconds: half of the time that a call took by which
    /// they were compared.
    const CLOCKS: f64 = 10.0;
    let names = ["machine", "first_process", "first_listen", "first_request"];
    let times = wait::until("all times of the start", wait::SOON, || {
        let sandbox = environment.exporter()?.sandbox(id)?.context("the sandbox is listed")?;
        let time = |name: &str| sandbox["start"][format!("{name}_seconds")].as_f64();
        let times: Option<Vec<f64>> = names.iter().map(|name| time(name)).collect();
        times.map_or_else(|| bail!("{}", sandbox["start"]), |times| Ok(Some(times)))
    })?;
    ensure!(times.is_sorted_by(|before, after| before - CLOCKS <= *after), "{names:?}: {times:?}");
    Ok(())
}
