//! Traces and metrics in OpenTelemetry's form, sent to collectors and backends by OTLP (OpenTelemetry, "OTLP Specification" 1.9).
//!
//! ```text
//! traces: whole and quiet ─► spans: OpenTelemetry's form ──┐
//! a tenant's exposition ─► metrics: OpenTelemetry's form ──┴► queues of each destination ─► transport: gRPC, HTTP
//!                            └ starts: since when values count               └─ waits and sends again
//! ```
//!
//! Invariants:
//! - a destination gets what there is of its tenants alone;
//! - a queue is bounded in requests and bytes, and shared by tenants. What it has no room for is counted, never waited for;
//! - what a destination refuses for good is not sent again.

mod attributes;
mod destination;
mod metric_rounds;
mod metrics;
mod names;
mod queue;
mod signal;
mod spans;
mod starts;
mod traces;
mod transport;

pub use self::{
    destination::Destinations,
    metric_rounds::{MetricRounds, keep},
    traces::Outgoing,
    transport::TransportError,
};
use crate::config::otlp::Otlp;

/// Reads what destinations need, such as the authorities of their certificates, without connecting: what it takes can be started.
pub fn check(all: &[Otlp]) -> Result<(), TransportError> {
    all.iter().try_for_each(transport::check)
}
