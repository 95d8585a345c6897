//! MySQL: text queries, pings, executions of statements whose preparation user space has parsed, and responses of any
//! number of results.
//!
//! Any other command, a request for a local file, statements of more than a window and packets of 16 MiB are for user
//! space.

use porthole_bpf_types::offload::{StatementKey, framing_state, request_flag};
use porthole_protocol::Offload;

use super::{
    message::{push_request, push_response, skip},
    sql::{self, REQUEST_MAX, header},
};
use crate::{
    maps::{STATEMENTS, Scratch},
    window::{NONE, byte, window_at, word},
};

/// Bytes of a packet's header: length (3), sequence number (1).
const HEADER: u64 = 4;

/// Largest payload; one of this length continues in the next packet.
const PAYLOAD_MAX: u64 = 0x00ff_ffff;

/// Bytes of a payload that are read to find what it is.
const DECISIVE: u64 = 24;

/// Commands (`include/my_command.h`).
mod command {
    pub const QUIT: u8 = 0x01;
    pub const INIT_DB: u8 = 0x02;
    pub const QUERY: u8 = 0x03;
    pub const PING: u8 = 0x0e;
    pub const EXECUTE: u8 = 0x17;
}

/// First bytes of payloads.
mod first {
    pub const OK: u8 = 0x00;
    /// End of rows, in either form.
    pub const EOF: u8 = 0xfe;
    pub const ERROR: u8 = 0xff;
}

/// Status flags (`include/mysql_com.h`).
mod status {
    pub const MORE_RESULTS: u64 = 0x0008;
    pub const CURSOR_EXISTS: u64 = 0x0040;
}

/// Parses one command; gives 0 when the connection falls back to user space. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mysql_request_step() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let at = work.parse.at;
    let here = work.header.total - at;
    let start = window_at(at, REQUEST_MAX);
    if start == NONE {
        return 0;
    }
    let mut content = start;
    let mut len = u64::from(work.parse.state.left);
    if work.parse.state.framing != framing_state::HEADER_READ {
        let head = word(&work, start) & 0xffff_ffff;
        // The window is zero after the call's end, so a header that is cut has the length 0.
        len = head & PAYLOAD_MAX;
        if here < HEADER || head >> 24 != 0 || len == 0 || len > REQUEST_MAX - HEADER {
            return 0;
        }
        work.parse.state.start = work.parse.now;
        if here == HEADER {
            // Servers read it by itself.
            work.parse.state.framing = framing_state::HEADER_READ;
            work.parse.state.left = len as u32;
            work.parse.at = at + here;
            return 1;
        }
        content += HEADER;
    }
    if at + (content - start) + len != work.header.total {
        return 0;
    }
    let number = byte(&work, content);
    // The call ends there, and the window is zero after it.
    let end = content + len;
    let mut text = content + 1;
    let mut flags = 0;
    let request = match number {
        command::QUERY => {
            // `CLIENT_QUERY_ATTRIBUTES`: the number of attributes and of their sets.
            if word(&work, text) & 0xffff == 0x0100 {
                text += 2;
            }
            if text >= end || byte(&work, text) < b'\t' {
                return 0;
            }
            sql::hash(work, Offload::Mysql, text, end);
            work.sql.finish()
        }
        command::EXECUTE => {
            flags = request_flag::PREPARED;
            executed(work, text)
        }
        command::PING | command::INIT_DB => u64::from(number),
        command::QUIT => QUIT,
        _ => return 0,
    };
    if request == 0 {
        return 0;
    }
    let position = work.header.total - (end - text);
    work.parse.state.framing = framing_state::START;
    work.parse.state.left = 0;
    work.parse.at = work.header.total;
    if request == QUIT {
        return 1;
    }
    let (start, count) = (work.parse.state.start, work.parse.found);
    u64::from(push_request(work, count, request, start, len + HEADER, position as u32, flags))
}

/// The request of an execution: statement's id (4), flags (1), which must be without a cursor. 0 when it is not known.
#[inline(always)]
fn executed(work: Scratch, text: u64) -> u64 {
    let eight = word(&work, text);
    if (eight >> 32) & 0xff != 0 {
        return 0;
    }
    let key = StatementKey { connection: work.header.connection, id: eight & 0xffff_ffff };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    STATEMENTS.get_ptr(key).map_or(0, |request| unsafe { *request })
}

