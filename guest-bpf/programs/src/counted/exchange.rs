//! Requests that wait, and what becomes of them when they are answered.

use core::arch::asm;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id};
use porthole_bpf_types::{
    counted::{
        COMMANDS_MAX, Learned, PENDING_MAX, Pending, SLOTS_MAX, STATUSES, Slot, TEXT_MAX, flag, protocol,
    },
    record::kind,
};
use porthole_histogram::{BUCKETS, INDEX_MIN, bucket_index};

use super::{
    Locked,
    window::{NONE, look, word},
};
use crate::{
    capture::bounded,
    connections,
    maps::{
        CONNECTIONS, COUNTED, LEARNED, Message, NAMED, REQUESTS, SETTINGS, SLOTS, STRIPE_MASK, Scratch,
        choice, constant, count,
    },
    ring,
};

/// HTTP: the lowest status of a failure (RFC 9110, section 15.5).
const FAILURES_FROM: u64 = 400;

/// Bytes of a request that are sent for its name: a request line, or a whole statement.
const LINE_BYTES: u64 = 512;
const STATEMENT_BYTES: u64 = super::sql::REQUEST_MAX;

/// The requests found in this call wait from now on.
#[inline(always)]
pub fn push(work: Scratch, counted: Locked, id: u64, found: u64) {
    if found > 0 {
        push_message(work, counted, 0);
    }
    let (mut from, mut rounds) = (1, 1);
    while rounds < PENDING_MAX as u64 {
        if from >= found {
            return;
        }
        let done = push_lot(id, from, found);
        from += if done < LOT { done } else { LOT };
        if done < LOT && from < found {
            push_one(id, from);
            from += 1;
        }
        rounds += 1;
    }
}

/// How many messages one call of [`push_lot`] or [`complete_lot`] goes through: the verifier goes through each of them.
const LOT: u64 = 3;

/// Some of them, as long as their keys are learned; gives how many. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn push_lot(id: u64, from: u64, found: u64) -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    let Some(counted) = COUNTED.get_ptr_mut(id) else { return 0 };
    // What is pipelined is mostly alike.
    let mut last = (0, None);
    let mut index = 0;
    while index < LOT {
        if from + index >= found {
            return index;
        }
        // SAFETY: within the array.
        let request = unsafe { (*message(work, from + index)).request };
        if last.1.is_none() || last.0 != request {
            last = (request, learned(work, Locked(counted), request));
        }
        let Some(known) = last.1 else { return index };
        wait_for(work, Locked(counted), from + index, known);
        index += 1;
    }
    LOT
}

/// One of them. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn push_one(id: u64, index: u64) -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    let Some(counted) = COUNTED.get_ptr_mut(id) else { return 0 };
    push_message(work, Locked(counted), index);
    0
}

#[inline(always)]
fn push_message(work: Scratch, counted: Locked, index: u64) {
    let message = message(work, index);
    // SAFETY: within the array.
    let (request, at, flags) = unsafe { ((*message).request, (*message).at, (*message).flags) };
    let known = learned(work, counted, request).unwrap_or(UNKNOWN);
    let named = counted.protocol == protocol::REDIS || request < COMMANDS_MAX || flags & flag::PREPARED != 0;
    if known.0 == UNKNOWN.0 && !named && NAMED.get_ptr(&request).is_none() {
        send_name(work, counted, request, u64::from(at));
    }
    wait_for(work, counted, index, known);
}

/// [`Pending::learned`] and [`Pending::generation`] of a request whose key was not learned.
const UNKNOWN: (u32, u32) = (0, 0);

/// A request's [`Pending::learned`] and [`Pending::generation`]; `None` when its key was not learned.
#[inline(always)]
fn learned(work: Scratch, counted: Locked, request: u64) -> Option<(u32, u32)> {
    set_key(work, counted, request);
    let known = REQUESTS.get_ptr(&work.completed.key)?;
    // SAFETY: a map's value.
    let place = unsafe { *known };
    let entry = LEARNED.get_ptr(place)?;
    // SAFETY: a map's value.
    Some((place + 1, unsafe { (*entry).generation }))
}

/// A request waits for its response from now on.
#[inline(always)]
fn wait_for(work: Scratch, mut counted: Locked, index: u64, (learned, generation): (u32, u32)) {
    let message = message(work, index);
    // SAFETY: within the array.
    let (request, start, bytes, flags) =
        unsafe { ((*message).request, (*message).start, (*message).bytes, (*message).flags) };
    let place = bounded::<{ PENDING_MAX as u64 - 1 }>(u64::from(counted.pushed));
    // SAFETY: within the array.
    unsafe {
        let pending = (&raw mut counted.pending).cast::<Pending>().add(place as usize);
        (*pending).request = request;
        (*pending).start = start;
        (*pending).bytes = bytes as u32;
        (*pending).flags = flags;
        (*pending).learned = learned;
        (*pending).generation = generation;
    }
    let bit = 1_u64 << place;
    let heads = counted.heads & !bit;
    counted.heads = if flags & flag::HEAD != 0 { heads | bit } else { heads };
    counted.pushed = counted.pushed.wrapping_add(1);
}

