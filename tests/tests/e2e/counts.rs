//! Is every request counted, once, under the right names?

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Launch, PORTHOLE},
    environment::Environment,
    exposition, http,
    network::Endpoint,
    scenario::{self, Running, Side, chain::STOCK, counted::Comparison},
    wait,
};

use crate::{
    Test,
    stage::{ENDED_KEPT, Stage},
    starts, traces,
};

pub const TESTS: &[Test] = &[
    ("counts::two_tenants_are_counted_exactly_on_both_sides", two_tenants),
    ("counts::applications_totals_stay_when_an_instance_has_ended", totals_stay),
    ("counts::a_container_that_serves_five_requests_and_exits_is_in_the_numbers", short_lived),
    ("counts::sandboxes_that_lived_while_the_exporter_was_down_are_in_the_numbers", exporter_down),
    ("counts::an_exporter_that_was_down_during_the_requests_has_them_afterwards", exporter_restart),
];

/// Compares what was sent to the applications with what Prometheus has, and demands that they are equal.
fn assert_exact(stage: &Stage, running: &Running) -> Result<()> {
    let environment = stage.environment()?;
    let prometheus = environment.prometheus.as_ref().context("Prometheus")?;
    let comparison = Comparison::settle(prometheus, running.sent())?;
    ensure!(comparison.differences().is_empty(), "counts differ:\n{comparison}");
    Ok(())
}

/// An edge of the graph of calls: from, to.
type Edge = (String, String);

/// The edges of both tenants.
fn edges(environment: &Environment) -> Result<BTreeMap<Edge, u64>> {
    let mut edges = BTreeMap::new();
    for tenant in scenario::NAMESPACES {
        edges.extend(environment.exporter()?.edges(tenant)?);
    }
    Ok(edges)
}

/// The edges that what was sent so far must have made. The hub is outside; the proxied requests are seen by both of their ends.
fn calls(running: &Running) -> BTreeMap<Edge, u64> {
    let node = |tenant: &str, service: &str| format!("application/{tenant}/{service}");
    let mut calls = BTreeMap::new();
    for (key, times) in running.sent() {
        let edge = match (key.side, key.service.as_str()) {
            (Side::Client, service) => {
                let called = if service == scenario::CATALOG.service { STOCK } else { scenario::CATALOG };
                (node(&key.tenant, service), node(&key.tenant, called.service))
            }
            (Side::Server, service) if [scenario::CATALOG.service, STOCK.service].contains(&service) => {
                continue;
            }
            (Side::Server, service) => (format!("callers/{}", key.tenant), node(&key.tenant, service)),
        };
        *calls.entry(edge).or_default() += times;
    }
    calls
}

/// Demands that the graph has grown by exactly what was sent since.
fn assert_edges(
    environment: &Environment,
    running: &Running,
    edges_before: &BTreeMap<Edge, u64>,
    calls_before: &BTreeMap<Edge, u64>,
) -> Result<()> {
    let grown = |now: BTreeMap<Edge, u64>, before: &BTreeMap<Edge, u64>| -> BTreeMap<Edge, u64> {
        let grown = now.into_iter().map(|(edge, count)| {
            let since = count.saturating_sub(before.get(&edge).copied().unwrap_or(0));
            (edge, since)
        });
        grown.filter(|(_, count)| *count > 0).collect()
    };
    let expected = grown(calls(running), calls_before);
    // A step has 15 seconds, and callers from outside show a step later.
    wait::until("the edges of what was sent", wait::SOON, || {
        let found = grown(edges(environment)?, edges_before);
        for (edge, count) in &found {
            let sent = expected.get(edge).copied().unwrap_or(0);
            ensure!(*count <= sent, "{edge:?} has {count} requests of {sent}: {found:#?}");
        }
        Ok((found == expected).then_some(()))
    })
}

/// Progress of what takes long.
fn progress(line: &str) {
    eprintln!("{line}");
}

/// A count, as samples have it.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(requests: u64) -> f64 {
    requests as f64
}

/// Most that an agent may have in memory, bytes.
const AGENT_RESIDENT_MAX: u64 = 10 << 20;

fn two_tenants(stage: &Stage) -> Result<()> {
    stage.with_applications(|running| {
        let environment = stage.environment()?;
        let (edges, calls) = (edges(&environment)?, calls(running));
        running.need_catalog(&progress)?;
        traces::assert_joined(&environment, running)?;
        running.send_everything(&progress)?;
        assert_exact(stage, running)?;
        assert_edges(&environment, running, &edges, &calls)?;
        let id = environment.unique(scenario::SHOP.service);
        let sandbox = environment.exporter()?.sandbox(&id)?.context("shop is listed")?;
        let resident = sandbox["agent"]["resident_bytes"].as_u64().context("what the agent takes")?;
        ensure!(resident <= AGENT_RESIDENT_MAX, "the agent has {resident} bytes in memory");
        // What the stopped upstream made of the last requests is a span.
        wait::until("a span of the failed requests", wait::SOON, || {
            let failed = environment.exporter()?.spans("tenant=acme&errors=true")?;
            let is_bad_gateway = |span: &serde_json::Value| {
                let at_shop = span["service_name"] == scenario::SHOP.service && span["side"] == "server";
                at_shop && span["status"] == "502" && span["error_type"] == "502"
            };
            ensure!(failed.iter().any(is_bad_gateway), "{failed:#?}");
            Ok(Some(()))
        })?;
        starts::assert_in_order(&environment, &id)?;
        let others = environment.exporter()?.spans("tenant=globex")?;
        ensure!(others.iter().all(|span| span["tenant"] == "globex"), "spans of another tenant: {others:#?}");
        Ok(())
    })
}

