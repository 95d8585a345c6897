//! Redis: commands as arrays of bulks, replies of any kind but pushes and attributes.
//!
//! The programs parse the commands that the agent has listed. The connection falls back to user space at any other one,
//! at inline commands, and at lines that are cut between two calls.

use porthole_bpf_types::{
    offload::framing_state,
    redis::{HASH_START, command_flag, hash_byte},
};

use super::message::{advance, end_response, push_request, skip};
use crate::maps::{COMMANDS, Scratch};
use crate::window::{CONTINUES, NONE, byte, newline, number_line, window_at, word};

/// Steps that one call may take: commands, arguments, values.
pub const STEPS_MAX: u64 = 1024;

/// Longest command name.
const NAME_MAX: u64 = 24;

/// Most bytes of a line that begins an aggregate or a bulk: type, number, CRLF.
const PREFIX_MAX: u64 = 13;

/// Largest bulk string that is parsed, so that sizes fit.
const BULK_MAX: u64 = 1 << 30;

/// Parses the beginning of a command or one argument; gives 0 when the connection falls back to user space. A global
/// function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn redis_request_step() -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    if work.parse.state.framing == framing_state::START {
        return command_begins(work);
    }
    if work.parse.state.left == 0 {
        let start = window_at(work.parse.at, PREFIX_MAX);
        if start == NONE || byte(&work, start) != b'$' {
            return 0;
        }
        return argument(work, start);
    }
    skip(work);
    if work.parse.state.left == 0 && work.parse.state.items == 0 {
        return u64::from(command_ended(work));
    }
    1
}

/// The beginning of a command: the array's size and the command's name.
#[inline(always)]
fn command_begins(mut work: Scratch) -> u64 {
    let at = work.parse.at;
    let start = window_at(at, 2 * PREFIX_MAX + NAME_MAX + 2 + PREFIX_MAX + 1);
    if start == NONE || byte(&work, start) != b'*' {
        return 0;
    }
    work.parse.cursor = start + 1;
    let elements = number_line();
    if elements == 0 || elements > BULK_MAX || byte(&work, work.parse.cursor) != b'$' {
        return 0;
    }
    work.parse.cursor += 1;
    let len = number_line();
    if len == 0 || len > NAME_MAX {
        return 0;
    }
    let name = work.parse.cursor;
    let (mut hash, mut index) = (HASH_START, 0);
    while index < NAME_MAX {
        if index >= len {
            break;
        }
        hash = hash_byte(hash, byte(&work, name + index));
        index += 1;
    }
    let end = name + len;
    if byte(&work, end) != b'\r' || byte(&work, end + 1) != b'\n' {
        return 0;
    }
    if work.command_hash != hash {
        let Some(known) = COMMANDS.get_ptr(hash) else { return 0 };
        // SAFETY: a value that a look-up gave (see `maps`), which only the agent writes, before the programs run.
        work.command = unsafe { *known };
        work.command_hash = hash;
    }
    let known = work.command;
    if known.flags & command_flag::CHECK_ARGUMENT != 0 && elements > 1 {
        work.parse.cursor = end + 3;
        if byte(&work, end + 2) != b'$' || number_line() == NONE {
            return 0;
        }
        if matches!(byte(&work, work.parse.cursor) | 0x20, b'r' | b't') {
            return 0;
        }
    }
    let taken = end + 2 - start;
    work.parse.at = at + taken;
    work.parse.state.request = u64::from(known.id);
    work.parse.state.start = work.parse.now;
    work.parse.state.bytes = taken;
    work.parse.state.left = 0;
    work.parse.state.items = (elements - 1) as u32;
    work.parse.state.framing = framing_state::VALUES;
    if elements == 1 {
        return u64::from(command_ended(work));
    }
    // Mostly the first argument is in the window, too, and is the last.
    if byte(&work, end + 2) != b'$' {
        return 1;
    }
    argument(work, end + 2)
}

/// An argument at an index, as far as the call has it.
#[inline(always)]
fn argument(mut work: Scratch, start: u64) -> u64 {
    if !bulk(work, start) {
        return 0;
    }
    work.parse.state.items -= 1;
    skip(work);
    if work.parse.state.left == 0 && work.parse.state.items == 0 {
        return u64::from(command_ended(work));
    }
    1
}

/// Parses one value of a reply; gives 0 when the connection falls back to user space. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn redis_reply_step() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    if work.parse.state.left == 0 {
        let at = work.parse.at;
        let start = window_at(at, 64);
        if start == NONE {
            return 0;
        }
        let top = work.parse.state.framing == framing_state::START;
        if top {
            work.parse.state.framing = framing_state::VALUES;
            work.parse.state.start = work.parse.now;
            work.parse.state.bytes = 0;
            work.parse.state.status = 0;
            work.parse.state.items = 1;
        }
        work.parse.state.items -= 1;
        let kind = byte(&work, start);
        match kind {
            b'$' | b'=' | b'*' | b'~' | b'%' if byte(&work, start + 1) == b'-' => {
                // There is none.
                if word(&work, start + 1) as u32 != u32::from_le_bytes(*b"-1\r\n") {
                    return 0;
                }
                advance(work, 5);
            }
            b'$' | b'=' => {
                if !bulk(work, start) {
                    return 0;
                }
            }
            b'*' | b'~' | b'%' => {
                work.parse.cursor = start + 1;
                let elements = number_line();
                if elements > BULK_MAX {
                    return 0;
                }
                let elements = if kind == b'%' { 2 * elements } else { elements };
                let items = u64::from(work.parse.state.items) + elements;
                // Values within values: more than are counted.
                if items > u64::from(u32::MAX) {
                    return 0;
                }
                work.parse.state.items = items as u32;
                let taken = work.parse.cursor - start;
                advance(work, taken);
            }
            b'+' | b':' | b',' | b'#' | b'(' | b'_' | b'-' => {
                let end = newline(work, start);
                if end >= CONTINUES {
                    return 0;
                }
                if top && kind == b'-' {
                    work.parse.state.status = 1;
                    work.parse.outcome_at = at;
                }
                advance(work, end - start);
            }
            _ => return 0,
        }
    }
    skip(work);
    if work.parse.state.left == 0 && work.parse.state.items == 0 {
        // An error is one line, so its position is in this call.
        return u64::from(end_response(work));
    }
    1
}

/// The line that begins a bulk.
#[inline(always)]
fn bulk(mut work: Scratch, start: u64) -> bool {
    // Not on the stack, which has no room.
    work.parse.bulk_start = start;
    work.parse.cursor = start + 1;
    let len = number_line();
    if len > BULK_MAX {
        return false;
    }
    work.parse.state.left = (len + 2) as u32;
    let taken = work.parse.cursor - work.parse.bulk_start;
    advance(work, taken);
    true
}

/// The end of a command; false when there are too many in this call.
#[inline(always)]
fn command_ended(mut work: Scratch) -> bool {
    let (request, start, bytes, count) =
        (work.parse.state.request, work.parse.state.start, work.parse.state.bytes, work.parse.found);
    work.parse.state.framing = framing_state::START;
    work.parse.state.bytes = 0;
    push_request(work, count, request, start, bytes, 0, 0)
}