/// A request without a response. Hashes are never so small, and no command has this number.
const QUIT: u64 = command::QUIT as u64;

/// Parses one packet of a response; gives 0 when the connection falls back to user space. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mysql_reply_step() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    if sql::skip_content(work, row) {
        return 1;
    }
    let (head, buffered) = header::<{ HEADER + 1 }>(work, HEADER + DECISIVE);
    if head == NONE || head == 0 {
        return u64::from(head == 0);
    }
    let len = head & PAYLOAD_MAX;
    if len == 0 || len == PAYLOAD_MAX {
        return 0;
    }
    let first = (head >> 32) as u8;
    work.parse.at += HEADER - buffered;
    work.parse.state.bytes += HEADER;
    work.parse.state.left = len as u32;
    let state = work.parse.state.framing;
    if state == framing_state::COLUMNS {
        work.parse.state.items -= 1;
        if work.parse.state.items == 0 {
            work.parse.state.framing = framing_state::AFTER_COLUMNS;
        }
        skip(work);
        return 1;
    }
    if state != framing_state::START && first < first::EOF {
        work.parse.state.framing = framing_state::ROWS;
        skip(work);
        return 1;
    }
    // The payload decides what comes next.
    let at = work.parse.at;
    let start = window_at(at, DECISIVE);
    if start == NONE || at + len > work.header.total {
        return 0;
    }
    skip(work);
    if first == first::ERROR {
        // MariaDB's progress reports, which are none.
        if word(&work, start + 1) & 0xffff == 0xffff || len < 3 {
            return 0;
        }
        return u64::from(ended(work, at, 1));
    }
    let flags = match first {
        first::EOF if len == 5 => (word(&work, start + 3)) & 0xffff,
        first::OK | first::EOF if len >= 7 => ok_status(work, start, len),
        _ => {
            let (count, follow) = columns(first, byte(&work, start + 1), len);
            if count == 0 || count > 0xfa {
                return 0;
            }
            work.parse.state.items = u32::from(count);
            work.parse.state.framing =
                if follow { framing_state::COLUMNS } else { framing_state::AFTER_COLUMNS };
            return 1;
        }
    };
    if flags & status::CURSOR_EXISTS != 0 || (state == framing_state::START && first == first::EOF) {
        return 0;
    }
    if state == framing_state::AFTER_COLUMNS && len == 5 {
        work.parse.state.framing = framing_state::ROWS;
        return 1;
    }
    if flags & status::MORE_RESULTS != 0 {
        work.parse.state.framing = framing_state::START;
        return 1;
    }
    u64::from(ended(work, at, 0))
}

/// The number of columns, 0 when it is something else, and whether definitions follow: with
/// `MARIADB_CLIENT_CACHE_METADATA` a byte after the number, with `CLIENT_OPTIONAL_RESULTSET_METADATA` one before it.
#[inline(always)]
fn columns(first: u8, second: u8, len: u64) -> (u8, bool) {
    if len == 1 {
        (first, true)
    } else if len != 2 || first == 0 {
        (0, false)
    } else if second <= 1 {
        (first, second == 1)
    } else if first == 1 {
        (second, true)
    } else {
        (0, false)
    }
}

/// The size of a row's packet by its first bytes; 0 when it may be something else.
#[inline(always)]
fn row(head: u64) -> u64 {
    let len = head & PAYLOAD_MAX;
    if len == 0 || len == PAYLOAD_MAX || (head >> 32) as u8 >= first::EOF { 0 } else { HEADER + len }
}

/// The status flags of an OK packet at an index: after two length-encoded integers. [`NONE`], which has all
/// flags, when it is too short.
#[inline(always)]
fn ok_status(work: Scratch, start: u64, len: u64) -> u64 {
    let mut index = start + 1;
    let mut numbers = 0;
    while numbers < 2 {
        index += match byte(&work, index) {
            0xfc => 3,
            0xfd => 4,
            0xfe => 9,
            _ => 1,
        };
        numbers += 1;
    }
    if index + 2 > start + len { NONE } else { word(&work, index) & 0xffff }
}

/// The end of a response, with the packet at a position; false when there are too many in this call.
#[inline(always)]
fn ended(mut work: Scratch, at: u64, status: u16) -> bool {
    let (bytes, count) = (work.parse.state.bytes, work.parse.found);
    work.parse.state.framing = framing_state::START;
    work.parse.state.bytes = 0;
    push_response(work, count, status, bytes, at as u32)
}
