//! A call on an offloaded connection: parsed as a whole or not at all.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use porthole_bpf_types::{
    connection::direction,
    offload::{PENDING_MAX, ParseState, framing_state, side},
};
use porthole_protocol::Offload;

use super::{
    exchange,
    lock::{self, Lock, Locked},
    pending::{self, Pending},
    steps, threads,
};
use crate::maps::{NO_VECTOR, OFFLOADED, Scratch, count};

/// What became of a call: the connection must fall back to user space.
pub const FALL_BACK: u64 = 0;
/// It was parsed.
pub const PARSED: u64 = 1;
/// It could not be parsed, because another CPU held the lock too long.
const MISSED: u64 = 2;

/// Parses a call on an offloaded connection. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn call(id: u64, sk: u64) -> u64 {
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return FALL_BACK };
    let Some(work) = Scratch::get() else { return FALL_BACK };
    match lock::lock(offloaded, id) {
        Lock::Locked => {}
        Lock::Gone => return FALL_BACK,
        Lock::Held => {
            count!(lost);
            return MISSED;
        }
    }
    let taken = locked(work, Locked(offloaded), id, sk);
    lock::unlock(offloaded);
    taken
}

/// Parses a call on a connection that is locked.
#[inline(always)]
fn locked(mut work: Scratch, mut offloaded: Locked, id: u64, sk: u64) -> u64 {
    let ingress = work.header.direction == direction::INGRESS;
    let offset = if ingress { offloaded.offset[0] } else { offloaded.offset[1] };
    // Two threads on one direction, or a call that was missed.
    if offset != work.header.offset {
        return FALL_BACK;
    }
    let requests = ingress == (offloaded.side == side::SERVER);
    work.header.connection = id;
    // SAFETY: a helper without preconditions.
    work.parse.now = unsafe { bpf_ktime_get_ns() };
    // One by one: the compiler would call a function that writes byte by byte.
    for field in [
        &raw mut work.parse.from,
        &raw mut work.parse.len,
        &raw mut work.parse.at,
        &raw mut work.parse.found,
        &raw mut work.parse.buffer,
        &raw mut work.parse.gathered,
        &raw mut work.parse.context_at,
    ] {
        // SAFETY: fields of this CPU's value.
        unsafe { core::ptr::write_volatile(field, 0) };
    }
    let popped = u64::from(offloaded.popped) & (PENDING_MAX as u64 - 1);
    work.parse.head_requests =
        (offloaded.head_requests >> popped) | (offloaded.head_requests << ((64 - popped) & 63));
    // SAFETY: both are this CPU's alone, and do not overlap.
    unsafe {
        let from =
            if requests { &raw const (*offloaded.0).requests } else { &raw const (*offloaded.0).responses };
        copy(from, &raw mut (*work.as_ptr()).parse.state);
    }
    // Go's net/http reads a request's first byte by a call of its own, into the byte before the rest.
    let first = requests && offloaded.requests.framing == framing_state::FIRST_BYTE_READ;
    if first {
        if work.count != NO_VECTOR {
            return FALL_BACK;
        }
        work.address -= 1;
        work.header.total += 1;
    }
    // In memory, where the verifier does not follow them: it would verify what comes for each of their values.
    work.parse.requests = u64::from(requests);
    work.parse.first = u64::from(first);
    let taken = followed(work, offloaded, id, sk);
    let (requests, first) = (work.parse.requests != 0, work.parse.first);
    work.address += first;
    work.header.total -= first;
    if taken != PARSED {
        return FALL_BACK;
    }
    // SAFETY: as above, the same pointer.
    unsafe {
        let to = if requests { &raw mut (*offloaded.0).requests } else { &raw mut (*offloaded.0).responses };
        copy(&raw const (*work.as_ptr()).parse.state, to);
    }
    let total = work.header.total;
    if work.header.direction == direction::INGRESS {
        offloaded.offset[0] += total;
    } else {
        offloaded.offset[1] += total;
    }
    PARSED
}

/// Parses the bytes that a call moved, and pushes or completes the requests whose messages end in it.
#[inline(always)]
fn followed(mut work: Scratch, offloaded: Locked, id: u64, sk: u64) -> u64 {
    work.parse.protocol = u64::from(offloaded.protocol);
    if !steps::parse() {
        return FALL_BACK;
    }
    let (found, waiting) = (work.parse.found, u64::from(offloaded.pushed.wrapping_sub(offloaded.popped)));
    if work.parse.requests != 0 {
        // A client of a database sends the next statement after the response to the one before.
        let sql = Offload::from_number(offloaded.protocol).is_some_and(Offload::is_sql);
        let most = if sql { 1 } else { PENDING_MAX as u64 };
        if found > 0 && waiting + found > most {
            return FALL_BACK;
        }
        // Of several in one call it is not known which one's it is.
        if found == 1 && work.parse.context_at != 0 {
            pending::keep_context(work, offloaded);
        }
        exchange::push(work, offloaded, id, found);
        if found > 0 {
            threads::requested(work, offloaded);
        }
    } else {
        if found > waiting {
            return FALL_BACK;
        }
        // The responses come before the end of the newest request's body, which was counted with its head.
        if offloaded.requests.framing == framing_state::BODY && found == waiting {
            Pending::newest(offloaded).leave_out(offloaded.requests.left);
        }
        if found > 0 {
            threads::responded(work, offloaded);
        }
        exchange::complete(work, offloaded, id, found, sk);
    }
    PARSED
}

/// Copies word by word: the compiler would call a function that copies byte by byte.
///
/// # Safety
///
/// `from` must be valid for reads, and `to` for writes, of a `ParseState`.
#[inline(always)]
pub unsafe fn copy(from: *const ParseState, to: *mut ParseState) {
    const WORDS: usize = size_of::<ParseState>() / 8;
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    let mut word = 0;
    while word < WORDS {
        // SAFETY: the caller guarantees that both are valid; a `ParseState` consists of `WORDS` words.
        unsafe { core::ptr::write_volatile(to.add(word), core::ptr::read_volatile(from.add(word))) };
        word += 1;
    }
}
