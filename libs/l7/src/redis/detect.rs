//! Detection of Redis: a command array, or an inline command that was answered as Redis answers.
//!
//! Both ends send arrays of bulk strings, and the first string of a reply may be a command's name (`type`, `set`). So an
//! array alone is proof of a client only if the name is in capitals, as data hardly ever is, and has as many arguments as
//! the command takes. Otherwise the other end decides: it sends something that only its role sends.

use crate::{
    parser::{Detection, Prefix, Sender},
    redis::{
        command,
        reader::{self, Length},
    },
};

/// Most arguments that are accepted of a command by which a connection is recognised.
const ARGUMENTS_MAX: u64 = 1 << 20;

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let detection = match request(prefix.bytes) {
        (Detection::Yes(_), Certainty::Alone) if request(prefix.peer).1 < Certainty::Alone => {
            Detection::Yes(Sender::Client)
        }
        (Detection::Yes(_), certainty) => array_by_both_ends(prefix, certainty),
        (Detection::More, _) => Detection::More,
        (Detection::No, _) => by_both_ends(prefix),
    };
    // Of a command whose end was not captured the other end can still say that it is one.
    let waits_for_peer = matches!(request(prefix.bytes).0, Detection::Yes(_));
    if detection == Detection::More && !prefix.may_grow() && prefix.peer.is_empty() && !waits_for_peer {
        Detection::No
    } else {
        detection
    }
}

/// How certainly an array is a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    /// Its first string is a command's name; the number of its elements is not the command's.
    Name,
    /// The number of its elements fits as well.
    Arity,
    /// Moreover the name is in capitals.
    Alone,
}

/// An array that may be a command: what the other end says decides.
fn array_by_both_ends(prefix: &Prefix<'_>, certainty: Certainty) -> Detection {
    if prefix.peer.is_empty() {
        return Detection::More;
    }
    match request(prefix.peer) {
        (Detection::Yes(_), of_peer) if of_peer < certainty => Detection::Yes(Sender::Client),
        (Detection::Yes(_), of_peer) if of_peer > certainty => Detection::Yes(Sender::Server),
        // Either end may be the client: a later message decides.
        (Detection::Yes(_), _) => Detection::No,
        _ if inline(prefix.peer) => Detection::Yes(Sender::Server),
        _ if certainty > Certainty::Name && is_value(prefix.peer) => Detection::Yes(Sender::Client),
        (detection, _) => detection,
    }
}

/// `*<n>\r\n$<length>\r\n<command>\r\n` or a prefix of it.
fn request(bytes: &[u8]) -> (Detection, Certainty) {
    match array(bytes) {
        Ok((count, name)) => {
            let certainty = match () {
                () if !command::takes(name, count) => Certainty::Name,
                () if name.iter().any(u8::is_ascii_lowercase) => Certainty::Arity,
                () => Certainty::Alone,
            };
            (Detection::Yes(Sender::Client), certainty)
        }
        Err(detection) => (detection, Certainty::Name),
    }
}

/// The number of elements and the name of a command.
fn array(bytes: &[u8]) -> Result<(u64, &[u8]), Detection> {
    let rest = bytes.strip_prefix(b"*").ok_or(Detection::No)?;
    let (count, rest) = number(rest, ARGUMENTS_MAX)?;
    if count == 0 {
        return Err(Detection::No);
    }
    let Some(rest) = rest.strip_prefix(b"$") else {
        return Err(if rest.is_empty() { Detection::More } else { Detection::No });
    };
    let (length, rest) = number(rest, reader::WORD_MAX as u64)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match rest.get(..length) {
        Some(name) if command::known(name).is_some() => match rest.get(length..) {
            Some([b'\r', b'\n', ..]) => Ok((count, name)),
            Some([] | [b'\r']) => Err(Detection::More),
            _ => Err(Detection::No),
        },
        None if command::begins(rest) => Err(Detection::More),
        _ => Err(Detection::No),
    }
}

/// A whole first line of any RESP value.
fn is_value(bytes: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return false };
    let Some(line) = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")) else { return false };
    match line.split_first() {
        Some((b'+' | b'-', text)) => text.iter().all(|byte| (b' '..0x7f).contains(byte)),
        Some((b'$' | b'*' | b':' | b'%' | b'~' | b'>' | b'=' | b'!', text)) => {
            reader::length(text.strip_prefix(b"-").unwrap_or(text)).is_some()
        }
        Some((b'_', text)) => text.is_empty(),
        Some((b'#', text)) => matches!(text, b"t" | b"f"),
        Some((b',' | b'(', text)) => !text.is_empty() && text.len() <= reader::WORD_MAX,
        _ => false,
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
    let array =
        || matches!(request(prefix.peer), (Detection::Yes(_), certainty) if certainty > Certainty::Name);
    if (answer(prefix.bytes) && inline(prefix.peer)) || (is_value(prefix.bytes) && array()) {
        return Detection::Yes(Sender::Server);
    }
    Detection::No
}

/// Words that clients of other line protocols send, whose servers answer `+OK` or `-ERR`, too (POP3: RFC 1939, RFC 5034).
const SHARED_WORDS: [&str; 4] = ["AUTH", "QUIT", "HELP", "TYPE"];

/// Whether this is a command of Redis, and of no other line protocol.
pub(super) fn is_distinct(name: &[u8]) -> bool {
    command::known(name).is_some_and(|name| !SHARED_WORDS.contains(&name))
}

/// One whole line that starts with a known command.
fn inline(bytes: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return false };
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let name = line.split(|b| *b == b' ').next().unwrap_or_default();
    is_distinct(name) && line.iter().all(|b| (b' '..0x7f).contains(b))
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
