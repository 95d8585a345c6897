//! The first lines of requests and responses (RFC 9112 sections 3 and 4).

use crate::http1::detect;

/// Bytes of a target whose end was not captured that are enough for its route.
const TARGET_BYTES_MIN: usize = 256;

/// RFC 9112 section 3.
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    /// Enough of the target is there for its route.
    pub(super) named: bool,
}

pub(super) fn request_line(line: &[u8], whole: bool) -> Option<RequestLine<'_>> {
    let method_end = line.iter().position(|b| !detect::is_token(*b))?;
    let (method, rest) = line.split_at(method_end);
    if method.is_empty() || rest.first() != Some(&b' ') {
        return None;
    }
    let rest = rest.trim_ascii_start();
    let (target, named) = if whole {
        if !detect::version_at_end(rest) {
            return None;
        }
        // " HTTP/1.1" was found at its end.
        (rest.trim_ascii_end().get(..rest.trim_ascii_end().len() - 9)?.trim_ascii(), true)
    } else {
        let end = rest.iter().position(|b| *b == b' ');
        let target = rest.get(..end.unwrap_or(rest.len()))?;
        (target, end.is_some() || target.contains(&b'?') || target.len() >= TARGET_BYTES_MIN)
    };
    let plausible = matches!(target.first()?, b'/' | b'*' | b'[' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
        && detect::is_plain(target);
    plausible.then_some(RequestLine { method, target, named })
}

/// Status code of a status line (RFC 9112 section 4).
pub(super) fn status_line(line: &[u8]) -> Option<u16> {
    let (minor, rest) = line.strip_prefix(b"HTTP/1.")?.split_first()?;
    let rest = rest.strip_prefix(b" ").filter(|_| minor.is_ascii_digit())?;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(rest.first(), None | Some(b' ')) {
        return None;
    }
    let status = digits.iter().fold(0_u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (100..=999).contains(&status).then_some(status)
}
