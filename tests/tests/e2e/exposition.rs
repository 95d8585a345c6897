//! The parsers that people use accept the exporter's output, whatever names are in it.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    command,
    container::{Container, Launch, PORTHOLE},
    environment::Environment,
    exposition, http, scenario, wait,
};

use crate::{
    Test,
    stage::{ODD_NAMESPACE, ODD_TENANT, Stage},
};

pub const TESTS: &[Test] = &[
    (
        "exposition::odd_names_survive_prometheus_and_python_and_this_parser_and_resources_have_them",
        odd_names,
    ),
    ("exposition::alert_rules_and_scrape_example_are_accepted_by_promtool", deployed_rules),
];

/// Reads an exposition as strictly as OpenMetrics is defined, and prints each sample's tenant.
const PYTHON: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1], encoding='utf-8').read()):
    for sample in family.samples:
        print(family.type, sample.name, repr(sample.labels.get('tenant')))
";

/// An application's name that has everything a label must escape.
const ODD_SERVICE: &str = "say \"hi\" \\ {é}, 日本=語";

fn odd_names(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("odd", 61)?;
    let id = environment.unique("odd");
    let annotations = [("io.porthole.service", ODD_SERVICE)];
    let launch = Launch::new(ODD_NAMESPACE, &id, PORTHOLE, scenario::BLOG.command);
    let container = launch.on(&endpoint).annotated(&annotations).start(&environment.containerd)?;
    scenario::wait_watched(&environment, &id)?;
    let address = endpoint.at(80);
    environment.from_hub(|| {
        let mut connection = http::Connection::open_once_listening(address)?;
        connection.request("GET", "/%22quoted%22/\\backslash")?;
        connection.request("GET", "/")
    })?;
    let labels = [("tenant", ODD_TENANT), ("service_name", ODD_SERVICE), ("side", "server")];
    wait::until("both requests are counted under the odd names", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        Ok((exposition::sum(&samples, "porthole_app_requests_total", &labels) == Some(2.0)).then_some(()))
    })?;

    resources_and_connections(&environment, &container)?;

    // The first exchange of a route is sampled as a span, labelled with the host's name of its sandbox.
    // Should it have had no room, one of later requests is.
    wait::until("a span under the odd names", wait::SOON, || {
        environment.from_hub(|| http::get(address, "/"))?;
        wait::hold(Duration::from_millis(500))?;
        let spans = environment.exporter()?.spans("limit=10000")?;
        let is_it = |span: &serde_json::Value| {
            span["tenant"] == ODD_TENANT
                && span["service_name"] == ODD_SERVICE
                && span["sandbox_id"] == id
                && span["side"] == "server"
                && span["operation"] == "GET"
                && span["resource"] == "/"
                && span["status"] == "200"
                && span["local"] == address.to_string()
                && span["duration_ns"].as_u64().is_some_and(|ns| ns > 0)
        };
        Ok(spans.iter().any(is_it).then_some(()))
    })?;

    let text = environment.exporter()?.text()?;
    let file = environment.directory().join("log/exposition.txt");
    fs::write(&file, &text).context("keep the exposition")?;
    let mut python = Command::new("/usr/bin/python3");
    let read = command::succeed(python.args(["-c", PYTHON]).arg(&file), wait::SOON)?.text();
    let python_quoted = format!("'{}'", ODD_TENANT.replace('\\', "\\\\"));
    ensure!(
        read.lines()
            .any(|line| line.contains("porthole_app_requests_total") && line.ends_with(&python_quoted)),
        "Python read no requests of {python_quoted}:\n{read}"
    );

    let prometheus = environment.prometheus.as_ref().context("Prometheus")?;
    prometheus.next_scrape()?;
    // On a busy machine a scrape may fail.
    wait::until("Prometheus has the odd names", wait::SOON, || {
        let (health, error) = prometheus.target()?;
        ensure!(health == "up" && error.is_empty(), "Prometheus' target is {health}: {error}");
        let totals = prometheus.query("porthole_app_requests_total{side=\"server\"}")?;
        ensure!(
            totals.iter().any(|total| {
                total.label("tenant") == ODD_TENANT && total.label("service_name") == ODD_SERVICE
            }),
            "Prometheus does not know the odd names: {totals:?}"
        );
        Ok(Some(()))
    })?;
    container.remove()
}

/// What a container takes in its guest, and attempts to connect that fail there.
fn resources_and_connections(environment: &Environment, container: &Container) -> Result<()> {
    const ATTEMPTS: u32 = 3;
    let script = format!(
        "import socket\nfor _ in range({ATTEMPTS}):\n try: socket.create_connection(('127.0.0.1', 9))\n except \
         ConnectionRefusedError: pass\n else: raise SystemExit('connected')"
    );
    let called = container.exec(&["/usr/bin/python3", "-c", &script])?;
    ensure!(called.status.success(), "{called:?}");
    wait::until("resources and refused attempts under the odd names", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        let sum = |family: &str, more: &[(&str, &str)]| {
            let labels = [&[("tenant", ODD_TENANT), ("service_name", ODD_SERVICE)], more].concat();
            exposition::sum(&samples, family, &labels).unwrap_or_default()
        };
        let refused = [("server_address", "127.0.0.1"), ("server_port", "9"), ("error_type", "refused")];
        let positive = [
            "container_cpu_time_seconds_total",
            "container_memory_working_set_bytes",
            "container_threads",
            "container_network_io_bytes_total",
            "porthole_guest_cpu_seconds_total",
            "porthole_guest_memory_used_bytes",
        ];
        let refused = sum("tcp_client_connections_failed_total", &refused);
        ensure!(refused <= f64::from(ATTEMPTS), "{refused} refused attempts");
        let is_there = positive.iter().all(|family| sum(family, &[]) > 0.0);
        Ok((is_there && (refused - f64::from(ATTEMPTS)).abs() < 0.5).then_some(()))
    })
}

fn deployed_rules(_: &Stage) -> Result<()> {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus");
    let check = |arguments: &[&str]| {
        command::succeed(Command::new("promtool").current_dir(deploy).args(arguments), wait::SOON)
    };
    check(&["check", "rules", "porthole.rules.yml"])?;
    check(&["check", "config", "prometheus.yml"])?;
    check(&["check", "config", "--agent", "agent.yml"])?;
    check(&["test", "rules", "porthole.rules.test.yml"]).map(drop)
}
