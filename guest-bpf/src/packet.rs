//! What goes through the ring buffer in packet mode: a header and bytes of a packet, nothing else. A long packet takes several
//! records, so that a record is hardly larger than what it carries: the verifier requires a constant size of each.

use crate::record::Plain;

/// Most bytes of one packet that are captured, its headers included: what the kernel hands over as one packet may be cut
/// into many by the hardware.
pub const PACKET_HEAD_MAX: u32 = 65_535;

/// The same where the ring buffer has room for few packets more: one record.
pub const PACKET_HEAD_SHORT: u32 = PACKET_PIECE_MAX;

/// Most bytes of a packet in one record.
pub const PACKET_PIECE_MAX: u32 = 4095;

/// A packet that a socket sends or receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// The socket's cookie (`SO_COOKIE`, socket(7)): no other socket ever has it.
    pub cookie: u64,
    /// Control group of the process that made the socket.
    pub cgroup: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp: u64,
    /// Bytes of the whole packet from its IP header on; more than fit in one on the wire where hardware cuts it.
    pub length: u32,
    /// Captured bytes, from the IP header on, in all its records.
    pub head: u32,
    /// One of [`crate::connection::direction`].
    pub direction: u32,
    /// Position in the packet of the bytes in this record.
    pub position: u32,
}

const _: () = assert!(size_of::<Packet>() == 40);
// SAFETY: `repr(C)` of integers; the sum of the fields' sizes is the type's.
unsafe impl Plain for Packet {}

impl Packet {
    /// Reads a record: the header, and the captured bytes in it. `None` when it is none.
    pub fn record(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let packet = Self::read(bytes)?;
        let length = packet.head.checked_sub(packet.position)?.min(PACKET_PIECE_MAX);
        Some((packet, bytes.get(size_of::<Self>()..)?.get(..length as usize)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(packet: Packet, bytes: &[u8]) -> Vec<u8> {
        // SAFETY: both have 40 bytes, and the struct has no padding.
        let header: [u8; 40] = unsafe { core::mem::transmute(packet) };
        [&header, bytes].concat()
    }

    #[test]
    fn a_packet_comes_out_with_its_head_and_not_when_it_is_cut() {
        let packet = Packet { length: 9, head: 3, cookie: 7, ..Packet::default() };
        let bytes = record(packet, &[0x45; 8]);
        assert_eq!(Packet::record(&bytes), Some((packet, &[0x45; 3][..])));
        for len in 0..43 {
            assert_eq!(Packet::record(&bytes[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_record_of_a_long_packet_has_a_part_of_its_bytes() {
        let room = [0x45; 4096];
        let of = |head, position| {
            let bytes = record(Packet { length: head, head, position, ..Packet::default() }, &room);
            Packet::record(&bytes).map(|(_, bytes)| bytes.len())
        };
        assert_eq!([of(9_000, 0), of(9_000, 4_095), of(9_000, 8_190)], [Some(4_095), Some(4_095), Some(810)]);
        assert_eq!([of(9_000, 9_000), of(9_000, 9_001)], [Some(0), None]);
    }
}
