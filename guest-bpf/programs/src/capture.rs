//! Copying what a call moved, in pieces of a window each.
//!
//! ```text
//! call ─► window of the bytes ─► walk over its messages ─► record: what is wanted ─► window behind what is not wanted ─► …
//! ```
//!
//! [`porthole_framing`] has the walk. Where it does not apply, as in text protocols and before a protocol is known, the
//! pieces follow one another.

use porthole_bpf_types::{
    connection::Connection,
    record::{CALL_MAX, HEAD_MAX, PIECES_MAX},
};
use porthole_framing::{
    Framing, Piece, Walk, Window,
    layout::{LAYOUTS, Layout},
    walk::{Extent, MESSAGES_MAX, Step},
};

use crate::{
    connections,
    maps::{CONNECTIONS, NO_VECTOR, Scratch, count},
    ring,
    verifier::{bounded, copy_words, rounds},
    window,
};

/// Copies the head of what a call moved.
#[inline(always)]
pub fn copy_head(mut work: Scratch) {
    let total = work.header.total;
    let want = if work.want < u64::from(HEAD_MAX) { work.want } else { u64::from(HEAD_MAX) };
    work.header.unreadable = 0;
    work.parse.len = 0;
    if want > 0 {
        if work.count == NO_VECTOR {
            copy_buffer(work, 0, want);
        } else {
            window::rewind(work);
            copy(0, want);
        }
    }
    work.header.head = work.parse.len as u32;
    work.header.total = total;
    work.header.continues = 0;
}

/// Copies from the call's only buffer into the window; `work` has the number of bytes that could be read.
#[inline(always)]
fn copy_buffer(mut work: Scratch, at: u64, len: u64) {
    if window::buffer(work, at, len) != 0 {
        work.parse.len = len;
    } else {
        work.header.unreadable = 1;
        count!(unreadable);
    }
}

/// Copies `len` bytes from position `at` of the call into the window; `work` has the number that could be read. A
/// global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn copy(at: u64, len: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    work.header.unreadable = 0;
    work.parse.len = 0;
    if work.count == NO_VECTOR {
        copy_buffer(work, at, len);
    } else if window::vector(at, len) == 0 {
        work.header.unreadable = 1;
        count!(unreadable);
    }
    0
}

/// Most calls of [`pass`] for one call.
const PASSES_MAX: u64 = HEAD_MAX as u64 / 4 / MESSAGES_MAX + 1;

/// Copies and sends what a call moved if that is short, or else its head. Where messages begin with their length, it goes
/// through those of a short call, so that it is known where those of the next one begin.
#[inline(always)]
pub fn short(mut work: Scratch, connection: *mut Connection, walks: bool, wake: bool) {
    let (offset, total) = (work.header.offset, work.header.total);
    if walks {
        load_walk(work, connection);
        if work.capture.walk.unwanted(offset) >= total {
            work.want = 0;
        }
    }
    copy_head(work);
    work.header.sequence = connections::next_sequence(connection);
    ring::send_chunk(&work, wake);
    if !walks || u64::from(work.header.head) != total {
        return;
    }
    if pass() != 0 {
        more_passes();
    }
    store_walk(work, connection);
}

/// Goes through the messages of a call in the window that one [`pass`] leaves. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn more_passes() -> u64 {
    let mut left = rounds::<PASSES_MAX>();
    while left > 0 && pass() != 0 {
        left -= 1;
    }
    0
}

/// The walk of the direction in which a call moved bytes.
#[inline(always)]
fn walk_of(work: Scratch, connection: *mut Connection) -> *mut Walk {
    // SAFETY: a value that a look-up gave (see `maps`); within its array of two.
    unsafe {
        let first = (&raw mut (*connection).walks).cast::<Walk>();
        if work.header.direction == 0 { first } else { first.add(1) }
    }
}

const WALK_WORDS: usize = size_of::<Walk>() / 8;

/// Begins with the call where the connection's walk is.
#[inline(always)]
fn load_walk(mut work: Scratch, connection: *mut Connection) {
    let from = walk_of(work, connection);
    // SAFETY: values that look-ups gave (see `maps`), of words. Of two CPUs at once either may win: positions show what
    // went wrong.
    unsafe { copy_words::<WALK_WORDS>((&raw mut work.capture.walk).cast(), from.cast()) };
    let offset = work.header.offset;
    work.capture.walk.begin(offset);
}

/// Keeps where the walk is for the connection's next call.
#[inline(always)]
fn store_walk(work: Scratch, connection: *mut Connection) {
    let to = walk_of(work, connection);
    // SAFETY: as in `load_walk`.
    unsafe { copy_words::<WALK_WORDS>(to.cast(), (&raw const work.capture.walk).cast()) };
}

/// Goes through some messages of the call in the window; gives 0 when there are no more. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn pass() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let (offset, total) = (work.header.offset, work.header.total);
    if work.capture.walk.buffered_len == 0 {
        let mut state = work.capture.walk;
        // Of HTTP/2, which has many messages, a layout that the compiler knows: no loads from it, and shifts by constants.
        let done = if work.capture.framing == u64::from(Framing::Http2.number()) {
            state.pass(&TABLE[Framing::Http2 as usize], &*work, offset, total)
        } else {
            state.pass(layout(work.capture.framing), &*work, offset, total)
        };
        work.capture.walk = state;
        return u64::from(!done);
    }
    work.capture.index = 0;
    work.capture.at = 0;
    work.capture.total = total;
    walk_all();
    work.header.total = total;
    0
}

