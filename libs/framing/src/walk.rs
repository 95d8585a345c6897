//! Follows the messages of one direction of a connection from call to call, and returns which bytes a parser needs.
//!
//! Where messages begin is not known from the start. The first byte of a call is taken for one; when the headers behind it
//! are at the positions that the lengths before them give, several times in a row, the messages are confirmed, and from
//! then on what no parser looks at is left out. Until then, and after a header that is none, everything is wanted.

// Parts of programs for a kernel's verifier, in which no conversion can fail.
#![allow(clippy::inline_always, clippy::cast_possible_truncation)]

use crate::{Window, layout::Layout};

/// Headers in a row after which bytes are left out.
pub const CONFIRMATIONS: u8 = 4;

/// Messages that [`Walk::pass`] goes through at a time.
pub const MESSAGES_MAX: u64 = 8;

/// [`Walk::end`] where no message is known.
const LOST: u64 = u64::MAX;

/// State of one direction, between calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// Position after the current message, or after the bytes of its header that are buffered.
    pub end: u64,
    /// The beginning of a header that was at the end of a call, the first byte lowest.
    pub buffered: u64,
    /// Bytes of the current message that are still wanted.
    pub wanted: u32,
    /// Number of bytes in [`Self::buffered`].
    pub buffered_len: u8,
    /// Headers in a row that were where they were expected, up to [`CONFIRMATIONS`].
    pub confirmed: u8,
    /// Zero.
    pub reserved: u16,
}

/// A piece of a call: bytes that are wanted, and bytes behind them that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Wanted bytes.
    pub head: u64,
    /// These and those that follow up to the next piece.
    pub total: u64,
}

/// The window that is walked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position of its first byte in the stream.
    pub position: u64,
    /// Its length.
    pub len: u64,
    /// Bytes of the call from its first byte on.
    pub left: u64,
}

/// What a step of [`Walk::step`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The message ends at this index: the next one is there.
    Message(u64),
    /// The piece that begins with the window.
    Piece(Piece),
}

impl Walk {
    /// A call begins at this position of the stream.
    #[inline(always)]
    pub fn begin(&mut self, position: u64) {
        if self.end < position || self.end == LOST {
            *self = Self { end: position, ..Self::default() };
        }
    }

    /// Bytes at the beginning of a call that are not wanted: the rest of a message.
    #[inline(always)]
    pub fn unwanted(&self, position: u64) -> u64 {
        let unwanted = self.confirmed >= CONFIRMATIONS && self.wanted == 0;
        if unwanted && self.end > position { self.end - position } else { 0 }
    }

    /// Goes through the messages of a call that is captured whole, which takes less than steps do; false when there are
    /// more than [`MESSAGES_MAX`], and it is to be called again. A header whose beginning is buffered takes a step.
    #[inline(always)]
    pub fn pass<W: Window + ?Sized>(&mut self, layout: &Layout, window: &W, position: u64, len: u64) -> bool {
        let mut index = self.end - position;
        if index > len {
            self.wanted = u64::from(self.wanted).saturating_sub(len) as u32;
            return true;
        }
        let (mut start, mut count, mut length) = (0, 0, 1);
        while count < MESSAGES_MAX && index + u64::from(layout.header) <= len {
            length = layout.length(window.word(index));
            if length == 0 {
                break;
            }
            start = index;
            index += length;
            count += 1;
        }
        if length == 0 {
            *self = Self { end: LOST, ..Self::default() };
            return true;
        }
        let confirmed = u64::from(self.confirmed) + count;
        self.confirmed = if confirmed < u64::from(CONFIRMATIONS) { confirmed as u8 } else { CONFIRMATIONS };
        self.end = position + index;
        self.wanted = 0;
        if index > len {
            let wanted = start + layout.wanted(window.word(start), length);
            if wanted > len {
                self.wanted = (wanted - len) as u32;
            }
            return true;
        }
        let rest = len - index;
        if rest >= u64::from(layout.header) {
            return false;
        }
        self.buffered = window.word(index) & ((1 << (8 * (rest & 7))) - 1);
        self.buffered_len = (rest & 7) as u8;
        self.end = position + len;
        true
    }

    /// Goes through one message. Begin with index 0 and go on with the one that [`Step::Message`] has.
    #[inline(always)]
    pub fn step<W: Window + ?Sized>(
        &mut self,
        layout: &Layout,
        window: &W,
        extent: Extent,
        index: u64,
    ) -> Step {
        let here = extent.position + index;
        let room = extent.len - index;
        let all = Step::Piece(Piece { head: extent.len, total: extent.len });
        if here >= self.end {
            if room == 0 {
                return all;
            }
            let buffered = u64::from(self.buffered_len & 7);
            let header = self.buffered | (window.word(index) << (8 * buffered));
            if room + buffered < u64::from(layout.header) {
                if extent.len < extent.left {
                    // The next window has all of it.
                    return Step::Piece(Piece { head: index, total: index });
                }
                // Fewer than eight, as the header is no longer.
                let len = room + buffered;
                self.buffered = header & ((1 << (8 * (len & 7))) - 1);
                self.buffered_len = (len & 7) as u8;
                self.end = here + room;
                return all;
            }
            let length = layout.length(header);
            if length == 0 {
                *self = Self { end: LOST, ..Self::default() };
                return all;
            }
            self.end = here - buffered + length;
            self.wanted = (layout.wanted(header, length) - buffered) as u32;
            self.buffered = 0;
            self.buffered_len = 0;
            if self.confirmed < CONFIRMATIONS {
                self.confirmed += 1;
            }
        }
        let rest = self.end - here;
        if rest <= room {
            self.wanted = 0;
            return Step::Message(index + rest);
        }
        let wanted = u64::from(self.wanted);
        if wanted > room {
            self.wanted = (wanted - room) as u32;
            return all;
        }
        self.wanted = 0;
        if self.confirmed < CONFIRMATIONS {
            return all;
        }
        let total = index + rest;
        let total = if total < extent.left { total } else { extent.left };
        Step::Piece(Piece { head: index + wanted, total })
    }
}
