//! The peers that are distinguished: bounded, and those of which nothing came for a while are forgotten for new ones.

use foldhash::HashMap;

use super::{key::PeerIndex, peer::Peer};

/// Most peers that are distinguished at a time.
pub const PEERS_MAX: usize = 512;

/// How long a peer must not have been used to make room for another, nanoseconds.
const UNUSED_NS: u64 = 10_000_000_000;

/// How often unused peers are looked for at most, nanoseconds.
const SEARCH_INTERVAL_NS: u64 = 1_000_000_000;

#[derive(Debug)]
struct Known {
    index: PeerIndex,
    /// When its last exchange ended, nanoseconds.
    used_ns: u64,
}

/// The peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: HashMap<Peer, Known>,
    /// Peers so far: no index is given twice.
    given: usize,
    searched_ns: u64,
}

impl Peers {
    /// The index of a peer with which an exchange ended at that time.
    pub fn index(&mut self, peer: &Peer, now_ns: u64) -> PeerIndex {
        if *peer == Peer::Unknown {
            return PeerIndex::NONE;
        }
        if let Some(known) = self.known.get_mut(peer) {
            known.used_ns = known.used_ns.max(now_ns);
            return known.index;
        }
        if self.known.len() >= PEERS_MAX && !self.make_room(now_ns) {
            return PeerIndex::OTHER;
        }
        self.given += 1;
        let index = PeerIndex::numbered(self.given);
        self.known.insert(peer.clone(), Known { index, used_ns: now_ns });
        index
    }

    fn make_room(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.searched_ns) < SEARCH_INTERVAL_NS {
            return false;
        }
        self.searched_ns = now_ns;
        self.known.retain(|_, known| now_ns.saturating_sub(known.used_ns) < UNUSED_NS);
        self.known.len() < PEERS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> Peer {
        Peer::Internet(format!("10.0.{}.{}:80", number >> 8, number & 0xff).parse().expect("address"))
    }

    #[test]
    fn peers_are_bounded_and_those_that_are_not_used_make_room() {
        let mut peers = Peers::default();
        let start = 100 * UNUSED_NS;
        let many = u32::try_from(PEERS_MAX).expect("small");
        let first: Vec<PeerIndex> = (0..many).map(|number| peers.index(&peer(number), start)).collect();
        assert_eq!(peers.index(&peer(many), start), PeerIndex::OTHER);
        assert_eq!(peers.index(&peer(0), start + UNUSED_NS), first[0], "in use");
        let new = peers.index(&peer(many), start + UNUSED_NS);
        assert!(new != PeerIndex::OTHER && !first.contains(&new));
        assert_eq!(peers.index(&peer(0), start + UNUSED_NS), first[0]);
        let back = peers.index(&peer(1), start + UNUSED_NS);
        assert!(back != PeerIndex::OTHER && !first.contains(&back), "no index is given twice");
        assert_eq!(peers.index(&Peer::Unknown, start), PeerIndex::NONE);
    }
}
