//! The table of connections, whose sockets have no addresses here.

use porthole_bpf_types::{
    connection::{Connection, DETECTION_BUDGET},
    record::{Open, UNIX_PATH_MAX, kind},
};

use crate::{kernel::Socket, maps::CONNECTIONS, ring, verifier::fetch_add};

/// Index of the system call's program.
pub const BY_CALL: u32 = 0;
/// Index of the closing sockets' program.
pub const BY_CLOSE: u32 = 1;

/// Makes the connection of a socket, or begins it anew.
pub fn create(sk: u64, id: u64, transport: u8, role: u8) {
    let connection = Connection { id, transport, role, budget: DETECTION_BUDGET, ..Connection::default() };
    let _ = CONNECTIONS.insert(sk, connection, 0);
}

/// The connection of a socket.
pub fn of(socket: Socket, _role: u64) -> Option<*mut Connection> {
    CONNECTIONS.get_ptr_mut(socket.sk)
}

/// The next sequence number of a connection's records.
pub fn next_sequence(connection: *mut Connection) -> u64 {
    // SAFETY: a value that a look-up gave.
    unsafe { fetch_add(&raw mut (*connection).sequence, 1) }
}

/// Moves a direction's position on; gives the one before.
pub fn advance(connection: *mut Connection, direction: u8, bytes: u64) -> u64 {
    // SAFETY: a value that a look-up gave; within its array of two.
    unsafe {
        let first = (&raw mut (*connection).offset).cast::<u64>();
        fetch_add(first.add(usize::from(direction & 1)), bytes)
    }
}

/// Sends a socket's connection to user space.
pub fn announce(sk: u64, _by: u32) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    // SAFETY: a value that a look-up gave.
    let (id, transport, role) = unsafe { ((*connection).id, (*connection).transport, (*connection).role) };
    let open = Open {
        kind: kind::OPEN,
        tgid: 0,
        connection: id,
        sequence: next_sequence(connection),
        socket: sk,
        cgroup: 0,
        timestamp: 0,
        family: 0,
        local_port: 0,
        remote_port: 0,
        transport,
        role,
        local: [0; 16],
        remote: [0; 16],
        path_len: 0,
        path: [0; UNIX_PATH_MAX],
    };
    // SAFETY: a value that a look-up gave.
    unsafe { (*connection).announced = 1 };
    u64::from(ring::send_open(&open))
}

/// A hash of the other end's address and port.
pub fn remote_hash(sk: u64) -> u64 {
    sk | 1
}
