//! Networks: addresses are valid in one, and two may share them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What a packet's addresses are valid in: 0 without a tunnel, otherwise a hash of the tunnels around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(u64);

/// What a network's name is of, so that equal numbers of different kinds are different networks.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Kind {
    Vlan,
    Mpls,
    Vxlan,
    Geneve,
    Gtp,
    Gre,
    Erspan,
    Ip,
}

impl Network {
    /// That of packets in no tunnel, the first in order, and the last one.
    pub(crate) const OUTERMOST: Self = Self(0);
    pub(crate) const LAST: Self = Self(u64::MAX);

    /// The network in this one with that name.
    pub(crate) fn within(self, kind: Kind, name: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.0, kind).hash(&mut hasher);
        name.hash(&mut hasher);
        Self(hasher.finish().max(1))
    }
}

/// An IP packet, and the network that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried<'a> {
    /// The packet, as far as it was captured.
    pub packet: &'a [u8],
    /// Its network.
    pub network: Network,
}
