//! What sockets report: tracepoints on the kernel's one way to send and one way to receive (since Linux 6.3,
//! `net/socket.c`).
//!
//! ```text
//! sock_send_length ─► socket_sent ─────┐
//!                                      ├─ tail call ─► socket_core ─► transfer
//! sock_recv_length ─► socket_received ─┘
//! ```
//!
//! What is no socket costs nothing, and the socket is an argument of the tracepoint. The address of its bytes is in the
//! registers of the system call that the task is in. Bytes that move in other ways (`io_uring`, sendfile, splice from a
//! pipe) are reported too, with their number only. What is not reported at all (splice to a pipe, TCP's mapped receive)
//! shows in TCP's sequence numbers, from which positions are computed: when more is received, or when the socket sends out of
//! a pipe, as a proxy does that lets the kernel move what it forwards.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::tcp_sock,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use porthole_bpf_types::{
    connection::{Connection, direction, role, state},
    syscall::{Call, NOT_CONSUMING, TRUNCATING, shape},
};

use crate::{
    connections,
    kernel::{self, current, load},
    maps::{
        BATCHES, Batch, CONNECTIONS, CORE, NO_PLACE, NO_VECTOR, NOT_WRITTEN, RUNNING, Scratch, WORK, count,
        offset,
    },
    registers::Registers,
    transfer,
    user_memory::msghdr,
    verifier::fetch_add,
};

/// States of a connection (`include/net/tcp_states.h`).
mod tcp {
    pub const ESTABLISHED: i32 = 1;
    pub const SYN_SENT: i32 = 2;
    pub const SYN_RECV: i32 = 3;
}

/// A socket has sent.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_sent(ctx: BtfTracePointContext) -> i32 {
    reported(&ctx, direction::EGRESS)
}

/// A socket has received.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn socket_received(ctx: BtfTracePointContext) -> i32 {
    reported(&ctx, direction::INGRESS)
}

#[inline(always)]
fn reported(ctx: &BtfTracePointContext, direction: u8) -> i32 {
    let result: i32 = ctx.arg(1);
    if result <= 0 {
        if result < 0 {
            batch_ended();
        }
        return 0;
    }
    if is_ignored(ctx.arg(0)) {
        return 0;
    }
    let (Some(running), Some(work)) = (RUNNING.get_ptr_mut(0), WORK.get_ptr_mut(0)) else { return 0 };
    // SAFETY: values that look-ups gave (see `maps`), aligned. Another program may have been interrupted in the middle
    // of its work.
    unsafe {
        if fetch_add(running, 1) == 0 {
            (*work).header.direction = direction;
            // The program in the array takes the same context.
            CORE.tail_call(ctx, 0);
        }
        if !transfer::is_self() {
            count!(skipped);
        }
        fetch_add(running, u64::MAX);
    }
    0
}

/// Whether a socket's connection is ignored and not due for a retry. Its positions are not updated meanwhile: with a
/// retry the connection is a new one to user space.
#[inline(always)]
fn is_ignored(socket: *mut c_void) -> bool {
    // SAFETY: a pointer to a socket, by the tracepoint's type.
    let identity = || unsafe { bpf_get_socket_cookie(socket) };
    let Some(connection) = connections::known(socket as u64, identity) else { return false };
    // SAFETY: a value that a look-up gave (see `maps`); of two CPUs at once both may take the same from the budget.
    unsafe {
        if (*connection).state != state::IGNORED || (*connection).budget <= 1 {
            return false;
        }
        (*connection).budget -= 1;
    }
    true
}

/// What [`socket_sent`] and [`socket_received`] go on with.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_core(ctx: BtfTracePointContext) -> i32 {
    let result: i32 = ctx.arg(1);
    let flags: i32 = ctx.arg(2);
    if moved(ctx.arg(0), result as u64 & 0x7fff_ffff, flags as u64) {
        // SAFETY: the program in the array takes the same context.
        unsafe { CORE.tail_call(&ctx, 0) };
    }
    if let Some(running) = RUNNING.get_ptr_mut(0) {
        // SAFETY: a value that a look-up gave (see `maps`), aligned as its type is.
        unsafe { fetch_add(running, u64::MAX) };
    }
    0
}

