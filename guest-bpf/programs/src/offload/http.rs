//! HTTP/1: the heads and bodies of whole messages.
//!
//! The programs parse origin-form targets with a well-known method, bodies of a given length, and chunked responses.
//! The connection falls back to user space at anything else: interim responses, streams of events, upgrades, `CONNECT`,
//! bodies until the connection closes, obsolete line folding, bare line feeds, heads that are cut between two calls or longer than what
//! is captured.

use porthole_bpf_types::{
    offload::{framing_state, request_flag},
    path::PathHash,
    record::HEAD_MAX,
};

use super::message::{push_request, push_response, skip};
use crate::maps::Scratch;
use crate::verifier::rounds;
use crate::window::{CONTINUES, LINE_FEED, NONE, byte, class, decimal, find, newline, text, window_at, word};

/// A head's fields about the body, and about its trace.
mod framing {
    pub const LENGTH: u32 = 1;
    pub const CHUNKED: u32 = 2;
    /// There is an `Upgrade`.
    pub const UPGRADE: u32 = 4;
    /// There is a trace context, of one of these forms; of several the lowest is kept, as `l7` does.
    pub const CONTEXT: u32 = TRACEPARENT | B3 | B3_PARTS | JAEGER;
    pub const TRACEPARENT: u32 = 8;
    pub const B3: u32 = 16;
    pub const B3_PARTS: u32 = 32;
    pub const JAEGER: u32 = 64;
}

/// Most lines and stretches of lines of a head.
const LINES_MAX: u64 = 96;

/// Bytes of a path that one call of [`path`] takes: few, because the verifier goes through each iteration.
const STRETCH: u64 = 8;

/// Most stretches of a path.
const STRETCHES_MAX: u64 = 128;

/// Most calls of [`find`] for one query: a window's bytes.
const QUERY_ROUNDS: u64 = 16;

/// Largest body that is parsed, so that sizes fit.
const LENGTH_MAX: u64 = 1 << 31;

/// Parses one message's head or one stretch of body, of the responses or of the requests; gives 0 when the connection
/// falls back to user space. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn http_step(response: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    match work.parse.state.framing {
        framing_state::BODY => {
            skip(work);
            if work.parse.state.left > 0 {
                return 1;
            }
            work.parse.state.framing = framing_state::START;
            // A request was pushed with its head.
            if response == 0 { 1 } else { u64::from(response_ended(work)) }
        }
        framing_state::CHUNK_DATA => {
            skip(work);
            match work.parse.state.left {
                // In the middle of the line end.
                1 => return 0,
                0 if !line_ended(work) => return 0,
                0 => work.parse.state.framing = framing_state::CHUNK_SIZE,
                _ => {}
            }
            1
        }
        framing_state::CHUNK_SIZE => chunk_size(work),
        state => {
            if response == 0 {
                if state == framing_state::FIRST_BYTE_READ {
                    let start = window_at(0, 16);
                    if start == NONE || u32::from(byte(&work, start)) != work.parse.state.buffered {
                        return 0;
                    }
                    work.parse.state.buffered = 0;
                    work.parse.state.buffered_len = 0;
                } else {
                    work.parse.state.start = work.parse.now;
                    if work.header.total == 1 {
                        return first(work);
                    }
                }
            }
            if !head(work, response) {
                return 0;
            }
            if response == 0 { request_begins(work) } else { response_begins(work) }
        }
    }
}

/// Whether a line ends at the position that was reached, of which the call has two bytes at least.
#[inline(always)]
fn line_ended(work: Scratch) -> bool {
    let end = window_at(work.parse.at - 2, 16);
    end != NONE && byte(&work, end) == b'\r' && byte(&work, end + 1) == b'\n'
}

/// A request's first byte was read by itself.
#[inline(always)]
fn first(mut work: Scratch) -> u64 {
    let start = window_at(0, 1);
    if start == NONE {
        return 0;
    }
    let letter = byte(&work, start);
    if !letter.is_ascii_uppercase() {
        return 0;
    }
    work.parse.state.framing = framing_state::FIRST_BYTE_READ;
    work.parse.state.buffered = u32::from(letter);
    work.parse.state.buffered_len = 1;
    work.parse.at = 1;
    1
}

