//! Do the dashboards show what real guests did?

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use porthole_testbed::{
    command,
    scenario::{CATALOG, Running, SHOP, Side},
};
use porthole_trials::needs;
use serde_json::{Value, json};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[("pages::each_page_has_the_numbers_of_real_guests", numbers)];

/// How long all pages may take: each number that has not arrived is waited for.
const DEADLINE: Duration = Duration::from_mins(10);

fn numbers(stage: &Stage) -> Result<()> {
    let web = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../host-exporter/web"));
    needs::program("node")?;
    needs::program("chromium")?;
    needs::file(&web.join("node_modules/playwright-core").display().to_string())?;
    stage.with_applications(|running| {
        // An exporter that was restarted has no history of what was sent before, and other tests end the upstream.
        if !running.containers.contains_key(CATALOG.service) {
            running.restart_catalog(&|line| eprintln!("{line}"))?;
        }
        running.send_first_round()?;
        let address = stage.environment()?.exporter()?.address;
        let mut driver = Command::new("node");
        driver
            .arg(web.join("browser/real.mjs"))
            .arg(format!("http://{address}"))
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("../web/real"))
            .arg(Value::from(pages(running)).to_string());
        command::succeed(&mut driver, DEADLINE)?;
        Ok(())
    })
}

/// The pages, and what each has to show.
fn pages(running: &Running) -> Vec<Value> {
    let page = |name: &str, view: &str, texts: &[&str], cells: &[Value]| json!({ "name": name, "view": view, "texts": texts, "cells": cells });
    let any = |row: &str, column: &str| json!({ "row": row, "column": column });
    let counted = |side: Side| -> Vec<Value> {
        let requests = running.sent_by_route(SHOP, side).into_iter();
        let cell = |((method, route), count): ((String, String), u64)| json!({ "row": format!("{method} {route}"), "column": "Requests", "value": count.to_string() });
        requests.map(cell).collect()
    };
    let served = json!({ "row": running.instance(SHOP), "column": "Serves", "value": running.sent_to(SHOP).to_string() });
    let instance = running.instance(SHOP);
    let shop = "#/application/acme/shop";
    vec![
        page(
            "applications",
            "#/applications",
            &["globex"],
            &[any("shop", "Rate"), any("catalog", "p99"), any("blog", "Errors")],
        ),
        page("application", shop, &["Availability", "Durations over time"], &counted(Side::Server)),
        page("called", &format!("{shop}?part=called"), &["TCP connections", ":8000"], &counted(Side::Client)),
        page("instances", &format!("{shop}?part=instances"), &[], &[served]),
        page(
            "resources",
            &format!("{shop}?part=resources"),
            &["Containers", "Guests"],
            &[any(instance, "Threads"), any(instance, "CPU (cores)"), any(instance, "Memory")],
        ),
        // Quantiles are of sandboxes that were created since the exporter began, which another test may have restarted.
        page(
            "starts",
            &format!("{shop}?part=starts"),
            &["Machine", "Agent"],
            &[any(instance, "First process"), any(instance, "First listen"), any(instance, "First request")],
        ),
        page("topology", "#/map?filter=acme", &["catalog"], &[any("shop", "Rate"), any("shop", "p99")]),
        page(
            "operator",
            "#/operator",
            &["watching"],
            &[any("acme", "Completeness"), any(instance, "Memory"), any(instance, "Series")],
        ),
    ]
}
