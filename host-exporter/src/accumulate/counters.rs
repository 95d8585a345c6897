//! What agents count about themselves: captured, lost, unparsed.

mod by_protocol;

use porthole_agent_api::agent;
use serde::{Deserialize, Serialize};

pub use by_protocol::ByProtocol;

macro_rules! agent_counters {
    (
        counts { $($(#[$meta:meta])* $name:ident, $metric:literal, $help:literal;)+ }
        unattached { $($(#[$time_meta:meta])* $time:ident, $reason:literal;)+ }
    ) => {
        /// Cumulative counts of one agent, or of many.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct AgentCounters {
            $($(#[$meta])* pub $name: u64,)+
            $($(#[$time_meta])* pub $time: u64,)+
            /// Bytes that no exchange accounts for.
            pub bytes_unaccounted: ByProtocol,
        }

        impl AgentCounters {
            /// Name of the counter without `_total`, its help, and its value.
            pub fn metrics(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($metric, $help, self.$name)),+].into_iter()
            }

            /// For how long processes ran that nothing was attached for, nanoseconds, by why.
            pub fn unattached_ns(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($reason, self.$time)),+].into_iter()
            }

            /// The counts on the wire.
            pub fn from_wire(wire: &agent::Counters) -> Self {
                Self {
                    $($name: wire.$name,)+
                    $($time: wire.$time,)+
                    bytes_unaccounted: ByProtocol::from_wire(&wire.bytes_unaccounted),
                }
            }

            /// Adds the counts of another agent.
            pub fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)+
                $(self.$time = self.$time.saturating_add(other.$time);)+
                self.bytes_unaccounted.add(&other.bytes_unaccounted);
            }

            /// The larger of both, count by count: counts of one epoch only ever grow.
            #[must_use]
            pub fn at_least(&self, floor: &Self) -> Self {
                self.zipped(floor, u64::max)
            }

            /// What is beyond an earlier state, count by count.
            #[must_use]
            pub fn beyond(&self, earlier: &Self) -> Self {
                self.zipped(earlier, u64::saturating_sub)
            }

            fn zipped(&self, other: &Self, of: fn(u64, u64) -> u64) -> Self {
                Self {
                    $($name: of(self.$name, other.$name),)+
                    $($time: of(self.$time, other.$time),)+
                    bytes_unaccounted: self.bytes_unaccounted.zipped(&other.bytes_unaccounted, of),
                }
            }

            /// Whether any count is smaller than before.
            pub fn went_backwards_since(&self, earlier: &Self) -> bool {
                $(self.$name < earlier.$name)||+
                    $(|| self.$time < earlier.$time)+
                    || self.bytes_unaccounted.went_backwards_since(&earlier.bytes_unaccounted)
            }
        }
    };
}

agent_counters! {
    counts {
        /// Records that reached user space.
        events_captured, "porthole_agent_events_captured", "Records that agents received from the kernel";
        /// Records that the ring buffer had no room for.
        events_lost, "porthole_agent_events_lost", "Records that agents lost because the ring buffer was full";
        /// Message starts on identified connections.
        messages_seen, "porthole_messages_seen", "Message starts on connections whose protocol is known";
        /// Exchanges that became part of a series.
        exchanges, "porthole_exchanges", "Requests paired with their responses";
        /// Message starts that never became an exchange.
        unparsed, "porthole_messages_unparsed", "Message starts that never became an exchange";
        /// Exchanges whose status or name is not known.
        exchanges_incomplete, "porthole_exchanges_incomplete", "Exchanges whose status or name is not known, because bytes are missing that held it, or compressed; their status or name is other";
        /// Bytes that exchanges account for.
        bytes_accounted, "porthole_accounted_bytes", "Bytes of requests and responses that exchanges account for";
        /// Exchanges added to an overflow series in the guest, because a bound was reached.
        overflowed, "porthole_exchanges_overflowed", "Exchanges that agents added to an overflow series, because a bound was reached";
        /// Connections.
        connections_seen, "porthole_agent_connections_seen", "Connections that agents saw";
        /// Connections of no known protocol.
        connections_ignored, "porthole_agent_connections_ignored", "Connections that agents ignore because their protocol is not known";
        /// Bytes from kernel to user space.
        bytes_copied, "porthole_agent_copied_bytes", "Bytes copied from the guests' kernels to the agents";
        /// Exchanges that were sampled as spans, and dropped.
        spans_dropped, "porthole_agent_spans_dropped", "Exchanges that agents sampled as spans and dropped: over the agent's budget, or too many while no exporter was connected";
    }
    unattached {
        /// From the start of a sandbox's processes to its attached agent.
        unattached_start_ns, "start";
        /// From an agent's end to the attached agent that replaces it.
        unattached_restart_ns, "restart";
    }
}

impl AgentCounters {
    /// The share of what moved that whole exchanges account for: of the messages, of which each lost record may have held
    /// one, and of the bytes. `None` before the first message.
    #[allow(clippy::cast_precision_loss)]
    pub fn completeness(&self) -> Option<f64> {
        let messages = self.messages_seen.saturating_add(self.events_lost);
        let share = |part: u64, whole: u64| if part >= whole { 1.0 } else { part as f64 / whole as f64 };
        let whole = self.exchanges.saturating_sub(self.exchanges_incomplete);
        let bytes = self.bytes_accounted.saturating_add(self.bytes_unaccounted.sum());
        (messages > 0).then(|| share(whole, messages) * share(self.bytes_accounted, bytes))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // Of quotients that are exact.
mod tests {
    use super::*;

    fn clean() -> AgentCounters {
        AgentCounters {
            events_captured: 200,
            messages_seen: 100,
            exchanges: 100,
            bytes_accounted: 10_000,
            ..AgentCounters::default()
        }
    }

    fn ratio(counters: AgentCounters) -> f64 {
        counters.completeness().expect("messages")
    }

    #[test]
    fn what_is_whole_is_complete() {
        assert_eq!(ratio(clean()), 1.0);
        assert_eq!(AgentCounters::default().completeness(), None);
    }

    #[test]
    fn every_kind_of_loss_lowers_completeness_by_its_weight() {
        let unaccounted = |bytes: u64| AgentCounters {
            bytes_unaccounted: ByProtocol::from_wire(&[0, bytes / 2, bytes / 2]),
            ..clean()
        };
        assert_eq!(ratio(AgentCounters { exchanges: 75, ..clean() }), 0.75, "requests without an exchange");
        assert_eq!(ratio(AgentCounters { exchanges_incomplete: 25, ..clean() }), 0.75, "statuses not known");
        assert_eq!(ratio(AgentCounters { events_lost: 100, ..clean() }), 0.5, "records lost");
        assert_eq!(ratio(unaccounted(10_000)), 0.5, "bytes of no message");
        assert!(ratio(unaccounted(2)) < 1.0 && ratio(unaccounted(2)) > 0.999, "few bytes");
        let all = AgentCounters { events_lost: 100, exchanges: 50, ..unaccounted(10_000) };
        assert_eq!(ratio(all), 0.125);
        let nothing = AgentCounters { events_lost: 5, ..AgentCounters::default() };
        assert_eq!(ratio(nothing), 0.0, "all is lost");
    }
}
