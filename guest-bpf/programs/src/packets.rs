//! Packet mode: what sockets send and receive as packets, on kernels without the hooks for system calls.
//!
//! ```text
//! socket's packet → TCP or UDP with something in it → head of the packet → ring buffer
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
    packet::{PACKET_HEAD_MAX, PACKET_HEAD_SHORT, Packet},
};

use crate::{
    maps::{CurrentSettings, RECORDS, VERDICTS, count},
    ring,
    verifier::opaque,
};

/// The packet goes its way.
const PASS: i32 = 1;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an IP header at least. Old verifiers derive a lower bound from this comparison, and none from one with 0.
const HEADER_MIN: u64 = 20;
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
    if head > PACKET_HEAD_SHORT && !ring::has_room(u64::from(head + ROOM_STEP_MAX)) {
        head = PACKET_HEAD_SHORT;
    }
    let packet = Packet {
        cookie,
        // SAFETY: as above, the same pointer.
        cgroup: unsafe { bpf_skb_cgroup_id(skb) },
        // SAFETY: a helper without preconditions.
        timestamp: unsafe { bpf_ktime_get_ns() },
        length,
        head,
        direction: u32::from(direction),
        reserved: 0,
    };
    if !send_in_smallest(skb, &packet) {
        count!(lost);
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

/// Most bytes by which a record is larger than the next smaller one.
const ROOM_STEP_MAX: u32 = 4096;

/// Sends a packet in the first of these rooms that it fits in, from the smallest on.
macro_rules! send_in_first {
    ($skb:ident, $packet:ident: $($size:literal)*) => {{
        $(
            if $packet.head <= $size {
                return send::<$size>($skb, $packet);
            }
        )*
        false
    }};
}

/// Sends a packet in a record that is hardly larger. The verifier requires a constant size of each, so every size has code of
/// its own. A loop over pieces of a packet would do with less, but Linux 6.1 goes through more than a million instructions of it.
#[inline(always)]
fn send_in_smallest(skb: *mut __sk_buff, packet: &Packet) -> bool {
    send_in_first!(skb, packet:
        128 256 384 512 768 1024 1536 2048 3072 4096 6144 8192 12_288 16_384 20_480 24_576 28_672 32_768 36_864
        40_960 45_056 49_152 53_248 57_344 61_440 65_536)
}

/// Sends a packet in a record with room for `SIZE` bytes of it.
#[inline(always)]
fn send<const SIZE: usize>(skb: *mut __sk_buff, packet: &Packet) -> bool {
    let Some(mut entry) = RECORDS.reserve::<Room<SIZE>>(0) else { return false };
    let room = entry.as_mut_ptr();
    let len = opaque(u64::from(packet.head));
    // Two comparisons of one register: the compiler would make one of their difference, from which the verifier derives no bounds.
    let rc = if len < HEADER_MIN {
        -1
    } else {
        let len = opaque(len);
        if len > SIZE as u64 {
            -1
        } else {
            // SAFETY: the ring buffer's memory, which is as large as the type; the head has room for `len`.
            unsafe {
                (*room).packet = *packet;
                bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*room).head).cast(), len as u32)
            }
        }
    };
    if rc != 0 {
        entry.discard(0);
        return false;
    }
    entry.submit(ring::wake_for(size_of::<Room<SIZE>>() as u64));
    true
}
