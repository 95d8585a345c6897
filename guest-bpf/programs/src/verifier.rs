//! Operations that the target has and the compiler does not use, or that the verifier must see as they stand.

use core::arch::asm;

/// `value & MASK`, done where the verifier sees it: the compiler drops masks that it can prove needless.
#[inline(always)]
pub fn bounded<const MASK: u64>(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: changes the register only.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK) };
    value
}

/// Adds atomically; gives the value before. `core`'s atomics have no such operation on this target.
///
/// # Safety
///
/// `at` must point into a map's value, aligned to 8.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: as the caller says.
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
    // SAFETY: as the caller says.
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
    // SAFETY: as the caller says.
    unsafe {
        asm!("{1} = xchg_64({0} + 0, {1})", in(reg) at, inout(reg) value);
    }
    value
}

/// The eight bytes at an offset from an address that need not be aligned. The compiler would load them one by one,
/// because the target says that it has no other way; the kernels of both architectures allow this one load
/// (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
///
/// # Safety
///
/// Eight bytes must be readable there.
#[inline(always)]
pub unsafe fn load<const OFFSET: u64>(from: *const u8) -> u64 {
    let value: u64;
    // SAFETY: as the caller says; it changes the register only.
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
    // SAFETY: as the caller says.
    unsafe { asm!("*(u64 *)({0} + 0) = {1}", in(reg) to, in(reg) value, options(nostack)) };
}
