//! Is this Redis? A command array with a known name, or an inline command that was answered as Redis answers.

use crate::{
    parser::{Guess, Opening, Sender},
    redis::{
        command,
        reader::{self, Length},
    },
};

/// Most arguments that are believed of a command by which a connection is recognised.
const ARGUMENTS_MAX: u64 = 1 << 20;

pub(super) fn identify(opening: &Opening<'_>) -> Guess {
    let guess = match request(opening.bytes) {
        Guess::No => by_both_ends(opening),
        guess => guess,
    };
    if guess == Guess::More && !opening.may_grow() && opening.peer.is_empty() { Guess::No } else { guess }
}

/// `*<n>\r\n$<length>\r\n<command>\r\n` or a prefix of it.
fn request(bytes: &[u8]) -> Guess {
    let Some(rest) = bytes.strip_prefix(b"*") else { return Guess::No };
    let (count, rest) = match number(rest, ARGUMENTS_MAX) {
        Ok(found) => found,
        Err(guess) => return guess,
    };
    if count == 0 {
        return Guess::No;
    }
    let Some(rest) = rest.strip_prefix(b"$") else {
        return if rest.is_empty() { Guess::More } else { Guess::No };
    };
    let (length, rest) = match number(rest, reader::WORD_MAX as u64) {
        Ok(found) => found,
        Err(guess) => return guess,
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match rest.get(..length) {
        Some(name) if command::known(name).is_some() => match rest.get(length..) {
            Some([b'\r', b'\n', ..]) => Guess::Yes(Sender::Client),
            Some([] | [b'\r']) => Guess::More,
            _ => Guess::No,
        },
        None if command::begins(rest) => Guess::More,
        _ => Guess::No,
    }
}

/// Digits and a line end; the number and what follows.
fn number(bytes: &[u8], most: u64) -> Result<(u64, &[u8]), Guess> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let (text, rest) = bytes.split_at(digits);
    match rest {
        [b'\r', b'\n', after @ ..] => match reader::length(text) {
            Some(Length::Bytes(value)) if value <= most => Ok((value, after)),
            _ => Err(Guess::No),
        },
        [] | [b'\r'] if digits <= 10 => Err(Guess::More),
        _ => Err(Guess::No),
    }
}

/// An inline command alone could be many things; with a RESP answer it is Redis.
fn by_both_ends(opening: &Opening<'_>) -> Guess {
    if opening.peer.is_empty() {
        return if inline(opening.bytes) { Guess::More } else { Guess::No };
    }
    if inline(opening.bytes) && answer(opening.peer) {
        return Guess::Yes(Sender::Client);
    }
    if answer(opening.bytes) && (inline(opening.peer) || request(opening.peer) == Guess::Yes(Sender::Client))
    {
        return Guess::Yes(Sender::Server);
    }
    Guess::No
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
