//! PostgreSQL: simple queries of one statement.
//!
//! The extended protocol, copying, several statements in one query and statements of more than a window are for user
//! space; so is an answer whose end, from the statement's completion on, comes in pieces.

use porthole_bpf_types::offload::framing_state;
use porthole_protocol::Offload;

use super::{
    message::{push_message, skip},
    sql::{self, REQUEST_MAX, header},
};
use crate::{
    maps::Scratch,
    window::{NONE, byte, window_at, word},
};

/// Bytes of a message's header: kind (1), length of itself and what follows (4, big end first).
const HEADER: u64 = 5;

/// What an answer came to, in `reading.items` while its end is being read.
mod came {
    pub const NOTHING: u32 = 0;
    pub const COMPLETE: u32 = 1;
    pub const FAILED: u32 = 2;
}

/// The length in a header, without itself; [`NONE`] when there is none.
#[inline(always)]
fn content(head: u64) -> u64 {
    let len = u64::from(((head >> 8) as u32).swap_bytes());
    if (4..=1 << 30).contains(&len) { len - 4 } else { NONE }
}

/// The size of a row's message by its first bytes; 0 when it is something else.
#[inline(always)]
fn row(head: u64) -> u64 {
    let len = content(head);
    if head as u8 != b'D' || len == NONE { 0 } else { HEADER + len }
}

/// Goes on by one request; gives 0 when user space must take over. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn postgres_request_step() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let at = work.parse.at;
    let here = work.header.total - at;
    let start = window_at(at, REQUEST_MAX);
    if start == NONE || !(HEADER..=REQUEST_MAX).contains(&here) {
        return 0;
    }
    let head = word(&work, start);
    if content(head) != here - HEADER {
        return 0;
    }
    work.parse.at = work.header.total;
    let end = start + here - 1;
    match head as u8 {
        b'X' if here == HEADER => return 1,
        b'Q' if here > HEADER + 1 && byte(&work, end) == 0 => {}
        _ => return 0,
    }
    sql::hash(work, Offload::Postgresql, start + HEADER, end);
    if work.sql.is_several() {
        return 0;
    }
    let (request, start, count) = (work.sql.finish(), work.parse.now, work.parse.found);
    u64::from(push_message(work, count, request, start, here, (at + HEADER) as u32, 0))
}

/// Goes on by one message of an answer. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn postgres_reply_step() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    if work.parse.state.left > 0 {
        skip(work);
        return 1;
    }
    let came = work.parse.state.items;
    let between = came == came::NOTHING && work.parse.state.request == 0;
    if between && work.parse.state.framing == framing_state::ROWS && sql::rows(work, row) {
        return 1;
    }
    let before = work.parse.state.request;
    if came != came::NOTHING {
        // Where the completion lies: nothing can be buffered then.
        work.parse.state.request = 0;
    }
    let (head, buffered) = header::<HEADER>(work, 2 * HEADER);
    if head == NONE || (head == 0 && came != came::NOTHING) {
        return 0;
    }
    if head == 0 {
        return 1;
    }
    let len = content(head);
    if len == NONE {
        return 0;
    }
    let kind = head as u8;
    let behind = work.parse.at + HEADER - buffered;
    let complete = behind + len <= work.header.total;
    if matches!(kind, b'N' | b'S' | b'A') {
        // They answer nothing. What came meanwhile must be found in this call still.
        if !complete || (came != came::NOTHING && behind + len == work.header.total) {
            return 0;
        }
        work.parse.at = behind + len;
        work.parse.state.request = if came == came::NOTHING { 0 } else { before };
        return 1;
    }
    work.parse.at = behind;
    work.parse.state.bytes += HEADER;
    work.parse.state.left = len;
    work.parse.state.framing = framing_state::ROWS;
    if matches!(kind, b'T' | b'D') && came == came::NOTHING {
        skip(work);
        return 1;
    }
    if !complete {
        return 0;
    }
    skip(work);
    if kind == b'Z' && len == 1 && came != came::NOTHING {
        return u64::from(ended(work, before, u64::from(came == came::FAILED)));
    }
    if came != came::NOTHING || behind + len == work.header.total {
        return 0;
    }
    work.parse.state.items = match kind {
        b'C' | b'I' => came::COMPLETE,
        b'E' => came::FAILED,
        _ => return 0,
    };
    work.parse.state.request = behind - 1;
    1
}

/// Notes an answer; `at` is the position before its completion.
#[inline(always)]
fn ended(mut work: Scratch, at: u64, status: u64) -> bool {
    let (start, bytes, count) = (work.parse.now, work.parse.state.bytes, work.parse.found);
    work.parse.state.framing = framing_state::START;
    work.parse.state.bytes = 0;
    work.parse.state.items = came::NOTHING;
    work.parse.state.request = 0;
    push_message(work, count, status, start, bytes, at as u32, 0)
}
