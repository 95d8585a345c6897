//! Is a request that goes through two sandboxes one trace?

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use porthole_testbed::{environment::Environment, scenario::Running, wait};
use serde_json::Value;

/// Sends failing requests through `shop` to `catalog` until one of them is a trace of three spans: only what failed is sampled for sure,
/// which is the middle one. Demands that none of the traces has another's call. No program propagates anything: `shop` is an nginx that
/// adds no headers.
pub fn assert_joined(environment: &Environment, running: &mut Running) -> Result<()> {
    let query = "tenant=acme&service_name=catalog&errors=true&spans_min=3";
    let listed = wait::until("a trace through two sandboxes", wait::SOON, || {
        running.send_for_missing()?;
        wait::hold(Duration::from_millis(500))?;
        let traces = environment.exporter()?.traces(query)?;
        Ok((!traces.is_empty()).then_some(traces))
    })?;
    for summary in listed {
        let id = summary["trace_id"].as_str().context("a trace's id")?;
        let tree = environment.exporter()?.tree("acme", id)?;
        let found: Vec<_> = tree.iter().map(place).collect();
        let [served, called, answered] = &found[..] else { bail!("{} spans: {tree:#?}", tree.len()) };
        ensure!(*served == ("shop", "server", "404", None), "{tree:#?}");
        ensure!(matches!(called, ("shop", "client", "404", Some("thread" | "task"))), "{tree:#?}");
        ensure!(*answered == ("catalog", "server", "404", Some("connection")), "{tree:#?}");
        ensure!(tree.iter().all(|span| span["resource"] == "/items/{}"), "{tree:#?}");
        let depths: Vec<_> = tree.iter().filter_map(|span| span["depth"].as_u64()).collect();
        ensure!(depths == [0, 1, 2], "{tree:#?}");
    }
    let others = environment.exporter()?.traces("tenant=globex")?;
    ensure!(others.iter().all(|trace| trace["tenant"] == "globex"), "traces of another tenant: {others:#?}");
    Ok(())
}

/// Whose span it is: application, side, status, and how its parent is known.
fn place(span: &Value) -> (&str, &str, &str, Option<&str>) {
    let text = |name: &str| span[name].as_str().unwrap_or_default();
    (text("service_name"), text("side"), text("status"), span["certainty"].as_str())
}
