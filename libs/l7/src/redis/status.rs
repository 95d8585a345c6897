//! The status of a reply: an error's prefix, and whose fault it is.

use crate::{
    ErrorClass, NameKind, Status,
    parser::ConnectionContext,
    redis::reader::{Message, UNREAD},
};

/// The prefix of an error's text: its first word, in capitals.
pub(super) fn error_prefix(text: &[u8]) -> Option<&str> {
    let word = text.split(|b| *b == b' ').next().unwrap_or_default();
    let well_formed = (2..=24).contains(&word.len())
        && word.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    if well_formed { std::str::from_utf8(word).ok() } else { None }
}

pub(super) fn outcome(message: &Message, cx: &mut ConnectionContext<'_>) -> (Status, ErrorClass) {
    if message.kind == UNREAD {
        return cx.unknown_status();
    }
    if !matches!(message.kind, b'-' | b'!') {
        return (Status::None, ErrorClass::None);
    }
    error_outcome(message.words[0].as_bytes(), cx)
}

pub(super) fn error_outcome(text: &[u8], cx: &mut ConnectionContext<'_>) -> (Status, ErrorClass) {
    let prefix = error_prefix(text).unwrap_or("ERR");
    let class = class(prefix);
    (Status::Word(cx.name(NameKind::ErrorWord, prefix)), class)
}

/// Whose fault an error is, by its prefix (redis: src/server.c, shared objects).
pub(crate) fn class(prefix: &str) -> ErrorClass {
    match prefix {
        "MOVED" | "ASK" => ErrorClass::None,
        "LOADING" | "BUSY" | "OOM" | "MASTERDOWN" | "CLUSTERDOWN" | "MISCONF" | "NOREPLICAS" | "IOERR"
        | "TRYAGAIN" | "READONLY" => ErrorClass::Server,
        _ => ErrorClass::Client,
    }
}
