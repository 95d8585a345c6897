//! The end of a connection: its socket is closed.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use porthole_bpf_types::{
    connection::state,
    record::{Close, kind},
};

use crate::{
    connections::{next_sequence, received_unreported},
    maps::{CONNECTIONS, CurrentSettings},
    offload, ring,
};

/// The socket reached the end of its life.
#[inline(always)]
pub fn closed(sk: u64) {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (id, state) = unsafe { ((*connection).id, (*connection).state) };
    // User space does not know the positions of one that was followed here to its end.
    let mut is_known = true;
    if state == state::OFFLOADED {
        is_known = offload::closed(connection, sk);
    } else if CurrentSettings::get().has_offers() {
        offload::withdraw(connection);
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (announced, mut offset, placed) =
        unsafe { ((*connection).announced, (*connection).offset, (*connection).placed) };
    if placed & 1 != 0 {
        offset[0] += received_unreported(connection, sk);
    }
    if announced != 0 && state != state::IGNORED {
        ring::send_close(&Close {
            kind: kind::CLOSE,
            reserved: 0,
            connection: id,
            sequence: next_sequence(connection),
            // SAFETY: a helper without preconditions.
            timestamp: unsafe { bpf_ktime_get_ns() },
            moved: if is_known { offset } else { [0; 2] },
        });
    }
    let _ = CONNECTIONS.remove(sk);
}
