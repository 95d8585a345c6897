//! The key of an exposed series: exactly the parts that become labels, so that two keys are never one series.

use serde::{Deserialize, Serialize};

use crate::protocol::{ErrorClass, Protocol, Side};

/// Operation, resource and status of what was folded because a bound was reached.
pub const OTHER: &str = "other";

/// Key of an exposed series within its sandbox. An empty text stands for a label that the series does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesKey {
    /// The protocol of the exchanges.
    #[serde(with = "crate::protocol::by_name")]
    pub protocol: Protocol,
    /// From which end it was seen.
    #[serde(with = "crate::protocol::by_name")]
    pub side: Side,
    /// The container's name, from the registry's record; empty when the record does not list the container.
    pub container: Box<str>,
    /// Method, command, SQL operation, API, query type.
    pub operation: Box<str>,
    /// Route, table, topic, question name.
    pub resource: Box<str>,
    /// Exact status.
    pub status: Box<str>,
    /// OpenTelemetry's `error.type`.
    pub error_type: Box<str>,
    /// Client side: address of the server.
    pub peer_address: Box<str>,
    /// Client side: port of the server.
    pub peer_port: Box<str>,
}

impl SeriesKey {
    /// The key into which this one folds; a container has a bounded number of those.
    #[must_use]
    pub fn folded(&self) -> Self {
        let other = || Box::<str>::from(OTHER);
        Self {
            protocol: self.protocol,
            side: self.side,
            container: self.container.clone(),
            operation: other(),
            resource: other(),
            status: other(),
            error_type: if self.error_type.is_empty() { Box::default() } else { other() },
            peer_address: Box::default(),
            peer_port: Box::default(),
        }
    }
}

/// A series as an agent reported it, after every check that needs no memory of what came before.
#[derive(Clone, Debug)]
pub struct CheckedSeries {
    /// The agent's id of the series within the epoch.
    pub id: u32,
    /// The container as the guest names it; not yet looked up.
    pub container_id: String,
    /// The key; its container is still empty.
    pub key: SeriesKey,
    /// Whose fault its failures are.
    pub error: ErrorClass,
    /// Cumulative values.
    pub values: super::values::Values,
}