/// A request's head was read: the request is pending from here on.
#[inline(always)]
fn request_begins(mut work: Scratch) -> u64 {
    work.parse.state.framing = framing_state::START;
    if work.parse.framing & !(framing::LENGTH | framing::CONTEXT) != 0 {
        return 0;
    }
    let length = work.parse.length;
    let bytes = work.parse.state.bytes + length;
    let (request, start, flags) = (work.parse.state.request, work.parse.state.start, work.parse.flags);
    let (count, at) = (work.parse.found, work.parse.cursor);
    if !push_request(work, count, request, start, bytes, at as u32, flags) {
        return 0;
    }
    if length > 0 {
        work.parse.state.framing = framing_state::BODY;
        work.parse.state.left = length as u32;
    }
    1
}

/// A response's head was read.
#[inline(always)]
fn response_begins(mut work: Scratch) -> u64 {
    work.parse.state.start = work.parse.now;
    let (framed, status) = (work.parse.framing, work.parse.state.status);
    let head = (work.parse.head_requests >> (work.parse.found & 63)) & 1 != 0;
    if status < 200 {
        return 0;
    }
    // A response may offer another protocol, but only 101 changes to it.
    let framed = framed & !(framing::UPGRADE | framing::CONTEXT);
    if head || status == 204 || status == 304 || (framed == framing::LENGTH && work.parse.length == 0) {
        return u64::from(response_ended(work));
    }
    match framed {
        framing::LENGTH => {
            work.parse.state.framing = framing_state::BODY;
            work.parse.state.left = work.parse.length as u32;
            1
        }
        framing::CHUNKED => {
            work.parse.state.framing = framing_state::CHUNK_SIZE;
            1
        }
        _ => 0,
    }
}

/// The end of a response; false when there are too many in this call.
#[inline(always)]
fn response_ended(mut work: Scratch) -> bool {
    let (status, bytes, count) = (work.parse.state.status, work.parse.state.bytes, work.parse.found);
    work.parse.state.framing = framing_state::START;
    work.parse.state.bytes = 0;
    push_response(work, count, status, bytes, 0)
}

/// A chunk's size, and for the last one the end of the message. The connection falls back at trailers.
#[inline(always)]
fn chunk_size(mut work: Scratch) -> u64 {
    let at = work.parse.at;
    let start = window_at(at, 16);
    if start == NONE {
        return 0;
    }
    let (mut index, mut size, mut digits) = (start, 0_u64, 0);
    while digits < 8 {
        let digit = byte(&work, index);
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => break,
        };
        size = (size << 4) | u64::from(value);
        index += 1;
        digits += 1;
    }
    if digits == 0 || byte(&work, index) != b'\r' || byte(&work, index + 1) != b'\n' || size > LENGTH_MAX {
        return 0;
    }
    index += 2;
    if size > 0 {
        work.parse.at = at + (index - start);
        work.parse.state.bytes += index - start;
        work.parse.state.framing = framing_state::CHUNK_DATA;
        work.parse.state.left = (size + 2) as u32;
        return 1;
    }
    if byte(&work, index) != b'\r' || byte(&work, index + 1) != b'\n' {
        return 0;
    }
    index += 2;
    work.parse.at = at + (index - start);
    work.parse.state.bytes += index - start;
    u64::from(response_ended(work))
}

