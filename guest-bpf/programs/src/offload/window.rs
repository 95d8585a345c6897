//! Looking at what a call moved, a window at a time.
//!
//! Positions count from the call's first byte, indexes from the window's. Behind the window's last byte lies a word of
//! zeros, which is part of no message that is followed: whatever runs past the end meets it and gives up.

use core::{
    mem::MaybeUninit,
    ptr::{read_unaligned, write_unaligned},
};

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use porthole_bpf_types::{
    path::CLASSES,
    record::{HEAD_MAX, VECTOR_MAX},
};

use crate::{
    capture::bounded,
    maps::{HEAD_ROOM, NO_VECTOR, Scratch, Work},
};

/// What functions give that look for something which is not there.
pub const NONE: u64 = u64::MAX;

/// The byte at an index.
#[inline(always)]
pub fn byte(work: &Work, index: u64) -> u8 {
    let at = bounded::<{ HEAD_ROOM as u64 - 1 }>(index) as usize;
    // SAFETY: within the head.
    unsafe { (&raw const work.head).cast::<u8>().add(at).read() }
}

/// The eight bytes from an index on, the first one lowest.
#[inline(always)]
pub fn word(work: &Work, index: u64) -> u64 {
    let at = bounded::<{ HEAD_ROOM as u64 - 1 }>(index) as usize;
    // SAFETY: within the head, or at its very end within what follows it in `work`.
    unsafe { read_unaligned((&raw const work.head).cast::<u8>().add(at).cast()) }
}

/// The word that eight characters make.
pub const fn text(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// Class of a byte in [`porthole_bpf_types::path::PathHash`].
#[inline(always)]
pub fn class(byte: u8) -> u32 {
    // SAFETY: the table has an entry for each byte.
    unsafe { core::ptr::read_volatile((&raw const PATH_CLASSES).cast::<u32>().add(byte as usize)) }
}

/// The classes, as data of the programs.
#[unsafe(no_mangle)]
static PATH_CLASSES: porthole_bpf_types::path::Classes = CLASSES;

/// Index of the byte at a position, with `need` bytes from there in the window, or as many as the call moved; [`NONE`]
/// where there is nothing that can be read. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn window_at(at: u64, need: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return NONE };
    let total = work.header.total;
    if at >= total || work.want == 0 {
        return NONE;
    }
    let left = total - at;
    let need = if need < left { need } else { left };
    if at >= work.parse.from && at + need <= work.parse.from + work.parse.len {
        return at - work.parse.from;
    }
    // Most messages are short; a long one is copied again, once.
    let wish = if need > WINDOW { HEAD_MAX as u64 } else { WINDOW };
    let len = if wish < left { wish } else { left };
    work.parse.from = at;
    work.parse.len = 0;
    let complete = if work.count == NO_VECTOR { buffer(work, at, len) } else { vector(at, len) };
    if complete == 0 {
        work.parse.len = 0;
        return NONE;
    }
    work.parse.len = len;
    let end = bounded::<{ HEAD_ROOM as u64 - 1 }>(len) as usize;
    // SAFETY: `len` is at most HEAD_MAX, and the head is twice as long.
    unsafe { write_unaligned((&raw mut work.head).cast::<u8>().add(end).cast::<u64>(), 0) };
    0
}

/// A window's usual length, bytes.
const WINDOW: u64 = 1024;

#[inline(always)]
fn buffer(mut work: Scratch, at: u64, len: u64) -> u64 {
    let len = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>(len);
    let source = (work.address + at) as *const _;
    // SAFETY: the head has room for twice the largest length; the source is checked by the helper.
    let rc = unsafe { bpf_probe_read_user((&raw mut work.head).cast(), len as u32, source) };
    u64::from(rc == 0)
}