/// The responses found in this call end the requests that waited longest.
#[inline(always)]
pub fn complete(work: Scratch, counted: Locked, id: u64, found: u64, sk: u64) {
    // Mostly there is one, and its slot is known: that takes no call.
    if found > 0 && !complete_known(work, counted, 0) {
        complete_one(id, 0, sk);
    }
    let (mut from, mut rounds) = (1, 1);
    while rounds < PENDING_MAX as u64 {
        if from >= found {
            return;
        }
        let done = complete_lot(id, from, found);
        from += if done < LOT { done } else { LOT };
        if done < LOT && from < found {
            complete_one(id, from, sk);
            from += 1;
        }
        rounds += 1;
    }
}

/// Some of them, as long as their slots are known; gives how many. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn complete_lot(id: u64, from: u64, found: u64) -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    let Some(counted) = COUNTED.get_ptr_mut(id) else { return 0 };
    let mut index = 0;
    while index < LOT {
        if from + index >= found || !complete_known(work, Locked(counted), from + index) {
            return index;
        }
        index += 1;
    }
    LOT
}

/// One of them. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn complete_one(id: u64, index: u64, sk: u64) -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    let Some(counted) = COUNTED.get_ptr_mut(id) else { return 0 };
    let mut counted = Locked(counted);
    if complete_known(work, counted, index) {
        return 0;
    }
    let message = message(work, index);
    // SAFETY: within the array.
    let (status, bytes, at) = unsafe { ((*message).request, (*message).bytes, (*message).at) };
    let pending = oldest(counted);
    counted.popped = counted.popped.wrapping_add(1);
    let Some(slot) = slot_of(pending, status as u32) else {
        send_completed(work, counted, pending, kind::COMPLETED, status, bytes, at, sk);
        return 0;
    };
    // SAFETY: a map's value.
    unsafe { (*slot).chosen = work.parse.now };
    if !send_completed(work, counted, pending, kind::CHOSEN, status, bytes, at, sk) {
        add(slot, work.parse.now, pending, bytes);
    }
    0
}

/// Whether an exchange that has a slot is told in full rather than counted there. HTTP's statuses say what failed; what
/// fails in other protocols has no slot.
#[inline(always)]
fn is_chosen(slot: *mut Slot, now: u64, start: u64, status: u64) -> bool {
    // SAFETY: a map's value.
    let since = now.wrapping_sub(unsafe { (*slot).chosen });
    if since < choice!(failures_interval) {
        return false;
    }
    since >= choice!(interval) || status >= FAILURES_FROM || now.wrapping_sub(start) >= choice!(slow)
}

/// The request that has waited longest. It stays where it is until another takes its place.
#[inline(always)]
fn oldest<'a>(counted: Locked) -> &'a Pending {
    let place = bounded::<{ PENDING_MAX as u64 - 1 }>(u64::from(counted.popped));
    // SAFETY: within the array of a map's value.
    unsafe { &*(&raw const (*counted.0).pending).cast::<Pending>().add(place as usize) }
}

/// Adds an exchange to its slot; false when it has none, or is to be told in full.
#[inline(always)]
fn complete_known(work: Scratch, mut counted: Locked, index: u64) -> bool {
    let message = message(work, index);
    // SAFETY: within the array.
    let (status, bytes) = unsafe { ((*message).request, (*message).bytes) };
    let pending = oldest(counted);
    let Some(slot) = slot_of(pending, status as u32) else { return false };
    if is_chosen(slot, work.parse.now, pending.start, status) {
        return false;
    }
    add(slot, work.parse.now, pending, bytes);
    counted.popped = counted.popped.wrapping_add(1);
    true
}

#[inline(always)]
fn message(mut work: Scratch, index: u64) -> *mut Message {
    let place = bounded::<{ PENDING_MAX as u64 - 1 }>(index) as usize;
    // SAFETY: within the array.
    unsafe { (&raw mut work.parse.messages).cast::<Message>().add(place) }
}

/// Puts a request's key where it is looked up and sent.
#[inline(always)]
fn set_key(mut work: Scratch, counted: Locked, request: u64) {
    let key = &mut work.completed.key;
    key.cgroup = counted.cgroup;
    key.remote = counted.remote;
    key.request = request;
    key.protocol = u32::from(counted.protocol);
    key.side = u32::from(counted.side);
}

