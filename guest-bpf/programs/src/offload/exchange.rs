//! Pending requests, and their completion by responses.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use porthole_bpf_types::{
    kernel_key::{COMMANDS_MAX, Slot, TEXT_MAX},
    offload::{PENDING_MAX, request_flag},
    record::{UnnamedRequest, kind},
};
use porthole_histogram::{BUCKETS, INDEX_MIN, bucket_index};
use porthole_protocol::Offload;

use super::{
    lock::Locked,
    pending::{self, Pending},
    slots::slot_index,
    sql,
    threads::{self, why},
};
use crate::{
    connections,
    maps::{
        CONNECTIONS, CurrentSettings, KERNEL_KEYS, KEY_INDEXES, Message, NAMED, OFFLOADED, SLOTS, Scratch,
        count, sampling,
    },
    ring,
    verifier::{add_u32, bounded, fetch_add, rounds},
    window::{NONE, window_at, word},
};

/// HTTP: the lowest status of a failure (RFC 9110, section 15.5).
const FAILURES_FROM: u32 = 400;

/// Bytes of a request that are sent for its name: a request line, or a whole statement.
const LINE_BYTES: u64 = 512;
const STATEMENT_BYTES: u64 = sql::REQUEST_MAX;

/// Adds the requests that end in this call to the pending ones.
#[inline(always)]
pub fn push(work: Scratch, offloaded: Locked, id: u64, found: u64) {
    if found > 0 {
        push_message(work, offloaded, 0);
    }
    if found > 1 {
        push_rest(id);
    }
}

/// How many messages one call of [`push_lot`] or [`complete_lot`] goes through: the verifier goes through each iteration.
/// Between the calls what was done is in memory, where the verifier does not follow it.
const LOT: u64 = 8;

/// Adds those behind the first one. A global function: its loop is verified with nothing else on the stack, and once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn push_rest(id: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    work.parse.done = 1;
    let mut left = rounds::<{ PENDING_MAX as u64 }>();
    while left > 0 && push_lot(id) != 0 {
        left -= 1;
    }
    0
}

/// Adds some of them, up to the first that has no kernel key; gives 0 when all are added. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn push_lot(id: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return 0 };
    // Requests that are pipelined are mostly the same.
    let mut last = (0, None);
    let mut count = 0;
    while count < LOT {
        let index = work.parse.done;
        if index >= work.parse.found {
            return 0;
        }
        // SAFETY: the index was bounded to less than the array's length.
        let request = unsafe { (*message(work, index)).request };
        if last.1.is_none() || last.0 != request {
            last = (request, kernel_key_of(work, Locked(offloaded), request));
        }
        work.parse.done = index + 1;
        let Some(known) = last.1 else {
            push_message(work, Locked(offloaded), index);
            return 1;
        };
        enqueue(work, Locked(offloaded), index, known);
        count += 1;
    }
    1
}

#[inline(always)]
fn push_message(work: Scratch, offloaded: Locked, index: u64) {
    let message = message(work, index);
    // SAFETY: the index was bounded to less than the array's length.
    let (request, at, flags) = unsafe { ((*message).request, (*message).at, u32::from((*message).flags)) };
    let known = kernel_key_of(work, offloaded, request).unwrap_or(UNKNOWN);
    let named =
        Offload::from_number(offloaded.protocol).is_none_or(|protocol| is_named(protocol, request, flags));
    if known.0 == UNKNOWN.0 && !named && NAMED.get_ptr(request).is_none() {
        send_unnamed(work, offloaded, request, u64::from(at));
    }
    enqueue(work, offloaded, index, known);
}

/// Whether user space has a request's name already: by its number, or by the preparation of a statement.
#[inline(always)]
fn is_named(protocol: Offload, request: u64, flags: u32) -> bool {
    match protocol {
        Offload::Http1 | Offload::Postgresql => false,
        Offload::Redis => true,
        Offload::Mysql => request < COMMANDS_MAX || flags & request_flag::PREPARED != 0,
    }
}

