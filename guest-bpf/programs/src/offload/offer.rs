//! Connections that user space offers: taking them, or finding that something moved since.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns};
use porthole_bpf_types::{
    connection::{Connection, direction, state},
    offload::side,
    record::{Close, kind},
};
use porthole_protocol::Offload;

use super::{
    call::{PARSED, call},
    lock::{try_lock, unlock},
    processes,
};
use crate::{
    connections,
    maps::{CONNECTIONS, OFFLOADED, Scratch, count},
    ring,
    verifier::fetch_add,
};

/// Whether user space offered the connection and the call, with which a request begins, was parsed; then the connection
/// is offloaded from here on.
#[inline(always)]
pub fn accepts_offer(connection: *mut Connection, sk: u64) -> bool {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let id = unsafe { (*connection).id };
    if take_offer(id, sk) == 0 {
        return false;
    }
    if call(id, sk) != PARSED {
        let _ = OFFLOADED.remove(id);
        // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
        unsafe { (*connection).state = state::FOLLOWED };
        return false;
    }
    taken(sk);
    true
}

/// Accepts user space's offer of a connection; gives 0 where there is none, or where something moved since. A global
/// function.
///
/// A client of a database sends the next request after the response to the one before. So there it is enough that a
/// response moved last: the offer stays valid at any later position.
///
/// A call in the other direction may end on another CPU meanwhile. It advances its position first and reads the state
/// then; here the state is written first and the position read then, so that one of the two sees the other.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn take_offer(id: u64, sk: u64) -> u64 {
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return 0 };
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    let Some(work) = Scratch::get() else { return 0 };
    if !try_lock(offloaded) {
        return 0;
    }
    let ingress = work.header.direction == direction::INGRESS;
    // SAFETY: values that look-ups gave (see `maps`); the offer is locked.
    unsafe {
        let stands = Offload::from_number((*offloaded).protocol).is_some_and(Offload::is_sql);
        let server = (*offloaded).side == side::SERVER;
        if ingress == server {
            core::ptr::write_volatile(&raw mut (*connection).state, state::OFFLOADED);
            let (own, other, now) = if ingress {
                (
                    &raw mut (*offloaded).offset[0],
                    &raw mut (*offloaded).offset[1],
                    &raw mut (*connection).offset[1],
                )
            } else {
                (
                    &raw mut (*offloaded).offset[1],
                    &raw mut (*offloaded).offset[0],
                    &raw mut (*connection).offset[0],
                )
            };
            let now = fetch_add(now, 0);
            let history = (*connection).history;
            let turn = (history ^ (history >> 1)) & 1 != 0;
            if (now == *other && *own == work.header.offset) || (stands && turn) {
                *own = work.header.offset;
                *other = now;
                (*offloaded).kind = kind::FALLBACK;
                (*offloaded).remote = if server { 0 } else { connections::remote_hash(sk) };
                (*offloaded).cgroup = (*connection).cgroup;
                (*offloaded).socket = sk;
                unlock(offloaded);
                if server && (*offloaded).protocol != Offload::Http1.number() {
                    processes::serves_other(bpf_get_current_pid_tgid());
                }
                return 1;
            }
            core::ptr::write_volatile(&raw mut (*connection).state, state::FOLLOWED);
        }
        if stands {
            unlock(offloaded);
            return 0;
        }
    }
    // Something moved since. It stays locked, for another CPU that has looked it up meanwhile.
    let _ = OFFLOADED.remove(id);
    0
}

/// Sends user space a record that its offer was accepted. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn taken(sk: u64) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    count!(offloaded);
    ring::send_close(&Close {
        kind: kind::OFFER_ACCEPTED,
        reserved: 0,
        // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
        connection: unsafe { (*connection).id },
        sequence: connections::next_sequence(connection),
        // SAFETY: a helper without preconditions.
        timestamp: unsafe { bpf_ktime_get_ns() },
        moved: [0; 2],
    });
    0
}

/// An offered connection's socket is closed.
#[inline(always)]
pub fn withdraw(connection: *mut Connection) {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let _ = OFFLOADED.remove(unsafe { (*connection).id });
}
