//! The table of connections: finding, creating, announcing and ending them.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel,
    },
};
use porthole_bpf_types::{
    connection::{Connection, DETECTION_BUDGET, role, state, transport},
    record::{Open, UNIX_PATH_MAX, kind},
    redis::HASH_START,
};
use porthole_framing::Walk;

use crate::{
    kernel::{self, Socket, TCP_CLOSE},
    maps::{CONNECTIONS, OPEN, count, offset},
    process, ring,
    verifier::{copy_words, fetch_add},
};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

/// The connection of a socket; a new one when it has none yet and is of a kind that is captured.
#[inline(always)]
pub fn of(socket: Socket, role: u64) -> Option<*mut Connection> {
    let connection = if let Some(connection) = known(socket.sk, || socket.inode()) {
        connection
    } else {
        create(socket.sk, socket.inode(), role);
        CONNECTIONS.get_ptr_mut(socket.sk)?
    };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).cgroup } == 0 {
        adopt(socket.sk);
    }
    Some(connection)
}

/// The first transfer on a connection sets its control group, and of a unix connection that did not show how it was made
/// its role. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn adopt(sk: u64) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`), and a helper without preconditions; of two CPUs at once both
    // come to the same.
    unsafe {
        (*connection).cgroup = bpf_get_current_cgroup_id();
        if (*connection).transport == transport::UNIX && (*connection).role == role::UNKNOWN {
            // Who accepts has the name of the socket that listened.
            let named =
                |sk: u64| kernel::read::<u64>(sk + offset!(unix_addr) as u64).is_some_and(|name| name != 0);
            if named(sk) {
                (*connection).role = role::ACCEPTED;
            } else if kernel::read(sk + offset!(unix_peer) as u64).is_some_and(named) {
                (*connection).role = role::CONNECTED;
            }
        }
    }
    0
}

/// The connection of a socket if it is in the table.
#[inline(always)]
pub fn known(sk: u64, identity: impl FnOnce() -> u64) -> Option<*mut Connection> {
    let connection = CONNECTIONS.get_ptr_mut(sk)?;
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (transport, before) = unsafe { ((*connection).transport, (*connection).identity) };
    // The end of a TCP socket always removes it, so its address cannot be another one's.
    (transport == transport::TCP || before == identity()).then_some(connection)
}

/// `include/net/sock.h`.
const RCV_SHUTDOWN: u8 = 1;

/// Whether the other end of a TCP connection has ended the stream: its FIN takes a sequence number.
#[inline(always)]
pub fn has_ended(sk: u64) -> bool {
    kernel::read::<u8>(sk + offset!(sock_shutdown) as u64)
        .is_some_and(|shutdown| shutdown & RCV_SHUTDOWN != 0)
}