/// Whether an outcome's text goes to user space with it.
#[inline(always)]
fn has_text(protocol: Offload, status: u32) -> bool {
    match protocol {
        Offload::Http1 => false,
        Offload::Redis | Offload::Mysql => status != 0,
        // The command's tag of a success.
        Offload::Postgresql => true,
    }
}

/// Whether an outcome is a failure.
#[inline(always)]
fn is_failure(protocol: Offload, status: u32) -> bool {
    match protocol {
        Offload::Http1 => status >= FAILURES_FROM,
        Offload::Redis | Offload::Mysql | Offload::Postgresql => status != 0,
    }
}

/// Bytes of a request that are sent for its name.
#[inline(always)]
fn name_bytes(protocol: Offload) -> u64 {
    match protocol {
        Offload::Http1 => LINE_BYTES,
        Offload::Redis | Offload::Mysql | Offload::Postgresql => STATEMENT_BYTES,
    }
}

/// Number and generation of the kernel key of a request that has none.
const UNKNOWN: (u32, u32) = (0, 0);

/// Number and generation of a request's kernel key; `None` when it has none.
#[inline(always)]
fn kernel_key_of(work: Scratch, offloaded: Locked, request: u64) -> Option<(u32, u32)> {
    set_key(work, offloaded, request);
    #[allow(clippy::needless_borrows_for_generic_args)] // A copy of the key has no room on the stack.
    let known = KEY_INDEXES.get_ptr(&work.completed.key)?;
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let place = unsafe { *known };
    let entry = KERNEL_KEYS.get_ptr(place)?;
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    Some((place + 1, unsafe { (*entry).generation }))
}

/// Adds a request to the pending ones.
#[inline(always)]
fn enqueue(work: Scratch, mut offloaded: Locked, index: u64, (kernel_key, generation): (u32, u32)) {
    let message = message(work, index);
    // SAFETY: the index was bounded to less than the array's length.
    let (request, start, bytes, flags) =
        unsafe { ((*message).request, (*message).start, (*message).bytes, u32::from((*message).flags)) };
    let place = pending::place_of(offloaded.pushed);
    Pending::next(offloaded, place).write(request, start, bytes as u32, flags, (kernel_key, generation));
    let bit = 1_u64 << place;
    let head_requests = offloaded.head_requests & !bit;
    offloaded.head_requests =
        if flags & request_flag::HEAD != 0 { head_requests | bit } else { head_requests };
    offloaded.pushed = offloaded.pushed.wrapping_add(1);
}

/// The responses that end in this call complete the oldest pending requests.
#[inline(always)]
pub fn complete(work: Scratch, offloaded: Locked, id: u64, found: u64, sk: u64) {
    // Mostly there is one, and its slot is known: that takes no call.
    let first = u64::from(found > 0 && complete_known(work, offloaded, 0));
    if found > first {
        complete_rest(id, sk, first);
    }
}

/// Completes by those from an index on. A global function, as [`push_rest`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn complete_rest(id: u64, sk: u64, first: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    work.parse.done = first;
    let mut left = rounds::<{ PENDING_MAX as u64 }>();
    while left > 0 && complete_lot(id, sk) != 0 {
        left -= 1;
    }
    0
}

/// Some of them, up to the first that has no slot, or is sampled; gives 0 when all are done. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn complete_lot(id: u64, sk: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return 0 };
    let mut count = 0;
    while count < LOT {
        let index = work.parse.done;
        if index >= work.parse.found {
            return 0;
        }
        work.parse.done = index + 1;
        if !complete_known(work, Locked(offloaded), index) {
            complete_unknown(work, Locked(offloaded), index, sk);
            return 1;
        }
        count += 1;
    }
    1
}

