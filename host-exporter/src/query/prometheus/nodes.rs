//! The exporters of all nodes, by what they report about themselves to a Prometheus server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Element, Prometheus, QueryError, Sample};
use crate::query::Selection;

/// Nodes in one answer; further ones are counted.
const NODES_MAX: usize = 5_000;

/// Exporters that the server has scraped in the last hour, and whether it can now.
const UP: &str = "up and on (job, instance) last_over_time(porthole_build_info[1h])";

/// What each reports about itself.
const GAUGES: &str = "{__name__=~\"porthole_build_info|porthole_exporter_resident_bytes|porthole_exporter_memory_limit_bytes\
|porthole_exporter_accounted_bytes|porthole_exporter_accounted_bytes_limit|porthole_exporter_last_scrape_duration_seconds\"}";

const SANDBOXES: &str = "sum by (job, instance, state) (porthole_sandboxes)";

const COMPLETENESS: &str = "min by (job, instance) (porthole_capture_completeness_ratio)";

const INGEST_CPU: &str = "sum by (job, instance) (rate(porthole_tenant_ingest_cpu_seconds_total[5m]))";

/// Exporters.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Nodes {
    /// By their address at the server.
    pub nodes: Vec<Node>,
    /// The number of those for which the answer has no room.
    pub nodes_left_out: usize,
}

/// An exporter. What the server does not know is absent: of one that it cannot scrape, all but the name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// Its address, as the server names it.
    pub instance: Box<str>,
    /// The server's job.
    pub job: Box<str>,
    /// Whether the server's last scrape succeeded.
    pub up: bool,
    /// The exporter's version.
    pub version: Option<Box<str>>,
    /// Sandboxes by state.
    pub sandboxes: BTreeMap<Box<str>, u64>,
    /// Capture completeness of the tenant with the lowest one.
    pub completeness_ratio_min: Option<f64>,
    /// Memory of the process.
    pub resident_bytes: Option<u64>,
    /// What it may take.
    pub memory_limit_bytes: Option<u64>,
    /// Memory that is charged to tenants.
    pub accounted_bytes: Option<u64>,
    /// What may be charged to them.
    pub accounted_bytes_limit: Option<u64>,
    /// CPU time that batches of agents take, seconds a second, over five minutes.
    pub ingest_cpu_cores: Option<f64>,
    /// Time that the last whole scrape took.
    pub last_scrape_duration_seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    __name__: Box<str>,
    job: Box<str>,
    instance: Box<str>,
    state: Box<str>,
    version: Box<str>,
}

impl Prometheus {
    /// All nodes' exporters at a time in seconds since 1970.
    pub async fn nodes(&self, unix_seconds: u64) -> Result<Nodes, QueryError> {
        let (all, time) = (Selection::default(), unix_seconds.to_string());
        let (up, gauges, sandboxes, completeness, cpu) = self
            .question(None, async |turn| {
                let ask = async |expression| {
                    let parameters = [("query", expression), ("time", &*time)];
                    self.evaluate::<Labels>(turn, &all, "query", &parameters).await
                };
                tokio::try_join!(ask(UP), ask(GAUGES), ask(SANDBOXES), ask(COMPLETENESS), ask(INGEST_CPU))
            })
            .await?;
        let mut known = Known::of(&up);
        known.set(gauges, |node, labels, value| match &*labels.__name__ {
            "porthole_build_info" => node.version = Some(labels.version),
            "porthole_exporter_resident_bytes" => node.resident_bytes = Some(whole(value)),
            "porthole_exporter_memory_limit_bytes" => node.memory_limit_bytes = Some(whole(value)),
            "porthole_exporter_accounted_bytes" => node.accounted_bytes = Some(whole(value)),
            "porthole_exporter_accounted_bytes_limit" => node.accounted_bytes_limit = Some(whole(value)),
            "porthole_exporter_last_scrape_duration_seconds" => {
                node.last_scrape_duration_seconds = Some(value);
            }
            _ => {}
        });
        known.set(sandboxes, |node, labels, value| {
            node.sandboxes.insert(labels.state, whole(value));
        });
        known.set(completeness, |node, _, value| node.completeness_ratio_min = Some(value));
        known.set(cpu, |node, _, value| node.ingest_cpu_cores = Some(value));
        Ok(Nodes { nodes: known.nodes.into_values().collect(), nodes_left_out: known.left_out })
    }
}

/// Nodes by instance and job.
struct Known {
    nodes: BTreeMap<(Box<str>, Box<str>), Node>,
    left_out: usize,
}

impl Known {
    fn of(up: &[Element<Labels>]) -> Self {
        let mut nodes = BTreeMap::new();
        for Element { metric, value, .. } in up.iter().take(NODES_MAX) {
            let (instance, job) = (metric.instance.clone(), metric.job.clone());
            let up = value.is_some_and(|Sample(_, value)| value > 0.0);
            let node = Node { instance: instance.clone(), job: job.clone(), up, ..Node::default() };
            nodes.insert((instance, job), node);
        }
        Self { nodes, left_out: up.len().saturating_sub(NODES_MAX) }
    }

    /// Adds a value of those that are up. Of tenants' scrapes of an exporter (`/tenants/<tenant>/metrics`) nothing is added: they are no nodes.
    fn set(&mut self, elements: Vec<Element<Labels>>, mut set: impl FnMut(&mut Node, Labels, f64)) {
        for Element { mut metric, value, .. } in elements {
            let at = (std::mem::take(&mut metric.instance), std::mem::take(&mut metric.job));
            let value = value.map(|Sample(_, value)| value).filter(|value| value.is_finite());
            if let (Some(node), Some(value)) = (self.nodes.get_mut(&at).filter(|node| node.up), value) {
                set(node, metric, value);
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    // Beyond the range it saturates.
    value.round() as u64
}