/// How many bytes a socket that reports what moves has received without a report (splice to a pipe), behind what it reported. The first
/// time that the position of what is reported is not known yet, none.
#[inline(always)]
pub fn received_unreported(connection: *mut Connection, sk: u64) -> u64 {
    let Some(next) = kernel::read::<u32>(sk + offset!(tcp_copied_seq) as u64) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`); within its arrays.
    unsafe {
        let behind = next.wrapping_sub((*connection).offset[0] as u32);
        if (*connection).placed & 1 == 0 {
            (*connection).placed |= 1;
            (*connection).begin[0] = behind;
        }
        let received = behind.wrapping_sub((*connection).begin[0]);
        if (received as i32) < 0 || (received == 1 && has_ended(sk)) { 0 } else { u64::from(received) }
    }
}

/// Makes an entry for a socket that is captured, without its control group. A global function: verified once for all
/// callers.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn create(sk: u64, identity: u64, role: u64) -> u64 {
    let Some(transport) = transport_of(sk) else { return 0 };
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), u64::from(bpf_get_smp_processor_id())) };
    let mut connection = MaybeUninit::<Connection>::uninit();
    // SAFETY: both are as long as a connection and aligned as it is; then the copy is one.
    let connection = unsafe {
        copy_words::<{ size_of::<Connection>() / 8 }>(
            connection.as_mut_ptr().cast(),
            (&raw const NEW).cast(),
        );
        connection.assume_init_mut()
    };
    // A CPU makes no two in one nanosecond, and 2^56 ns are two years.
    connection.id = (now << 8) | (cpu & 0xff);
    connection.identity = identity;
    connection.transport = transport;
    connection.role = role as u8;
    #[allow(clippy::needless_borrows_for_generic_args)] // A copy would be made byte by byte.
    let inserted = CONNECTIONS.insert(sk, &*connection, 0);
    if inserted.is_err() {
        count!(table_full);
    }
    0
}

/// A connection at its beginning. Copied by words, as the compiler clears a struct by a function that writes byte by byte.
static NEW: Connection = Connection {
    id: 0,
    identity: 0,
    cgroup: 0,
    offset: [0; 2],
    sequence: 0,
    budget: DETECTION_BUDGET,
    state: state::DETECTING,
    transport: 0,
    role: 0,
    announced: 0,
    retries: 0,
    begin: [0; 2],
    placed: 0,
    history: 0,
    framing: 0,
    reserved: [0; 7],
    walks: [Walk { end: 0, buffered: 0, wanted: 0, buffered_len: 0, confirmed: 0, reserved: 0 }; 2],
};

/// What the socket's connection runs over; `None` for sockets that are not captured.
#[inline(always)]
fn transport_of(sk: u64) -> Option<u8> {
    let family: u16 = kernel::read(sk + offset!(sock_family) as u64)?;
    if family != AF_INET && family != AF_INET6 && family != AF_UNIX {
        return None;
    }
    let kind: u16 = kernel::read(sk + offset!(sock_type) as u64)?;
    if family == AF_UNIX {
        return (kind == SOCK_STREAM).then_some(transport::UNIX);
    }
    let protocol: u16 = kernel::read(sk + offset!(sock_protocol) as u64)?;
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => {
            // What is still read from a connection that was reset can no longer be answered, and nothing would end it.
            let state: u8 = kernel::read(sk + offset!(sock_state) as u64)?;
            (i32::from(state) != TCP_CLOSE).then_some(transport::TCP)
        }
        (SOCK_STREAM, _) => Some(transport::OTHER_STREAM),
        (SOCK_DGRAM, IPPROTO_UDP) => Some(transport::UDP),
        _ => None,
    }
}

/// The next sequence number of a connection's records.
#[inline(always)]
pub fn next_sequence(connection: *mut Connection) -> u64 {
    // SAFETY: a value that a look-up gave (see `maps`), aligned as its type is.
    unsafe { fetch_add(&raw mut (*connection).sequence, 1) }
}

/// Moves a direction's position on; gives the one before.
#[inline(always)]
pub fn advance(connection: *mut Connection, direction: u8, bytes: u64) -> u64 {
    // SAFETY: a value that a look-up gave (see `maps`), aligned as its type is.
    unsafe {
        if direction == 0 {
            fetch_add(&raw mut (*connection).offset[0], bytes)
        } else {
            fetch_add(&raw mut (*connection).offset[1], bytes)
        }
    }
}

/// Index of the system call's program in [`OPEN`].
pub const BY_CALL: u32 = 0;
/// Index of the closing sockets' program in [`OPEN`].
pub const BY_CLOSE: u32 = 1;

/// Sends a socket's connection to user space. Until that succeeds no other record of it is sent. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn announce(sk: u64, by: u32) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    let Some(open) = OPEN.get_ptr_mut(by) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`), which only this program uses.
    let open = unsafe { &mut *open };
    // SAFETY: a value that a look-up gave (see `maps`). Other CPUs write it meanwhile, so each field is copied.
    let (id, cgroup, transport, role, state) = unsafe {
        (
            (*connection).id,
            (*connection).cgroup,
            (*connection).transport,
            (*connection).role,
            (*connection).state,
        )
    };
    // A closing socket's program runs on any task.
    if by == BY_CALL {
        process::announce_cgroup(process::BY_CALL);
    }
    open.kind = kind::OPEN;
    open.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a helper without preconditions.
    open.timestamp = unsafe { bpf_ktime_get_ns() };
    open.connection = id;
    open.socket = sk;
    open.cgroup = cgroup;
    open.transport = transport;
    open.role = if state == state::OFFLOADED { role | role::OFFLOADED } else { role };
    open.local = [0; 16];
    open.remote = [0; 16];
    open.local_port = 0;
    open.remote_port = 0;
    open.path_len = 0;
    open.family = kernel::read(sk + offset!(sock_family) as u64).unwrap_or(0);
    if open.family == AF_UNIX {
        read_path(open, sk);
    } else {
        read_addresses(open, sk);
    }
    open.sequence = next_sequence(connection);
    if !ring::send_open(open) {
        return 0;
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    unsafe { (*connection).announced = 1 };
    1
}

