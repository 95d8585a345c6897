//! The first call on a connection: whether it is offloaded from there.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use porthole_bpf_types::{
    connection::{Connection, direction, role, state, transport},
    offload::{ParseState, side},
    record::kind,
};
use porthole_protocol::Offload;

use super::{
    call::{PARSED, call, copy},
    processes,
};
use crate::{
    connections,
    maps::{CONNECTIONS, NEW_OFFLOADED, OFFLOADED, Scratch, Work, count},
    process, window,
};

/// Whether the first call on a connection could be the beginning of one that the programs parse.
#[inline(always)]
pub fn may_begin(work: &Work, connection: *mut Connection) -> bool {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (transport, role, offset) =
        unsafe { ((*connection).transport, (*connection).role, (*connection).offset) };
    let asks = match role {
        role::ACCEPTED => work.header.direction == direction::INGRESS,
        role::CONNECTED => work.header.direction == direction::EGRESS,
        _ => false,
    };
    // The positions include this call already.
    asks && transport == transport::TCP && offset[0] + offset[1] == work.header.total
}

/// Makes the state of a connection by its first call; gives 0 when its first byte is of no protocol that the programs
/// parse. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn begin(sk: u64) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(new) = NEW_OFFLOADED.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's value, which only the program that runs uses (see `maps`).
    let new = unsafe { &mut *new };
    work.parse.from = 0;
    work.parse.len = 0;
    work.parse.buffer = 0;
    work.parse.gathered = 0;
    let start = window::window_at(0, 16);
    if start == window::NONE {
        return 0;
    }
    new.protocol = match window::byte(&work, start) {
        b'*' => Offload::Redis,
        b'G' | b'P' | b'H' | b'D' | b'O' => Offload::Http1,
        _ => return 0,
    }
    .number();
    let server = work.header.direction == direction::INGRESS;
    new.side = if server { side::SERVER } else { side::CLIENT };
    if server && new.protocol != Offload::Http1.number() {
        processes::serves_other(bpf_get_current_pid_tgid());
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    new.connection = unsafe { (*connection).id };
    new.kind = kind::FALLBACK;
    new.offset = [0; 2];
    new.lock = 0;
    new.remote = if server { 0 } else { connections::remote_hash(sk) };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    new.cgroup = unsafe { (*connection).cgroup };
    new.socket = sk;
    new.thread = 0;
    new.head_requests = 0;
    new.pushed = 0;
    new.popped = 0;
    new.context_of = 0;
    // SAFETY: this CPU's value, which only the program that runs uses (see `maps`).
    unsafe {
        copy(&raw const AT_START, &raw mut new.requests);
        copy(&raw const AT_START, &raw mut new.responses);
    }
    u64::from(OFFLOADED.insert(new.connection, new, 0).is_ok())
}

/// Whether the call with which a connection begins was parsed; then the connection is offloaded from here on.
#[inline(always)]
pub fn begins(connection: *mut Connection, sk: u64) -> bool {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let id = unsafe { (*connection).id };
    if begin(sk) == 0 {
        return false;
    }
    if call(id, sk) != PARSED {
        let _ = OFFLOADED.remove(id);
        return false;
    }
    process::announce_cgroup(process::BY_CALL);
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    unsafe { (*connection).state = state::OFFLOADED };
    count!(offloaded);
    true
}

static AT_START: ParseState = ParseState::AT_START;