/// Copies `len` bytes from position `at` out of several buffers; gives 0 when not all of them could be read. How many
/// were is in `parse.len`. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn vector(at: u64, len: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    // SAFETY: position and length of a copy are bounded by HEAD_MAX each, and the head has room for both; the
    // sources are checked by the helper.
    unsafe {
        let (mut index, mut skip, mut filled) = (0_u64, at, 0_u64);
        work.parse.len = 0;
        while index < u64::from(VECTOR_MAX) {
            if filled >= len {
                return 1;
            }
            if index >= work.count {
                return 0;
            }
            let mut pair = MaybeUninit::<[u64; 2]>::uninit();
            let source = (work.address + index * 16) as *const _;
            if bpf_probe_read_user(pair.as_mut_ptr().cast(), 16, source) != 0 {
                return 0;
            }
            let pair = pair.assume_init();
            index += 1;
            if skip >= pair[1] {
                skip -= pair[1];
                continue;
            }
            let (left, here) = (len - filled, pair[1] - skip);
            let step = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>(if here < left { here } else { left });
            if step > u64::from(HEAD_MAX) {
                return 0;
            }
            let to =
                (&raw mut work.head).cast::<u8>().add(bounded::<{ HEAD_MAX as u64 - 1 }>(filled) as usize);
            if bpf_probe_read_user(to.cast(), step as u32, (pair[0] + skip) as *const _) != 0 {
                return 0;
            }
            skip = 0;
            filled += step;
            work.parse.len = filled;
        }
        u64::from(filled >= len)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const LINE_FEEDS: u64 = 0x0a0a_0a0a_0a0a_0a0a;

/// The high bit of the lowest zero byte, and perhaps of others above it.
#[inline(always)]
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Index of the byte of which this is the high bit, counted from the lowest.
#[inline(always)]
const fn byte_of(bit: u64) -> u64 {
    (bit >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56
}

/// Words in which one call of [`newline`] looks.
const WORDS: u64 = 24;

/// Says that a line goes on at the index in the lower bits.
pub const CONTINUES: u64 = 1 << 32;

/// Index behind the line's end, CRLF; or [`CONTINUES`] with where to look further; [`NONE`] where a zero or the window's
/// end comes first, or another line end. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn newline(from: u64) -> u64 {
    let Some(work) = Scratch::get() else { return NONE };
    let mut index = from;
    let mut words = 0;
    while words < WORDS {
        let eight = word(&work, index);
        let (feed, zero) = (zeros(eight ^ LINE_FEEDS), zeros(eight));
        if (feed | zero) != 0 {
            let (first_feed, first_zero) = (feed & feed.wrapping_neg(), zero & zero.wrapping_neg());
            if feed == 0 || (zero != 0 && first_zero < first_feed) {
                return NONE;
            }
            let at = index + byte_of(first_feed);
            return if at > 0 && byte(&work, at - 1) == b'\r' { at + 1 } else { NONE };
        }
        index += 8;
        words += 1;
    }
    CONTINUES | index
}

/// Reads a decimal number at the cursor and its line end; the cursor is behind it then. [`NONE`] when there is none.
/// A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn number_line() -> u64 {
    let Some(mut work) = Scratch::get() else { return NONE };
    let (value, index) = decimal(work, work.parse.cursor);
    if value == NONE || byte(&work, index) != b'\r' || byte(&work, index + 1) != b'\n' {
        return NONE;
    }
    work.parse.cursor = index + 2;
    value
}

/// The decimal number at an index, [`NONE`] when there is none of up to ten digits; and the index behind it.
#[inline(always)]
pub fn decimal(work: Scratch, at: u64) -> (u64, u64) {
    let (mut index, mut value, mut digits) = (at, 0_u64, 0);
    while digits < 11 {
        let digit = byte(&work, index);
        if digit < b'0' || digit > b'9' {
            break;
        }
        value = value * 10 + u64::from(digit - b'0');
        index += 1;
        digits += 1;
    }
    (if digits == 0 || digits > 10 { NONE } else { value }, index)
}
