//! What agents count about themselves: captured, lost, not understood.

use porthole_agent_api::agent;
use serde::{Deserialize, Serialize};

macro_rules! agent_counters {
    ($($(#[$meta:meta])* $name:ident, $metric:literal, $help:literal;)+) => {
        /// Cumulative counts of one agent, or of many.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct AgentCounters {
            $($(#[$meta])* pub $name: u64,)+
        }

        impl AgentCounters {
            /// Name of the counter without `_total`, its help, and its value.
            pub fn metrics(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($metric, $help, self.$name)),+].into_iter()
            }

            /// The counts on the wire.
            pub fn from_wire(wire: &agent::Counters) -> Self {
                Self { $($name: wire.$name,)+ }
            }

            /// Adds the counts of another agent.
            pub fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)+
            }

            /// The larger of both, count by count: counts of one epoch only ever grow.
            #[must_use]
            pub fn at_least(&self, floor: &Self) -> Self {
                Self { $($name: self.$name.max(floor.$name),)+ }
            }

            /// Whether any count is smaller than before.
            pub fn went_backwards_since(&self, earlier: &Self) -> bool {
                $(self.$name < earlier.$name)||+
            }
        }
    };
}

agent_counters! {
    /// Records that reached user space.
    events_captured, "porthole_agent_events_captured", "Records that agents received from the kernel";
    /// Records that the ring buffer had no room for.
    events_lost, "porthole_agent_events_lost", "Records that agents lost because the ring buffer was full";
    /// Message starts on identified connections.
    messages_seen, "porthole_messages_seen", "Message starts seen on identified connections";
    /// Exchanges that became part of a series.
    exchanges, "porthole_exchanges", "Requests paired with their responses";
    /// Message starts that never became an exchange.
    not_understood, "porthole_messages_not_understood", "Message starts that never became an exchange";
    /// Exchanges folded because a bound was reached in the guest.
    folded, "porthole_exchanges_folded", "Exchanges that agents folded into other because a bound was reached";
    /// Connections.
    connections_seen, "porthole_agent_connections_seen", "Connections that agents saw";
    /// Connections of no known protocol.
    connections_ignored, "porthole_agent_connections_ignored", "Connections that agents ignore because their protocol is not known";
    /// Bytes from kernel to user space.
    bytes_copied, "porthole_agent_copied_bytes", "Bytes copied from the guests' kernels to the agents";
    /// Exchanges chosen to be sampled as spans, and dropped.
    spans_dropped, "porthole_agent_spans_dropped", "Exchanges that agents sampled as spans and dropped, because there were more than they send";
}

impl AgentCounters {
    /// Exchanges understood over message starts seen; `None` before the first message.
    #[allow(clippy::cast_precision_loss)]
    pub fn completeness(&self) -> Option<f64> {
        (self.messages_seen > 0).then(|| (self.exchanges as f64 / self.messages_seen as f64).min(1.0))
    }
}
