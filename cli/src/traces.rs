//! `porthole traces`: the newest traces as a table, or one as a tree of its calls with the time of each.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    exporter::{self, Client},
    table::{self, printable},
};

/// Options of `porthole traces`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    exporter: exporter::Options,
    /// The trace to show; all are listed without it
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only those that went through this application
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    service_name: Option<String>,
    /// Only those with this route, table, or topic
    #[arg(long, conflicts_with = "id")]
    route: Option<String>,
    /// Only those that took as long
    #[arg(long, value_name = "MS", conflicts_with = "id")]
    duration_ms_min: Option<u64>,
    /// Only those in which something failed
    #[arg(long, conflicts_with = "id")]
    errors: bool,
    /// Only those of as many spans
    #[arg(long, value_name = "NUMBER", conflicts_with = "id")]
    spans_min: Option<u64>,
    /// So many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20, conflicts_with = "id")]
    limit: u64,
    /// Print the exporter's response: one JSON object with `traces`
    #[arg(long)]
    json: bool,
}

/// What is shown of `GET /api/v1/traces`.
#[derive(Debug, Deserialize)]
struct Listing {
    traces: Vec<Trace>,
    #[serde(default)]
    left_out: u64,
}

#[derive(Debug, Deserialize)]
struct Trace {
    #[serde(rename = "trace_id")]
    id: String,
    tenant: String,
    service_name: String,
    operation: String,
    resource: String,
    status: String,
    start_unix_ns: u64,
    duration_ns: u64,
    clock_error_ns: u64,
    spans: u64,
    errors: u64,
    #[serde(default)]
    tree: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    certainty: Option<String>,
    depth: usize,
    start_unix_ns: u64,
    clock_error_ns: u64,
    duration_ns: u64,
    service_name: String,
    side: String,
    protocol: String,
    operation: String,
    resource: String,
    status: String,
    error: String,
}

/// Requests traces and prints them.
pub fn run(options: &Options) -> Result<()> {
    let client = Client::new(&options.exporter)?;
    let path = path(options)?;
    if options.json {
        return table::json(&client.get::<Value>(&path)?).context("print");
    }
    let listing: Listing = client.get(&path)?;
    match &options.id {
        None => table::to_stdout(|out| list(&listing, out)).context("print"),
        Some(id) => {
            ensure!(!listing.traces.is_empty(), "no trace {} is kept", printable(id));
            table::to_stdout(|out| listing.traces.iter().try_for_each(|trace| waterfall(trace, out)))
                .context("print")
        }
    }
}

fn path(options: &Options) -> Result<String> {
    let tenant = options.tenant.as_deref();
    if let Some(id) = &options.id {
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(is_id, "a trace's id has 32 hexadecimal digits");
        return Ok(format!("/api/v1/traces/{id}{}", exporter::query(&[("tenant", tenant)])));
    }
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let (least, spans, limit) =
        (number(options.duration_ms_min), number(options.spans_min), options.limit.to_string());
    let query = [
        ("tenant", tenant),
        ("service_name", options.service_name.as_deref()),
        ("route", options.route.as_deref()),
        ("duration_ms_min", least.as_deref()),
        ("errors", options.errors.then_some("true")),
        ("spans_min", spans.as_deref()),
        ("limit", Some(&limit)),
    ];
    Ok(format!("/api/v1/traces{}", exporter::query(&query)))
}