/// Parses the head at the position that was reached: what is requested into `state.request`, or the status into
/// `state.status`, the body's framing into `framing` and `length`, its size into `state.bytes`, its position into
/// `cursor`; false when the connection falls back to user space.
#[inline(always)]
fn head(mut work: Scratch, response: u64) -> bool {
    let at = work.parse.at;
    let mut need = 16;
    let mut left = rounds::<2>();
    while left > 0 {
        let start = window_at(at, need);
        if start == NONE {
            return false;
        }
        work.parse.cursor = start;
        let line = if response != 0 { status_line() } else { request_line() };
        if line != 0 && head_lines() != 0 {
            let len = work.parse.cursor - start;
            work.parse.state.bytes = len;
            work.parse.at = at + len;
            work.parse.cursor = at;
            return true;
        }
        // Perhaps only the window was too short.
        if work.parse.from + work.parse.len >= work.header.total {
            return false;
        }
        need = u64::from(HEAD_MAX);
        left -= 1;
    }
    false
}

/// The request line at the cursor. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn request_line() -> u64 {
    const fn mask(len: usize) -> u64 {
        if len >= 8 { u64::MAX } else { (1 << (8 * len)) - 1 }
    }
    let Some(mut work) = Scratch::get() else { return 0 };
    let mut cursor = work.parse.cursor;
    let eight = word(&work, cursor);
    let starts = |with: &[u8; 8], len: usize| (eight ^ text(with)) & mask(len) == 0;
    work.parse.flags = 0;
    // In the order of `METHODS`.
    let method = if starts(b"GET     ", 4) {
        cursor += 4;
        1
    } else if starts(b"POST    ", 5) {
        cursor += 5;
        2
    } else if starts(b"PUT     ", 4) {
        cursor += 4;
        3
    } else if starts(b"HEAD    ", 5) {
        work.parse.flags = request_flag::HEAD;
        cursor += 5;
        4
    } else if starts(b"DELETE  ", 7) {
        cursor += 7;
        5
    } else if starts(b"PATCH   ", 6) {
        cursor += 6;
        6
    } else if starts(b"OPTIONS ", 8) {
        cursor += 8;
        7
    } else {
        return 0;
    };
    if byte(&work, cursor) != b'/' {
        return 0;
    }
    work.path = PathHash::new(method);
    work.parse.cursor = cursor;
    let mut left = rounds::<STRETCHES_MAX>();
    while left > 0 {
        match path() {
            PATH_CONTINUES => {}
            PATH_ENDS => return version(work),
            QUERY_BEGINS => return query(work),
            _ => return 0,
        }
        left -= 1;
    }
    0
}

/// The version at the cursor, after the target, and the request line's end.
#[inline(always)]
fn version(mut work: Scratch) -> u64 {
    let cursor = work.parse.cursor;
    let (version, end) = (word(&work, cursor), word(&work, cursor + 8));
    if (version != text(b"HTTP/1.1") && version != text(b"HTTP/1.0")) || end as u16 != 0x0a0d {
        return 0;
    }
    work.parse.cursor = cursor + 10;
    work.parse.state.request = work.path.finish();
    1
}

/// The rest of the request line from the target's query on, which is no part of the key: only its end is read, so that
/// whatever else the line holds is taken as `l7` takes it.
#[inline(always)]
fn query(mut work: Scratch) -> u64 {
    let begin = work.parse.cursor;
    let mut from = begin;
    let mut left = rounds::<QUERY_ROUNDS>();
    while left > 0 {
        let end = find(from, LINE_FEED);
        if end < CONTINUES {
            // A blank, the version and a carriage return.
            if end < begin + 10 || byte(&work, end - 10) != b' ' {
                return 0;
            }
            work.parse.cursor = end - 9;
            return version(work);
        }
        if end == NONE {
            return 0;
        }
        from = end & (CONTINUES - 1);
        left -= 1;
    }
    0
}

/// Results of [`path`] besides 0, that the connection falls back. The path continues.
const PATH_CONTINUES: u64 = 1;
/// The cursor is after the blank at its end.
const PATH_ENDS: u64 = 2;
/// The cursor is after the byte that ends it.
const QUERY_BEGINS: u64 = 3;