/// Copies and sends what a call moved, as far as it is wanted. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn pieces(sk: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(connection) = CONNECTIONS.get_ptr_mut(sk) else { return 0 };
    let walks = Framing::has_layout(work.capture.framing as u8);
    let offset = work.header.offset;
    if walks {
        load_walk(work, connection);
    }
    work.capture.total = work.header.total;
    work.capture.at = 0;
    window::rewind(work);
    work.capture.socket = sk;
    let mut left = rounds::<{ PIECES_MAX as u64 / STEPS }>();
    while left > 0 && some_pieces() != 0 {
        left -= 1;
    }
    if left == 0 {
        // What is behind the last piece.
        work.capture.limit = 0;
        piece();
    }
    if walks {
        store_walk(work, connection);
    }
    work.header.offset = offset;
    work.header.total = work.capture.total;
    0
}

/// Steps of a loop in one function: the verifier goes through each of them.
const STEPS: u64 = 32;

/// Makes and sends some pieces of a call; gives 0 when the last one was among them. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn some_pieces() -> u64 {
    let mut left = rounds::<STEPS>();
    while left > 0 {
        if piece() == 0 {
            return 0;
        }
        left -= 1;
    }
    1
}

/// Makes and sends the next piece of a call; gives 0 when it is the last one. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn piece() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let Some(connection) = CONNECTIONS.get_ptr_mut(work.capture.socket) else { return 0 };
    let at = work.capture.at;
    let left = work.capture.total - at;
    if at > 0 {
        work.header.offset += work.header.total;
    }
    let walks = Framing::has_layout(work.capture.framing as u8);
    let position = work.header.offset;
    let limit = work.capture.limit;
    let mut piece = Piece { head: 0, total: left };
    let unwanted = if walks { work.capture.walk.unwanted(position) } else { 0 };
    if unwanted > 0 {
        if unwanted < left {
            piece.total = unwanted;
        }
        work.header.unreadable = 0;
    } else if limit < u64::from(HEAD_MAX) || (at > 0 && !ring::has_room(u64::from(HEAD_MAX))) {
        work.header.unreadable = 0;
        count!(beyond_limit, left);
    } else {
        let len = if left < u64::from(HEAD_MAX) { left } else { u64::from(HEAD_MAX) };
        copy(at, len);
        let len = work.parse.len;
        if work.header.unreadable != 0 {
            piece.head = len;
        } else if walks {
            work.capture.index = 0;
            walk_all();
            piece = Piece { head: u64::from(work.header.head), total: work.header.total };
        } else {
            piece = Piece { head: len, total: len };
        }
    }
    work.capture.limit = limit - piece.head;
    work.capture.at = at + piece.total;
    work.header.head = piece.head as u32;
    work.header.total = piece.total;
    let more = u64::from(piece.total < left);
    work.header.continues = u8::from(more != 0 && piece.head == piece.total);
    work.header.sequence = connections::next_sequence(connection);
    ring::send_chunk(&work, more == 0 && work.capture.wake != 0);
    more
}

/// Most messages in a window: the shortest has four bytes.
const WINDOW_MESSAGES_MAX: u64 = HEAD_MAX as u64 / 4 + STEPS;

/// Walks over the window's messages until the piece is found.
#[inline(always)]
fn walk_all() {
    let mut left = rounds::<{ WINDOW_MESSAGES_MAX / STEPS }>();
    while left > 0 && walk_some() == 0 {
        left -= 1;
    }
}

/// Walks over some messages of the window; gives 1 when the piece is found. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn walk_some() -> u64 {
    let mut left = rounds::<STEPS>();
    while left > 0 {
        if walk() != 0 {
            return 1;
        }
        left -= 1;
    }
    0
}

/// Walks over one message of the window; gives 1 when the piece is found, whose sizes are in the header then. A global
/// function: what a step leaves in memory the verifier does not follow, so that it verifies one step and not each.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn walk() -> u64 {
    let Some(mut work) = Scratch::get() else { return 1 };
    let extent = Extent {
        position: work.header.offset,
        len: work.parse.len,
        left: work.capture.total - work.capture.at,
    };
    let index = work.capture.index;
    let mut state = work.capture.walk;
    let step = state.step(layout(work.capture.framing), &*work, extent, index);
    work.capture.walk = state;
    match step {
        Step::Message(next) => {
            work.capture.index = next;
            0
        }
        Step::Piece(piece) => {
            work.header.head = piece.head as u32;
            work.header.total = piece.total;
            1
        }
    }
}

#[inline(always)]
fn layout(framing: u64) -> &'static Layout {
    let index = bounded::<{ LAYOUTS_ROWS - 1 }>(framing) as usize;
    // SAFETY: the index was bounded to less than the array's length.
    unsafe { &*(&raw const TABLE).cast::<Layout>().add(index) }
}

const LAYOUTS_ROWS: u64 = LAYOUTS.len() as u64;

/// The layouts, as data of the programs.
#[unsafe(no_mangle)]
static TABLE: [Layout; LAYOUTS_ROWS as usize] = LAYOUTS;

impl Window for crate::maps::Work {
    #[inline(always)]
    fn word(&self, index: u64) -> u64 {
        window::word(self, index)
    }
}

const _: () = assert!(CALL_MAX >= HEAD_MAX as u64);
