//! Connections that the programs follow without user space.
//!
//! ```text
//! call ─► steps of the protocol (http, redis, mysql, …) over windows of the bytes (window) ─► messages
//!      ─► requests wait, responses end them: exchange ─► its slot, or a record
//! ```
//!
//! A call is taken as a whole or not at all: the steps write to this CPU's [`WORK`] only, and when one of them meets
//! what it does not follow, the connection goes to user space as it stood before the call.

mod exchange;
mod http;
mod mysql;
mod offer;
mod postgres;
mod redis;
mod sql;
mod window;

pub use offer::{accepts_offer, withdraw};
pub use window::vector;

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use porthole_bpf_types::{
    connection::{Connection, direction, role, state, transport},
    offload::{OffloadedConnection, PENDING_MAX, ParseState, framing_state, protocol, side},
    record::kind,
};

use crate::{
    capture::bounded,
    connections,
    maps::{CONNECTIONS, NEW_OFFLOADED, NO_VECTOR, OFFLOADED, Scratch, Work, count},
    process, ring,
};

/// What became of a call: user space must take the connection over.
pub const FALL_BACK: u64 = 0;
/// It was taken.
const PARSED: u64 = 1;
/// It could not be looked at, because another CPU held the connection too long.
const MISSED: u64 = 2;

/// Times that a connection's lock is tried at once, and how often that is done: another CPU holds it for less than a
/// microsecond.
const TRIES: u32 = 24;
const WAITS: u32 = 100;

/// Whether the first call on a connection could be the beginning of one that is followed.
#[inline(always)]
pub fn may_begin(work: &Work, connection: *mut Connection) -> bool {
    // SAFETY: a map's value.
    let (transport, role, offset) =
        unsafe { ((*connection).transport, (*connection).role, (*connection).offset) };
    let asks = match role {
        role::ACCEPTED => work.header.direction == direction::INGRESS,
        role::CONNECTED => work.header.direction == direction::EGRESS,
        _ => false,
    };
    // The positions have moved on by this call already.
    asks && transport == transport::TCP && offset[0] + offset[1] == work.header.total
}

/// Begins to follow a connection with its first call; gives 0 when that is not what the programs follow. A global
/// function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn begin(sk: u64) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(new) = NEW_OFFLOADED.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's.
    let new = unsafe { &mut *new };
    work.parse.from = 0;
    work.parse.len = 0;
    let start = window::window_at(0, 16);
    if start == window::NONE {
        return 0;
    }
    new.protocol = match window::byte(&work, start) {
        b'*' => protocol::REDIS,
        b'G' | b'P' | b'H' | b'D' | b'O' => protocol::HTTP1,
        _ => return 0,
    };
    let server = work.header.direction == direction::INGRESS;
    new.side = if server { side::SERVER } else { side::CLIENT };
    // SAFETY: a map's value.
    new.connection = unsafe { (*connection).id };
    new.kind = kind::FALLBACK;
    new.offset = [0; 2];
    new.lock = 0;
    new.remote = if server { 0 } else { connections::remote_hash(sk) };
    // SAFETY: a map's value.
    new.cgroup = unsafe { (*connection).cgroup };
    new.socket = sk;
    new.head_requests = 0;
    new.pushed = 0;
    new.popped = 0;
    // SAFETY: this CPU's.
    unsafe {
        copy(&raw const AT_START, &raw mut (*new).requests);
        copy(&raw const AT_START, &raw mut (*new).responses);
    }
    u64::from(OFFLOADED.insert(new.connection, &*new, 0).is_ok())
}

/// Whether the call with which a connection begins was parsed; then the connection is offloaded from here on.
#[inline(always)]
pub fn begins(connection: *mut Connection, sk: u64) -> bool {
    // SAFETY: a map's value.
    let id = unsafe { (*connection).id };
    if begin(sk) == 0 {
        return false;
    }
    if call(id, sk) != PARSED {
        let _ = OFFLOADED.remove(id);
        return false;
    }
    process::announce_cgroup(process::BY_CALL);
    // SAFETY: a map's value.
    unsafe { (*connection).state = state::OFFLOADED };
    count!(offloaded);
    true
}

static AT_START: ParseState = ParseState { left: 0, bytes: 0, start: 0, request: 0, items: 0, framing: 0 };

/// Copies word by word: the compiler would call a function that copies byte by byte.
///
/// # Safety
///
/// Both must be valid.
#[inline(always)]
unsafe fn copy(from: *const ParseState, to: *mut ParseState) {
    const WORDS: usize = size_of::<ParseState>() / 8;
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    let mut word = 0;
    while word < WORDS {
        // SAFETY: as the caller says; it consists of words.
        unsafe { core::ptr::write_volatile(to.add(word), core::ptr::read_volatile(from.add(word))) };
        word += 1;
    }
}