/// The slot of a request's key and a status, of this CPU's stripe.
#[inline(always)]
fn slot_of(pending: &Pending, status: u32) -> Option<*mut Slot> {
    if pending.learned == 0 {
        return None;
    }
    let entry: *const Learned = LEARNED.get_ptr(pending.learned - 1)?;
    // SAFETY: a map's value, and within its arrays; the agent writes `used` last.
    unsafe {
        if (*entry).generation != pending.generation {
            return None;
        }
        let mut index = 0;
        while index < STATUSES {
            if index >= (*entry).used as usize {
                return None;
            }
            if (*entry).statuses[index] == status {
                let stripe = bpf_get_smp_processor_id() & constant(&raw const STRIPE_MASK);
                return SLOTS.get_ptr_mut(stripe * SLOTS_MAX + (*entry).slots[index]);
            }
            index += 1;
        }
    }
    None
}

#[inline(always)]
fn add(slot: *mut Slot, now: u64, pending: &Pending, bytes: u64) {
    let duration = now.wrapping_sub(pending.start);
    let bucket = bounded::<0xff>((bucket_index(duration) - INDEX_MIN) as u64) as usize;
    if bucket >= BUCKETS {
        return;
    }
    // SAFETY: a map's value; within its array.
    unsafe {
        connections::fetch_add(&raw mut (*slot).duration_ns, duration);
        connections::fetch_add(&raw mut (*slot).request_bytes, u64::from(pending.bytes));
        connections::fetch_add(&raw mut (*slot).response_bytes, bytes);
        let counter = (&raw mut (*slot).buckets).cast::<u32>().add(bucket);
        asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1_u64);
        // The agent looks again when this changes, so it comes last.
        core::ptr::write_volatile(&raw mut (*slot).last, now);
    }
}

/// Sends an exchange; false when that is not possible, which is a loss unless it was [`kind::CHOSEN`].
#[inline(always)]
#[allow(clippy::too_many_arguments)] // What would hold them together would lie on the stack, which has no room.
fn send_completed(
    mut work: Scratch,
    counted: Locked,
    pending: &Pending,
    kind: u32,
    status: u64,
    bytes: u64,
    at: u32,
    sk: u64,
) -> bool {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return false };
    // SAFETY: a map's value.
    if unsafe { (*connection).announced } == 0 && connections::announce(sk, connections::BY_CALL) == 0 {
        return false;
    }
    if SETTINGS.get(0).is_some_and(|settings| settings.paused != 0) {
        if kind != kind::CHOSEN {
            count!(lost);
        }
        return false;
    }
    let task = bpf_get_current_pid_tgid();
    let end = work.parse.now;
    set_key(work, counted, pending.request);
    let completed = &mut work.completed;
    completed.kind = kind;
    completed.tgid = (task >> 32) as u32;
    completed.tid = task as u32;
    completed.status = status as u32;
    completed.connection = counted.connection;
    completed.start = pending.start;
    completed.end = end;
    completed.request_bytes = u64::from(pending.bytes);
    completed.response_bytes = bytes;
    completed.text[0] = 0;
    if counted.protocol == protocol::POSTGRESQL || (counted.protocol != protocol::HTTP1 && status != 0) {
        let from = look(u64::from(at), TEXT_MAX as u64 + 1);
        if from != NONE {
            let mut index = 0;
            while index < TEXT_MAX / 8 {
                let text = word(&work, from + 1 + 8 * index as u64);
                // SAFETY: within the array. One by one, because the stack has no room for all.
                unsafe { core::ptr::write_volatile(&raw mut work.completed.text[index], text) };
                index += 1;
            }
        }
    }
    work.completed.sequence = connections::next_sequence(connection);
    ring::send_completed(&work.completed, kind != kind::CHOSEN)
}

/// Sends the beginning of a request whose hash has no name yet.
#[inline(always)]
fn send_name(mut work: Scratch, counted: Locked, request: u64, at: u64) {
    let most = if counted.protocol == protocol::HTTP1 { LINE_BYTES } else { STATEMENT_BYTES };
    let from = look(at, most);
    if from == NONE || SETTINGS.get(0).is_none_or(|settings| settings.paused != 0) {
        return;
    }
    let (offset, total) = (work.header.offset, work.header.total);
    let end = from + most;
    work.header.kind = kind::NAME;
    work.header.connection = counted.connection;
    work.header.sequence = u64::from(counted.protocol);
    work.header.offset = request;
    work.header.total = from;
    work.header.head = if end < work.parse.len { end as u32 } else { work.parse.len as u32 };
    ring::send_name(&work);
    work.header.offset = offset;
    work.header.total = total;
}
