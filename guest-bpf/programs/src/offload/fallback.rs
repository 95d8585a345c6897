//! The end of offloading: the connection falls back to user space, or is closed.

use porthole_bpf_types::connection::Connection;

use crate::{
    connections,
    maps::{OFFLOADED, count},
    ring,
};

use super::threads;

/// Sends a connection's whole state to user space, which parses it from here on; false when that is not possible.
#[inline(always)]
pub fn fall_back(connection: *mut Connection, sk: u64, by: u32) -> bool {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let id = unsafe { (*connection).id };
    if OFFLOADED.get_ptr(id).is_none() {
        return true;
    }
    count!(offloaded_ended);
    threads::thread_left(id);
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).announced } == 0 && connections::announce(sk, by) == 0 {
        let _ = OFFLOADED.remove(id);
        return false;
    }
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return true };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    unsafe { (*offloaded).sequence = connections::next_sequence(connection) };
    ring::send_fallback(offloaded);
    let _ = OFFLOADED.remove(id);
    true
}

/// The socket of an offloaded connection is closed: requests without a response go to user space. Whether there were any.
#[inline(always)]
pub fn closed(connection: *mut Connection, sk: u64) -> bool {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let id = unsafe { (*connection).id };
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return false };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let unfinished = unsafe { (*offloaded).pushed != (*offloaded).popped };
    if unfinished {
        return fall_back(connection, sk, connections::BY_CLOSE);
    }
    count!(offloaded_ended);
    let _ = OFFLOADED.remove(id);
    false
}
