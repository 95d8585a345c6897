//! Detection of MySQL: a server's greeting, a client's handshake response, or, joined in the middle, a command that nothing
//! else looks like: a statement with a known verb, the execution of a prepared one, a ping that was answered.

use crate::{
    mysql::{
        command::{self, Content},
        wire::{self, HEADER_BYTES, Header, PacketMatch},
    },
    parser::{Detection, Prefix, Sender},
    sql,
};

/// Bytes of a statement within which its verb must come.
const VERB_MAX: usize = 160;

/// First bytes of a statement that are checked to be text.
const TEXT_CHECKED: usize = 24;

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let detection = match either(prefix.bytes, prefix.total) {
        Detection::No => by_both_ends(prefix),
        detection => detection,
    };
    if detection == Detection::More && !prefix.may_grow() && prefix.peer.is_empty() {
        Detection::No
    } else {
        detection
    }
}

fn either(bytes: &[u8], total: u64) -> Detection {
    let Some((header, payload)) = wire::packet(bytes) else {
        return if bytes.len() < 3 || bytes.get(..3) != Some(&[0; 3]) {
            Detection::More
        } else {
            Detection::No
        };
    };
    let Some(&first) = payload.first() else {
        let possible = header.length > 0 && total <= HEADER_BYTES as u64 && header.sequence <= 1;
        return if possible { Detection::More } else { Detection::No };
    };
    let whole = total == (HEADER_BYTES + header.length) as u64;
    let most = (HEADER_BYTES + header.length) as u64 >= total;
    match (header.sequence, first) {
        (0, 10) if most => said(&wire::greeting(payload, header.length), whole, Sender::Server),
        (0, 0xff) if most => refusal(header, payload, total),
        (0, _) => command(header, payload, total, bytes),
        // A request for TLS may have the first TLS record behind it.
        (1, _) if most || header.length == 32 => {
            said(&wire::hello(payload, header.length), whole || header.length == 32, Sender::Client)
        }
        _ => Detection::No,
    }
}

fn said<T>(found: &PacketMatch<T>, whole: bool, by: Sender) -> Detection {
    match found {
        PacketMatch::Yes(_) if whole => Detection::Yes(by),
        PacketMatch::Yes(_) | PacketMatch::More => Detection::More,
        PacketMatch::No => Detection::No,
    }
}

/// A server that does not want to talk: an ERR packet instead of a greeting.
fn refusal(header: Header, payload: &[u8], total: u64) -> Detection {
    if !(12..512).contains(&header.length) {
        return Detection::No;
    }
    let code = wire::u16_at(payload, 1);
    if code.is_some_and(|code| !(1000..2000).contains(&code)) {
        return Detection::No;
    }
    if !payload.iter().skip(3).all(|byte| (b' '..0x7f).contains(byte)) {
        return Detection::No;
    }
    match total.cmp(&((HEADER_BYTES + header.length) as u64)) {
        std::cmp::Ordering::Equal if payload.len() == header.length => Detection::Yes(Sender::Server),
        std::cmp::Ordering::Less => Detection::More,
        _ => Detection::No,
    }
}

/// The first packet of a command.
fn command(header: Header, payload: &[u8], total: u64, bytes: &[u8]) -> Detection {
    let Some((&number, content)) = payload.split_first() else { return Detection::More };
    let Some(command) = command::command(number) else { return Detection::No };
    let end = HEADER_BYTES + header.length;
    if header.length < command.shortest || !another(bytes, end, total) {
        return Detection::No;
    }
    if command.content == Content::Statement {
        let statement = if number == command::QUERY { command::statement(content) } else { content };
        let text = statement.get(..TEXT_CHECKED).unwrap_or(statement);
        if text.iter().any(|byte| *byte < b' ' && !byte.is_ascii_whitespace()) {
            return Detection::No;
        }
        let complete = payload.len() == header.length;
        if sql::shape(sql::Dialect::Mysql, statement, complete, &mut String::new()) != sql::OTHER {
            return Detection::Yes(Sender::Client);
        }
        return if complete || statement.len() > VERB_MAX { Detection::No } else { Detection::More };
    }
    if number == command::EXECUTE {
        // Id (4), flags (1), iteration count (4), always 1.
        let count = payload.get(6..10).unwrap_or_default();
        let flags = payload.get(5).copied().unwrap_or_default();
        let id = wire::u32_at(payload, 1).unwrap_or(1);
        if flags > 0x0f || !(id == u32::MAX || (1..1 << 24).contains(&id)) {
            return Detection::No;
        }
        return match count {
            [1, 0, 0, 0] => Detection::Yes(Sender::Client),
            [] => Detection::More,
            _ => Detection::No,
        };
    }
    Detection::No
}

/// Whether what follows this packet, where anything does, is a command as well.
fn another(bytes: &[u8], end: usize, total: u64) -> bool {
    if total <= end as u64 {
        return true;
    }
    match bytes.get(end..).and_then(wire::packet) {
        Some((next, [number, ..])) => {
            next.sequence == 0
                && command::command(*number).is_some_and(|command| next.length >= command.shortest)
        }
        _ => true,
    }
}

/// Commands of one byte, with the answer that only this protocol gives.
fn by_both_ends(prefix: &Prefix<'_>) -> Detection {
    let (bytes, peer) = (prefix.bytes, prefix.peer);
    match (short_command(bytes), short_command(peer)) {
        (true, _) if peer.is_empty() => Detection::More,
        (true, _) if is_ok(peer) => Detection::Yes(Sender::Client),
        (_, true) if is_ok(bytes) => Detection::Yes(Sender::Server),
        (_, true) if prefix.may_grow() && begins_ok(bytes) => Detection::More,
        _ => Detection::No,
    }
}

fn short_command(bytes: &[u8]) -> bool {
    matches!(bytes, [1, 0, 0, 0, command::PING | command::RESET_CONNECTION])
}

/// A whole OK packet, the first of an answer.
fn is_ok(bytes: &[u8]) -> bool {
    wire::packet(bytes).is_some_and(|(header, payload)| {
        header.sequence == 1
            && (7..64).contains(&header.length)
            && bytes.len() == HEADER_BYTES + header.length
            && payload.starts_with(&[0, 0, 0])
    })
}

/// Whether more bytes may make it one.
fn begins_ok(bytes: &[u8]) -> bool {
    let expected = |at: usize, byte: u8| match at {
        0 => (7..64).contains(&byte),
        3 => byte == 1,
        _ => byte == 0,
    };
    let length = bytes.first().map_or(0, |length| usize::from(*length));
    bytes.len() < HEADER_BYTES + length
        && bytes.iter().take(7).enumerate().all(|(at, byte)| expected(at, *byte))
}

/// Whether a client's packet starts here, beyond doubt: for finding one again after a loss.
pub(super) fn is_command(bytes: &[u8], total: u64) -> bool {
    matches!(either(bytes, total), Detection::Yes(Sender::Client)) || short_command(bytes)
}
