//! Copying the head of what a call moved.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use porthole_bpf_types::record::{HEAD_MAX, VECTOR_MAX};

use crate::maps::{NO_VECTOR, WORK, Work, count};

/// `value & MASK`, done where the verifier sees it: the compiler drops masks that it can prove needless.
#[inline(always)]
pub fn bounded<const MASK: u64>(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: changes the register only.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK) };
    value
}

/// Copies the first bytes of what the call moved behind the header, and says in the header how many.
///
/// # Safety
///
/// `work` must be this CPU's.
#[inline(always)]
pub unsafe fn head(work: *mut Work) {
    // SAFETY: the caller's work.
    unsafe {
        (*work).header.head = 0;
        (*work).header.unreadable = 0;
        if (*work).want == 0 {
            return;
        }
        let complete = if (*work).count == NO_VECTOR { buffer(work) } else { vector() };
        if complete == 0 {
            (*work).header.unreadable = 1;
            count!(unreadable);
        }
    }
}

/// # Safety
///
/// `work` must be this CPU's.
#[inline(always)]
unsafe fn buffer(work: *mut Work) -> u64 {
    // SAFETY: the head has room for twice the largest length; the source is checked by the helper.
    unsafe {
        let len = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>((*work).want);
        let source = (*work).address as *const _;
        if bpf_probe_read_user((&raw mut (*work).head).cast(), len as u32, source) != 0 {
            return 0;
        }
        (*work).header.head = len as u32;
    }
    1
}

/// Copies from several buffers; gives 0 when one of them could not be read. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn vector() -> u64 {
    let Some(work) = WORK.get_ptr_mut(0) else { return 0 };
    // SAFETY: position and length of a copy are bounded by HEAD_MAX each, and the head has room for both; the
    // sources are checked by the helper.
    unsafe {
        let mut index = 0_u64;
        while index < u64::from(VECTOR_MAX) {
            let filled = u64::from((*work).header.head);
            let want = (*work).want;
            if index >= (*work).count || filled >= want {
                return 1;
            }
            let mut pair = [0_u64; 2];
            let at = ((*work).address + index * 16) as *const _;
            if bpf_probe_read_user(pair.as_mut_ptr().cast(), 16, at) != 0 {
                return 0;
            }
            let left = want - filled;
            let len = if pair[1] < left { pair[1] } else { left };
            let len = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>(len);
            if len > u64::from(HEAD_MAX) {
                return 1;
            }
            let to =
                (&raw mut (*work).head).cast::<u8>().add(bounded::<{ HEAD_MAX as u64 - 1 }>(filled) as usize);
            if bpf_probe_read_user(to.cast(), len as u32, pair[0] as *const _) != 0 {
                return 0;
            }
            (*work).header.head = (filled + len) as u32;
            index += 1;
        }
    }
    1
}