/// Takes a call on an offloaded connection. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn call(id: u64, sk: u64) -> u64 {
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return FALL_BACK };
    let Some(work) = Scratch::get() else { return FALL_BACK };
    if !try_lock(offloaded) {
        let mut waits = 0;
        loop {
            match wait(id) {
                HELD => {}
                GONE => return FALL_BACK,
                _ => break,
            }
            waits += 1;
            if waits >= WAITS {
                count!(lost);
                return MISSED;
            }
        }
    }
    // SAFETY: a map's value that is locked.
    let taken = unsafe { locked(work, offloaded, id, sk) };
    // SAFETY: a map's value.
    unsafe { core::ptr::write_volatile(&raw mut (*offloaded).lock, 0) };
    taken
}

#[inline(always)]
fn try_lock(offloaded: *mut OffloadedConnection) -> bool {
    let mut old = 1_u64;
    // SAFETY: a map's value, aligned.
    unsafe {
        let lock = &raw mut (*offloaded).lock;
        asm!("{1} = xchg_64({0} + 0, {1})", in(reg) lock, inout(reg) old);
    }
    old == 0
}

/// What became of waiting for a lock: another CPU holds it still, or has removed what was locked.
const HELD: u64 = 0;
const GONE: u64 = 1;
const LOCKED: u64 = 2;

/// Waits a little for a connection's lock. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn wait(id: u64) -> u64 {
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return GONE };
    let mut tries = 0;
    while tries < TRIES {
        if try_lock(offloaded) {
            return LOCKED;
        }
        tries += 1;
    }
    HELD
}

/// An offloaded connection that this CPU has locked. As with [`Scratch`], nobody may hold a reference across a call.
#[derive(Clone, Copy)]
struct Locked(*mut OffloadedConnection);

impl core::ops::Deref for Locked {
    type Target = OffloadedConnection;

    #[inline(always)]
    fn deref(&self) -> &OffloadedConnection {
        // SAFETY: a map's value, which only the CPU that has locked it uses.
        unsafe { &*self.0 }
    }
}

impl core::ops::DerefMut for Locked {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut OffloadedConnection {
        // SAFETY: as above.
        unsafe { &mut *self.0 }
    }
}

/// # Safety
///
/// `offloaded` must be a map's value, and locked.
#[inline(always)]
unsafe fn locked(mut work: Scratch, offloaded: *mut OffloadedConnection, id: u64, sk: u64) -> u64 {
    let mut offloaded = Locked(offloaded);
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
    for field in
        [&raw mut work.parse.from, &raw mut work.parse.len, &raw mut work.parse.at, &raw mut work.parse.found]
    {
        // SAFETY: this CPU's.
        unsafe { core::ptr::write_volatile(field, 0) };
    }
    let popped = u64::from(offloaded.popped) & (PENDING_MAX as u64 - 1);
    work.parse.head_requests =
        (offloaded.head_requests >> popped) | (offloaded.head_requests << ((64 - popped) & 63));
    // SAFETY: both are this CPU's alone, and lie apart.
    unsafe {
        let from =
            if requests { &raw const (*offloaded.0).requests } else { &raw const (*offloaded.0).responses };
        copy(from, &raw mut (*work.as_ptr()).parse.state);
    }
    // Go's net/http reads a request's first byte ahead, by itself, and what follows behind it.
    let first = requests && offloaded.requests.framing == framing_state::FIRST_BYTE_READ;
    if first {
        if work.count != NO_VECTOR {
            return FALL_BACK;
        }
        work.address -= 1;
        work.header.total += 1;
    }
    let taken = followed(work, offloaded, id, sk, requests);
    if first {
        work.address += 1;
        work.header.total -= 1;
    }
    if taken != PARSED {
        return FALL_BACK;
    }
    // SAFETY: as above.
    unsafe {
        let to = if requests { &raw mut (*offloaded.0).requests } else { &raw mut (*offloaded.0).responses };
        copy(&raw const (*work.as_ptr()).parse.state, to);
    }
    let total = work.header.total;
    if ingress {
        offloaded.offset[0] = offset + total;
    } else {
        offloaded.offset[1] = offset + total;
    }
    PARSED
}

