//! The messages that end in a call, and how far it was parsed: what the steps of all protocols write.

use porthole_bpf_types::offload::PENDING_MAX;

use crate::{
    maps::{Message, Scratch},
    verifier::bounded,
};

/// What a step says when the connection falls back to user space; anything else, and it goes on.
pub const FALL_BACK: u64 = 0;

/// Adds a message that ends in this call; false when there are too many.
#[inline(always)]
pub fn push_message(
    mut work: Scratch,
    count: u64,
    request: u64,
    start: u64,
    bytes: u64,
    at: u32,
    flags: u32,
) -> bool {
    if count >= PENDING_MAX as u64 {
        return false;
    }
    let place = bounded::<{ PENDING_MAX as u64 - 1 }>(count) as usize;
    // SAFETY: the index was bounded to less than the array's length.
    unsafe {
        let message = (&raw mut work.parse.messages).cast::<Message>().add(place);
        (*message).request = request;
        (*message).start = start;
        (*message).bytes = bytes;
        (*message).at = at;
        (*message).flags = flags;
    }
    work.parse.found = count + 1;
    true
}

/// Goes past bytes of the current message.
#[inline(always)]
pub fn advance(mut work: Scratch, bytes: u64) {
    work.parse.at += bytes;
    work.parse.state.bytes += bytes;
}

/// Goes past what the call has of the [`porthole_bpf_types::offload::ParseState::left`] bytes of no interest.
#[inline(always)]
pub fn skip(mut work: Scratch) {
    let here = work.header.total - work.parse.at;
    let left = work.parse.state.left;
    let step = if left < here { left } else { here };
    work.parse.state.left = left - step;
    advance(work, step);
}