fn list(listing: &Listing, out: &mut dyn Write) -> io::Result<()> {
    if listing.traces.is_empty() {
        return writeln!(out, "no traces");
    }
    let head = ["trace", "began", "tenant", "application", "request", "status", "ms", "spans", "errors"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(listing.traces.iter().map(|trace| {
        table::row([
            &trace.id,
            &time(trace.start_unix_ns),
            &trace.tenant,
            &trace.service_name,
            &request(&trace.operation, &trace.resource),
            &trace.status,
            &ms(trace.duration_ns),
            &trace.spans.to_string(),
            &trace.errors.to_string(),
        ])
    }));
    table::print(&rows, &[6, 7, 8], out)?;
    if listing.left_out > 0 {
        writeln!(out, "{} older ones are left out", listing.left_out)?;
    }
    Ok(())
}

fn request(operation: &str, resource: &str) -> String {
    format!("{operation} {resource}").trim().to_owned()
}

/// The time of day, UTC.
fn time(unix_ns: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_millis(time).to_string()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ms(ns: u64) -> String {
    format!("{:.2}", ns as f64 / 1e6)
}

/// Columns of the picture of a trace.
const WIDTH: u64 = 40;

/// The widest indentation: calls of calls of calls.
const DEPTH_MAX: usize = 24;

fn waterfall(trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
    let summary = [
        format!("trace {}", trace.id),
        trace.tenant.clone(),
        format!("{} ±{} ms", time(trace.start_unix_ns), ms(trace.clock_error_ns)),
        format!("{} ms", ms(trace.duration_ns)),
    ];
    writeln!(out, "{}", printable(&summary.join(", ")))?;
    let begin = trace.tree.iter().map(|node| node.start_unix_ns).min().unwrap_or_default();
    let end = |node: &Node| node.start_unix_ns.saturating_add(node.duration_ns);
    let whole = trace.tree.iter().map(end).max().unwrap_or_default().saturating_sub(begin).max(1);
    let head = ["", "status", "begins ms", "± ms", "ms", "link", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(trace.tree.iter().map(|node| {
        let after = node.start_unix_ns.saturating_sub(begin);
        let name = format!(
            "{}{} {} {} {}",
            "  ".repeat(node.depth.min(DEPTH_MAX)),
            node.service_name,
            node.side,
            node.protocol,
            request(&node.operation, &node.resource),
        );
        let status = if node.error == "none" { node.status.clone() } else { format!("{} !", node.status) };
        table::row([
            &name,
            &status,
            &ms(after),
            &ms(node.clock_error_ns),
            &ms(node.duration_ns),
            node.certainty.as_deref().unwrap_or("-"),
            &bar(after, node.duration_ns, whole),
        ])
    }));
    table::print(&rows, &[2, 3, 4], out)
}

/// A span's part of the trace's time.
fn bar(after: u64, duration: u64, whole: u64) -> String {
    // As wide as the picture at most, so it has a size.
    let columns = |ns: u64| {
        let columns = u128::from(ns) * u128::from(WIDTH) / u128::from(whole);
        usize::try_from(columns.min(u128::from(WIDTH))).unwrap_or_default()
    };
    let (from, to) = (columns(after), columns(after.saturating_add(duration)));
    let width = (to - from).max(1);
    format!("|{}{}", " ".repeat(from), "▇".repeat(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(tree: &str) -> Trace {
        let text = format!(
            r#"{{"trace_id": "0af7651916cd43dd8448eb211c80319c", "tenant": "acme", "service_name": "shop", "operation": "GET",
            "resource": "/items/{{}}", "status": "200", "start_unix_ns": 1700000000000000000, "duration_ns": 100000000,
            "clock_error_ns": 500000, "spans": 2, "errors": 1, "tree": {tree}}}"#
        );
        serde_json::from_str(&text).expect("a trace")
    }

    fn printed(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<String> {
        let mut out = Vec::new();
        print(&mut out).expect("printed");
        let out = String::from_utf8(out).expect("text");
        out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn traces_are_listed_by_their_first_span() {
        let listing = Listing { traces: vec![trace("[]")], left_out: 3 };
        assert_eq!(
            printed(|out| list(&listing, out)),
            [
                "trace began tenant application request status ms spans errors",
                "0af7651916cd43dd8448eb211c80319c 2023-11-14T22:13:20.000Z acme shop GET /items/{} 200 100.00 2 1",
                "3 older ones are left out",
            ]
        );
        assert_eq!(printed(|out| list(&Listing { traces: Vec::new(), left_out: 0 }, out)), ["no traces"]);
    }

    #[test]
    fn a_trace_is_a_tree_with_the_time_of_each_span() {
        let node = |name: &str, depth: usize, link: &str, after: u64, ms: u64, error: &str| {
            format!(
                r#"{{"certainty": {link}, "depth": {depth}, "start_unix_ns": {}, "clock_error_ns": 250000, "duration_ns": {},
                "service_name": "{name}", "side": "server", "protocol": "http1", "operation": "GET", "resource": "/", "status": "200",
                "error": "{error}"}}"#,
                1_700_000_000_000_000_000 + after * 1_000_000,
                ms * 1_000_000,
            )
        };
        let all = [
            node("shop", 0, "null", 0, 100, "none"),
            node("db\\u001b[2J", 1, "\"connection\"", 50, 25, "server"),
            node("late", 9_999, "\"thread\"", 5_000, 18_000_000_000, "none"),
        ];
        let waterfall = |count: usize| {
            let trace = trace(&format!("[{}]", all[..count].join(",")));
            printed(|out| super::waterfall(&trace, out))
        };
        let bar = |from: usize, width: usize| format!("|{}{}", " ".repeat(from.min(1)), "▇".repeat(width));
        assert_eq!(
            waterfall(2),
            [
                "trace 0af7651916cd43dd8448eb211c80319c, acme, 2023-11-14T22:13:20.000Z ±0.50 ms, 100.00 ms"
                    .to_owned(),
                "status begins ms ± ms ms link".to_owned(),
                format!("shop server http1 GET / 200 0.00 0.25 100.00 - {}", bar(0, 40)),
                format!("db\u{fffd}[2J server http1 GET / 200 ! 50.00 0.25 25.00 connection {}", bar(20, 10)),
            ]
        );
        assert!(waterfall(3).iter().all(|line| line.chars().count() < 300), "any times and depths are shown");
    }
}
