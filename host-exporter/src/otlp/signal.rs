//! What is sent to a destination.

use prometheus_client::metrics::counter::Counter;

use crate::{config::otlp::Otlp, own::OwnCounts};

/// One of OTLP's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

/// Where the exporter counts what became of items.
pub(super) struct Counts<'a> {
    pub sent: &'a Counter,
    pub refused: &'a Counter,
    pub undelivered: &'a Counter,
}

impl Signal {
    pub const ALL: [Self; 2] = [Self::Traces, Self::Metrics];

    /// Its path over HTTP.
    pub fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }

    /// What requests have.
    pub fn items(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "points",
        }
    }

    /// Whether a destination gets it.
    pub fn is_of(self, otlp: &Otlp) -> bool {
        match self {
            Self::Traces => otlp.traces,
            Self::Metrics => otlp.metrics,
        }
    }

    pub fn counts(self, own: &OwnCounts) -> Counts<'_> {
        match self {
            Self::Traces => Counts {
                sent: &own.otlp_spans_sent,
                refused: &own.otlp_spans_refused,
                undelivered: &own.otlp_spans_undelivered,
            },
            Self::Metrics => Counts {
                sent: &own.otlp_points_sent,
                refused: &own.otlp_points_refused,
                undelivered: &own.otlp_points_undelivered,
            },
        }
    }
}
