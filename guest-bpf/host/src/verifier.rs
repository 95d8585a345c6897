//! The operations that are instructions of the target in the programs.

/// `value & MASK`.
pub fn bounded<const MASK: u64>(value: u64) -> u64 {
    value & MASK
}

/// The number.
pub fn rounds<const NUMBER: u64>() -> u64 {
    NUMBER
}

/// Adds; gives the value before.
///
/// # Safety
///
/// `at` must be valid for reads and writes.
pub unsafe fn fetch_add(at: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller guarantees a place that can be read and written.
    unsafe {
        let before = at.read();
        at.write(before.wrapping_add(value));
        before
    }
}

/// Adds the lower half to a word of 32 bits.
///
/// # Safety
///
/// `at` must be valid for reads and writes.
pub unsafe fn add_u32(at: *mut u32, value: u64) {
    // SAFETY: the caller guarantees a place that can be read and written.
    unsafe { at.write(at.read().wrapping_add(u32::try_from(value & 0xffff_ffff).unwrap_or_default())) }
}

/// Writes; gives the value before.
///
/// # Safety
///
/// `at` must be valid for reads and writes.
pub unsafe fn swap(at: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller guarantees a place that can be read and written.
    unsafe { at.replace(value) }
}

/// The eight bytes at an offset from an address that need not be aligned.
///
/// # Safety
///
/// Eight bytes must be readable there.
pub unsafe fn load<const OFFSET: u64>(from: *const u8) -> u64 {
    let offset = usize::try_from(OFFSET).unwrap_or(0);
    // SAFETY: the caller guarantees that eight bytes are readable.
    unsafe { from.add(offset).cast::<u64>().read_unaligned() }
}

/// Writes eight bytes to an address that need not be aligned.
///
/// # Safety
///
/// Eight bytes must be writable there.
pub unsafe fn store(to: *mut u8, value: u64) {
    // SAFETY: the caller guarantees that eight bytes are writable.
    unsafe { to.cast::<u64>().write_unaligned(value) };
}

/// Copies words.
///
/// # Safety
///
/// Both must be as long as that and aligned to 8, and must not overlap.
pub unsafe fn copy_words<const WORDS: usize>(to: *mut u64, from: *const u64) {
    // SAFETY: the caller guarantees length, alignment and that they do not overlap.
    unsafe { to.copy_from_nonoverlapping(from, WORDS) };
}
