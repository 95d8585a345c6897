//! `porthole sandboxes`: every sandbox of the exporter, with its state and the reason.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    exporter::{self, Client},
    table::{self, row},
};

/// Options of `porthole sandboxes`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    exporter: exporter::Options,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only this application's
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print the exporter's response: one JSON object with `sandboxes`
    #[arg(long)]
    json: bool,
}

/// What is shown of `GET /api/v1/sandboxes`.
#[derive(Debug, Deserialize)]
struct Listing {
    sandboxes: Vec<Sandbox>,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the exporter's")]
struct Sandbox {
    tenant: String,
    service_name: String,
    k8s_pod_name: String,
    sandbox_id: String,
    state: String,
    reason: Option<Reason>,
    connection: Connection,
    series: u64,
    counters: Counters,
    capture_completeness_ratio: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Reason {
    code: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Connection {
    state: String,
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Counters {
    exchanges: u64,
}

/// Requests the listing and prints it.
pub fn run(options: &Options) -> Result<()> {
    let client = Client::new(&options.exporter)?;
    let query = [("tenant", options.tenant.as_deref()), ("service_name", options.service.as_deref())];
    let path = format!("/api/v1/sandboxes{}", exporter::query(&query));
    if options.json {
        return table::json(&client.get::<Value>(&path)?).context("print");
    }
    let listing: Listing = client.get(&path)?;
    table::to_stdout(|out| print(&listing, out)).context("print")
}

fn print(listing: &Listing, out: &mut dyn Write) -> io::Result<()> {
    if listing.sandboxes.is_empty() {
        return writeln!(out, "no sandboxes");
    }
    let head =
        ["tenant", "application", "sandbox", "pod", "state", "agent", "series", "exchanges", "seen", "why"];
    let mut rows = vec![row(head)];
    rows.extend(listing.sandboxes.iter().map(|sandbox| {
        row([
            &sandbox.tenant,
            &sandbox.service_name,
            shortened(&sandbox.sandbox_id),
            if sandbox.k8s_pod_name.is_empty() { "-" } else { &sandbox.k8s_pod_name },
            &sandbox.state,
            &sandbox.connection.state,
            &sandbox.series.to_string(),
            &sandbox.counters.exchanges.to_string(),
            &sandbox.capture_completeness_ratio.map_or("-".into(), |ratio| format!("{:.1}%", ratio * 100.0)),
            &why(sandbox),
        ])
    }));
    table::print(&rows, &[6, 7, 8], out)
}

/// Why there is no agent, or why it is not reached.
fn why(sandbox: &Sandbox) -> String {
    match (&sandbox.reason, &sandbox.connection.last_error) {
        (Some(reason), _) => format!("{}: {}", reason.code, reason.message),
        (None, Some(error)) if sandbox.connection.state != "connected" && sandbox.state != "ended" => {
            error.clone()
        }
        _ => "-".into(),
    }
}

/// Kubernetes' ids have 64 digits, of which the first twelve distinguish sandboxes.
fn shortened(id: &str) -> &str {
    let hexadecimal = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal { &id[..12] } else { id }
}