/// Completes by one that has no slot, or that is sampled.
#[inline(always)]
fn complete_unknown(work: Scratch, mut offloaded: Locked, index: u64, sk: u64) {
    let message = message(work, index);
    // SAFETY: the index was bounded to less than the array's length.
    let (status, bytes, at) = unsafe { (u32::from((*message).status), (*message).bytes, (*message).at) };
    let pending = Pending::oldest(offloaded);
    offloaded.popped = offloaded.popped.wrapping_add(1);
    let Some(slot) = slot_of(pending, status) else {
        send_completed(work, offloaded, pending, kind::COMPLETED, status, bytes, at, sk);
        return;
    };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    unsafe { (*slot).sampled = work.parse.now };
    if !send_completed(work, offloaded, pending, kind::SAMPLED, status, bytes, at, sk) {
        add(slot, work.parse.now, pending, bytes);
    }
}

/// Whether an exchange that has a slot is sampled as a span rather than added there. HTTP's statuses show what failed;
/// what fails in other protocols has no slot.
#[inline(always)]
fn is_sampled(slot: *mut Slot, now: u64, start: u64, status: u32) -> bool {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let since = now.wrapping_sub(unsafe { (*slot).sampled });
    if since < sampling!(failures_interval) {
        return false;
    }
    since >= sampling!(interval) || status >= FAILURES_FROM || now.wrapping_sub(start) >= sampling!(slow)
}

/// Adds an exchange to its slot; false when it has none, or is to be sampled.
#[inline(always)]
fn complete_known(work: Scratch, mut offloaded: Locked, index: u64) -> bool {
    let message = message(work, index);
    // SAFETY: the index was bounded to less than the array's length.
    let (status, bytes) = unsafe { (u32::from((*message).status), (*message).bytes) };
    let pending = Pending::oldest(offloaded);
    let Some(slot) = slot_of(pending, status) else { return false };
    if work.parse.reported != 0 || is_sampled(slot, work.parse.now, pending.start(), status) {
        return false;
    }
    add(slot, work.parse.now, pending, bytes);
    offloaded.popped = offloaded.popped.wrapping_add(1);
    true
}

#[inline(always)]
fn message(mut work: Scratch, index: u64) -> *mut Message {
    let place = bounded::<{ PENDING_MAX as u64 - 1 }>(index) as usize;
    // SAFETY: the index was bounded to less than the array's length.
    unsafe { (&raw mut work.parse.messages).cast::<Message>().add(place) }
}

/// Puts a request's key where it is looked up and sent.
#[inline(always)]
fn set_key(mut work: Scratch, offloaded: Locked, request: u64) {
    let key = &mut work.completed.key;
    key.cgroup = offloaded.cgroup;
    key.remote = offloaded.remote;
    key.request = request;
    key.protocol = u32::from(offloaded.protocol);
    key.side = u32::from(offloaded.side);
}

/// The slot of a request's key and a status, of this CPU's stripe.
#[inline(always)]
fn slot_of(pending: Pending, status: u32) -> Option<*mut Slot> {
    let (kernel_key, generation) = pending.kernel_key();
    if kernel_key == 0 {
        return None;
    }
    let index = slot_index(u64::from(kernel_key - 1), u64::from(generation), u64::from(status));
    // Beyond the map's end for none.
    SLOTS.get_ptr_mut(index as u32)
}

/// Index of a duration's bucket. A global function: the verifier goes through its many ways once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn bucket_of(duration: u64) -> u64 {
    (bucket_index(duration) - INDEX_MIN) as u64
}

#[inline(always)]
fn add(slot: *mut Slot, now: u64, pending: Pending, bytes: u64) {
    let duration = now.wrapping_sub(pending.start());
    let bucket = bounded::<0xff>(bucket_of(duration)) as usize;
    if bucket >= BUCKETS {
        return;
    }
    // SAFETY: a value that a look-up gave (see `maps`); within its array.
    unsafe {
        fetch_add(&raw mut (*slot).duration_ns, duration);
        fetch_add(&raw mut (*slot).request_bytes, pending.bytes());
        fetch_add(&raw mut (*slot).response_bytes, bytes);
        let counter = (&raw mut (*slot).buckets).cast::<u32>().add(bucket);
        add_u32(counter, 1);
        // The agent reads the slot when this has changed, so it is written last.
        core::ptr::write_volatile(&raw mut (*slot).last, now);
    }
}

