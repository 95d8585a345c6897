//! The exposition: what the exporter knows, in the form that a scraper asks for.
//!
//! Four parts: the applications' golden values ([`applications`]), the agents' counts by tenant and the exporter's about
//! itself ([`own`]), the instance dimension ([`instances`]). Each writes to a [`sink::Sink`]: OpenMetrics text
//! ([`text`]) or Prometheus' protobuf with native histograms ([`protobuf`]). No `_created` samples: Prometheus reads them
//! as series of their own.

pub mod applications;
pub mod buckets;
pub mod instances;
pub mod labels;
pub mod own;
pub mod protobuf;
pub mod sink;
pub mod text;

use std::sync::Arc;

use self::sink::{Output, Sink};
use crate::{
    fleet::{
        Fleet,
        sandbox::{Phase, Sandbox},
    },
    ledger::Durable,
};

/// A form of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// OpenMetrics text, for a client that knows it.
    OpenMetrics,
    /// The same bytes for a client that does not; read as the older text format, counters lose their type.
    Text,
    /// Prometheus' protobuf, with native histograms.
    Protobuf,
}

impl Format {
    /// Its media type (OpenMetrics 1.0.0, section Content-Type; Prometheus, "Exposition formats").
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Encodes the whole exposition. Returns the ended sandboxes in it, for which the scrape counts once it is delivered.
pub fn encode(fleet: &Fleet, totals: &Durable, format: Format, output: &mut dyn Output) -> Vec<Arc<Sandbox>> {
    match format {
        Format::OpenMetrics | Format::Text => {
            let mut text = text::Text::new(output);
            let ended = write(fleet, totals, &mut text);
            text.finish();
            ended
        }
        Format::Protobuf => {
            let mut protobuf = protobuf::Protobuf::new(output);
            let ended = write(fleet, totals, &mut protobuf);
            protobuf.finish();
            ended
        }
    }
}

fn write(fleet: &Fleet, totals: &Durable, sink: &mut dyn Sink) -> Vec<Arc<Sandbox>> {
    let mut sandboxes = fleet.sandboxes();
    let ended =
        sandboxes.iter().filter(|sandbox| matches!(sandbox.phase(), Phase::Ended { .. })).cloned().collect();
    applications::encode(sink, &totals.applications);
    own::encode(sink, fleet, &totals.tenant_counters, &sandboxes);
    sandboxes.retain(|sandbox| sandbox.phase().exposes_series());
    instances::encode(sink, &sandboxes);
    ended
}

#[cfg(test)]
mod tests;
