//! TCP connections that processes make: how long making them takes, what becomes of attempts that fail, and how the others end; and
//! when a process begins to accept connections.
//!
//! A socket's states show it, without further programs: `SYN_SENT` begins an attempt, in the process that makes it; with `ESTABLISHED`
//! it is made, with `CLOSE` it has failed, for the reason in `sk_err` (`tcp_reset`, `tcp_write_err` in `net/ipv4`).

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns};
use porthole_bpf_types::{
    connection::{role, transport},
    record::{ClientSocket, Listen, client_event, kind},
};

use crate::{
    connections,
    kernel::{self, TCP_CLOSE},
    maps::{Attempt, CONNECTING, CONNECTIONS, CurrentSettings, offset},
    process, ring,
};

/// `include/net/tcp_states.h`.
const TCP_SYN_SENT: i32 = 2;
const TCP_LISTEN: i32 = 10;

/// A socket changes its state.
#[inline(always)]
pub fn changed(sk: u64, old: i32, new: i32) {
    if new == TCP_SYN_SENT {
        begun(sk);
    } else if new == TCP_LISTEN {
        listening(sk);
    } else if old == TCP_SYN_SENT {
        attempted(sk, new);
    } else if new == TCP_CLOSE {
        ended(sk);
    }
}

/// A process begins to make a connection. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn begun(sk: u64) -> u64 {
    if CurrentSettings::get().is_paused() || !connections::is_tcp(sk) {
        return 0;
    }
    process::announce_cgroup(process::BY_CALL);
    // SAFETY: helpers without preconditions.
    let attempt = unsafe { Attempt { began: bpf_ktime_get_ns(), cgroup: bpf_get_current_cgroup_id() } };
    let _ = CONNECTING.insert(sk, attempt, 0);
    0
}

/// A process begins to accept connections. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn listening(sk: u64) -> u64 {
    if CurrentSettings::get().is_paused() || !connections::is_tcp(sk) {
        return 0;
    }
    process::announce_cgroup(process::BY_CALL);
    // SAFETY: helpers without preconditions.
    let (cgroup, timestamp) = unsafe { (bpf_get_current_cgroup_id(), bpf_ktime_get_ns()) };
    ring::send_listen(&Listen { kind: kind::LISTEN, reserved: 0, cgroup, timestamp });
    0
}

/// An attempt has come to its end. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn attempted(sk: u64, new: i32) -> u64 {
    let Some(attempt) = CONNECTING.get_ptr(sk) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`), which only the program that made it has written.
    let Attempt { began, cgroup } = unsafe { *attempt };
    let _ = CONNECTING.remove(sk);
    // SAFETY: a helper without preconditions.
    let elapsed_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(began);
    if new == TCP_CLOSE {
        send(
            sk,
            ClientSocket { event: client_event::FAILED, error: error_of(sk), elapsed_ns, cgroup, ..NEW },
        );
    } else {
        send(sk, ClientSocket { event: client_event::MADE, elapsed_ns, cgroup, ..NEW });
    }
    0
}

/// A connection has ended, of those that were followed. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn ended(sk: u64) -> u64 {
    let Some(connection) = CONNECTIONS.get_ptr(sk) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`); each field is copied.
    let (cgroup, transport, role) =
        unsafe { ((*connection).cgroup, (*connection).transport, (*connection).role) };
    if transport != transport::TCP || role != role::CONNECTED || cgroup == 0 {
        return 0;
    }
    // The kernel keeps the eightfold.
    let round_trip_us = kernel::read::<u32>(sk + offset!(tcp_srtt_us) as u64).unwrap_or(0) >> 3;
    let retransmitted = kernel::read(sk + offset!(tcp_total_retrans) as u64).unwrap_or(0);
    let event = client_event::ENDED;
    send(sk, ClientSocket { event, error: error_of(sk), round_trip_us, retransmitted, cgroup, ..NEW });
    0
}

const NEW: ClientSocket = ClientSocket {
    kind: kind::CLIENT_SOCKET,
    event: 0,
    cgroup: 0,
    elapsed_ns: 0,
    remote: [0; 16],
    round_trip_us: 0,
    retransmitted: 0,
    error: 0,
    family: 0,
    remote_port: 0,
};

/// Why a socket cannot go on; 0 when its process has closed it.
#[inline(always)]
fn error_of(sk: u64) -> u32 {
    kernel::read(sk + offset!(sock_err) as u64).unwrap_or(0)
}

#[inline(always)]
fn send(sk: u64, mut record: ClientSocket) {
    record.family = kernel::read(sk + offset!(sock_family) as u64).unwrap_or(0);
    (record.remote, record.remote_port) = connections::remote_of(sk, record.family);
    ring::send_client_socket(&record);
}
