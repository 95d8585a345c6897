//! Detection of Memcached: a storage command with its four fields, or a command with a fitting answer, of either protocol.

use crate::{
    memcached::{Expect, binary, text},
    parser::{Detection, Prefix, Sender},
};

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let detection = match prefix.bytes.first() {
        Some(&binary::REQUEST) => return binary_request(prefix),
        Some(&binary::ANSWER) => return binary_answer(prefix),
        Some(b'a'..=b'z') => command(prefix),
        // The last line of an answer whose beginning fits nothing is none.
        Some(b'A'..=b'Z') if prefix.is_turn && asked(prefix.peer).is_some() => {
            answer_to(prefix.bytes, prefix.peer)
        }
        _ => Detection::No,
    };
    // Of a line of many keys that was not captured whole the other end can still show that it is one.
    let waits_for_peer = asked(prefix.bytes).is_some();
    if detection == Detection::More && !prefix.may_grow() && prefix.peer.is_empty() && !waits_for_peer {
        Detection::No
    } else {
        detection
    }
}

/// A header of binary files' most frequent bytes would do: so the answer must fit, too.
fn binary_request(prefix: &Prefix<'_>) -> Detection {
    if prefix.bytes.len() < binary::HEADER {
        // The data type leaves something to chance.
        let possible = prefix.bytes.get(5).is_none_or(|data_type| *data_type == 0) && prefix.may_grow();
        return if possible { Detection::More } else { Detection::No };
    }
    if !binary::is_request(prefix.bytes) {
        return Detection::No;
    }
    match prefix.peer {
        [] => Detection::More,
        peer if binary::answers(peer, prefix.bytes) => Detection::Yes(Sender::Client),
        _ => Detection::No,
    }
}

fn binary_answer(prefix: &Prefix<'_>) -> Detection {
    if !binary::is_request(prefix.peer) {
        return Detection::No;
    }
    match () {
        () if binary::answers(prefix.bytes, prefix.peer) => Detection::Yes(Sender::Server),
        () if prefix.bytes.len() < binary::HEADER && prefix.may_grow() => Detection::More,
        () => Detection::No,
    }
}

fn first_line(bytes: &[u8]) -> Option<&[u8]> {
    let line = bytes.get(..memchr::memchr(b'\n', bytes)?)?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn command_line(bytes: &[u8]) -> Option<text::Command<'_>> {
    let line = first_line(bytes)?;
    if line.iter().all(|b| (b' '..0x7f).contains(b)) { text::command(line) } else { None }
}

/// The command that the other end answers; of a line of many keys the end may not have been kept.
fn asked(bytes: &[u8]) -> Option<text::Command<'_>> {
    if memchr::memchr(b'\n', bytes).is_some() {
        return command_line(bytes);
    }
    let line = bytes.get(..memchr::memrchr(b' ', bytes)?)?;
    let printable = line.iter().all(|b| (b' '..0x7f).contains(b));
    text::command(line).filter(|command| printable && command.expect == Expect::UntilEnd)
}

fn command(prefix: &Prefix<'_>) -> Detection {
    if memchr::memchr(b'\n', prefix.bytes).is_none() {
        let verb = prefix.bytes.split(|b| *b == b' ').next().unwrap_or_default();
        let printable = prefix.bytes.iter().all(|b| (b' '..0x7f).contains(b) || *b == b'\r');
        let begun = text::known(verb).is_some() || (verb.len() == prefix.bytes.len() && verb.len() < 10);
        return if begun && printable { Detection::More } else { Detection::No };
    }
    let Some(command) = command_line(prefix.bytes) else { return Detection::No };
    // `set key flags exptime bytes` is unlike anything else; other commands could be words of any line protocol.
    if command.data > 0 && command.name != "ms" {
        return Detection::Yes(Sender::Client);
    }
    if prefix.peer.is_empty() || !prefix.peer_is_turn {
        return Detection::More;
    }
    match answer_to(prefix.peer, prefix.bytes) {
        Detection::Yes(_) => Detection::Yes(Sender::Client),
        detection => detection,
    }
}

/// Do these bytes answer that request?
fn answer_to(answer: &[u8], request: &[u8]) -> Detection {
    let (Some(line), Some(command)) = (first_line(answer), asked(request)) else {
        return Detection::No;
    };
    let Some(answer) = text::answer(line) else { return Detection::No };
    // Beanstalkd has `delete <id>` and `touch <id>` with the same answers (protocol.txt); its ids are numbers.
    if matches!(command.name, "delete" | "touch") && command.key.iter().all(u8::is_ascii_digit) {
        return Detection::No;
    }
    let words: &[&[u8]] = match command.name {
        "get" | "gets" | "gat" | "gats" => &[b"VALUE", b"END"],
        "set" | "add" | "replace" | "append" | "prepend" | "cas" => {
            &[b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND"]
        }
        "incr" | "decr" | "delete" | "touch" => &[b"DELETED", b"TOUCHED", b"NOT_FOUND"],
        "stats" => &[b"STAT", b"END"],
        "version" => &[b"VERSION"],
        "mg" | "ms" | "md" | "ma" => &[b"VA", b"HD", b"EN", b"NS", b"EX", b"NF"],
        "mn" => &[b"MN"],
        _ => &[],
    };
    if words.contains(&answer.word) { Detection::Yes(Sender::Server) } else { Detection::No }
}
