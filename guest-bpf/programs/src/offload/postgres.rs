//! PostgreSQL: simple queries of one statement.
//!
//! The connection falls back to user space at the extended protocol, copying, several statements in one query, statements
//! of more than a window, and a response whose end, from its outcome on, is cut between two calls.

use porthole_bpf_types::offload::framing_state;
use porthole_protocol::Offload;

use super::{
    message::{end_response, push_request, skip},
    sql::{self, REQUEST_MAX, header},
};
use crate::{
    maps::Scratch,
    window::{NONE, byte, window_at, word},
};

/// Bytes of a message's header: kind (1), length of itself and what follows (4, big-endian).
const HEADER: u64 = 5;

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

/// Parses one request; gives 0 when the connection falls back to user space. A global function.
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
    u64::from(push_request(work, count, request, start, here, (at + HEADER) as u32, 0))
}

/// Parses one message of a response; gives 0 when the connection falls back to user space. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn postgres_reply_step() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    if sql::skip_content(work, row) {
        return 1;
    }
    let outcome_read = work.parse.state.framing == framing_state::OUTCOME_READ;
    let (head, buffered) = header::<HEADER>(work, 2 * HEADER);
    if head == NONE || (head == 0 && outcome_read) {
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
        // They are no part of a response. A response whose outcome was read must end in the same call.
        if !complete || (outcome_read && behind + len == work.header.total) {
            return 0;
        }
        work.parse.at = behind + len;
        return 1;
    }
    work.parse.at = behind;
    work.parse.state.bytes += HEADER;
    work.parse.state.left = len as u32;
    if matches!(kind, b'T' | b'D') && !outcome_read {
        work.parse.state.framing = framing_state::ROWS;
        skip(work);
        return 1;
    }
    if !complete {
        return 0;
    }
    skip(work);
    if kind == b'Z' && len == 1 && outcome_read {
        return u64::from(end_response(work));
    }
    if outcome_read || behind + len == work.header.total {
        return 0;
    }
    work.parse.state.status = match kind {
        b'C' | b'I' => 0,
        b'E' => 1,
        _ => return 0,
    };
    work.parse.state.framing = framing_state::OUTCOME_READ;
    work.parse.outcome_at = behind - 1;
    1
}
