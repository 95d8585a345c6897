//! Frame headers (RFC 9113 section 4.1).

use crate::parser::Sender;

/// The client's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header, bytes.
pub(super) const HEADER_BYTES: usize = 9;

/// Largest frame that a receiver can allow, bytes of payload (RFC 9113 section 6.5.2, `SETTINGS_MAX_FRAME_SIZE`).
const PAYLOAD_BYTES_MAX: usize = (1 << 24) - 1;

/// Largest frame before a receiver allows more, bytes of payload.
pub(super) const PAYLOAD_BYTES_DEFAULT: usize = 1 << 14;

/// Identifier of `SETTINGS_MAX_FRAME_SIZE`.
const MAX_FRAME_SIZE: u16 = 5;

/// The largest frame that the sender of a `SETTINGS` frame accepts, if this payload has it.
pub(super) fn max_frame_size(payload: &[u8]) -> Option<usize> {
    let (settings, _) = payload.as_chunks::<6>();
    let value = settings.iter().rev().find_map(|&[high, low, value @ ..]| {
        (u16::from_be_bytes([high, low]) == MAX_FRAME_SIZE).then_some(u32::from_be_bytes(value))
    })?;
    usize::try_from(value).ok().filter(|size| (PAYLOAD_BYTES_DEFAULT..=PAYLOAD_BYTES_MAX).contains(size))
}

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// Type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Of an extension: to be ignored.
    Extension,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) payload: usize,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    /// Reads a frame header, if it can be one from this sender.
    pub(super) fn read(bytes: &[u8], from: Sender) -> Option<Self> {
        let &[high, middle, low, kind, flags, ..] = bytes.first_chunk::<HEADER_BYTES>()?;
        let payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let stream = u32::from_be_bytes(*bytes.get(5..)?.first_chunk()?);
        if stream >> 31 != 0 || payload > PAYLOAD_BYTES_MAX {
            return None;
        }
        let (kind, fits) = match kind {
            0 => (Kind::Data, stream != 0),
            1 => (Kind::Headers, stream != 0 && (from == Sender::Server || stream % 2 == 1)),
            2 => (Kind::Priority, stream != 0 && payload == 5),
            3 => (Kind::Reset, stream != 0 && payload == 4),
            4 => {
                (Kind::Settings, stream == 0 && payload.is_multiple_of(6) && (flags & 1 == 0 || payload == 0))
            }
            5 => (Kind::PushPromise, stream % 2 == 1 && from == Sender::Server && payload >= 4),
            6 => (Kind::Ping, stream == 0 && payload == 8),
            7 => (Kind::GoAway, stream == 0 && payload >= 8),
            8 => (Kind::WindowUpdate, payload == 4),
            9 => (Kind::Continuation, stream != 0),
            _ => (Kind::Extension, true),
        };
        fits.then_some(Self { payload, kind, flags, stream })
    }

    /// Whether it is beyond doubt a frame's, where it need not be one. `largest` is the largest payload that the receiver
    /// accepts.
    pub(super) fn is_plausible(&self, largest: usize) -> bool {
        let known_flags = match self.kind {
            Kind::Data => END_STREAM | PADDED,
            Kind::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            Kind::Settings | Kind::Ping => 1,
            Kind::PushPromise => END_HEADERS | PADDED,
            Kind::Continuation => END_HEADERS,
            _ => 0,
        };
        self.kind != Kind::Extension && self.flags & !known_flags == 0 && self.payload <= largest
    }

    /// Length with the header, bytes.
    pub(super) fn total(&self) -> usize {
        HEADER_BYTES + self.payload
    }

    /// The fragment of a header block within as much of the payload as there is, and whether it is whole.
    pub(super) fn fragment<'a>(&self, payload: &'a [u8]) -> Option<(&'a [u8], bool)> {
        let present = payload.get(..self.payload).unwrap_or(payload);
        let whole = present.len() == self.payload;
        let mut skip = 0;
        let mut padding = 0;
        if self.flags & PADDED != 0 && self.kind != Kind::Continuation {
            padding = usize::from(*present.first()?);
            skip += 1;
        }
        if self.flags & PRIORITY != 0 && self.kind == Kind::Headers {
            skip += 5;
        }
        if self.kind == Kind::PushPromise {
            skip += 4;
        }
        let end = self.payload.checked_sub(padding)?.min(present.len());
        Some((present.get(skip..end)?, whole))
    }
}
