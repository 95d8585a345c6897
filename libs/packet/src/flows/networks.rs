//! Flows between the same ends in different networks.
//!
//! A packet's network is part of its flow's key. The number of a tunnel alone decides nothing: each direction may have its
//! own, and a capture may have the same packet in several tunnels and outside of them. So a packet of another network
//! belongs to a flow between the same ends if its content proves it.

use std::collections::BTreeMap;

use crate::{network::Network, route::Key};

/// Flows between the same ends in other networks that are considered, and networks that a flow can have besides its own.
const SAME_ENDS_MAX: usize = 16;

/// Which flow the packets of a key belong to. Nothing is kept for flows outside of tunnels that are nowhere else.
#[derive(Debug, Default)]
pub(crate) struct FlowNetworks {
    /// From the key of packets to the network of their flow.
    flows: BTreeMap<Key, Network>,
}

impl FlowNetworks {
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The key of the flow that a packet with this key belongs to, as far as is known.
    pub fn flow(&self, key: Key) -> Key {
        self.flows.get(&key).map_or(key, |&network| Key { network, ..key })
    }

    /// The keys that flows between the same ends in other networks may have.
    pub fn others(&self, key: Key) -> Vec<Key> {
        let first = Key { network: Network::OUTERMOST, ..key };
        let last = Key { network: Network::LAST, ..key };
        let known = self.flows.range(first..=last).map(|(_, &network)| Key { network, ..key });
        let mut others: Vec<Key> = known.take(SAME_ENDS_MAX).collect();
        if key.network != Network::OUTERMOST {
            others.push(first);
        }
        others.sort_unstable();
        others.dedup();
        others
    }

    /// A flow with this key begins.
    pub fn open(&mut self, key: Key) {
        if key.network != Network::OUTERMOST {
            self.flows.insert(key, key.network);
        }
    }

    /// Packets with `key` belong to `flow`, which has `also` as its other networks.
    pub fn join(&mut self, key: Key, flow: Key, also: &mut Vec<Network>) {
        if also.len() < SAME_ENDS_MAX {
            self.flows.insert(key, flow.network);
            also.push(key.network);
        }
    }

    /// The flow with this key is no more.
    pub fn forget(&mut self, key: Key, also: &[Network]) {
        for network in also.iter().copied().chain([key.network]) {
            self.flows.remove(&Key { network, ..key });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{ip::Transport, network::Kind};

    #[test]
    fn nothing_is_kept_of_a_flow_that_is_no_more() {
        let mut networks = FlowNetworks::default();
        let ends = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let key = |number: usize| {
            let network = Network::OUTERMOST.within(Kind::Vxlan, number);
            Key { transport: Transport::Tcp, ends, network }
        };
        let mut also = Vec::new();
        networks.open(key(0));
        for number in 1..=2 * SAME_ENDS_MAX {
            networks.join(key(number), key(0), &mut also);
        }
        let known = (1..=2 * SAME_ENDS_MAX).filter(|number| networks.flow(key(*number)) == key(0)).count();
        assert_eq!(known, SAME_ENDS_MAX);
        networks.forget(key(0), &also);
        assert!(networks.is_empty(), "{networks:?}");
    }
}
