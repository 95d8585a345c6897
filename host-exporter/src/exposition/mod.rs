//! The exposition: all metrics, in the format that a scraper accepts.
//!
//! Its parts: the applications' golden values ([`applications`]), who calls whom ([`service_graph`]), the agents' counts by tenant and
//! the exporter's about itself ([`own`]), the instance dimension ([`instances`]), the connections to each address ([`dependencies`]), how long sandboxes take to start ([`starts`]), and
//! what containers and guests take ([`resources`]). Each writes to a [`sink::Sink`]: OpenMetrics text
//! ([`text`]) or Prometheus' protobuf with native histograms ([`protobuf`]). No `_created` samples: Prometheus reads them
//! as series of their own.

pub mod applications;
pub mod dependencies;
pub mod instances;
pub mod own;
pub mod protobuf;
pub mod resources;
pub mod service_graph;
pub mod sink;
pub mod starts;
pub mod text;

use std::sync::Arc;

use self::sink::{Output, Sink};
use crate::{
    fleet::{
        Fleet,
        sandbox::{Phase, Sandbox},
    },
    ledger::Durable,
    spans::Exemplars,
    topology::Topology,
};

/// A form of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// OpenMetrics text, for a client that accepts it.
    OpenMetrics,
    /// The same without exemplars for a client that does not; read as the older text format, counters lose their type.
    Text,
    /// Prometheus' protobuf, with native histograms.
    Protobuf {
        /// With classic buckets besides.
        classic: bool,
    },
}

impl Format {
    /// Its media type (OpenMetrics 1.0.0, section Content-Type; Prometheus, "Exposition formats").
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf { .. } => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Encodes the exposition of everything, or of what belongs to one tenant. Returns the ended sandboxes in it, for which the
/// scrape counts once it is delivered.
pub fn encode(
    fleet: &Fleet,
    totals: &Durable,
    topology: &Topology,
    of: Option<&str>,
    format: Format,
    output: &mut dyn Output,
) -> Vec<Arc<Sandbox>> {
    match format {
        Format::OpenMetrics | Format::Text => {
            let mut text = text::Text::new(output);
            let has_exemplars = format == Format::OpenMetrics;
            let exemplars = if has_exemplars { fleet.spans.exemplars(of) } else { Exemplars::default() };
            let ended = write(fleet, totals, topology, of, &exemplars, &mut text);
            text.finish();
            ended
        }
        Format::Protobuf { classic } => {
            let mut protobuf = protobuf::Protobuf::new(output, classic);
            let ended = write(fleet, totals, topology, of, &fleet.spans.exemplars(of), &mut protobuf);
            protobuf.finish();
            ended
        }
    }
}

/// Writes all families of everything, or of what belongs to one tenant, and gives the ended sandboxes in it.
pub fn write(
    fleet: &Fleet,
    totals: &Durable,
    topology: &Topology,
    of: Option<&str>,
    exemplars: &Exemplars,
    sink: &mut dyn Sink,
) -> Vec<Arc<Sandbox>> {
    let mut sandboxes = fleet.sandboxes_of(of);
    let ended =
        sandboxes.iter().filter(|sandbox| matches!(sandbox.phase(), Phase::Ended { .. })).cloned().collect();
    applications::encode(sink, &totals.applications_of(of), &fleet.objectives);
    service_graph::encode(sink, &topology.exposed(of), &sandboxes);
    match of {
        None => own::encode(sink, fleet, &totals.tenant_counters, &sandboxes),
        Some(tenant) => own::encode_tenant(sink, fleet, tenant, totals, &sandboxes),
    }
    sandboxes.retain(|sandbox| sandbox.phase().exposes_series());
    starts::encode(sink, fleet, of);
    instances::encode(sink, &sandboxes, exemplars);
    dependencies::encode(sink, &sandboxes);
    resources::encode(sink, &sandboxes);
    ended
}

#[cfg(test)]
mod tests;
