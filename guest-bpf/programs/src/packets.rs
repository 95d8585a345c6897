//! Packet mode: what sockets send and receive as packets, on kernels without the hooks for system calls.
//!
//! ```text
//! socket's packet → TCP or UDP with something in it → head of the packet → ring buffer, in one record or several
//! ```
//!
//! The programs are attached to the root of the control groups and see every packet of every socket below it: on its
//! way out at the socket that sends, on its way in at the socket that receives, so packets between two sockets of this
//! kernel twice.
//!
//! Invariants: every packet passes, whatever happens here; nothing of the kernel's memory is read but the packet, and
//! nothing is known of the kernel's types.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_skb_cgroup_id, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use porthole_bpf_types::{
    connection::{Verdict, direction},
    packet::{PACKET_HEAD_MAX, PACKET_HEAD_SHORT, PACKET_PIECE_MAX, Packet},
};

use crate::{
    maps::{CurrentSettings, RECORDS, VERDICTS, count},
    ring,
    verifier::{bounded, rounds},
};

/// The packet goes its way.
const PASS: i32 = 1;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an IP header at least. Old verifiers derive a lower bound from this comparison, and none from one with 0.
const HEADER_MIN: u64 = 20;
/// Records of a packet at most.
const PIECES_MAX: u64 = PACKET_HEAD_MAX.div_ceil(PACKET_PIECE_MAX) as u64;
/// IPv6 extension headers, behind which TCP or UDP may be (RFC 8200 section 4).
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
/// `FIN`, `SYN` and `RST` (RFC 9293 section 3.1).
const OPENS_OR_ENDS: u8 = 0x07;

/// A socket sends a packet.
#[cgroup_skb(egress)]
pub fn packet_out(ctx: SkBuffContext) -> i32 {
    seen(ctx.skb.skb, direction::EGRESS);
    PASS
}

/// A socket receives a packet.
#[cgroup_skb(ingress)]
pub fn packet_in(ctx: SkBuffContext) -> i32 {
    seen(ctx.skb.skb, direction::INGRESS);
    PASS
}

#[inline(always)]
fn byte(skb: *mut __sk_buff, at: u32) -> Option<u8> {
    let mut value = 0_u8;
    // SAFETY: writes one byte; the helper checks the position.
    let rc = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut value).cast(), 1) };
    if rc == 0 { Some(value) } else { None }
}

#[inline(always)]
fn seen(skb: *mut __sk_buff, direction: u8) {
    // SAFETY: the context that the kernel gave.
    let length = unsafe { (*skb).len };
    let Some(tells) = tells_something(skb, length) else { return };
    // SAFETY: as above, the same pointer.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if let Some(verdict) = VERDICTS.get_ptr(cookie)
        // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
        && Verdict(unsafe { *verdict }) == Verdict::IGNORED
        && tells == TCP
    {
        return;
    }
    if CurrentSettings::get().is_paused() {
        count!(lost);
        return;
    }
    let mut head = if length > PACKET_HEAD_MAX { PACKET_HEAD_MAX } else { length };
    if head > PACKET_HEAD_SHORT && !ring::has_room(u64::from(head)) {
        head = PACKET_HEAD_SHORT;
    }
    let mut packet = Packet {
        cookie,
        // SAFETY: as above, the same pointer.
        cgroup: unsafe { bpf_skb_cgroup_id(skb) },
        // SAFETY: a helper without preconditions.
        timestamp: unsafe { bpf_ktime_get_ns() },
        length,
        head,
        direction: u32::from(direction),
        position: 0,
    };
    let pieces = rounds::<PIECES_MAX>();
    let mut piece = 0;
    while piece < pieces && packet.head - packet.position > PACKET_PIECE_MAX {
        if !send::<4096, 4095>(skb, &packet, u64::from(PACKET_PIECE_MAX)) {
            count!(lost);
            return;
        }
        packet.position += PACKET_PIECE_MAX;
        piece += 1;
    }
    if piece > 0 && packet.head - packet.position < HEADER_MIN as u32 {
        // Too short a rest begins earlier.
        packet.position = packet.head - HEADER_MIN as u32;
    }
    if !send_rest(skb, &packet, u64::from(packet.head - packet.position)) {
        count!(lost);
    }
}

/// Sends the last record of a packet.
#[inline(always)]
fn send_rest(skb: *mut __sk_buff, packet: &Packet, len: u64) -> bool {
    if len < 256 {
        send::<256, 255>(skb, packet, len)
    } else if len < 1024 {
        send::<1024, 1023>(skb, packet, len)
    } else if len < 2048 {
        send::<2048, 2047>(skb, packet, len)
    } else {
        send::<4096, 4095>(skb, packet, len)
    }
}

/// The packet's protocol if the packet is captured: bare acknowledgements of TCP are not.
#[inline(always)]
fn tells_something(skb: *mut __sk_buff, length: u32) -> Option<u8> {
    let first = byte(skb, 0)?;
    let (protocol, headers) =
        if first >> 4 == 4 { (byte(skb, 9)?, u32::from(first & 15) * 4) } else { (byte(skb, 6)?, 40) };
    if protocol == TCP {
        let tcp = u32::from(byte(skb, headers + 12)? >> 4) * 4;
        let bare = byte(skb, headers + 13)? & OPENS_OR_ENDS == 0 && length <= headers + tcp;
        return if bare { None } else { Some(TCP) };
    }
    let may = protocol == UDP || (first >> 4 == 6 && EXTENSIONS.contains(&protocol));
    if may { Some(protocol) } else { None }
}

/// The layout of a record in the ring buffer.
#[repr(C)]
struct Room<const SIZE: usize> {
    packet: Packet,
    head: [u8; SIZE],
}

/// Sends a record of at most `MASK` bytes of a packet, one less than there is room for.
#[inline(always)]
fn send<const SIZE: usize, const MASK: u64>(skb: *mut __sk_buff, packet: &Packet, len: u64) -> bool {
    let Some(mut entry) = RECORDS.reserve::<Room<SIZE>>(0) else { return false };
    let room = entry.as_mut_ptr();
    let len = bounded::<MASK>(len);
    // SAFETY: the ring buffer's memory, which is as large as the type; the head has room for `len`.
    let rc = unsafe {
        (*room).packet = *packet;
        if len < HEADER_MIN {
            -1
        } else {
            bpf_skb_load_bytes(skb.cast(), packet.position, (&raw mut (*room).head).cast(), len as u32)
        }
    };
    if rc != 0 {
        entry.discard(0);
        return false;
    }
    entry.submit(ring::wake_for(size_of::<Room<SIZE>>() as u64));
    true
}
