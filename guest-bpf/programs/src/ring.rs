//! The ring buffer to user space. The agent is woken when a quarter of the ring is full; otherwise it polls a few times
//! a second.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    helpers::bpf_ringbuf_output,
};
use porthole_bpf_types::{
    kernel_key::Completed,
    offload::OffloadedConnection,
    record::{Cgroup, Chunk, ClientSocket, Close, Exit, Listen, Open, UnnamedRequest},
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

/// Sends what leaves room for ends of connections: they show how many bytes moved of which the records were lost.
#[inline(always)]
fn send_yielding(data: *const u8, len: u64) -> bool {
    let (available, size) = levels();
    let sent = available + len + HEADER <= size - (size >> ENDS_SHIFT)
        && try_send(data, len, wake_at(len, available, size));
    if !sent {
        count!(lost);
    }
    sent
}

/// What the kernel puts before each record (`BPF_RINGBUF_HDR_SZ`).
const HEADER: u64 = 8;

/// The share of the ring that only ends of connections, their announcements and fallbacks may take: 1 / 2^5.
const ENDS_SHIFT: u64 = 5;

/// Bytes in the ring, and its size.
#[inline(always)]
fn levels() -> (u64, u64) {
    (RECORDS.query(u64::from(BPF_RB_AVAIL_DATA)), RECORDS.query(u64::from(BPF_RB_RING_SIZE)))
}

/// Whether a record of this size fills up another quarter of the ring.
#[inline(always)]
pub fn wake_for(len: u64) -> u64 {
    let (available, size) = levels();
    wake_at(len, available, size)
}

#[inline(always)]
fn wake_at(len: u64, available: u64, size: u64) -> u64 {
    let quarter = size >> 2;
    // Only the record that crosses the mark wakes: the agent sleeps no longer than its timer anyway.
    if (available < quarter && available + len >= quarter)
        || (available < 3 * quarter && available + len >= 3 * quarter)
    {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// Whether a quarter of the ring remains for others when a record of this size is added.
#[inline(always)]
pub fn has_room(len: u64) -> bool {
    let (available, size) = levels();
    available + len <= size - (size >> 2)
}

/// Sends the chunk in `work` with as many bytes of the call as its header has, and wakes the agent if it must not wait.
#[inline(always)]
pub fn send_chunk(work: &Work, wake: bool) -> bool {
    send_window(work, u64::from(work.header.head), wake)
}

/// The same with this many bytes behind the header.
#[inline(always)]
pub fn send_window(work: &Work, bytes: u64, wake: bool) -> bool {
    let len = size_of::<Chunk>() as u64 + bounded::<{ HEAD_ROOM as u64 - 1 }>(bytes);
    let data = (&raw const *work).cast();
    if wake { send(data, len, u64::from(BPF_RB_FORCE_WAKEUP)) } else { send_yielding(data, len) }
}

/// Sends the [`UnnamedRequest`] in the place of the header in `work`, with this much of the window.
#[inline(always)]
pub fn send_unnamed_request(work: &Work, window: u32) -> bool {
    let window = bounded::<{ HEAD_ROOM as u64 - 1 }>(u64::from(window));
    let len = size_of::<UnnamedRequest>() as u64 + window;
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

/// Sends what became of a connection that a process makes.
#[inline(always)]
pub fn send_client_socket(record: &ClientSocket) {
    send_yielding((&raw const *record).cast(), size_of::<ClientSocket>() as u64);
}

/// Sends that a process begins to accept connections.
#[inline(always)]
pub fn send_listen(record: &Listen) {
    send_yielding((&raw const *record).cast(), size_of::<Listen>() as u64);
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