fn totals_stay(stage: &Stage) -> Result<()> {
    stage.with_applications(|running| {
        // An instance that has served and ended.
        if running.containers.contains_key(scenario::CATALOG.service) {
            running.send_everything(&progress)?;
        }
        let environment = stage.environment()?;
        // Some time after its end, the instance's series are gone and the application's are not.
        let prometheus = environment.prometheus.as_ref().context("Prometheus")?;
        wait::until("the series of the ended sandbox go", ENDED_KEPT + wait::SOON, || {
            let series =
                prometheus.query("http_server_request_duration_seconds_count{service_name=\"catalog\"}")?;
            Ok(series.is_empty().then_some(()))
        })?;
        let labels =
            [("tenant", "acme"), ("service_name", "catalog"), ("side", "server"), ("protocol", "http1")];
        let sent = running.sent_to(scenario::CATALOG);
        ensure!(sent > 0, "nothing was sent to it");
        // A scrape that failed has no series either.
        wait::until("the application's total is what was sent", wait::SOON, || {
            let total =
                exposition::sum(&environment.exporter()?.samples()?, "porthole_app_requests_total", &labels);
            ensure!(total == Some(count(sent)), "{total:?}, {sent} were sent");
            Ok(Some(()))
        })
    })
}

fn short_lived(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let endpoint = environment.endpoint("five", 21)?;
    let id = environment.unique("five");
    let command = ["/usr/bin/python3", "/srv/five.py", "5"];
    let container =
        Launch::new("acme", &id, PORTHOLE, &command).on(&endpoint).start(&environment.containerd)?;
    scenario::wait_watched(&environment, &id)?;
    send_five(&environment, &endpoint)?;
    container.wait_stopped(wait::SOON)?;
    container.remove()?;
    let labels = [("tenant", "acme"), ("service_name", &id), ("side", "server")];
    wait::until("the five requests are counted", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        let total = exposition::sum(&samples, "porthole_app_requests_total", &labels);
        ensure!(total.is_none_or(|total| total <= 5.0), "counted {total:?} of 5");
        Ok((total == Some(5.0)).then_some(()))
    })?;
    starts::assert_in_order(&environment, &id)
}

/// Sends the five requests after which `five.py` exits.
fn send_five(environment: &Environment, endpoint: &Endpoint) -> Result<()> {
    let address = endpoint.at(8000);
    environment.from_hub(|| {
        for number in 0..5 {
            let response =
                http::Connection::open_once_listening(address)?.request("GET", &format!("/work/{number}"))?;
            ensure!(response.status == 200, "got {}", response.status);
        }
        Ok(())
    })
}

fn exporter_down(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    environment.exporter()?.stop()?;
    let service = environment.unique("down");
    let annotations = [("io.porthole.service", service.as_str())];
    for host in [22, 23] {
        let endpoint = environment.endpoint("five", host)?;
        let id = environment.unique("down");
        let command = ["/usr/bin/python3", "/srv/five.py", "5"];
        let launch = Launch { annotations: &annotations, ..Launch::new("acme", &id, PORTHOLE, &command) };
        let container = launch.on(&endpoint).start(&environment.containerd)?;
        send_five(&environment, &endpoint)?;
        container.wait_stopped(wait::SOON)?;
        container.remove()?;
    }
    environment.exporter()?.restart()?;
    let labels = [("tenant", "acme"), ("service_name", service.as_str()), ("side", "server")];
    wait::until("the ten requests are counted", wait::SOON, || {
        let samples = environment.exporter()?.samples()?;
        let total = exposition::sum(&samples, "porthole_app_requests_total", &labels);
        ensure!(total.is_none_or(|total| total <= 10.0), "counted {total:?} of 10");
        Ok((total == Some(10.0)).then_some(()))
    })
}

fn exporter_restart(stage: &Stage) -> Result<()> {
    stage.with_applications(|running| {
        let environment = stage.environment()?;
        let total = |environment: &porthole_testbed::environment::Environment| -> Result<f64> {
            let samples = environment.exporter()?.samples()?;
            let labels = [("tenant", "globex"), ("service_name", "blog"), ("side", "server")];
            Ok(exposition::sum(&samples, "porthole_app_requests_total", &labels).unwrap_or(0.0))
        };
        let before = count(running.sent_to(scenario::BLOG));
        wait::until("everything before is counted", wait::SOON, || {
            let now = total(&environment)?;
            ensure!((now - before).abs() < 0.5, "{before} were sent, {now} are counted");
            Ok(Some(()))
        })?;
        environment.exporter()?.stop()?;
        running.send_to_blog(17).context("blog serves while the exporter is down")?;
        environment.exporter()?.restart()?;
        let instance = [
            ("tenant", "globex"),
            ("service_name", "blog"),
            ("http_route", "/"),
            ("http_response_status_code", "200"),
        ];
        wait::until("the requests are counted", wait::SOON, || {
            let now = total(&environment)?;
            ensure!(now <= before + 17.0, "{before} before, 17 sent, {now} now");
            let samples = environment.exporter()?.samples()?;
            let count = exposition::sum(&samples, "http_server_request_duration_seconds_count", &instance);
            ensure!(now >= before + 17.0, "{before} before, 17 sent, {now} now; the instance has {count:?}");
            Ok(Some(()))
        })
    })
}
