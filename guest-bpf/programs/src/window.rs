//! Reading the bytes that a call moved, a window at a time.
//!
//! Positions count from the call's first byte, indexes from the window's. After the window's last byte is a word of
//! zeros, which is part of no message that is parsed: a parser that reads past the end stops there.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use porthole_bpf_types::{
    path::CLASSES,
    record::{HEAD_MAX, VECTOR_MAX},
};

use crate::{
    maps::{HEAD_ROOM, NO_VECTOR, Scratch, Work},
    verifier::{bounded, load, rounds, store},
};

/// The result of functions that did not find what they search for.
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
    unsafe { load::<0>((&raw const work.head).cast::<u8>().add(at)) }
}

/// The word that eight characters make.
#[allow(clippy::trivially_copy_pass_by_ref)] // So that it takes a byte string as it is written.
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
    let wish = if need > WINDOW { u64::from(HEAD_MAX) } else { WINDOW };
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
    // SAFETY: `end` is less than HEAD_ROOM, and what follows the head in `work` is longer than a word.
    unsafe { store((&raw mut work.head).cast::<u8>().add(end), 0) };
    0
}

/// A window's usual length, bytes.
const WINDOW: u64 = 1024;

/// Copies `len` bytes from position `at` out of the call's only buffer; gives 0 when they could not be read.
#[inline(always)]
pub fn buffer(mut work: Scratch, at: u64, len: u64) -> u64 {
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
    work.parse.len = 0;
    if at < work.parse.gathered {
        rewind(work);
    }
    let mut left = rounds::<{ VECTOR_MAX as u64 / BUFFERS as u64 }>();
    while left > 0 {
        match gather(at, len) {
            GATHER_FAILED => return 0,
            GATHERED => return 1,
            _ => left -= 1,
        }
    }
    0
}

/// The next buffer to be read of a call of several is the first one.
#[inline(always)]
pub fn rewind(work: Scratch) {
    // SAFETY: a value that a look-up gave (see `maps`). The compiler would join plain writes into a call of a function that
    // writes byte by byte.
    unsafe {
        let work = work.as_ptr();
        (&raw mut (*work).parse.gathered).write_volatile(0);
        (&raw mut (*work).parse.buffer).write_volatile(0);
    }
}

/// Buffers that one call of [`gather`] goes through: the verifier goes through each of them.
const BUFFERS: u32 = 8;

/// Results of [`gather`].
const GATHER_FAILED: u64 = 0;
const GATHERED: u64 = 1;
const GATHER_MORE: u64 = 2;

/// Copies some buffers of a call of several: what they have of the `len` bytes from position `at`, of which
/// `parse.len` were copied already. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn gather(at: u64, len: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return GATHER_FAILED };
    let mut count = 0;
    while count < BUFFERS {
        let filled = work.parse.len;
        if filled >= len {
            return GATHERED;
        }
        if work.parse.buffer >= work.count {
            return GATHER_FAILED;
        }
        let mut pair = MaybeUninit::<[u64; 2]>::uninit();
        let source = (work.address + work.parse.buffer * 16) as *const _;
        // SAFETY: writes the size of `pair`; the helper checks the source and returns whether it was read.
        let pair = unsafe {
            if bpf_probe_read_user(pair.as_mut_ptr().cast(), 16, source) != 0 {
                return GATHER_FAILED;
            }
            pair.assume_init()
        };
        count += 1;
        // Not less than 0: `gathered` is where this buffer begins, and was at or before `at` when the first one was
        // begun.
        let skip = (at + filled).wrapping_sub(work.parse.gathered);
        if skip >= pair[1] {
            work.parse.gathered += pair[1];
            work.parse.buffer += 1;
            continue;
        }
        let (left, here) = (len - filled, pair[1] - skip);
        let step = bounded::<{ 2 * HEAD_MAX as u64 - 1 }>(if here < left { here } else { left });
        if step > u64::from(HEAD_MAX) {
            return GATHER_FAILED;
        }
        // SAFETY: position and length of a copy are bounded by HEAD_MAX each, and the head has room for both; the source
        // is checked by the helper.
        let rc = unsafe {
            let to =
                (&raw mut work.head).cast::<u8>().add(bounded::<{ HEAD_MAX as u64 - 1 }>(filled) as usize);
            bpf_probe_read_user(to.cast(), step as u32, (pair[0] + skip) as *const _)
        };
        if rc != 0 {
            return GATHER_FAILED;
        }
        work.parse.len = filled + step;
        if skip + step == pair[1] {
            work.parse.gathered += pair[1];
            work.parse.buffer += 1;
        }
    }
    if work.parse.len >= len { GATHERED } else { GATHER_MORE }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A word of eight equal bytes.
