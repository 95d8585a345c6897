//! Header compression (RFC 7541), as far as a bystander needs it.
//!
//! The dynamic table is addressed from its newest entry backwards. So what was inserted since the connection was first
//! seen, or since the last loss, is known exactly; an index beyond that gives a field whose name and value are unknown,
//! never a wrong one. Values are kept of the few fields that matter; of the others only their sizes.

use std::collections::VecDeque;

use crate::{http2::huffman, trace::TraceHeader};

/// Size of the table until the encoder changes it (RFC 7541 section 4.2, RFC 9113 section 6.5.2).
const TABLE_SIZE: u32 = 4096;

/// Largest table that is followed, by its own measure; entries beyond are unknown when they are referred to.
const TABLE_SIZE_MAX: u32 = 64 * 1024;

/// Longest value that is kept, bytes; longer ones are unknown when they are referred to.
const VALUE_BYTES_MAX: usize = 512;

/// Name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
    /// `content-type`
    ContentType,
    /// `grpc-status`
    GrpcStatus,
    /// One that names a trace.
    Trace(TraceHeader),
    /// One that does not matter.
    Other,
    /// It stands in a part of the table that was not seen.
    Unknown,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            _ => TraceHeader::of(name).map_or(Self::Other, Self::Trace),
        }
    }

    /// Whether its value is of interest.
    fn matters(self) -> bool {
        matches!(
            self,
            Self::Method | Self::Path | Self::Status | Self::ContentType | Self::GrpcStatus | Self::Trace(_)
        )
    }
}

/// A field of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: Name,
    /// `None` when it does not matter or is unknown.
    pub(super) value: Option<&'a [u8]>,
}

/// An entry of the dynamic table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    name_bytes: u32,
    value_bytes: u32,
    /// Bytes of the value that are kept: all or none.
    kept: u16,
    known: bool,
}

impl Entry {
    /// RFC 7541 section 4.1.
    fn size(&self) -> u32 {
        self.name_bytes.saturating_add(self.value_bytes).saturating_add(32)
    }
}

/// One direction's table.
#[derive(Debug)]
pub(super) struct Table {
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// The kept values, oldest first.
    values: VecDeque<u8>,
    size: u32,
    max: u32,
    /// Older entries exist that were not seen.
    incomplete: bool,
}

/// What the decoder writes on while it works.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    name: Vec<u8>,
    value: Vec<u8>,
}

/// A header block is cut or malformed.
#[derive(Debug, PartialEq, Eq)]
struct Broken;

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            values: VecDeque::new(),
            size: 0,
            max: TABLE_SIZE,
            incomplete: false,
        }
    }
}

