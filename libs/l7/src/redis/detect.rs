//! Is this Redis? A command array with a known name, or an inline command that was answered as Redis answers.

use crate::{
    parser::{Detection, Prefix, Sender},
    redis::{
        command,
        reader::{self, Length},
    },
};

/// Most arguments that are believed of a command by which a connection is recognised.
const ARGUMENTS_MAX: u64 = 1 << 20;

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let detection = match request(prefix.bytes) {
        Detection::No => by_both_ends(prefix),
        detection => detection,
    };
    if detection == Detection::More && !prefix.may_grow() && prefix.peer.is_empty() {
        Detection::No
    } else {
        detection
    }
}

/// `*<n>\r\n$<length>\r\n<command>\r\n` or a prefix of it.
fn request(bytes: &[u8]) -> Detection {
    let Some(rest) = bytes.strip_prefix(b"*") else { return Detection::No };
    let (count, rest) = match number(rest, ARGUMENTS_MAX) {
        Ok(found) => found,
        Err(detection) => return detection,
    };
    if count == 0 {
        return Detection::No;
    }
    let Some(rest) = rest.strip_prefix(b"$") else {
        return if rest.is_empty() { Detection::More } else { Detection::No };
    };
    let (length, rest) = match number(rest, reader::WORD_MAX as u64) {
        Ok(found) => found,
        Err(detection) => return detection,
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match rest.get(..length) {
        Some(name) if command::known(name).is_some() => match rest.get(length..) {
            Some([b'\r', b'\n', ..]) => Detection::Yes(Sender::Client),
            Some([] | [b'\r']) => Detection::More,
            _ => Detection::No,
        },
        None if command::begins(rest) => Detection::More,
        _ => Detection::No,
    }
}

/// Digits and a line end; the number and what follows.
fn number(bytes: &[u8], most: u64) -> Result<(u64, &[u8]), Detection> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let (text, rest) = bytes.split_at(digits);
    match rest {
        [b'\r', b'\n', after @ ..] => match reader::length(text) {
            Some(Length::Bytes(value)) if value <= most => Ok((value, after)),
            _ => Err(Detection::No),
        },
        [] | [b'\r'] if digits <= 10 => Err(Detection::More),
        _ => Err(Detection::No),
    }
}

/// An inline command alone could be many things; with a RESP answer it is Redis.
fn by_both_ends(prefix: &Prefix<'_>) -> Detection {
    if prefix.peer.is_empty() {
        return if inline(prefix.bytes) { Detection::More } else { Detection::No };
    }
    if inline(prefix.bytes) && answer(prefix.peer) {
        return Detection::Yes(Sender::Client);
    }
    if answer(prefix.bytes) && (inline(prefix.peer) || request(prefix.peer) == Detection::Yes(Sender::Client))
    {
        return Detection::Yes(Sender::Server);
    }
    Detection::No
}

/// One whole line that starts with a known command.
fn inline(bytes: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return false };
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let name = line.split(|b| *b == b' ').next().unwrap_or_default();
    command::known(name).is_some() && line.iter().all(|b| (b' '..0x7f).contains(b))
}

/// A whole first line of a RESP value that other line protocols do not send: `+OK`, `+PONG`, `-ERR …`, `$3`, `:1`, `*2`.
fn answer(bytes: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return false };
    let Some(line) = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")) else { return false };
    match line.split_first() {
        Some((b'+', text)) => matches!(text, b"OK" | b"PONG" | b"QUEUED" | b"RESET"),
        Some((b'-', text)) => super::error_prefix(text).is_some(),
        Some((b'$' | b'*' | b':' | b'%', text)) => reader::length(text).is_some(),
        _ => false,
    }
}