/// Goes through what a call moved, and does what follows from the messages that end in it.
#[inline(always)]
fn followed(work: Scratch, offloaded: Locked, id: u64, sk: u64, requests: bool) -> u64 {
    let which = u64::from(offloaded.protocol) * 2 + u64::from(requests);
    let mut rounds = 0;
    while rounds < ROUNDS_MAX {
        match steps(which) {
            0 => return FALL_BACK,
            1 => break,
            _ => rounds += 1,
        }
    }
    if rounds >= ROUNDS_MAX {
        return FALL_BACK;
    }
    let (found, waiting) = (work.parse.found, u64::from(offloaded.pushed.wrapping_sub(offloaded.popped)));
    if requests {
        // A database answers one statement before it is asked the next.
        let most = if offloaded.protocol >= protocol::MYSQL { 1 } else { PENDING_MAX as u64 };
        if found > 0 && waiting + found > most {
            return FALL_BACK;
        }
        exchange::push(work, offloaded, id, found);
    } else {
        if found > waiting {
            return FALL_BACK;
        }
        exchange::complete(work, offloaded, id, found, sk);
    }
    PARSED
}

/// Steps in one call of [`steps`], and calls of it.
const STEPS: u64 = 32;
const ROUNDS_MAX: u64 = redis::STEPS_MAX / STEPS;

/// Goes on by some steps: 0 when user space must take over, 1 at the end of the call, 2 when there is more. A global
/// function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn steps(which: u64) -> u64 {
    const HTTP_RESPONSES: u64 = protocol::HTTP1 as u64 * 2;
    const HTTP_REQUESTS: u64 = HTTP_RESPONSES + 1;
    const REDIS_REPLIES: u64 = protocol::REDIS as u64 * 2;
    const REDIS_REQUESTS: u64 = REDIS_REPLIES + 1;
    const MYSQL_REPLIES: u64 = protocol::MYSQL as u64 * 2;
    const MYSQL_REQUESTS: u64 = MYSQL_REPLIES + 1;
    const POSTGRESQL_REQUESTS: u64 = protocol::POSTGRESQL as u64 * 2 + 1;
    let Some(work) = Scratch::get() else { return 0 };
    let mut count = 0;
    while count < STEPS {
        if work.parse.at >= work.header.total {
            return 1;
        }
        let taken = match which {
            HTTP_REQUESTS => http::http_step(0),
            HTTP_RESPONSES => http::http_step(1),
            REDIS_REQUESTS => redis::redis_request_step(),
            REDIS_REPLIES => redis::redis_reply_step(),
            MYSQL_REQUESTS => mysql::mysql_request_step(),
            MYSQL_REPLIES => mysql::mysql_reply_step(),
            POSTGRESQL_REQUESTS => postgres::postgres_request_step(),
            _ => postgres::postgres_reply_step(),
        };
        if taken == 0 {
            return 0;
        }
        count += 1;
    }
    2
}

/// Notes a message that ends in this call; false when there are too many.
#[inline(always)]
fn push_message(
    mut work: Scratch,
    count: u64,
    request: u64,
    start: u64,
    bytes: u64,
    at: u32,
    flags: u32,
) -> bool {
    if count >= PENDING_MAX as u64 {
        return false;
    }
    let place = bounded::<{ PENDING_MAX as u64 - 1 }>(count) as usize;
    // SAFETY: within the array.
    unsafe {
        let message = (&raw mut work.parse.messages).cast::<crate::maps::Message>().add(place);
        (*message).request = request;
        (*message).start = start;
        (*message).bytes = bytes;
        (*message).at = at;
        (*message).flags = flags;
    }
    work.parse.found = count + 1;
    true
}

/// Tells user space all about a connection that it is to follow from here; false when that is not possible.
#[inline(always)]
pub fn fall_back(connection: *mut Connection, sk: u64, by: u32) -> bool {
    // SAFETY: a map's value.
    let id = unsafe { (*connection).id };
    if OFFLOADED.get_ptr(id).is_none() {
        return true;
    }
    count!(offloaded_ended);
    // SAFETY: a map's value.
    if unsafe { (*connection).announced } == 0 && connections::announce(sk, by) == 0 {
        let _ = OFFLOADED.remove(id);
        return false;
    }
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return true };
    // SAFETY: a map's value.
    unsafe { (*offloaded).sequence = connections::next_sequence(connection) };
    ring::send_fallback(offloaded);
    let _ = OFFLOADED.remove(id);
    true
}

/// The socket of an offloaded connection is closed: requests without a response go to user space.
#[inline(always)]
pub fn closed(connection: *mut Connection, sk: u64) {
    // SAFETY: a map's value.
    let id = unsafe { (*connection).id };
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return };
    // SAFETY: a map's value.
    let unfinished = unsafe { (*offloaded).pushed != (*offloaded).popped };
    if unfinished {
        fall_back(connection, sk, connections::BY_CLOSE);
    } else {
        count!(offloaded_ended);
        let _ = OFFLOADED.remove(id);
    }
}
