//! What was sent, beside what an agent counts.

use porthole_agent_api::agent::{Protocol, Side};

use crate::harness::Agent;

/// What any value of a field stands for.
pub const ANY: &str = "*";

/// Exchanges of one kind, and how many of them were sent.
pub struct Sent {
    protocol: Protocol,
    operation: &'static str,
    resource: &'static str,
    status: &'static str,
    count: u64,
}

pub const fn sent(
    protocol: Protocol,
    operation: &'static str,
    resource: &'static str,
    status: &'static str,
    count: u64,
) -> Sent {
    Sent { protocol, operation, resource, status, count }
}

impl Sent {
    /// How many were counted at one end.
    fn counted(&self, agent: &Agent, side: Side) -> u64 {
        let is = |wanted: &str, found: &str| wanted == ANY || wanted == found;
        let ours = agent.all(side).into_iter().filter(|series| {
            let key = &series.key;
            key.protocol.enum_value() == Ok(self.protocol)
                && is(self.operation, &key.operation)
                && is(self.resource, &key.resource)
                && is(self.status, &key.status)
        });
        ours.map(|series| series.duration.count).sum()
    }

    /// What is wrong with what was counted, if anything.
    pub fn wrong(&self, agent: &Agent, times: u64) -> Option<String> {
        let counted = [Side::SIDE_CLIENT, Side::SIDE_SERVER].map(|side| self.counted(agent, side));
        let sent = self.count * times;
        let Self { protocol, operation, resource, status, .. } = self;
        (counted != [sent; 2]).then(|| {
            format!("{protocol:?} {operation} {resource} {status:?}: sent {sent}, counted {counted:?}")
        })
    }
}
