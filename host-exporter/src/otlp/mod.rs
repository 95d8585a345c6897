//! Traces in OpenTelemetry's form, sent to collectors and backends by OTLP (OpenTelemetry, "OTLP Specification" 1.9).
//!
//! ```text
//! traces: whole and quiet ─► spans: OpenTelemetry's form ─► queue of each destination ─► transport: gRPC, HTTP
//!                                                                      └─ waits and sends again
//! ```
//!
//! Invariants:
//! - a destination gets the traces of its tenants alone;
//! - a queue is bounded in requests and bytes, and shared by tenants. What it has no room for is counted, never waited for;
//! - what a destination refuses for good is not sent again.

mod destination;
mod queue;
mod spans;
mod transport;

pub use self::{destination::Destinations, transport::TransportError};
use crate::config::otlp::Otlp;

/// Reads what destinations need, such as the authorities of their certificates, without connecting: what it takes can be started.
pub fn check(all: &[Otlp]) -> Result<(), TransportError> {
    all.iter().try_for_each(transport::check)
}
