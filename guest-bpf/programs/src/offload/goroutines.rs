//! Which goroutine runs, in processes of Go: there threads are shared by goroutines, each of which goes on in another one whenever it
//! waits.
//!
//! ```text
//! a thread reads its first request ─► is what its register points to a goroutine? ─► its process is one of Go from then on
//! anything of such a process        ─► key of the goroutine instead of the thread's
//! ```
//!
//! Go's compiler keeps the address of the running goroutine's state in a register, where it still is in a system call. What a program
//! has there is not trusted: 32 bytes are read from that address, and they decide about that program's own requests alone.
//!
//! A goroutine's state is used again by another goroutine when it has ended. What it had read and not answered then stays open, so
//! the next one at this address has several requests as soon as it reads one, and if another goroutine answers it, no goroutine of the
//! process counts.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use porthole_bpf_types::thread::{
    GO_PROCESSES_MAX, GoProcess,
    goroutine::{self, MARK, State},
    serving,
};

use crate::{
    kernel,
    maps::{GO_PROCESSES, HANDED_ON},
    registers::Registers,
    user_memory::read_user,
};

/// Whether a key is a goroutine's.
#[inline(always)]
pub fn is_goroutine(key: u64) -> bool {
    key & MARK != 0
}

/// The lower half of a goroutine's key, above [`serving::GOROUTINE`] in the lowest byte; 0 for a thread's.
#[inline(always)]
pub fn number(key: u64) -> u64 {
    if is_goroutine(key) { (key << 32) | u64::from(serving::GOROUTINE) } else { 0 }
}

#[inline(always)]
fn place_of(process: u64) -> Option<*mut GoProcess> {
    GO_PROCESSES.get_ptr_mut(process as u32 & (GO_PROCESSES_MAX - 1))
}

/// Key of what runs: of the goroutine in a process of Go, else of the thread.
#[inline(always)]
pub fn running() -> u64 {
    let thread = bpf_get_current_pid_tgid();
    let Some(place) = place_of(thread >> 32) else { return thread };
    // SAFETY: a value that a look-up gave (see `maps`).
    if unsafe { read_volatile(&raw const (*place).process) } != thread >> 32 {
        return thread;
    }
    running_goroutine(thread)
}

/// The same where the process is one of Go: the thread's where no goroutine runs in it, whose requests do not count. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn running_goroutine(thread: u64) -> u64 {
    let process = thread >> 32;
    let Some(place) = place_of(process) else { return thread };
    // SAFETY: a value that a look-up gave (see `maps`). The process is read last, as it is written last.
    let (first, process_then) =
        unsafe { (read_volatile(&raw const (*place).first), read_volatile(&raw const (*place).process)) };
    let address = state_of_goroutine();
    if address == 0 || process_then != process {
        return thread;
    }
    goroutine::key(process, first, address).unwrap_or(thread)
}

/// Address of the running goroutine's state; 0 where none runs.
#[inline(always)]
fn state_of_goroutine() -> u64 {
    let registers = Registers::of(kernel::current());
    let address = registers.goroutine();
    if address == 0 || !goroutine::is(read_user::<State>(address), registers.stack()) {
        return 0;
    }
    address
}

/// Whether a goroutine runs in a thread of a process that was taken for another's; then it is known for one of Go. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn is_of_go(thread: u64) -> u64 {
    let process = thread >> 32;
    let address = state_of_goroutine();
    if address == 0 {
        return 0;
    }
    let first = match HANDED_ON.get_ptr(process) {
        // SAFETY: a value that a look-up gave (see `maps`).
        Some(first) => unsafe { *first },
        None => 0,
    };
    let first = if first == 0 { address } else { first };
    // Its threads do not count, wherever they are taken for threads.
    if HANDED_ON.insert(process, first, 0).is_err() {
        return 1;
    }
    let Some(place) = place_of(process) else { return 1 };
    // SAFETY: a value that a look-up gave (see `maps`).
    unsafe {
        write_volatile(&raw mut (*place).process, 0);
        write_volatile(&raw mut (*place).first, first);
        write_volatile(&raw mut (*place).process, process);
    }
    1
}

/// A process has ended: its number can be another one's from now on.
#[inline(always)]
pub fn process_ended(process: u64) {
    let Some(place) = place_of(process) else { return };
    // SAFETY: a value that a look-up gave (see `maps`).
    unsafe {
        if (*place).process != process {
            return;
        }
        write_volatile(&raw mut (*place).process, 0);
    }
    let _ = HANDED_ON.remove(process);
    let _ = HANDED_ON.remove(process | (MARK >> 32));
}
