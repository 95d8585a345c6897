//! Operations that the target has and the compiler does not use, or that the verifier must see as they stand.
//!
//! The verifier allows eight functions in one another (`MAX_CALL_FRAMES`, `include/linux/bpf_verifier.h`), of 512 bytes of stack in all,
//! where each has a multiple of 32 (`MAX_BPF_STACK`, `check_max_stack_depth`). The deepest ways have all eight: program, `transfer`,
//! `call`, then either `steps` and `postgres_request_step` or `complete_rest` and `complete_lot`, then `window_at`, `vector`, `gather`; the
//! latter takes 480 bytes. So what `complete_lot` calls may be three in one another, with 160 bytes of stack: `exchange_serving` calls
//! none, as `responded` has found what runs.

use core::arch::asm;

/// `value & MASK`, done where the verifier sees it: the compiler drops masks that it can prove needless.
#[inline(always)]
pub fn bounded<const MASK: u64>(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: changes the register only.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK) };
    value
}

/// The value itself, of which the compiler forgets what it knows: it drops comparisons that it can prove needless.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
    value
}

/// A number that the verifier knows and the compiler does not: of the rounds of a loop that calls functions. The compiler
/// would unroll it, and the verifier's check of the stack goes all ways through the calls of a program, whose number is the
/// product of the calls in each function: more than a million, where three loops in one another have 32 calls each.
#[inline(always)]
pub fn rounds<const NUMBER: u64>() -> u64 {
    let number: u64;
    // SAFETY: changes the register only.
    unsafe { asm!("{0} = {1}", out(reg) number, const NUMBER, options(pure, nomem, nostack)) };
    number
}

/// Adds atomically; gives the value before. `core`'s atomics have no such operation on this target.
///
/// # Safety
///
/// `at` must point into a map's value, aligned to 8.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: the caller guarantees a place in a map's value, aligned to 8.
    unsafe {
        asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) at, inout(reg) value);
    }
    value
}

/// Adds to a word of 32 bits atomically.
///
/// # Safety
///
/// `at` must point into a map's value, aligned to 4.
#[inline(always)]
pub unsafe fn add_u32(at: *mut u32, value: u64) {
    // SAFETY: the caller guarantees a place in a map's value, aligned to 4.
    unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) at, in(reg) value) };
}

/// Writes atomically; gives the value before.
///
/// # Safety
///
/// `at` must point into a map's value, aligned to 8.
#[inline(always)]
pub unsafe fn swap(at: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: the caller guarantees a place in a map's value, aligned to 8.
    unsafe {
        asm!("{1} = xchg_64({0} + 0, {1})", in(reg) at, inout(reg) value);
    }
    value
}

/// The eight bytes at an offset from an address that need not be aligned. The compiler would load them one by one,
/// because the target has no instruction for another way; the kernels of both architectures allow this one load
/// (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
///
/// # Safety
///
/// Eight bytes must be readable there.
#[inline(always)]
pub unsafe fn load<const OFFSET: u64>(from: *const u8) -> u64 {
    let value: u64;
    // SAFETY: the caller guarantees that eight bytes are readable; only the register changes.
    unsafe {
        asm!("{0} = *(u64 *)({1} + {2})", out(reg) value, in(reg) from, const OFFSET, options(pure, readonly, nostack));
    }
    value
}

/// Writes eight bytes to an address that need not be aligned: see [`load`].
///
/// # Safety
///
/// Eight bytes must be writable there.
#[inline(always)]
pub unsafe fn store(to: *mut u8, value: u64) {
    // SAFETY: the caller guarantees that eight bytes are writable.
    unsafe { asm!("*(u64 *)({0} + 0) = {1}", in(reg) to, in(reg) value, options(nostack)) };
}

/// Copies words. The compiler would call a function that copies them byte by byte, as it has no other one.
///
/// # Safety
///
/// Both must be as long as that and aligned to 8, and must not overlap.
#[inline(always)]
pub unsafe fn copy_words<const WORDS: usize>(to: *mut u64, from: *const u64) {
    let mut index = 0;
    while index < WORDS {
        // SAFETY: the caller guarantees length and alignment of both.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        index += 1;
    }
}
