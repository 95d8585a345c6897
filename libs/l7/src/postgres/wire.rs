//! The messages of PostgreSQL's frontend/backend protocol 3, as far as pairing needs them.
//!
//! Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", sections "Message Formats" and "Error and Notice
//! Message Fields". All numbers are big-endian.

use crate::sql;

/// Bytes before a message's content: its type (1), its length (4) without the type.
pub(super) const HEADER_BYTES: usize = 5;

/// Longest message accepted, bytes (a field value's limit).
const LENGTH_MAX: u32 = 1 << 30;

/// Longest startup message (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_MAX: u32 = 10_000;

/// A client's first message, which has no type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Startup {
    /// User, database, options.
    Login,
    /// May TLS or GSSAPI encryption follow?
    Encryption,
    /// Cancels what another connection is doing; nothing is answered.
    Cancel,
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The startup message that these bytes start with: its kind and length. `None` when they are something else; fewer
/// than eight bytes are to be checked with [`may_be_startup`].
pub(super) fn startup(bytes: &[u8]) -> Option<(Startup, u32)> {
    let (length, code) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
    let kind = match (code, length) {
        // 3.0, and 3.2 of PostgreSQL 18.
        (0x0003_0000 | 0x0003_0002, 14..=STARTUP_MAX) => Startup::Login,
        (80_877_103 | 80_877_104, 8) => Startup::Encryption,
        // The key is longer in protocol 3.2.
        (80_877_102, 16..=268) => Startup::Cancel,
        _ => return None,
    };
    Some((kind, length))
}

/// Whether these first bytes of fewer than eight may become a startup message.
pub(super) fn may_be_startup(bytes: &[u8]) -> bool {
    bytes.iter().take(2).all(|byte| *byte == 0)
        && bytes.get(4).is_none_or(|byte| matches!(byte, 0 | 4))
        && bytes.get(5).is_none_or(|byte| matches!(byte, 3 | 0xd2))
}

/// A message's type and its length in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) length: usize,
}

/// The header at the start of these bytes, and what there is of the content. `None` when bytes are missing; a length
/// that cannot be is 0.
pub(super) fn message(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let length = u32_at(rest, 0)?;
    let length = if (4..=LENGTH_MAX).contains(&length) { 1 + usize::try_from(length).ok()? } else { 0 };
    let content = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let content = content.get(..length.saturating_sub(HEADER_BYTES)).unwrap_or(content);
    Some((Header { kind, length }, content))
}

/// Whether a client sends such a message.
pub(super) fn is_frontend(header: Header) -> bool {
    match header.kind {
        b'S' | b'H' | b'X' | b'c' => header.length == HEADER_BYTES,
        b'Q' | b'f' => header.length > HEADER_BYTES,
        b'P' => header.length >= HEADER_BYTES + 4,
        b'B' => header.length >= HEADER_BYTES + 8,
        b'E' => header.length > HEADER_BYTES + 4,
        b'C' | b'D' => header.length >= HEADER_BYTES + 2,
        b'F' => header.length >= HEADER_BYTES + 10,
        b'd' => header.length >= HEADER_BYTES,
        _ => false,
    }
}

/// Whether a server sends such a message.
pub(super) fn is_backend(header: Header) -> bool {
    match header.kind {
        b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => header.length == HEADER_BYTES,
        b'Z' => header.length == HEADER_BYTES + 1,
        b'R' | b'V' => header.length >= HEADER_BYTES + 4,
        b'K' => (HEADER_BYTES + 8..300).contains(&header.length),
        b'T' | b'D' | b't' => header.length >= HEADER_BYTES + 2,
        b'C' => (HEADER_BYTES + 2..HEADER_BYTES + 128).contains(&header.length),
        b'G' | b'H' | b'W' => header.length >= HEADER_BYTES + 3,
        b'E' | b'N' | b'A' | b'S' => header.length > HEADER_BYTES + 1,
        b'v' => header.length >= HEADER_BYTES + 8,
        b'd' => header.length >= HEADER_BYTES,
        _ => false,
    }
}

/// Text up to its zero, and what follows; `None` when the zero is missing.
pub(super) fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

/// The SQLSTATE of an error's fields: each a type byte and text.
pub(super) fn sqlstate(mut fields: &[u8]) -> Option<[u8; 5]> {
    while let Some((&kind, rest)) = fields.split_first() {
        let (value, rest) = text(rest)?;
        if kind == b'C' {
            return value
                .try_into()
                .ok()
                .filter(|state: &[u8; 5]| state.iter().all(u8::is_ascii_alphanumeric));
        }
        fields = rest;
    }
    None
}

/// The operation that a command tag (`INSERT 0 1`) names.
pub(super) fn tag(content: &[u8]) -> Option<&'static str> {
    let (tag, _) = text(content)?;
    let operation = sql::shape(sql::Dialect::Postgresql, tag, true, &mut String::new());
    (operation != sql::OTHER).then_some(operation)
}

/// How an answer ended of which only the tail was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// With this SQLSTATE.
    Failed([u8; 5]),
    /// As this command.
    Complete(Option<&'static str>),
    /// One way or the other.
    Unknown,
}

/// Bytes of a tail that are searched.
const TAIL_MAX: usize = 1024;

/// Whether these bytes end with `ReadyForQuery`, and what stands before it.
pub(super) fn tail(bytes: &[u8]) -> Option<Tail> {
    let (before, ready) = bytes.split_at_checked(bytes.len().checked_sub(HEADER_BYTES + 1)?)?;
    if !matches!(ready, [b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E']) {
        return None;
    }
    let before = before.get(before.len().saturating_sub(TAIL_MAX)..).unwrap_or_default();
    let ending = |kind: u8| {
        memchr::memchr_iter(kind, before).find_map(|at| {
            let rest = before.get(at..)?;
            let (header, content) = message(rest)?;
            (header.length == rest.len() && is_backend(header)).then_some(content)
        })
    };
    if let Some(content) = ending(b'C').filter(|content| tag(content).is_some()) {
        return Some(Tail::Complete(tag(content)));
    }
    Some(ending(b'E').and_then(sqlstate).map_or(Tail::Unknown, Tail::Failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &[u8] = b"E\0\0\0\x21SERROR\0VERROR\0C42P01\0Mno table\0\0";

    #[test]
    fn errors_have_a_state() {
        assert_eq!(sqlstate(&ERROR[5..]), Some(*b"42P01"));
        for cut in 5..24 {
            assert_eq!(sqlstate(&ERROR[5..cut]), None, "{cut}");
        }
    }

    #[test]
    fn tails_tell_how_an_answer_ended() {
        let ready = b"Z\0\0\0\x05I";
        let with = |before: &[u8]| tail(&[before, ready].concat());
        assert_eq!(with(b"row C\0\0\0\x0dSELECT 1\0"), Some(Tail::Complete(Some("SELECT"))));
        assert_eq!(with(b"row C\0\0\0\x0cSELECT 1\0"), Some(Tail::Unknown));
        let length = u8::try_from(ERROR.len() - 1).unwrap();
        let error = [b"E\0\0\0", &[length][..], &ERROR[5..]].concat();
        assert_eq!(with(&[b"row EEE", error.as_slice()].concat()), Some(Tail::Failed(*b"42P01")));
        assert_eq!(tail(b"Z\0\0\0\x05X"), None);
        assert_eq!(tail(b"\0\0\0\x05I"), None);
    }
}
