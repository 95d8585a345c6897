//! Datagrams: their head, and with whom they were exchanged.
//!
//! A socket that is not connected has as many peers as it likes. Whom it sends to is an argument of the call. From whom it
//! receives the kernel writes to the caller's memory, at the end of the call:
//!
//! - Behind hooks on the ends of system calls it is there.
//! - Sockets report what they received before the address is written. Programs on the root of the control groups, which the
//!   kernel runs when it has the address and the caller wants it, leave it for the report ([`SENDER`]).

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_socket_cookie, bpf_probe_read_user},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use porthole_bpf_types::{
    record::{HEAD_MAX, SOCKADDR_LEN},
    syscall::Call,
};

use crate::{
    capture, connections,
    kernel::{self, current},
    maps::{CONNECTIONS, NOT_WRITTEN, SENDER, Scratch, offset},
    registers::Registers,
    ring,
    user_memory::{msghdr, read_user},
    verifier::bounded,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Length of a `struct sockaddr_in`.
const SOCKADDR_IN_LEN: u32 = 16;

/// The datagram goes its way.
const PASS: i32 = 1;

/// Sends the datagram in the work that moved on a socket: head, then the peer. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn send(sk: u64, wake: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    capture::copy_head(work);
    let port: u16 = kernel::read(sk + offset!(sock_dport) as u64).unwrap_or(0);
    let head = u64::from(work.header.head);
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let identity = unsafe { (*connection).identity };
    work.header.peer = if port == 0 && add_peer(head, identity) != 0 { SOCKADDR_LEN as u8 } else { 0 };
    work.header.sequence = connections::next_sequence(connection);
    ring::send_window(&work, head + u64::from(work.header.peer), wake != 0);
    work.header.peer = 0;
    0
}

/// Puts the peer's address behind so many bytes of the head; gives 0 if it is not known. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn add_peer(head: u64, socket: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let at = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>(head);
    if at > u64::from(HEAD_MAX) {
        return 0;
    }
    // SAFETY: the head has room for twice [`HEAD_MAX`].
    let to = unsafe { (&raw mut work.head).cast::<u8>().add(at as usize) };
    if work.message == NOT_WRITTEN {
        return u64::from(take_sender(to, socket));
    }
    let name = name(work.message);
    // SAFETY: as long as the address, which fits; the source is checked by the helper. The shorter form may end its page.
    let read = |len: u32| unsafe { bpf_probe_read_user(to.cast(), len, name as *const _) } == 0;
    u64::from(name != 0 && (read(SOCKADDR_LEN as u32) || read(SOCKADDR_IN_LEN)))
}

/// Where the call was given an address, or room for one; 0 where it was not.
#[inline(always)]
fn name(message: u64) -> u64 {
    if message != 0 {
        let len: u32 = read_user(message + msghdr::NAME_LEN);
        return if len == 0 { 0 } else { read_user(message + msghdr::NAME) };
    }
    let registers = Registers::of(current());
    let call = registers.call();
    if call == Call::SENDTO || call == Call::RECVFROM { registers.argument::<4>() } else { 0 }
}

/// Takes the sender that was left for the task and the socket of that cookie.
#[inline(always)]
fn take_sender(to: *mut u8, socket: u64) -> bool {
    let Some(sender) = SENDER.get_ptr_mut(0) else { return false };
    // SAFETY: a value that a look-up gave (see `maps`); the target is as long as the address.
    unsafe {
        if (*sender).task != bpf_get_current_pid_tgid() || (*sender).socket != socket {
            return false;
        }
        (*sender).task = 0;
        core::ptr::copy_nonoverlapping((&raw const (*sender).address).cast::<u8>(), to, SOCKADDR_LEN);
    }
    true
}

/// A task is given the IPv4 address that a datagram came from.
#[cgroup_sock_addr(recvmsg4)]
pub fn datagram_from_v4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context that the kernel gave.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    leave(ctx.sock_addr, AF_INET, port, [address, 0, 0, 0, 0]);
    PASS
}

/// The same of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn datagram_from_v6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context that the kernel gave.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip6, (*ctx.sock_addr).user_port) };
    leave(ctx.sock_addr, AF_INET6, port, [0, address[0], address[1], address[2], address[3]]);
    PASS
}

/// Leaves an address for the report of the bytes. On a connected socket it adds nothing.
#[inline(always)]
fn leave(context: *mut bpf_sock_addr, family: u16, port: u32, address: [u32; 5]) {
    let Some(sender) = SENDER.get_ptr_mut(0) else { return };
    // SAFETY: a value that a look-up gave (see `maps`), and a pointer of the context, checked against null.
    unsafe {
        let socket = (*context).__bindgen_anon_1.sk;
        if socket.is_null() || (*socket).dst_port != 0 {
            return;
        }
        let to = (&raw mut (*sender).address).cast::<u32>();
        to.write_volatile(u32::from(family) | (port & 0xffff) << 16);
        let mut word = 0;
        while word < 5 {
            to.add(1 + word).write_volatile(address[word]);
            word += 1;
        }
        (*sender).socket = bpf_get_socket_cookie(context.cast());
        (*sender).task = bpf_get_current_pid_tgid();
    }
}
