//! What MySQL and PostgreSQL have in common: statements, and messages whose header may come in pieces.

use porthole_bpf_types::offload::framing_state;
use porthole_bpf_types::sql::{CLASSES, Classes, STEPS, SqlHash, Steps};
use porthole_protocol::Offload;

use super::message::skip;
use crate::maps::Scratch;
use crate::verifier::rounds;
use crate::window::{NONE, byte, window_at, word};

/// Longest statement that is parsed, with its message's header, bytes: one window.
pub const REQUEST_MAX: u64 = 1024;

/// Bytes of a statement that one call of [`stretch`] takes: few, because the verifier goes through each iteration.
const STRETCH: u64 = 8;

/// The classes and steps, as data of the programs.
#[unsafe(no_mangle)]
static SQL_CLASSES: Classes = CLASSES;
#[unsafe(no_mangle)]
static SQL_STEPS: Steps = STEPS;

/// Hashes the statement from an index to another into `work.sql`.
#[inline(always)]
pub fn hash(mut work: Scratch, protocol: Offload, from: u64, to: u64) {
    work.sql = SqlHash::new(u64::from(protocol.number()));
    work.parse.cursor = from;
    work.parse.statement_end = to;
    stretches();
}

/// The stretches of a statement. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn stretches() -> u64 {
    let mut left = rounds::<{ REQUEST_MAX / STRETCH }>();
    while left > 0 && stretch() == 0 {
        left -= 1;
    }
    0
}

/// One stretch of a statement at the cursor, up to `parse.statement_end`; gives 1 at its end. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn stretch() -> u64 {
    let Some(mut work) = Scratch::get() else { return 1 };
    let (mut cursor, end) = (work.parse.cursor, work.parse.statement_end);
    let mut sql = work.sql;
    let mut taken = 0;
    while taken < STRETCH {
        if cursor >= end {
            break;
        }
        let next = byte(&work, cursor);
        // SAFETY: the tables have an entry for each byte and for each index.
        let step = unsafe {
            let class = core::ptr::read_volatile((&raw const SQL_CLASSES).cast::<u16>().add(next as usize));
            core::ptr::read_volatile((&raw const SQL_STEPS).cast::<u16>().add(sql.index(class)))
        };
        sql.add(next, step);
        cursor += 1;
        taken += 1;
    }
    work.parse.cursor = cursor;
    work.sql = sql;
    u64::from(cursor >= end)
}

/// Reads the `HEADER` bytes at the beginning of a response's message, the first of which may be buffered. Gives the bytes
/// and the number of those that were buffered; ([`NONE`], 0) when they could not be read; (0, 0) when there are too few,
/// which are buffered then. A header's bytes are never all zero.
#[inline(always)]
pub fn header<const HEADER: u64>(mut work: Scratch, need: u64) -> (u64, u64) {
    let at = work.parse.at;
    let start = window_at(at, need);
    if start == NONE {
        return (NONE, 0);
    }
    let count = u64::from(work.parse.state.buffered_len) & 7;
    let bytes = u64::from(work.parse.state.buffered) | (word(&work, start) << (8 * count));
    let left = work.header.total - at;
    if left + count >= HEADER {
        if count != 0 {
            work.parse.state.buffered = 0;
            work.parse.state.buffered_len = 0;
        }
        return (bytes, count);
    }
    // Fewer than `HEADER` bytes, so at most 4: the window has zeros behind the call's end.
    const { assert!(HEADER <= 5) };
    work.parse.state.buffered = bytes as u32;
    work.parse.state.buffered_len = (left + count) as u8;
    work.parse.at = at + left;
    (0, 0)
}

/// Rows that one call of [`rows`] skips: the verifier goes through each iteration.
const ROWS: u64 = 8;

/// Skips what needs no look at its header: the rest of a message, or whole rows. Gives whether there was any.
#[inline(always)]
pub fn skip_content(work: Scratch, row: impl Fn(u64) -> u64) -> bool {
    if work.parse.state.left > 0 {
        skip(work);
        return true;
    }
    work.parse.state.framing == framing_state::ROWS && work.parse.state.buffered_len == 0 && rows(work, row)
}

/// Skips rows that are in the window and do not end the call; `size` is a message's size by its first eight bytes, 0
/// when it is no row. Gives whether there was one.
#[inline(always)]
fn rows(mut work: Scratch, size: impl Fn(u64) -> u64) -> bool {
    let (from, total, begin) = (work.parse.from, work.header.total, work.parse.at);
    let (end, mut at, mut count) = (from + work.parse.len, begin, 0);
    if at < from {
        return false;
    }
    while count < ROWS {
        let size = size(word(&work, at - from));
        if size == 0 || at + 8 > end || at + size >= total {
            break;
        }
        at += size;
        count += 1;
    }
    work.parse.at = at;
    work.parse.state.bytes += at - begin;
    count > 0
}
