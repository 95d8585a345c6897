//! Copying the head of what a call moved.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use porthole_bpf_types::record::HEAD_MAX;

use crate::{
    maps::{NO_VECTOR, Scratch, count},
    verifier::bounded,
    window::vector,
};

/// Copies the first bytes of what the call moved behind the header, and says in the header how many.
#[inline(always)]
pub fn head(mut work: Scratch) {
    work.header.head = 0;
    work.header.unreadable = 0;
    let want = work.want;
    if want == 0 {
        return;
    }
    let complete = if work.count == NO_VECTOR {
        buffer(work)
    } else {
        work.parse.gathered = 0;
        work.parse.buffer = 0;
        let complete = vector(work, 0, want);
        work.header.head = work.parse.len as u32;
        complete
    };
    if complete == 0 {
        work.header.unreadable = 1;
        count!(unreadable);
    }
}

#[inline(always)]
fn buffer(mut work: Scratch) -> u64 {
    let len = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>(work.want);
    let source = work.address as *const _;
    // SAFETY: the head has room for twice the largest length; the source is checked by the helper.
    if unsafe { bpf_probe_read_user((&raw mut work.head).cast(), len as u32, source) } != 0 {
        return 0;
    }
    work.header.head = len as u32;
    1
}
