//! Is this Memcached? A storage command with its four fields, or a command with a fitting answer, of either protocol.

use crate::{
    memcached::{binary, text},
    parser::{Guess, Opening, Sender},
};

pub(super) fn identify(opening: &Opening<'_>) -> Guess {
    let guess = match opening.bytes.first() {
        Some(&binary::REQUEST) => return binary_request(opening),
        Some(&binary::ANSWER) => return binary_answer(opening),
        Some(b'a'..=b'z') => command(opening),
        Some(b'A'..=b'Z') if command_line(opening.peer).is_some() => answer_to(opening.bytes, opening.peer),
        _ => Guess::No,
    };
    if guess == Guess::More && !opening.may_grow() && opening.peer.is_empty() { Guess::No } else { guess }
}

/// A header of binary files' most frequent bytes would do: so the answer must fit, too.
fn binary_request(opening: &Opening<'_>) -> Guess {
    if opening.bytes.len() < binary::HEADER {
        // The data type leaves something to chance.
        let possible = opening.bytes.get(5).is_none_or(|data_type| *data_type == 0) && opening.may_grow();
        return if possible { Guess::More } else { Guess::No };
    }
    if !binary::is_request(opening.bytes) {
        return Guess::No;
    }
    match opening.peer {
        [] => Guess::More,
        peer if binary::answers(peer, opening.bytes) => Guess::Yes(Sender::Client),
        _ => Guess::No,
    }
}

fn binary_answer(opening: &Opening<'_>) -> Guess {
    if !binary::is_request(opening.peer) {
        return Guess::No;
    }
    match () {
        () if binary::answers(opening.bytes, opening.peer) => Guess::Yes(Sender::Server),
        () if opening.bytes.len() < binary::HEADER && opening.may_grow() => Guess::More,
        () => Guess::No,
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
