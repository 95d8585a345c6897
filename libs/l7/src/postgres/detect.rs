//! Detection of PostgreSQL: a startup message, a server's first answer, or, joined in the middle, a query with a known verb
//! or a whole batch of the extended protocol.

use crate::{
    parser::{Detection, Prefix, Sender},
    postgres::wire::{self, HEADER_BYTES, Header, Startup},
    sql,
};

/// Bytes of a statement within which its verb must come.
const VERB_MAX: usize = 160;

/// First bytes of a statement that are checked to be text.
const TEXT_CHECKED: usize = 24;

/// Longest name of a statement or portal that is accepted here, bytes (`NAMEDATALEN` is 64).
const NAME_MAX: usize = 64;

/// What a server sends when it has let a client in: authentication is over, and a first parameter.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0";

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let (bytes, total) = (prefix.bytes, prefix.total);
    let detection = match bytes.first() {
        Some(0) => startup(bytes, total),
        Some(b'R') if bytes.starts_with(WELCOME) => Detection::Yes(Sender::Server),
        Some(b'R') if WELCOME.starts_with(bytes) => Detection::More,
        _ => request(bytes, total),
    };
    if detection == Detection::More && !prefix.may_grow() { Detection::No } else { detection }
}

fn startup(bytes: &[u8], total: u64) -> Detection {
    let Some((kind, length)) = wire::startup(bytes) else {
        return if bytes.len() < 8 && wire::may_be_startup(bytes) { Detection::More } else { Detection::No };
    };
    if total > u64::from(length) {
        return Detection::No;
    }
    if kind != Startup::Login {
        return if total == u64::from(length) { Detection::Yes(Sender::Client) } else { Detection::More };
    }
    // Names and values, each with its zero; `user` must be among the names.
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((name, after)) = wire::text(rest) {
        if name == b"user" {
            return Detection::Yes(Sender::Client);
        }
        let Some((_, after)) = wire::text(after) else { break };
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(byte)) {
            return Detection::No;
        }
        rest = after;
    }
    if total < u64::from(length) { Detection::More } else { Detection::No }
}

/// What a client sends.
fn request(bytes: &[u8], total: u64) -> Detection {
    if !matches!(bytes.first(), Some(b'Q' | b'P' | b'B' | b'E' | b'D' | b'C')) {
        return Detection::No;
    }
    // Lengths of 16 MiB and more would let text pass.
    if bytes.get(1).is_some_and(|high| *high != 0) {
        return Detection::No;
    }
    let Some((header, content)) = wire::message(bytes) else { return Detection::More };
    if !wire::is_frontend(header) {
        return Detection::No;
    }
    match header.kind {
        b'Q' => statement(header, content, bytes, total),
        b'P' => match wire::text(content) {
            Some((name, query)) if is_name(name) => statement(header, query, bytes, total),
            None if content.len() <= NAME_MAX && is_name(content) => Detection::More,
            _ => Detection::No,
        },
        _ => batch(bytes, total),
    }
}

fn is_name(name: &[u8]) -> bool {
    name.len() <= NAME_MAX && !name.iter().any(u8::is_ascii_control)
}

/// A message with a statement, which ends with a zero; in a `Q` so does the message.
fn statement(header: Header, content: &[u8], bytes: &[u8], total: u64) -> Detection {
    let (text, complete) = wire::text(content).map_or((content, false), |(text, _)| (text, true));
    let whole = bytes.len() >= header.length;
    let ends = !complete || header.kind != b'Q' || (whole && text.len() + 1 == content.len());
    let control = text.iter().take(TEXT_CHECKED).any(|byte| *byte < b' ' && !byte.is_ascii_whitespace());
    if control || !ends || (whole && !complete) || !another(bytes, header.length, total) {
        return Detection::No;
    }
    if sql::shape(sql::Dialect::Postgresql, text, complete, &mut String::new()) != sql::OTHER {
        return Detection::Yes(Sender::Client);
    }
    if complete || text.len() > VERB_MAX { Detection::No } else { Detection::More }
}

/// Whether what follows a message, where anything does, is one as well.
fn another(bytes: &[u8], end: usize, total: u64) -> bool {
    if total <= end as u64 {
        return true;
    }
    bytes.get(end..).and_then(wire::message).is_none_or(|(next, _)| wire::is_frontend(next))
}

/// Messages of the extended protocol that fill the bytes exactly and end with `Sync`.
fn batch(bytes: &[u8], total: u64) -> Detection {
    let mut rest = bytes;
    let mut asked = false;
    while !rest.is_empty() {
        let Some((header, content)) = wire::message(rest) else {
            return if known_start(rest) { Detection::More } else { Detection::No };
        };
        let Some(after) = rest.get(header.length..).filter(|_| wire::is_frontend(header)) else {
            return if wire::is_frontend(header) { Detection::More } else { Detection::No };
        };
        let fits = match header.kind {
            b'B' => is_bind(content),
            b'E' => matches!(wire::text(content), Some((name, limit)) if is_name(name) && limit.len() == 4),
            b'D' | b'C' => {
                matches!(content, [b'S' | b'P', name @ .., 0] if is_name(name))
            }
            b'P' | b'Q' | b'H' => true,
            b'S' => asked,
            _ => false,
        };
        if !fits {
            return Detection::No;
        }
        asked |= matches!(header.kind, b'B' | b'E' | b'D');
        if header.kind == b'S' {
            return if another(after, 0, total) { Detection::Yes(Sender::Client) } else { Detection::No };
        }
        rest = after;
    }
    Detection::More
}

fn known_start(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|kind| b"BEDCPQHS".contains(kind)) && bytes.get(1).is_none_or(|high| *high == 0)
}

/// Portal, statement, number of parameter formats and that many, number of parameters, …
fn is_bind(content: &[u8]) -> bool {
    let Some((portal, rest)) = wire::text(content) else { return false };
    let Some((name, rest)) = wire::text(rest) else { return false };
    let Some((count, rest)) = rest.split_first_chunk::<2>() else { return false };
    let formats = usize::from(u16::from_be_bytes(*count));
    let Some((formats, _)) = rest.split_at_checked(formats.saturating_mul(2)) else { return false };
    is_name(portal) && is_name(name) && formats.chunks(2).all(|format| matches!(format, [0, 0 | 1]))
}

/// Whether a client's message starts here, beyond doubt: for finding one again after a loss.
pub(super) fn is_request(bytes: &[u8], total: u64) -> bool {
    request(bytes, total) == Detection::Yes(Sender::Client)
        || bytes.get(..HEADER_BYTES) == Some(b"X\0\0\0\x04")
}
