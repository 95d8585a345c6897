//! The totals of a sandbox: what outlives its series, by epochs.

use super::{counters::AgentCounters, golden::GoldenTable};

/// What the sandbox's golden values consist of. Ended epochs, and the one that runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Golden values of the epochs before.
    pub closed: GoldenTable,
    /// Golden values of the running epoch.
    pub current: GoldenTable,
    /// What an earlier run of the exporter knew of the running epoch.
    pub floor: GoldenTable,
    /// The same three for the agent's own counts.
    pub closed_counters: AgentCounters,
    /// Counts of the running epoch.
    pub current_counters: AgentCounters,
    /// What an earlier run of the exporter knew of them.
    pub floor_counters: AgentCounters,
}

impl Totals {
    /// All that is known.
    pub fn golden(&self) -> GoldenTable {
        let mut all = self.current.at_least(&self.floor);
        all.add(&self.closed);
        all
    }

    /// All that is known of the agent's own counts.
    pub fn counters(&self) -> AgentCounters {
        let mut all = self.current_counters.at_least(&self.floor_counters);
        all.add(&self.closed_counters);
        all
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.closed.bytes() + self.current.bytes() + self.floor.bytes()
    }

    /// The agent will report the running epoch again from its beginning, and adds only what is more than was known.
    pub fn begin_again(&mut self) {
        self.floor = std::mem::take(&mut self.current).at_least(&self.floor);
        self.floor_counters = std::mem::take(&mut self.current_counters).at_least(&self.floor_counters);
    }

    /// The running epoch is over.
    pub fn close_epoch(&mut self) {
        self.closed = self.golden();
        self.closed_counters = self.counters();
        self.current = GoldenTable::default();
        self.floor = GoldenTable::default();
        self.current_counters = AgentCounters::default();
        self.floor_counters = AgentCounters::default();
    }
}
