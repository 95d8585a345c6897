//! The end of a connection: its socket is closed.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use porthole_bpf_types::{
    connection::state,
    record::{Close, kind},
};

use crate::{
    connections::next_sequence,
    maps::{CONNECTIONS, CurrentSettings},
    offload, ring,
};

/// The socket reached the end of its life.
#[inline(always)]
pub fn closed(sk: u64) {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (id, state) = unsafe { ((*connection).id, (*connection).state) };
    if state == state::OFFLOADED {
        offload::closed(connection, sk);
    } else if CurrentSettings::get().has_offers() {
        offload::withdraw(connection);
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (announced, offset) = unsafe { ((*connection).announced, (*connection).offset) };
    if announced != 0 && state != state::IGNORED {
        ring::send_close(&Close {
            kind: kind::CLOSE,
            reserved: 0,
            connection: id,
            sequence: next_sequence(connection),
            // SAFETY: a helper without preconditions.
            timestamp: unsafe { bpf_ktime_get_ns() },
            // User space does not know the positions of one that was followed here.
            moved: if state == state::OFFLOADED { [0; 2] } else { offset },
        });
    }
    let _ = CONNECTIONS.remove(sk);
}
