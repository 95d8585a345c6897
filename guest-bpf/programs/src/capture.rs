//! Copying the head of what a call moved.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use porthole_bpf_types::record::HEAD_MAX;

use crate::{
    maps::{NO_VECTOR, Work, count},
    offload::vector,
};

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
        let complete = if (*work).count == NO_VECTOR {
            buffer(work)
        } else {
            let complete = vector(0, (*work).want);
            (*work).header.head = (*work).parse.len as u32;
            complete
        };
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