/// A socket moved `result` bytes. Whether that was not recorded, because what it had received before without a report was.
#[inline(always)]
fn moved(socket: *mut c_void, result: u64, flags: u64) -> bool {
    let Some(mut work) = Scratch::get() else { return false };
    let egress = work.header.direction == direction::EGRESS;
    if !egress && flags & NOT_CONSUMING != 0 {
        return false;
    }
    let Some(connection) = connection_of(work, socket) else { return false };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).state } == state::IGNORED && !transfer::is_retried(connection) {
        connections::advance(connection, work.header.direction, result);
        return false;
    }
    described(work, result, !egress && flags & TRUNCATING != 0);
    // SAFETY: a pointer to a socket, by the tracepoint's type.
    unsafe { place(work, socket) };
    let received = egress && work.want == 0 && work.place != NO_PLACE && received_by_splice(work.fd) != 0;
    carried(work, connection, work.fd);
    if received {
        work.header.direction = direction::EGRESS;
    }
    received
}

/// A socket sends out of a pipe: puts what it has received without a report, by splice(2) as well, into `work` instead; gives 0 when
/// that is nothing. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn received_by_splice(sk: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    let registers = Registers::of(current());
    // Another call may have received what it is about to report.
    if registers.is_compat() || registers.call() != Call::SPLICE {
        return 0;
    }
    let received = connections::received_unreported(connection, sk);
    if received == 0 {
        return 0;
    }
    // SAFETY: a value that a look-up gave (see `maps`); within its arrays.
    let position = unsafe { (*connection).begin[0].wrapping_add((*connection).offset[0] as u32) };
    work.header.direction = direction::INGRESS;
    work.header.total = received;
    work.place = u64::from(position.wrapping_add(received as u32));
    1
}

/// The connection of a socket, whose address is in `work.fd` from then on.
#[inline(always)]
fn connection_of(mut work: Scratch, socket: *mut c_void) -> Option<*mut Connection> {
    // Read back from memory it is a number and no longer a pointer, which only numbers may be handed on.
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let sk = unsafe {
        let place = &raw mut work.fd;
        place.write_volatile(socket as u64);
        place.read_volatile()
    };
    // SAFETY: a pointer to a socket, by the tracepoint's type.
    let identity = || unsafe { bpf_get_socket_cookie(socket) };
    if let Some(connection) = connections::known(sk, identity) {
        return Some(connection);
    }
    connections::create(sk, identity(), u64::from(role::UNKNOWN));
    CONNECTIONS.get_ptr_mut(sk)
}

/// Puts the place of the bytes, from the registers, into `work`.
#[inline(always)]
fn described(mut work: Scratch, result: u64, discarded: bool) {
    let egress = work.header.direction == direction::EGRESS;
    let registers = Registers::of(current());
    let call = if registers.is_compat() { Call::NONE } else { registers.call() };
    work.address = registers.argument::<1>();
    work.count = NO_VECTOR;
    work.message = 0;
    work.header.total = result;
    work.want = result;
    // While a task is in a call, the kernel may use other sockets for itself: the call's buffers are not theirs.
    let fits = call.is_egress() == egress;
    match call.shape() {
        _ if !fits || discarded => work.want = 0,
        shape::BUFFER => {}
        shape::VECTOR => work.count = registers.argument::<2>(),
        shape::MESSAGE => transfer::message(work, registers.argument::<1>()),
        shape::MESSAGES => {
            let index = next_of_batch(registers.argument::<1>(), registers.argument::<2>());
            transfer::message(work, registers.argument::<1>() + index * msghdr::MESSAGE_SIZE);
        }
        _ => work.want = 0,
    }
    if !egress {
        work.message = NOT_WRITTEN;
    }
}

/// Puts TCP's sequence number after the bytes into `work`.
///
/// # Safety
///
/// `socket` must be a typed pointer of the verifier's.
#[inline(always)]
unsafe fn place(mut work: Scratch, socket: *mut c_void) {
    work.place = NO_PLACE;
    // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
    unsafe {
        let tcp: *const tcp_sock = bpf_skc_to_tcp_sock(socket);
        if !tcp.is_null() && load::<u64>(tcp.cast(), offset!(tcp_ulp)) == 0 {
            let next: u32 = if work.header.direction == direction::EGRESS {
                load(tcp.cast(), offset!(tcp_write_seq))
            } else {
                load(tcp.cast(), offset!(tcp_copied_seq))
            };
            work.place = u64::from(next);
        }
    }
}

/// The bytes in `work` moved on a connection that is not ignored.
#[inline(always)]
fn carried(work: Scratch, connection: *mut Connection, sk: u64) {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).cgroup } == 0 {
        adopt(connection, sk);
    }
    settle(work, connection, sk);
    transfer::record(work, connection, sk);
}