/// Whether a socket is TCP's.
#[inline(always)]
pub fn is_tcp(sk: u64) -> bool {
    kernel::read(sk + offset!(sock_protocol) as u64) == Some(IPPROTO_TCP)
}

/// Address, an IPv4 one in the first four bytes, and port of a socket's other end.
#[inline(always)]
pub fn remote_of(sk: u64, family: u16) -> ([u8; 16], u16) {
    let mut remote = [0; 16];
    let (address, len) =
        if family == AF_INET { (offset!(sock_daddr), 4) } else { (offset!(sock_v6_daddr), 16) };
    // SAFETY: the array has room for 16 bytes; the source is checked by the helper.
    unsafe { bpf_probe_read_kernel(remote.as_mut_ptr().cast(), len, (sk + address as u64) as *const _) };
    (remote, u16::from_be(kernel::read(sk + offset!(sock_dport) as u64).unwrap_or(0)))
}

#[inline(always)]
fn read_addresses(open: &mut Open, sk: u64) {
    let (local, remote, len) = if open.family == AF_INET {
        (offset!(sock_rcv_saddr), offset!(sock_daddr), 4)
    } else {
        (offset!(sock_v6_rcv_saddr), offset!(sock_v6_daddr), 16)
    };
    // SAFETY: both arrays have room for 16 bytes; the sources are checked by the helper.
    unsafe {
        bpf_probe_read_kernel(open.local.as_mut_ptr().cast(), len, (sk + local as u64) as *const _);
        bpf_probe_read_kernel(open.remote.as_mut_ptr().cast(), len, (sk + remote as u64) as *const _);
    }
    open.local_port = kernel::read(sk + offset!(sock_num) as u64).unwrap_or(0);
    open.remote_port = u16::from_be(kernel::read(sk + offset!(sock_dport) as u64).unwrap_or(0));
}

/// A hash of the other end's address and port, never 0.
#[inline(always)]
pub fn remote_hash(sk: u64) -> u64 {
    let family: u16 = kernel::read(sk + offset!(sock_family) as u64).unwrap_or(0);
    let port: u16 = kernel::read(sk + offset!(sock_dport) as u64).unwrap_or(0);
    let mut hash = HASH_START ^ u64::from(port);
    if family == AF_INET {
        let address: u32 = kernel::read(sk + offset!(sock_daddr) as u64).unwrap_or(0);
        hash = mix(hash, u64::from(address));
    } else {
        let address: [u64; 2] = kernel::read(sk + offset!(sock_v6_daddr) as u64).unwrap_or([0; 2]);
        hash = mix(mix(hash, address[0]), address[1]);
    }
    hash | 1
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

/// The name that a unix connection was made to: bound to this end at the server, to the other end at the client.
#[inline(always)]
fn read_path(open: &mut Open, sk: u64) {
    let mut address: u64 = kernel::read(sk + offset!(unix_addr) as u64).unwrap_or(0);
    if address == 0 {
        let peer: u64 = kernel::read(sk + offset!(unix_peer) as u64).unwrap_or(0);
        address = kernel::read(peer + offset!(unix_addr) as u64).unwrap_or(0);
    }
    let len: u32 = kernel::read(address + offset!(unix_address_len) as u64).unwrap_or(0);
    // `sun_family` comes first.
    let mut len = u64::from(len.saturating_sub(2));
    if len > UNIX_PATH_MAX as u64 {
        len = UNIX_PATH_MAX as u64;
    }
    let name = address + offset!(unix_address_name) as u64 + 2;
    // SAFETY: as long as the path has room; the source is checked by the helper.
    let rc = unsafe { bpf_probe_read_kernel(open.path.as_mut_ptr().cast(), len as u32, name as *const _) };
    if rc == 0 {
        open.path_len = len as u32;
    }
}