/// One stretch of a path at the cursor. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn path() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let mut cursor = work.parse.cursor;
    let mut path = work.path;
    let mut result = PATH_CONTINUES;
    let mut taken = 0;
    while taken < STRETCH {
        let next = byte(&work, cursor);
        cursor += 1;
        taken += 1;
        if next <= b' ' || next == 0x7f {
            result = if next == b' ' { PATH_ENDS } else { 0 };
            break;
        }
        if next == b'?' || next == b'#' {
            result = QUERY_BEGINS;
            break;
        }
        path.add(next, class(next));
    }
    work.parse.cursor = cursor;
    work.path = path;
    result
}

/// The status line at the cursor. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn status_line() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let cursor = work.parse.cursor;
    let (version, code) = (word(&work, cursor), word(&work, cursor + 8));
    if version != text(b"HTTP/1.1") && version != text(b"HTTP/1.0") {
        return 0;
    }
    let digit = |at: u32| ((code >> (8 * at)) & 0xff).wrapping_sub(u64::from(b'0'));
    let (hundreds, tens, ones) = (digit(1), digit(2), digit(3));
    let blanks = code & 0xff == 0x20 && (code >> 32) & 0xff == 0x20;
    if !blanks || hundreds > 9 || tens > 9 || ones > 9 {
        return 0;
    }
    work.parse.state.status = (hundreds * 100 + tens * 10 + ones) as u16;
    let end = newline(work, cursor + 12);
    if end >= CONTINUES {
        return 0;
    }
    work.parse.cursor = end;
    1
}

/// The header lines at the cursor, to the end of the head. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn head_lines() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    work.parse.framing = 0;
    work.parse.length = 0;
    work.parse.line_begins = 1;
    work.parse.context_at = 0;
    let mut left = rounds::<LINES_MAX>();
    while left > 0 {
        match line() {
            HEAD_CONTINUES => {}
            result => return u64::from(result == END),
        }
        left -= 1;
    }
    0
}

/// Results of [`line()`] and [`header`] besides 0, that the connection falls back. The head continues.
const HEAD_CONTINUES: u64 = 1;
/// It was the blank line at the end of the head; the cursor is after it.
const END: u64 = 2;

/// Reads a header line, or the next stretch of a long one. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn line() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    if work.parse.line_begins != 0 {
        let result = header(work);
        if result != HEAD_CONTINUES {
            return result;
        }
    }
    let end = newline(work, work.parse.cursor);
    if end == NONE {
        return 0;
    }
    work.parse.line_begins = u64::from(end < CONTINUES);
    work.parse.cursor = end & (CONTINUES - 1);
    HEAD_CONTINUES
}

/// The bit by which small letters differ from capital ones, in eight bytes.
const LOWER: u64 = 0x2020_2020_2020_2020;

/// Reads the beginning of a header line, and what it is about the body's framing or the trace.
#[inline(always)]
fn header(mut work: Scratch) -> u64 {
    let cursor = work.parse.cursor;
    let first = word(&work, cursor);
    if first as u16 == 0x0a0d {
        work.parse.cursor = cursor + 2;
        return END;
    }
    // The window's end, folded lines, bare line feeds: no name begins with a blank or a control character.
    if first as u8 <= b' ' {
        return 0;
    }
    match first as u8 | 0x20 {
        b'b' => trace_line(work, (first | LOWER) << 40 == text(b"b3:     ") << 40, framing::B3),
        b'c' => content(work, first),
        // The body comes only after the server's `100 Continue`.
        b'e' => u64::from(((first | LOWER) ^ text(b"expect: ")) << 8 != 0),
        b't' => {
            let second = word(&work, cursor + 8);
            if first | LOWER == text(b"transfer") {
                return transfer_encoding(work, second);
            }
            let named = first | LOWER == text(b"tracepar") && (second as u32 | LOWER as u32) == ENT;
            trace_line(work, named, framing::TRACEPARENT)
        }
        b'u' => {
            if first | LOWER == text(b"upgrade:") {
                work.parse.framing |= framing::UPGRADE;
                return HEAD_CONTINUES;
            }
            let rest = (word(&work, cursor + 8) | LOWER) ^ text(b"ce-id:  ");
            trace_line(work, first | LOWER == text(b"uber-tra") && rest << 16 == 0, framing::JAEGER)
        }
        b'x' => trace_line(work, ((first | LOWER) ^ text(b"x-b3-   ")) << 24 == 0, framing::B3_PARTS),
        _ => HEAD_CONTINUES,
    }
}

