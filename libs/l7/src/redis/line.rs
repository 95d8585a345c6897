//! The lines with which values of RESP begin.

/// Bytes of a line or bulk that are kept.
pub(super) const WORD_MAX: usize = 32;

/// Largest bulk or aggregate accepted (512 MB is Redis' own limit for a bulk).
const LENGTH_MAX: u64 = 1 << 32;

/// The number behind a type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    /// RESP2's null: `-1`.
    Null,
}

/// A decimal length; `None` for anything else, the `?` of streamed values among it.
pub(super) fn length(text: &[u8]) -> Option<Length> {
    if text == b"-1" {
        return Some(Length::Null);
    }
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value <= LENGTH_MAX).then_some(Length::Bytes(value))
}

/// Whether these bytes look like the start of a message, for finding one again after a loss.
pub(super) fn starts_message(bytes: &[u8], inline: bool) -> bool {
    let Some((&kind, rest)) = bytes.split_first() else { return false };
    let (text, whole) = match memchr::memchr(b'\n', rest) {
        Some(end) => (rest.get(..end).unwrap_or_default(), true),
        None => (rest, false),
    };
    let text = match text.strip_suffix(b"\r") {
        Some(text) => text,
        None if whole => return false,
        None => text,
    };
    // Of a line that continues in the next segment only the beginning is known.
    let number = |text: &[u8]| if text.is_empty() || text == b"-" { !whole } else { length(text).is_some() };
    match kind {
        b'$' | b'*' | b'~' | b'%' if text == b"?" => !inline,
        b'*' => number(text),
        _ if inline => false,
        b'$' | b'=' | b'!' | b'~' | b'>' | b'%' | b'|' => number(text),
        b':' => {
            let digits = text.strip_prefix(b"-").unwrap_or(text);
            digits.iter().all(u8::is_ascii_digit) && !(whole && digits.is_empty())
        }
        b'+' | b'-' => text.iter().all(|b| (b' '..0x7f).contains(b)),
        b'#' => matches!(text, b"t" | b"f") || (!whole && text.is_empty()),
        b'_' => text.is_empty(),
        b',' | b'(' => !(whole && text.is_empty()) && text.len() < WORD_MAX,
        _ => false,
    }
}
