//! Questions of dashboards and listings about the past: a fixed set of shapes, with two sources of answers.
//!
//! - The exporter's own last hour ([`crate::history`]): this node, no other service.
//! - A server with Prometheus' HTTP API ([`prometheus`]), where one is configured: any range, all nodes.
//!
//! Invariant: whose numbers an answer is about follows from the [`Selection`], which the viewer's rights have narrowed; no text
//! of a request becomes part of an expression but as a quoted label value.

pub mod prometheus;

use std::sync::Arc;

use serde::Deserialize;

use self::prometheus::Prometheus;
use crate::{
    fleet::{Fleet, sandbox::Sandbox},
    history::{History, Recent, STEP, STEPS, range::Range},
    identity::Application,
};

/// Whose numbers are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this application's.
    pub service_name: Option<String>,
}

impl Selection {
    /// Whether a tenant's application is among them.
    pub fn admits(&self, tenant: &str, service_name: &str) -> bool {
        self.tenant.as_deref().is_none_or(|wanted| wanted == tenant)
            && self.service_name.as_deref().is_none_or(|wanted| wanted == service_name)
    }

    /// The sandboxes that count for these applications, as long as their series are exposed.
    pub fn sandboxes(&self, fleet: &Fleet) -> impl Iterator<Item = Arc<Sandbox>> {
        fleet.sandboxes_of(self.tenant.as_deref()).into_iter().filter(|sandbox| {
            let Application { tenant, service_name } = sandbox.application();
            sandbox.phase().exposes_series() && self.admits(tenant, service_name)
        })
    }
}

/// Where answers come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The exporter's own last hour.
    Memory(Arc<History>),
    /// A server with Prometheus' HTTP API.
    Prometheus(Arc<Prometheus>),
}

impl Source {
    /// Steps that it can look back at.
    pub fn steps_max(&self) -> u64 {
        match self {
            Self::Memory(_) => STEPS,
            // A year.
            Self::Prometheus(_) => 366 * 86_400 / STEP.as_secs(),
        }
    }
}

/// The answer of the exporter's own last hour.
pub fn from_memory(history: &History, selection: &Selection, range: Range) -> Recent {
    let admits = |tenant: &str, service_name: &str| selection.admits(tenant, service_name);
    history.points(admits, range)
}
