//! Is the same counted, whichever way the guest's kernel lets the agent see it?

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Launch, PORTHOLE},
    environment::{Environment, Settings},
    exposition, http, scenario, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("capture::hooks_on_functions_are_the_first_choice_in_a_guest", functions),
    ("capture::the_raw_tracepoint_counts_the_same", raw_tracepoint),
    ("capture::a_guest_without_tracing_is_counted_by_its_packets", packets),
];

/// The capture mode that a sandbox's agent reports.
fn mode(environment: &Environment, id: &str) -> Result<String> {
    let sandbox = environment.exporter()?.sandbox(id)?.context("the sandbox is listed")?;
    Ok(sandbox["agent"]["capture_mode"].as_str().unwrap_or_default().to_owned())
}

/// The applications, whose requests are counted by other tests, are seen through hooks on functions.
fn functions(stage: &Stage) -> Result<()> {
    stage.with_applications(|_| {
        let environment = stage.environment()?;
        let mode = mode(&environment, &environment.unique(scenario::SHOP.service))?;
        ensure!(mode == "syscall_fentry", "the mode is {mode}");
        Ok(())
    })
}

/// A request a connection, and not so few that a lost one could hide.
const REQUESTS: u32 = 60;

fn raw_tracepoint(stage: &Stage) -> Result<()> {
    served_exactly(stage, "raw", 22, &["--hooks", "raw-tracepoint"], "syscall_raw_tracepoint")
}

/// A guest whose agent has these arguments reports this mode, and counts the requests to its server.
fn served_exactly(stage: &Stage, name: &str, host: u8, arguments: &[&str], expected: &str) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint(name, host)?;
    let id = environment.unique(name);
    let requests = REQUESTS.to_string();
    let command = ["/usr/bin/python3", "/srv/five.py", &requests];
    let settings = Settings::default().with("microvm", "agent_arguments", arguments.to_vec());
    let container = environment.with_settings(&settings, || {
        let launch = Launch::new("acme", &id, PORTHOLE, &command).on(&endpoint);
        let container = launch.start(&environment.containerd)?;
        scenario::wait_watched(&environment, &id)?;
        Ok(container)
    })?;
    let mode = mode(&environment, &id)?;
    ensure!(mode == expected, "the mode is {mode}");
    let address = endpoint.at(8000);
    environment.from_hub(|| {
        for number in 0..REQUESTS {
            let mut connection = http::Connection::open_once_listening(address)?;
            let response = connection.request("GET", &format!("/work/{number}"))?;
            ensure!(response.status == 200, "got {}", response.status);
        }
        Ok(())
    })?;
    container.wait_stopped(wait::SOON)?;
    container.remove()?;
    let labels = [("tenant", "acme"), ("service_name", &id), ("side", "server")];
    wait::until("all requests are counted", wait::SOON, || {
        let total =
            exposition::sum(&environment.exporter()?.samples()?, "porthole_app_requests_total", &labels);
        ensure!(total.is_none_or(|total| total <= f64::from(REQUESTS)), "counted {total:?} of {REQUESTS}");
        Ok((total == Some(f64::from(REQUESTS))).then_some(()))
    })
}

/// Requests that the guest sends to itself: each end is counted.
const CALLS: u32 = 40;

fn packets(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("packets", 23)?;
    let id = environment.unique("packets");
    // kernel_lockdown(7): in confidentiality mode the kernel refuses programs that read its memory, which tracing is.
    let settings = Settings::default().with("microvm", "kernel_parameters", "lockdown=confidentiality");
    let command = ["/usr/bin/python3", "/srv/catalog.py"];
    let container = environment.with_settings(&settings, || {
        let launch = Launch::new("acme", &id, PORTHOLE, &command).on(&endpoint);
        let container = launch.start(&environment.containerd)?;
        scenario::wait_watched(&environment, &id)?;
        Ok(container)
    })?;
    let mode = mode(&environment, &id)?;
    ensure!(mode == "packet", "the mode is {mode}");
    let address = endpoint.at(8000);
    environment.from_hub(|| {
        let mut connection = http::Connection::open_once_listening(address)?;
        for number in 0..REQUESTS {
            // Half on one connection that stays open, half each on its own.
            if number >= REQUESTS / 2 {
                connection = http::Connection::open(address)?;
            }
            let response = connection.request("GET", &format!("/items/{}", number % 100))?;
            ensure!(response.status == 200, "got {}", response.status);
        }
        Ok(())
    })?;
    let script = format!(
        "import urllib.request as u\nfor n in range({CALLS}): u.urlopen(f'http://127.0.0.1:8000/items/{{n}}').read()"
    );
    let called = container.exec(&["/usr/bin/python3", "-c", &script])?;
    ensure!(called.status.success(), "{called}");
    let expected = [("server", REQUESTS + CALLS), ("client", CALLS)];
    wait::until("all requests are counted at both ends", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        let mut missing = false;
        for (side, expected) in expected {
            // The exporter lists only containers that containerd has given to the sandbox.
            let name = format!("http_{side}_request_duration_seconds_count");
            let labels = [("tenant", "acme"), ("service_name", &*id), ("k8s_container_name", &*id)];
            let total = exposition::sum(&samples, &name, &labels).unwrap_or(0.0);
            let labels = [("tenant", "acme"), ("service_name", &*id), ("side", side)];
            let of_all = exposition::sum(&samples, "porthole_app_requests_total", &labels).unwrap_or(0.0);
            ensure!(of_all <= f64::from(expected), "counted {of_all} of {expected}, {side}");
            ensure!(total <= f64::from(expected), "counted {total} of {expected}, {side}");
            missing |= total < f64::from(expected);
        }
        Ok((!missing).then_some(()))
    })?;
    container.remove()
}
