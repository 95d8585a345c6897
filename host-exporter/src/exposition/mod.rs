//! The OpenMetrics exposition, encoded by prometheus-client from the fleet's state while it is sent.
//!
//! Four parts, each a collector: the instance dimension ([`instances`]), the applications' golden values
//! ([`applications`]), the agents' counts by tenant and the exporter's about itself ([`own`]). No `_created` samples:
//! Prometheus reads them as series of their own.

pub mod applications;
pub mod buckets;
pub mod instances;
pub mod labels;
pub mod own;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use crate::fleet::{
    Fleet,
    sandbox::{Phase, Sandbox},
};

/// What a client gets that understands OpenMetrics (OpenMetrics 1.0.0, section Content-Type).
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What other clients get. The body is the same; read as the older text format, counters lose their type.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Raised while the encoder holds a sandbox's lock: a writer must not wait for its client then, or a slow client would
/// hold up the sandbox's agent.
pub type Holding = Arc<AtomicBool>;

/// Encodes the whole exposition. Returns the ended sandboxes in it, for which the scrape counts once it is delivered.
pub fn encode(
    fleet: &Arc<Fleet>,
    writer: &mut impl fmt::Write,
    holding: &Holding,
) -> Result<Vec<Arc<Sandbox>>, fmt::Error> {
    let mut registry = Registry::default();
    let ended = Arc::default();
    registry.register_collector(Box::new(Exposition {
        fleet: Arc::clone(fleet),
        ended: Arc::clone(&ended),
        holding: Arc::clone(holding),
    }));
    text::encode(writer, &registry)?;
    Ok(std::mem::take(&mut *ended.lock()))
}

struct Exposition {
    fleet: Arc<Fleet>,
    /// Ended sandboxes that this scrape shows.
    ended: Arc<Mutex<Vec<Arc<Sandbox>>>>,
    holding: Holding,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sandboxes = self.fleet.sandboxes();
        *self.ended.lock() = sandboxes
            .iter()
            .filter(|sandbox| matches!(sandbox.phase(), Phase::Ended { .. }))
            .cloned()
            .collect();
        applications::encode(&mut encoder, &self.fleet)?;
        own::encode(&mut encoder, &self.fleet, &sandboxes)?;
        instances::encode(&mut encoder, &sandboxes, &self.holding)
    }
}

#[cfg(test)]
mod tests;
