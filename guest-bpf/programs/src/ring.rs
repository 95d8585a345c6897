//! The ring buffer to user space. The agent is woken when a quarter of the ring is full; otherwise it polls a few times
//! a second.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    helpers::bpf_ringbuf_output,
};
use porthole_bpf_types::{
    kernel_key::Completed,
    offload::OffloadedConnection,
    record::{Cgroup, Chunk, Close, Exit, Open},
};

use crate::{
    maps::{HEAD_ROOM, RECORDS, Work, count},
    verifier::bounded,
};

/// Sends `len` bytes at `data`.
#[inline(always)]
fn send(data: *const u8, len: u64, flags: u64) -> bool {
    let sent = try_send(data, len, flags);
    if !sent {
        count!(lost);
    }
    sent
}

/// The same, of what is not lost if it cannot be sent.
#[inline(always)]
fn try_send(data: *const u8, len: u64, flags: u64) -> bool {
    // SAFETY: the caller's data is `len` long, which the verifier checks.
    let rc = unsafe {
        bpf_ringbuf_output((&raw const RECORDS).cast_mut().cast(), data.cast_mut().cast(), len, flags)
    };
    rc == 0
}

/// Whether a record of this size fills up another quarter of the ring.
#[inline(always)]
pub fn wake_for(len: u64) -> u64 {
    let available = RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
    let quarter = RECORDS.query(u64::from(BPF_RB_RING_SIZE)) >> 2;
    // Only the record that crosses the mark wakes: the agent sleeps no longer than its timer anyway.
    if (available < quarter && available + len >= quarter)
        || (available < 3 * quarter && available + len >= 3 * quarter)
    {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// Sends the chunk in `work` with as much head as its header says, and wakes the agent if it must not wait.
#[inline(always)]
pub fn send_chunk(work: &Work, wake: bool) -> bool {
    let head = bounded::<{ HEAD_ROOM as u64 - 1 }>(u64::from(work.header.head));
    let len = size_of::<Chunk>() as u64 + head;
    let flags = if wake { u64::from(BPF_RB_FORCE_WAKEUP) } else { wake_for(len) };
    send((&raw const *work).cast(), len, flags)
}

/// Sends the head in `work` as a request without a name.
#[inline(always)]
pub fn send_name(work: &Work) -> bool {
    let head = bounded::<{ HEAD_ROOM as u64 - 1 }>(u64::from(work.header.head));
    let len = size_of::<Chunk>() as u64 + head;
    send((&raw const *work).cast(), len, wake_for(len))
}

/// Sends an exchange; `only` when it is counted nowhere else.
#[inline(always)]
pub fn send_completed(completed: &Completed, only: bool) -> bool {
    let len = size_of::<Completed>() as u64;
    let (data, flags) = ((&raw const *completed).cast(), wake_for(len));
    if only { send(data, len, flags) } else { try_send(data, len, flags) }
}

/// Sends the state of a connection that user space parses from here on.
#[inline(always)]
pub fn send_fallback(offloaded: *const OffloadedConnection) -> bool {
    let len = size_of::<OffloadedConnection>() as u64;
    send(offloaded.cast(), len, wake_for(len))
}

/// Sends a connection's announcement.
#[inline(always)]
pub fn send_open(open: &Open) -> bool {
    let len = size_of::<Open>() as u64;
    send((&raw const *open).cast(), len, wake_for(len))
}

/// Sends a connection's end.
#[inline(always)]
pub fn send_close(close: &Close) {
    send((&raw const *close).cast(), size_of::<Close>() as u64, u64::from(BPF_RB_NO_WAKEUP));
}

/// Sends a control group's announcement.
#[inline(always)]
pub fn send_cgroup(cgroup: &Cgroup) -> bool {
    send((&raw const *cgroup).cast(), size_of::<Cgroup>() as u64, u64::from(BPF_RB_NO_WAKEUP))
}

/// Sends a process's exit, and wakes the agent if it must not wait.
#[inline(always)]
pub fn send_exit(exit: &Exit, wake: bool) {
    let flags = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    send((&raw const *exit).cast(), size_of::<Exit>() as u64, u64::from(flags));
}