/// Sends an exchange; false when that is not possible, which is a loss unless it was [`kind::SAMPLED`].
#[inline(always)]
#[allow(clippy::too_many_arguments)] // A struct of them would be on the stack, which has no room.
fn send_completed(
    mut work: Scratch,
    offloaded: Locked,
    pending: Pending,
    kind: u32,
    status: u32,
    bytes: u64,
    at: u32,
    sk: u64,
) -> bool {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return false };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).announced } == 0 && connections::announce(sk, connections::BY_CALL) == 0 {
        return false;
    }
    if CurrentSettings::get().is_paused() {
        if kind != kind::SAMPLED {
            count!(lost);
        }
        return false;
    }
    let task = bpf_get_current_pid_tgid();
    let end = work.parse.now;
    set_key(work, offloaded, pending.request());
    let protocol = Offload::from_number(offloaded.protocol);
    let why = match kind {
        kind::SAMPLED => why::SAMPLED,
        _ if protocol.is_some_and(|protocol| is_failure(protocol, status)) => why::FAILED,
        _ => why::NONE,
    };
    let serving = threads::exchange_serving(offloaded.connection, why);
    let alone = work.parse.alone;
    let completed = &mut work.completed;
    completed.kind = kind;
    completed.serving = serving as u32;
    completed.goroutine = (serving >> 32) as u32;
    completed.alone = alone;
    completed.tgid = (task >> 32) as u32;
    completed.tid = task as u32;
    completed.status = status;
    completed.connection = offloaded.connection;
    completed.start = pending.start();
    completed.end = end;
    completed.request_bytes = pending.bytes();
    completed.response_bytes = bytes;
    completed.text[0] = 0;
    if protocol == Some(Offload::Http1) {
        pending::add_context(work, offloaded);
    } else if protocol.is_some_and(|protocol| has_text(protocol, status)) {
        let from = window_at(u64::from(at), TEXT_MAX as u64 + 1);
        if from != NONE {
            let mut index = 0;
            while index < TEXT_MAX / 8 {
                let text = word(&work, from + 1 + 8 * index as u64);
                // SAFETY: the index was bounded to less than the array's length. One by one, because the stack has no
                // room for all.
                unsafe { core::ptr::write_volatile(&raw mut work.completed.text[index], text) };
                index += 1;
            }
        }
    }
    work.completed.sequence = connections::next_sequence(connection);
    ring::send_completed(&work.completed, kind != kind::SAMPLED)
}

/// Sends the beginning of a request whose hash has no name yet.
#[inline(always)]
fn send_unnamed(mut work: Scratch, offloaded: Locked, request: u64, at: u64) {
    let Some(most) = Offload::from_number(offloaded.protocol).map(name_bytes) else { return };
    let from = window_at(at, most);
    if from == NONE || CurrentSettings::get().is_paused() {
        return;
    }
    let (offset, total) = (work.header.offset, work.header.total);
    let end = from + most;
    let window = if end < work.parse.len { end as u32 } else { work.parse.len as u32 };
    let unnamed = (&raw mut work.header).cast::<UnnamedRequest>();
    // SAFETY: both types are 64 bytes of integers, aligned to eight; the bytes of the window follow the header in `work`.
    unsafe {
        (*unnamed).kind = kind::UNNAMED_REQUEST;
        (*unnamed).window = window;
        (*unnamed).connection = offloaded.connection;
        (*unnamed).protocol = u64::from(offloaded.protocol);
        (*unnamed).hash = request;
        (*unnamed).position = from;
    }
    ring::send_unnamed_request(&work, window);
    // What the parsers go on to use of the call's header.
    work.header.offset = offset;
    work.header.total = total;
}
