//! Which goroutine runs, in processes of Go: there threads are shared by goroutines, each of which goes on in another one whenever it
//! waits.
//!
//! ```text
//! a thread reads its first request ─► does its register point to a goroutine? ─► its process is one of Go from then on
//! anything of such a process        ─► key of the goroutine instead of the thread's
//! ```
//!
//! Go's compiler keeps the address of the running goroutine's state in a register, where it still is in a system call. What a program
//! has there is not trusted: 32 bytes are read from that address, and by them its own requests and calls alone are joined. What it can
//! take from other programs are places in tables of a fixed size ([`GOROUTINES`], [`GO_PROCESSES`]): calls of those have no parent then.
//!
//! [`GOROUTINES`]: crate::maps::GOROUTINES
//!
//! A goroutine's state is used again by another goroutine when it has ended. What it had read and not answered then stays open, so
//! the next one at this address has several requests as soon as it reads one, and if another goroutine answers it, no goroutine of the
//! process counts.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid};
use porthole_bpf_types::thread::{
    GO_MARKS_MAX,
    goroutine::{self, MARK, State},
    serving,
};

use super::processes;
use crate::{
    kernel,
    maps::{GO_MARKS, GO_PROCESSES, HANDED_ON},
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
fn mark_of(process: u64) -> Option<*mut u32> {
    GO_MARKS.get_ptr_mut(process as u32 & (GO_MARKS_MAX - 1))
}

/// Key of what runs: of the goroutine in a process of Go, else of the thread.
#[inline(always)]
pub fn running() -> u64 {
    let thread = bpf_get_current_pid_tgid();
    let Some(mark) = mark_of(thread >> 32) else { return thread };
    // SAFETY: a value that a look-up gave (see `maps`).
    if unsafe { read_volatile(mark) } == 0 {
        return thread;
    }
    let Some(region) = GO_PROCESSES.get_ptr(thread >> 32) else { return thread };
    // SAFETY: a value that a look-up gave (see `maps`).
    running_goroutine(thread, unsafe { *region })
}

/// The same in a process of Go whose goroutines are in this region of its memory: the thread's key where no goroutine is found, and
/// requests of threads do not count there. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn running_goroutine(thread: u64, region: u64) -> u64 {
    let address = state_of_goroutine();
    if address == 0 || goroutine::region(address) != region {
        return thread;
    }
    goroutine::key(thread >> 32, address)
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

/// Whether a goroutine runs in a thread of a process that is not known as one of Go; then it is from now on. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn recognise_go(thread: u64) -> u64 {
    let address = state_of_goroutine();
    if address == 0 {
        return 0;
    }
    // Another thread may have come first, and goroutines have their keys by its region.
    let _ = GO_PROCESSES.insert(thread >> 32, goroutine::region(address), u64::from(BPF_NOEXIST));
    if let Some(mark) = mark_of(thread >> 32) {
        // SAFETY: a value that a look-up gave (see `maps`).
        unsafe { write_volatile(mark, 1) };
    }
    1
}

/// Whether a process is known as one of Go.
#[inline(always)]
pub fn is_of_go(process: u64) -> bool {
    GO_PROCESSES.get_ptr(process).is_some()
}

/// A process has ended: its number can be another one's from now on.
#[inline(always)]
pub fn process_ended(process: u64) {
    let _ = GO_PROCESSES.remove(process);
    let _ = HANDED_ON.remove(process);
    let _ = HANDED_ON.remove(process | (MARK >> 32));
    processes::process_ended(process as u32);
}
