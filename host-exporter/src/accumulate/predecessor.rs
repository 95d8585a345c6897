//! What the running epoch came to under an earlier name of the sandbox. The agent goes on reporting values of the whole epoch, and
//! these were counted; so they are taken off, by the agent's ids of its series.

use std::collections::BTreeMap;

use super::{cost, counters::AgentCounters, packed::Packed, values::Values};
use crate::rejection::Rejection;

/// Values of the running epoch that belong to earlier names of the sandbox.
#[derive(Debug, Default)]
pub struct Predecessor {
    series: BTreeMap<u32, Packed>,
    counters: AgentCounters,
    bytes: usize,
}

impl Predecessor {
    /// These values of series by their ids, and these counts of the agent.
    pub fn new(series: impl IntoIterator<Item = (u32, Packed)>, counters: AgentCounters) -> Self {
        let series: BTreeMap<_, _> = series.into_iter().collect();
        let bytes = series.values().map(|values| cost::map_entry::<u32, Packed>() + values.bytes()).sum();
        Self { series, counters, bytes }
    }

    /// Whether it has values of this series.
    pub fn has(&self, id: u32) -> bool {
        self.series.contains_key(&id)
    }

    /// What of a series' values of the whole epoch is not an earlier name's.
    pub fn rest(&self, id: u32, values: &Values) -> Result<Values, Rejection> {
        match self.series.get(&id) {
            Some(earlier) => values.since(&earlier.unpack()).ok_or(Rejection::WentBackwards),
            None => Ok(values.clone()),
        }
    }

    /// What of the agent's counts of the whole epoch is not an earlier name's.
    pub fn rest_of_counters(&self, counters: &AgentCounters) -> AgentCounters {
        counters.beyond(&self.counters)
    }

    /// Counts of the agent.
    pub fn counters(&self) -> &AgentCounters {
        &self.counters
    }

    /// Values of series by their ids.
    pub fn series(&self) -> impl Iterator<Item = (u32, Values)> {
        self.series.iter().map(|(id, values)| (*id, values.unpack()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.counters == AgentCounters::default()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
