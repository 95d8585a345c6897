//! Is this Memcached? A storage command with its four fields, any command with a fitting answer, or a binary header.

use crate::{
    memcached::{binary, text},
    parser::{Guess, Opening, Sender},
};

pub(super) fn identify(opening: &Opening<'_>) -> Guess {
    let guess = match opening.bytes.first() {
        Some(&binary::REQUEST) => binary_request(opening.bytes),
        Some(b'a'..=b'z') => command(opening),
        Some(b'A'..=b'Z') if command_line(opening.peer).is_some() => answer_to(opening.bytes, opening.peer),
        _ => Guess::No,
    };
    if guess == Guess::More && !opening.may_grow() && opening.peer.is_empty() { Guess::No } else { guess }
}

fn binary_request(bytes: &[u8]) -> Guess {
    if bytes.len() < binary::HEADER {
        // The key's length, the data type and the bucket leave little to chance once they are there.
        return if bytes.get(5).is_none_or(|data_type| *data_type == 0) { Guess::More } else { Guess::No };
    }
    let bucket_is_zero = bytes.get(6..8) == Some(&[0, 0]);
    match binary::header(bytes, binary::REQUEST) {
        Some(header) if bucket_is_zero && binary::request_shape_is_right(&header) => {
            Guess::Yes(Sender::Client)
        }
        _ => Guess::No,
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

fn command(opening: &Opening<'_>) -> Guess {
    if memchr::memchr(b'\n', opening.bytes).is_none() {
        let verb = opening.bytes.split(|b| *b == b' ').next().unwrap_or_default();
        let printable = opening.bytes.iter().all(|b| (b' '..0x7f).contains(b) || *b == b'\r');
        let begun = text::known(verb).is_some() || (verb.len() == opening.bytes.len() && verb.len() < 10);
        return if begun && printable { Guess::More } else { Guess::No };
    }
    let Some(command) = command_line(opening.bytes) else { return Guess::No };
    // `set key flags exptime bytes` is unlike anything else; other commands could be words of any line protocol.
    if command.data > 0 && command.name != "ms" {
        return Guess::Yes(Sender::Client);
    }
    if opening.peer.is_empty() {
        return Guess::More;
    }
    match answer_to(opening.peer, opening.bytes) {
        Guess::Yes(_) => Guess::Yes(Sender::Client),
        guess => guess,
    }
}

/// Do these bytes answer that request?
fn answer_to(answer: &[u8], request: &[u8]) -> Guess {
    let (Some(line), Some(command)) = (first_line(answer), command_line(request)) else { return Guess::No };
    let Some(answer) = text::answer(line) else { return Guess::No };
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
    if words.contains(&answer.word) { Guess::Yes(Sender::Server) } else { Guess::No }
}