impl Table {
    /// A header block was lost: nothing is known of what the table holds now.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
        self.values.clear();
        self.size = 0;
        self.incomplete = true;
    }

    /// Reads a header block and gives out its fields in order. When the block is cut or malformed, the fields before
    /// that is given out, the table is forgotten, and the answer is false.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        scratch: &mut Scratch,
        mut to: impl FnMut(&Field<'_>),
    ) -> bool {
        let mut rest = block;
        while !rest.is_empty() {
            if self.field(&mut rest, scratch, &mut to) == Err(Broken) {
                self.forget();
                return false;
            }
        }
        true
    }

    /// RFC 7541 section 6.
    fn field(
        &mut self,
        rest: &mut &[u8],
        scratch: &mut Scratch,
        to: &mut impl FnMut(&Field<'_>),
    ) -> Result<(), Broken> {
        let &first = rest.first().ok_or(Broken)?;
        if first & 0x80 != 0 {
            let index = integer(rest, 7)?;
            if index == 0 {
                return Err(Broken);
            }
            if let Some((name, value, _)) = fixed(index) {
                to(&Field { name, value });
                return Ok(());
            }
            match self.entry(index)? {
                Some(at) => self.give(at, scratch, to),
                None => to(&Field { name: Name::Unknown, value: None }),
            }
            return Ok(());
        }
        if first & 0xe0 == 0x20 {
            self.max = u32::try_from(integer(rest, 5)?).map_err(|_| Broken)?;
            self.evict(0);
            return Ok(());
        }
        let insert = first & 0xc0 == 0x40;
        let index = integer(rest, if insert { 6 } else { 4 })?;
        let (name, name_bytes) = if index == 0 {
            scratch.name.clear();
            let length = string(rest, 64, &mut scratch.name)?;
            (Name::of(&scratch.name), length)
        } else if let Some((name, _, bytes)) = fixed(index) {
            (name, bytes)
        } else {
            self.entry(index)?
                .and_then(|at| self.entries.get(at))
                .map_or((Name::Unknown, 0), |entry| (entry.name, entry.name_bytes))
        };
        scratch.value.clear();
        let keep = if name.matters() { VALUE_BYTES_MAX + 1 } else { 0 };
        let value_bytes = string(rest, keep, &mut scratch.value)?;
        let known = name.matters() && scratch.value.len() <= VALUE_BYTES_MAX;
        to(&Field { name, value: known.then_some(scratch.value.as_slice()) });
        if insert {
            let kept = if known { u16::try_from(scratch.value.len()).map_err(|_| Broken)? } else { 0 };
            self.insert(Entry { name, name_bytes, value_bytes, kept, known }, &scratch.value);
        }
        Ok(())
    }

    /// Position of an index of the dynamic table among the entries; `None` when it is not known.
    fn entry(&self, index: u64) -> Result<Option<usize>, Broken> {
        let back = usize::try_from(index - FIXED_COUNT).map_err(|_| Broken)?;
        match self.entries.len().checked_sub(back) {
            Some(at) => Ok(Some(at)),
            // Only what was never seen may be missing.
            None if self.incomplete || self.max > TABLE_SIZE_MAX => Ok(None),
            None => Err(Broken),
        }
    }

    fn give(&self, at: usize, scratch: &mut Scratch, to: &mut impl FnMut(&Field<'_>)) {
        let Some(entry) = self.entries.get(at) else { return };
        if !entry.known {
            to(&Field { name: entry.name, value: None });
            return;
        }
        // Values are found from the nearer end.
        let after: usize = self.entries.range(at + 1..).map(|entry| usize::from(entry.kept)).sum();
        let end = self.values.len().saturating_sub(after);
        let start = end.saturating_sub(usize::from(entry.kept));
        scratch.value.clear();
        scratch.value.extend(self.values.range(start..end));
        to(&Field { name: entry.name, value: Some(&scratch.value) });
    }

    fn insert(&mut self, entry: Entry, value: &[u8]) {
        let size = entry.size();
        if size > self.max.min(TABLE_SIZE_MAX) {
            // RFC 7541 section 4.4: the table is empty then. When its true size is not known, neither is this.
            let unsure = self.incomplete || self.max > TABLE_SIZE_MAX;
            self.forget();
            self.incomplete = unsure;
            return;
        }
        self.evict(size);
        self.size += size;
        self.values.extend(value.iter().take(usize::from(entry.kept)));
        self.entries.push_back(entry);
    }

    /// Makes room for an entry of this size.
    fn evict(&mut self, size: u32) {
        let room = self.max.min(TABLE_SIZE_MAX).saturating_sub(size);
        while self.size > room {
            let Some(oldest) = self.entries.pop_front() else {
                self.size = 0;
                return;
            };
            self.size = self.size.saturating_sub(oldest.size());
            self.values.drain(..usize::from(oldest.kept).min(self.values.len()));
        }
    }
}

/// Entries of the static table.
const FIXED_COUNT: u64 = 61;

/// Lengths of the names of the static table from `accept-charset` (15) on, bytes.
const FIXED_NAME_BYTES: [u8; 47] = [
    14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19,
    13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// The static table (RFC 7541 appendix A): name, value, length of the name.
fn fixed(index: u64) -> Option<(Name, Option<&'static [u8]>, u32)> {
    let index = usize::try_from(index).ok()?;
    let (name, value): (_, Option<&[u8]>) = match index {
        1 => (Name::Authority, None),
        2 => (Name::Method, Some(b"GET")),
        3 => (Name::Method, Some(b"POST")),
        4 => (Name::Path, Some(b"/")),
        5 => (Name::Path, Some(b"/index.html")),
        6 | 7 => (Name::Scheme, None),
        8 => (Name::Status, Some(b"200")),
        9 => (Name::Status, Some(b"204")),
        10 => (Name::Status, Some(b"206")),
        11 => (Name::Status, Some(b"304")),
        12 => (Name::Status, Some(b"400")),
        13 => (Name::Status, Some(b"404")),
        14 => (Name::Status, Some(b"500")),
        31 => (Name::ContentType, None),
        15..=61 => (Name::Other, None),
        _ => return None,
    };
    let bytes = match index {
        1 => 10,
        4 | 5 => 5,
        2..=14 => 7,
        _ => u32::from(*FIXED_NAME_BYTES.get(index - 15)?),
    };
    Some((name, value, bytes))
}

/// RFC 7541 section 5.1, up to 2^28 or so.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<u64, Broken> {
    let (&first, mut tail) = rest.split_first().ok_or(Broken)?;
    let mask = (1_u64 << prefix) - 1;
    let mut value = u64::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, after) = tail.split_first().ok_or(Broken)?;
            tail = after;
            value += u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return Err(Broken);
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// RFC 7541 section 5.2: appends the first bytes of a string to `out`, up to `keep`, and gives its whole length.
fn string(rest: &mut &[u8], keep: usize, out: &mut Vec<u8>) -> Result<u32, Broken> {
    let coded = rest.first().ok_or(Broken)? & 0x80 != 0;
    let length = usize::try_from(integer(rest, 7)?).map_err(|_| Broken)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = tail;
    let whole = if coded {
        huffman::decode(bytes, keep, out).ok_or(Broken)?
    } else {
        out.extend_from_slice(bytes.get(..keep).unwrap_or(bytes));
        length
    };
    u32::try_from(whole).map_err(|_| Broken)
}

#[cfg(test)]
mod tests;