/// The first transfer on a connection sets its control group.
#[inline(always)]
fn adopt(connection: *mut Connection, sk: u64) {
    connections::adopt(sk);
    let file = kernel::read(sk + offset!(sock_socket) as u64)
        .and_then(|socket: u64| kernel::read::<u64>(socket + offset!(socket_file) as u64));
    if file == Some(0) {
        // The kernel's own, in the middle of whatever its task does.
        // SAFETY: as above, the same pointer.
        unsafe {
            (*connection).state = state::IGNORED;
            (*connection).budget = u32::MAX;
        }
    }
}

/// Sets a connection's position to TCP's before the bytes that moved.
#[inline(always)]
fn settle(work: Scratch, connection: *mut Connection, sk: u64) {
    if work.place == NO_PLACE {
        return;
    }
    let (before, egress) =
        ((work.place as u32).wrapping_sub(work.header.total as u32), work.header.direction != 0);
    // SAFETY: a value that a look-up gave (see `maps`); within its arrays.
    unsafe {
        let (position, begin) = if egress {
            (&raw mut (*connection).offset[1], &raw mut (*connection).begin[1])
        } else {
            (&raw mut (*connection).offset[0], &raw mut (*connection).begin[0])
        };
        let bit = 1 << u16::from(egress);
        if (*connection).placed & bit == 0 {
            (*connection).placed |= bit;
            *begin = before.wrapping_sub(*position as u32);
            return;
        }
        let elsewhere = before.wrapping_sub(*begin).wrapping_sub(*position as u32);
        if elsewhere != 0 && !(elsewhere == 1 && !egress && connections::has_ended(sk)) {
            *position = (*position).wrapping_add(elsewhere as i32 as u64);
        }
    }
}

/// Index of the message that moved in a call of `len` messages, which are reported one by one.
#[inline(always)]
fn next_of_batch(messages: u64, len: u64) -> u64 {
    let task = bpf_get_current_pid_tgid();
    let Some(batch) = BATCHES.get_ptr_mut(task) else {
        let _ = BATCHES.insert(task, Batch { messages, next: 1 }, 0);
        return 0;
    };
    // SAFETY: a value that a look-up gave (see `maps`), which only its own task uses.
    unsafe {
        let index = if (*batch).messages == messages && (*batch).next < len { (*batch).next } else { 0 };
        (*batch).messages = messages;
        (*batch).next = index + 1;
        index
    }
}

/// Nothing moved: a call of several messages ends with that, and the next one begins with the first.
#[inline(always)]
fn batch_ended() {
    if Registers::of(current()).call().shape() == shape::MESSAGES {
        let _ = BATCHES.remove(bpf_get_current_pid_tgid());
    }
}

/// A TCP connection is made. Its control group is not known yet: the running task need not be the socket's.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn socket_made(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let role = match old {
        tcp::SYN_SENT => role::CONNECTED,
        tcp::SYN_RECV => role::ACCEPTED,
        _ => return 0,
    };
    if new != tcp::ESTABLISHED {
        return 0;
    }
    let sk: *mut c_void = ctx.arg(0);
    // SAFETY: a pointer to a socket, by the tracepoint's type.
    let tcp: *const tcp_sock = unsafe { bpf_skc_to_tcp_sock(sk) };
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: a typed pointer, checked against null.
    let begin: [u32; 2] = unsafe {
        let acknowledged: u64 = load(tcp.cast(), offset!(tcp_bytes_acked));
        let next = if acknowledged == 0 {
            load(tcp.cast(), offset!(tcp_write_seq))
        } else {
            // With TCP Fast Open (RFC 7413) it has already written.
            let first: u32 = load(tcp.cast(), offset!(tcp_snd_una));
            first.wrapping_sub(acknowledged as u32).wrapping_add(1)
        };
        [load(tcp.cast(), offset!(tcp_copied_seq)), next]
    };
    // As a number, which the pointer is not.
    let Some(sk) = kernel::read::<u64>(ctx.as_ptr() as u64) else { return 0 };
    // An accepted one may even have been served.
    if CONNECTIONS.get_ptr(sk).is_some() {
        return 0;
    }
    connections::create(sk, 0, u64::from(role));
    if let Some(connection) = CONNECTIONS.get_ptr_mut(sk) {
        // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
        unsafe {
            (*connection).begin = begin;
            (*connection).placed = 0b11;
        }
    }
    0
}