const fn eight(byte: u8) -> u64 {
    ONES * byte as u64
}

/// In the high bits, which [`HIGHS`] selects: that of the lowest zero byte, and perhaps of others above it.
#[inline(always)]
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word
}

/// Index of the byte of which this is the high bit, counted from the lowest.
#[inline(always)]
const fn byte_of(bit: u64) -> u64 {
    (bit >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56
}

/// Words of one stride of [`find`], and strides of one call of it.
const STRIDE: u64 = 4;
const STRIDES: u64 = 8;

/// The byte was not found yet; the lower bits are the index at which the search resumes.
pub const CONTINUES: u64 = 1 << 32;

/// Bytes to find.
pub const LINE_FEED: u64 = eight(b'\n');

/// Index of the first byte from an index on that is the one of which `pattern` has eight; [`CONTINUES`] when it is
/// farther away; [`NONE`] where the window ends first. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn find(from: u64, pattern: u64) -> u64 {
    let Some(work) = Scratch::get() else { return NONE };
    let (mut index, len) = (from, work.parse.len);
    let mut strides = 0;
    while strides < STRIDES {
        let at = bounded::<{ HEAD_ROOM as u64 - 1 }>(index) as usize;
        // SAFETY: as [`word`]'s; what follows the head in `work` is longer than a stride.
        let words = unsafe {
            let head = (&raw const work.head).cast::<u8>().add(at);
            [load::<0>(head), load::<8>(head), load::<16>(head), load::<24>(head)]
        };
        let found = words.map(|word| zeros(word ^ pattern));
        if (found[0] | found[1] | found[2] | found[3]) & HIGHS != 0 {
            let mut bits = found[0] & HIGHS;
            if bits == 0 {
                index += 8;
                bits = found[1] & HIGHS;
            }
            if bits == 0 {
                index += 8;
                bits = found[2] & HIGHS;
            }
            if bits == 0 {
                index += 8;
                bits = found[3] & HIGHS;
            }
            let at = index + byte_of(bits & bits.wrapping_neg());
            return if at < len { at } else { NONE };
        }
        index += 8 * STRIDE;
        strides += 1;
        if index >= len {
            return NONE;
        }
    }
    CONTINUES | index
}

/// Index after the line's end, CRLF; or [`CONTINUES`] with the index at which the search resumes; [`NONE`] where the
/// window ends first, or where the line ends otherwise.
#[inline(always)]
pub fn newline(work: Scratch, from: u64) -> u64 {
    let at = find(from, LINE_FEED);
    if at >= CONTINUES {
        return at;
    }
    if at > 0 && byte(&work, at - 1) == b'\r' { at + 1 } else { NONE }
}

/// Reads a decimal number at the cursor and its line end, and moves the cursor after both. [`NONE`] when there is none.
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

/// The decimal number at an index, [`NONE`] when there is none of up to ten digits; and the index after it.
#[inline(always)]
pub fn decimal(work: Scratch, at: u64) -> (u64, u64) {
    let (mut index, mut value, mut digits) = (at, 0_u64, 0);
    while digits < 11 {
        let digit = byte(&work, index);
        if !digit.is_ascii_digit() {
            break;
        }
        value = value * 10 + u64::from(digit - b'0');
        index += 1;
        digits += 1;
    }
    (if digits == 0 || digits > 10 { NONE } else { value }, index)
}
