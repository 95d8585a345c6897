//! `porthole topology`: who calls whom, as a tree of each application's calls.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    exporter::{self, Client},
    table::{self, printable},
};

/// Options of `porthole topology`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    exporter: exporter::Options,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// How far back, at most an hour
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    seconds: u64,
    /// Print the exporter's response: one JSON object with `nodes` and `edges`
    #[arg(long)]
    json: bool,
}

/// What is shown of `GET /api/v1/topology`.
#[derive(Debug, Deserialize)]
struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    edges_left_out: u64,
    window_seconds: u64,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    kind: String,
    tenant: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Edge {
    from: String,
    to: String,
    protocol: String,
    requests: u64,
    errors: u64,
    rate: f64,
    seconds: Seconds,
}

#[derive(Debug, Deserialize)]
struct Seconds {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Requests the graph and prints it.
pub fn run(options: &Options) -> Result<()> {
    let client = Client::new(&options.exporter)?;
    let seconds = options.seconds.to_string();
    let query = [("tenant", options.tenant.as_deref()), ("seconds", Some(seconds.as_str()))];
    let path = format!("/api/v1/topology{}", exporter::query(&query));
    if options.json {
        return table::json(&client.get::<Value>(&path)?).context("print");
    }
    let graph: Graph = client.get(&path)?;
    table::to_stdout(|out| print(&graph, out)).context("print")
}

impl Node {
    /// Its name, and its kind where that is not an application.
    fn label(&self) -> String {
        match (self.kind.as_str(), self.name.as_str()) {
            ("application", name) => name.to_owned(),
            ("another-tenant", _) => "another tenant".to_owned(),
            ("outside", "") => "outside".to_owned(),
            (kind, "") => kind.to_owned(),
            (kind, name) => format!("{name} ({kind})"),
        }
    }
}

fn print(graph: &Graph, out: &mut dyn Write) -> io::Result<()> {
    if graph.edges.is_empty() {
        return writeln!(out, "no calls in the last {} s", graph.window_seconds);
    }
    writeln!(out, "last {} s, quantiles in ms", graph.window_seconds)?;
    let nodes: BTreeMap<&str, &Node> = graph.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let label = |id: &str| nodes.get(id).map_or_else(|| id.to_owned(), |node| node.label());
    let tenant = |id: &str| nodes.get(id).map_or("", |node| node.tenant.as_str());
    // By tenant and caller; each one's calls are in the exporter's order, the busiest first.
    let mut callers: BTreeMap<(&str, String, &str), Vec<&Edge>> = BTreeMap::new();
    for edge in &graph.edges {
        callers.entry((tenant(&edge.from), label(&edge.from), &edge.from)).or_default().push(edge);
    }
    let mut rows =
        vec![["", "protocol", "requests/s", "errors", "p50", "p99", "requests"].map(str::to_owned).to_vec()];
    let mut before = None;
    for ((tenant, caller, _), edges) in callers {
        if before.replace(tenant) != Some(tenant) {
            rows.push(heading(tenant));
        }
        rows.push(heading(&format!("  {caller}")));
        for (at, edge) in edges.iter().enumerate() {
            let branch = if at + 1 == edges.len() { "└─" } else { "├─" };
            rows.push(cells(&format!("  {branch} {}", label(&edge.to)), edge));
        }
    }
    table::print(&rows, &[2, 3, 4, 5, 6], out)?;
    if graph.edges_left_out > 0 {
        writeln!(out, "{} edges with fewer requests are left out", graph.edges_left_out)?;
    }
    Ok(())
}

fn heading(text: &str) -> Vec<String> {
    let mut row = vec![String::new(); 7];
    row[0] = printable(text);
    row
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn cells(to: &str, edge: &Edge) -> Vec<String> {
    let ms = |seconds: Option<f64>| seconds.map_or("-".into(), |seconds| format!("{:.2}", seconds * 1000.0));
    let share = edge.errors as f64 / edge.requests.max(1) as f64 * 100.0;
    table::row([
        to,
        &edge.protocol,
        &format!("{:.1}", edge.rate),
        &format!("{share:.1}%"),
        &ms(edge.seconds.p50),
        &ms(edge.seconds.p99),
        &edge.requests.to_string(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_printed_as_a_tree_of_each_callers_calls() {
        let graph = r#"{"window_seconds": 300, "end_unix_ms": 0, "edges_left_out": 2,
            "nodes": [
                {"id": "a", "kind": "application", "tenant": "acme", "name": "shop", "monitored": true},
                {"id": "d", "kind": "database", "tenant": "acme", "name": "db\u001b[2J", "monitored": true, "protocol": "mysql"},
                {"id": "o", "kind": "outside", "tenant": "acme", "name": "", "monitored": false},
                {"id": "n", "kind": "another-tenant", "tenant": "acme", "name": "", "monitored": false}],
            "edges": [
                {"from": "o", "to": "a", "protocol": "http1", "counted_by": "server", "requests": 300, "errors": 3, "rate": 1.0, "seconds": {"p50": null, "p90": null, "p99": null}},
                {"from": "a", "to": "d", "protocol": "mysql", "counted_by": "client", "requests": 30, "errors": 0, "rate": 0.1, "seconds": {"p50": 0.001, "p90": 0.001, "p99": 0.5}},
                {"from": "a", "to": "n", "protocol": "http1", "counted_by": "client", "requests": 3, "errors": 3, "rate": 0.01, "seconds": {"p50": 0.001, "p90": 0.001, "p99": 0.001}}]}"#;
        let graph: Graph = serde_json::from_str(graph).expect("a graph");
        let mut out = Vec::new();
        print(&graph, &mut out).expect("printed");
        let out = String::from_utf8(out).expect("text");
        let lines: Vec<_> =
            out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "last 300 s, quantiles in ms",
                "protocol requests/s errors p50 p99 requests",
                "acme",
                "outside",
                "└─ shop http1 1.0 1.0% - - 300",
                "shop",
                "├─ db\u{fffd}[2J (database) mysql 0.1 0.0% 1.00 500.00 30",
                "└─ another tenant http1 0.0 100.0% 1.00 1.00 3",
                "2 edges with fewer requests are left out",
            ]
        );
    }
}
