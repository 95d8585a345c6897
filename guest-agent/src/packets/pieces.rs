//! Packets that take several records: their bytes, joined.
//!
//! The records of a packet follow one another closely. Those of packets on other CPUs may come between them, and one for which
//! the ring buffer had no room is missing: then what came before it is the packet's captured head.

use std::collections::VecDeque;

use porthole_bpf_types::packet::{PACKET_HEAD_MAX, Packet};

/// Packets that are joined at a time: two for each CPU of a large machine. Each has memory for [`PACKET_HEAD_MAX`] bytes at most.
const JOINING_MAX: usize = 64;

/// A packet's header, and its bytes so far.
type Joining = (Packet, Vec<u8>);

/// Packets of which records are still to come, in the order in which they began.
#[derive(Debug, Default)]
pub struct Pieces {
    joining: VecDeque<Joining>,
}

impl Pieces {
    /// Takes a record; gives the packet when that was its last one.
    pub fn join(&mut self, record: Packet, bytes: &[u8]) -> Option<Joining> {
        let first = Packet { position: 0, ..record };
        if record.position == 0 {
            let mut joined = Vec::with_capacity(first.head.min(PACKET_HEAD_MAX) as usize);
            joined.extend(bytes);
            self.joining.push_back((first, joined));
            return None;
        }
        let at = self.joining.iter().position(|(packet, _)| *packet == first)?;
        let (packet, joined) = &mut self.joining[at];
        let position = record.position as usize;
        if position > joined.len() || position + bytes.len() > PACKET_HEAD_MAX as usize {
            return None;
        }
        joined.truncate(position);
        joined.extend(bytes);
        let complete = joined.len() >= packet.head as usize;
        if complete { self.joining.remove(at) } else { None }
    }

    /// A packet that was sent or received on the same socket in the same direction.
    pub fn older(&mut self, than: &Packet) -> Option<Joining> {
        let same = |(packet, _): &Joining| {
            (packet.cookie, packet.direction) == (than.cookie, than.direction)
                && packet.timestamp < than.timestamp
        };
        let at = self.joining.iter().position(same)?;
        self.joining.remove(at)
    }

    /// A packet that began at this time or before.
    pub fn begun_by(&mut self, time_ns: u64) -> Option<Joining> {
        let at = self.joining.iter().position(|(packet, _)| packet.timestamp <= time_ns)?;
        self.joining.remove(at)
    }

    /// The packet that began first, if there are too many.
    pub fn excess(&mut self) -> Option<Joining> {
        if self.joining.len() > JOINING_MAX { self.joining.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(cookie: u64, position: u32) -> Packet {
        Packet { cookie, position, head: 10, length: 12, timestamp: cookie, ..Packet::default() }
    }

    #[test]
    fn records_are_joined_also_where_others_come_between_them() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.join(packet(1, 0), b"0123"), None);
        assert_eq!(pieces.join(packet(2, 0), b"abcd"), None);
        assert_eq!(pieces.join(packet(1, 4), b"4567"), None);
        assert_eq!(pieces.join(packet(2, 4), b"efgh"), None);
        // The last one begins before the end of the one before it.
        assert_eq!(pieces.join(packet(1, 6), b"6789"), Some((packet(1, 0), b"0123456789".to_vec())));
        assert_eq!(pieces.older(&packet(1, 0)), None);
        assert_eq!(pieces.begun_by(1), None);
        assert_eq!(pieces.begun_by(2), Some((packet(2, 0), b"abcdefgh".to_vec())));
    }

    #[test]
    fn what_is_behind_a_missing_record_is_not_joined() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.join(packet(1, 4), b"4567"), None);
        assert_eq!(pieces.join(packet(1, 0), b"0123"), None);
        assert_eq!(pieces.join(packet(1, 8), b"89"), None);
        let later = Packet { timestamp: 7, ..packet(1, 0) };
        assert_eq!(pieces.older(&later), Some((packet(1, 0), b"0123".to_vec())));
        assert_eq!(pieces.older(&later), None);
    }

    #[test]
    fn a_packet_takes_no_more_memory_than_the_longest_has() {
        let mut pieces = Pieces::default();
        let packet = |position| Packet { head: u32::MAX, ..packet(1, position) };
        for position in (0..2 * PACKET_HEAD_MAX).step_by(4_095) {
            let length = PACKET_HEAD_MAX.saturating_sub(position).clamp(1, 4_095);
            assert_eq!(pieces.join(packet(position), &vec![0; length as usize]), None);
        }
        let (_, joined) = pieces.begun_by(1).expect("a packet");
        let longest = PACKET_HEAD_MAX as usize;
        assert!(joined.len() == longest && joined.capacity() <= longest, "{}", joined.capacity());
    }

    #[test]
    fn unfinished_packets_are_bounded() {
        let mut pieces = Pieces::default();
        let mut given_up = 0;
        for cookie in 0..1_000 {
            assert_eq!(pieces.join(packet(cookie, 0), b"0123"), None);
            given_up += usize::from(pieces.excess().is_some());
            assert!(pieces.joining.len() <= JOINING_MAX);
        }
        assert_eq!(given_up, 1_000 - JOINING_MAX);
    }
}
