//! The ends of the system calls that are captured, and of no other: programs at the exit of the kernel's functions.
//!
//! ```text
//! __x64_sys_read ─► call_exit ─┐
//! __x64_sys_write ► call_exit ─┼─ tail call ─► call_core ─► transfer
//! …               ► call_exit ─┘
//! ```
//!
//! The agent loads [`call_exit`] once for each function; it has few instructions, so that the rest is verified once
//! and not once for each function. Kernels allow the tail call among programs whose functions have
//! the same prototype, as system calls' have (`bpf_prog_map_compatible` in `kernel/bpf/core.c`).

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{
    maps::{CORE, RUNNING, count},
    registers::Registers,
    transfer,
    verifier::fetch_add,
};

/// The end of a system call that is captured. The context is the function's argument, then its result.
#[fexit]
pub fn call_exit(ctx: FExitContext) -> i32 {
    if transfer::succeeded(ctx.arg(1)) {
        // SAFETY: the program in the array takes the same context.
        unsafe { CORE.tail_call(&ctx, 0) };
        // Only when the array is empty.
        count!(skipped);
    }
    0
}

/// The program that [`call_exit`] calls.
///
/// On kernels that preempt themselves (`preempt=full`), another task's call may end on this CPU while this runs. The
/// kernel keeps one program from interrupting itself, but not after a tail call. One call at a time may use the per-CPU
/// memory of the programs.
#[fexit]
pub fn call_core(ctx: FExitContext) -> i32 {
    let Some(running) = RUNNING.get_ptr_mut(0) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`), aligned as its type is.
    unsafe {
        if fetch_add(running, 1) == 0 {
            transfer::on_call_exit(ctx.arg(1), || Registers::given(ctx.arg(0)));
        } else {
            count!(skipped);
        }
        fetch_add(running, u64::MAX);
    }
    0
}