/// The end of `traceparent:`.
const ENT: u32 = u32::from_le_bytes(*b"ent:");

/// A line at the cursor may be one of a trace's context in this form. The connection falls back where the form comes twice.
#[inline(always)]
fn trace_line(mut work: Scratch, is_one: bool, form: u32) -> u64 {
    if !is_one {
        return HEAD_CONTINUES;
    }
    let known = work.parse.framing & framing::CONTEXT;
    if known & form != 0 {
        return u64::from(form == framing::B3_PARTS);
    }
    // None of them, or only forms that are worth less.
    if known & (form - 1) == 0 {
        work.parse.context_at = work.parse.cursor;
    }
    work.parse.framing |= form;
    HEAD_CONTINUES
}

/// A line at the cursor that begins with `c`: about the body's length, or of a stream of events.
#[inline(always)]
fn content(mut work: Scratch, first: u64) -> u64 {
    let cursor = work.parse.cursor;
    if first | LOWER != text(b"content-") {
        return HEAD_CONTINUES;
    }
    let length = word(&work, cursor + 8);
    // Of what is no letter, the bit by which letters differ was not set above.
    let named = ((length | LOWER) ^ text(b"length: ")) << 16 == 0;
    if !named || (length >> 48) as u8 != b':' || (first >> 56) as u8 != b'-' {
        return u64::from(!may_be_event_stream(work, cursor, length | LOWER));
    }
    if work.parse.framing & framing::LENGTH != 0 {
        return 0;
    }
    work.parse.framing |= framing::LENGTH;
    content_length(work, cursor + 15)
}

/// A line at the cursor that begins with `transfer`; `encoding` are the eight bytes behind that.
#[inline(always)]
fn transfer_encoding(mut work: Scratch, encoding: u64) -> u64 {
    let cursor = work.parse.cursor;
    if encoding | LOWER != text(b"-encodin") || encoding as u8 != b'-' {
        return HEAD_CONTINUES;
    }
    if work.parse.framing & framing::CHUNKED != 0 {
        return 0;
    }
    work.parse.framing |= framing::CHUNKED;
    let colon = byte(&work, cursor + 17) == b':' && byte(&work, cursor + 16) | 0x20 == b'g';
    let mut value = cursor + 18;
    if byte(&work, value) == b' ' {
        value += 1;
    }
    let (chunked, end) = (word(&work, value) | LOWER, word(&work, value + 7));
    let plain = (chunked ^ text(b"chunked ")) << 8 == 0 && end as u16 == 0x0a0d;
    u64::from(colon && plain)
}

/// Whether a field may be a `Content-Type` of server-sent events, which answer with their head; `name` are the eight bytes
/// behind `content-`, in lower case.
#[inline(always)]
fn may_be_event_stream(work: Scratch, cursor: u64, name: u64) -> bool {
    if (name ^ text(b"type:   ")) << 24 != 0 {
        return false;
    }
    let value = cursor + 13 + u64::from(byte(&work, cursor + 13) == b' ');
    // Where another blank comes, the value is not looked for.
    byte(&work, value) <= b' ' || word(&work, value) | LOWER == text(b"text/eve")
}

/// The value of a `Content-Length`, up to its line end.
#[inline(always)]
fn content_length(mut work: Scratch, at: u64) -> u64 {
    let blank = byte(&work, at) == b' ';
    let (length, end) = decimal(work, if blank { at + 1 } else { at });
    if length > LENGTH_MAX || byte(&work, end) != b'\r' || byte(&work, end + 1) != b'\n' {
        return 0;
    }
    work.parse.length = length;
    1
}
