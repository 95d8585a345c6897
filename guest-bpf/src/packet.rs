//! What goes through the ring buffer in packet mode: one header and the head of a packet, nothing else.

use crate::record::Plain;

/// Most bytes of one packet that are captured, its headers included: what the kernel hands over as one packet may be cut
/// into many by the hardware.
pub const PACKET_HEAD_MAX: u32 = 65_535;

/// The same where the ring buffer has room for few packets more.
pub const PACKET_HEAD_SHORT: u32 = 4095;

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
    /// Captured bytes that follow, from the IP header on.
    pub head: u32,
    /// One of [`crate::connection::direction`].
    pub direction: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Packet>() == 40);
// SAFETY: `repr(C)` of integers; the sum of the fields' sizes is the type's.
unsafe impl Plain for Packet {}

impl Packet {
    /// Reads a record: the header, and the captured bytes. `None` when it is none.
    pub fn record(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let packet = Self::read(bytes)?;
        Some((packet, bytes.get(size_of::<Self>()..)?.get(..packet.head as usize)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_comes_out_with_its_head_and_not_when_it_is_cut() {
        let packet = Packet { length: 9, head: 3, cookie: 7, ..Packet::default() };
        // SAFETY: both have 40 bytes, and the struct has no padding.
        let header: [u8; 40] = unsafe { core::mem::transmute(packet) };
        let mut bytes = [0x45; 48];
        bytes[..40].copy_from_slice(&header);
        assert_eq!(Packet::record(&bytes), Some((packet, &[0x45; 3][..])));
        for len in 0..43 {
            assert_eq!(Packet::record(&bytes[..len]), None, "{len}");
        }
    }
}
