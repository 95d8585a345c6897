//! The messages that end in a call, and how far it was parsed: what the steps of all protocols write.

use porthole_bpf_types::offload::{PENDING_MAX, framing_state};

use crate::{
    maps::{Message, Scratch},
    verifier::bounded,
};

/// The result of a step when the connection falls back to user space; with any other one, parsing continues.
pub const FALL_BACK: u64 = 0;

/// Adds a request that ends in this call; false when there are too many.
#[inline(always)]
pub fn push_request(
    mut work: Scratch,
    count: u64,
    request: u64,
    start: u64,
    bytes: u64,
    at: u32,
    flags: u32,
) -> bool {
    let Some(message) = next_message(work, count) else { return false };
    // SAFETY: an element of the array, which only this CPU uses.
    unsafe {
        (*message).request = request;
        (*message).start = start;
        (*message).bytes = bytes;
        (*message).at = at;
        (*message).flags = flags as u16;
    }
    work.parse.found = count + 1;
    true
}

/// Adds a response that ends in this call; false when there are too many.
#[inline(always)]
pub fn push_response(mut work: Scratch, count: u64, status: u16, bytes: u64, at: u32) -> bool {
    let Some(message) = next_message(work, count) else { return false };
    // SAFETY: an element of the array, which only this CPU uses.
    unsafe {
        (*message).status = status;
        (*message).bytes = bytes;
        (*message).at = at;
    }
    work.parse.found = count + 1;
    true
}

/// Ends the current response; false when there are too many. [`crate::maps::Parse::outcome_at`] is where its outcome is,
/// if that has a text.
#[inline(always)]
pub fn end_response(mut work: Scratch) -> bool {
    let (status, bytes, count, at) =
        (work.parse.state.status, work.parse.state.bytes, work.parse.found, work.parse.outcome_at);
    work.parse.state.framing = framing_state::START;
    work.parse.state.bytes = 0;
    push_response(work, count, status, bytes, at as u32)
}

/// Where a call's next message goes; `None` when there are too many.
#[inline(always)]
fn next_message(mut work: Scratch, count: u64) -> Option<*mut Message> {
    if count >= PENDING_MAX as u64 {
        return None;
    }
    let index = bounded::<{ PENDING_MAX as u64 - 1 }>(count) as usize;
    // SAFETY: the index was bounded to less than the array's length.
    Some(unsafe { (&raw mut work.parse.messages).cast::<Message>().add(index) })
}

/// Moves the position past bytes of the current message.
#[inline(always)]
pub fn advance(mut work: Scratch, bytes: u64) {
    work.parse.at += bytes;
    work.parse.state.bytes += bytes;
}

/// Moves the position past what the call has of the next [`porthole_bpf_types::offload::ParseState::left`] bytes.
#[inline(always)]
pub fn skip(mut work: Scratch) {
    let here = work.header.total - work.parse.at;
    let left = u64::from(work.parse.state.left);
    let step = if left < here { left } else { here };
    work.parse.state.left = (left - step) as u32;
    advance(work, step);
}
