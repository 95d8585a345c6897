//! The programs that run in the guest's kernel: they capture what goes over sockets.
//!
//! ```text
//! hook stub → call → socket of the descriptor → connection → head of the bytes → ring buffer
//! ```
//!
//! - The stubs in this file, in [`calls`] and in [`sockets`] belong to one kind of hook each and do nothing but fetch
//!   what moved, and where, for [`transfer`].
//! - [`offload`] parses connections of some protocols without user space: requests and responses are paired here, and
//!   their durations are aggregated.
//! - [`clients`] sends how connections are made and end.
//! - [`datagrams`] sends what moves on sockets of datagrams, with the peer of each.
//! - [`packets`] is packet mode, which shares only the ring buffer with the rest.
//! - [`registers`] is what depends on the architecture, [`kernel`] reads the kernel's structs, [`connections`] keeps
//!   the table, [`capture`] copies heads, [`ring`] sends records, [`process`] sees exits and control groups.
//!
//! Invariants: a system call that is not captured costs a comparison and a table look-up; the programs never change
//! or delay a process; what cannot be sent is counted.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod calls;
mod capture;
mod clients;
mod closing;
mod connections;
mod datagrams;
mod kernel;
mod maps;
mod offload;
mod packets;
mod process;
mod registers;
mod ring;
mod sockets;
mod transfer;
mod user_memory;
mod verifier;
mod window;

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext};

/// Every system call's end, where [`calls`] cannot be used. The arguments are still in the registers with which it was
/// called.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    transfer::on_call_exit(result, || registers::Registers::of(kernel::current()));
    0
}

/// A TCP socket changes its state: its end is the end of the connection, and of an attempt to make one.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    let socket: u64 = ctx.arg(0);
    let (old_state, new_state): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    clients::changed(socket, old_state, new_state);
    if new_state == kernel::TCP_CLOSE {
        closing::closed(socket);
    }
    0
}

/// A thread exits.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    if process::is_last_thread() {
        offload::process_ended(bpf_get_current_pid_tgid() >> 32);
        process::exited();
    }
    0
}

/// Nothing here panics; the linker needs the symbol.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Kernel structs may be read by GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The agent compares it with its own, to see whether both were built with the same types.
#[unsafe(link_section = "porthole_layout")]
#[unsafe(no_mangle)]
static LAYOUT: [u8; 8] = porthole_bpf_types::layout::HASH.to_le_bytes();
