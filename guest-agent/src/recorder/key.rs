//! A series' key: small integers, so that finding the series of an exchange is one look into a table.

use porthole_l7::{ErrorClass, Protocol, Side, Status, Symbol};

use super::containers::ContainerIndex;

/// A peer, as a small integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PeerIndex(u32);

impl PeerIndex {
    /// No peer belongs to the key.
    pub const NONE: Self = Self(0);
    /// Any peer.
    pub const OTHER: Self = Self(1);

    /// The peer of that number, counted from 1.
    pub fn numbered(number: usize) -> Self {
        Self(u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1))
    }
}

/// What the exchanges of one series have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub container: ContainerIndex,
    pub protocol: Protocol,
    pub side: Side,
    pub operation: Symbol,
    pub resource: Symbol,
    pub status: Status,
    pub error: ErrorClass,
    pub peer: PeerIndex,
}

impl Key {
    /// The keys to try, from the exact one to the coarsest.
    pub fn coarser(self) -> [Self; 3] {
        let no_resource = match self.resource {
            Symbol::NONE => self,
            _ => Self { resource: Symbol::OTHER, ..self },
        };
        let coarsest = Self {
            operation: Symbol::OTHER,
            // What is not known must not become a success.
            status: if self.status == Status::UNKNOWN { Status::UNKNOWN } else { Status::None },
            peer: if self.peer == PeerIndex::NONE { PeerIndex::NONE } else { PeerIndex::OTHER },
            ..no_resource
        };
        [self, no_resource, coarsest]
    }
}
