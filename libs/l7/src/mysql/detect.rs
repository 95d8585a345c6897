//! Detection of MySQL: a server's greeting, a client's handshake response, or, joined in the middle, a command that nothing
//! else looks like: a statement with a known verb, the execution of a prepared one, any command with its answer.

use crate::{
    mysql::{
        command::{self, Command, Content, Shape},
        wire::{self, HEADER_BYTES, Header, PacketMatch},
    },
    parser::{Detection, Prefix, Sender},
    sql,
};

/// Bytes of a statement within which its verb must come.
const VERB_MAX: usize = 160;

/// First bytes of a statement that are checked to be text.
const TEXT_CHECKED: usize = 24;

/// Most commands that a client sends at once: those before the last one have no answer.
const COMMANDS_MAX: usize = 16;

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let next = behind_unanswered(prefix.bytes);
    let passed = (prefix.bytes.len() - next.len()) as u64;
    let detection = match either(next, prefix.total.saturating_sub(passed)) {
        // Another command decides.
        Detection::More if next.is_empty() => return Detection::More,
        Detection::Yes(Sender::Server) if passed > 0 => Detection::No,
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

/// The command that these bytes begin with, if they have all of it: its number, what is known about it, and what follows.
fn whole_command(bytes: &[u8]) -> Option<(u8, Command, &[u8])> {
    let (header, payload) = wire::packet(bytes)?;
    let number = *payload.first()?;
    let command = command::command(number).filter(|command| header.length >= command.shortest)?;
    let is_whole = header.sequence == 0 && payload.len() >= header.length;
    is_whole.then(|| (number, command, bytes.get(HEADER_BYTES + header.length..).unwrap_or_default()))
}

/// What follows whole commands that are not answered.
fn behind_unanswered(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    for _ in 0..COMMANDS_MAX {
        let Some((command::CLOSE | command::SEND_LONG_DATA, _, next)) = whole_command(rest) else { break };
        rest = next;
    }
    rest
}

/// Any commands, with the answer that only this protocol gives.
fn by_both_ends(prefix: &Prefix<'_>) -> Detection {
    let (bytes, peer) = (prefix.bytes, prefix.peer);
    match (are_commands(bytes), are_commands(peer)) {
        (true, _) if peer.is_empty() => Detection::More,
        (true, _) if is_answer(peer) => Detection::Yes(Sender::Client),
        (_, true) if is_answer(bytes) => Detection::Yes(Sender::Server),
        (_, true) if prefix.may_grow() && begins_ok(bytes) => Detection::More,
        _ => Detection::No,
    }
}

/// Whole commands and nothing else, of which the last one is answered by one packet, or may be.
fn are_commands(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    for _ in 0..COMMANDS_MAX {
        let Some((_, command, next)) = whole_command(rest) else { return false };
        rest = next;
        if rest.is_empty() {
            return command.answer.is_some_and(|shape| shape != Shape::Stream);
        }
    }
    false
}

/// A whole packet, the first of an answer: OK, an error, or what `COM_STATISTICS` gives.
fn is_answer(bytes: &[u8]) -> bool {
    wire::packet(bytes).is_some_and(|(header, payload)| {
        let is_whole = bytes.len() == HEADER_BYTES + header.length && header.sequence == 1;
        let is_ok = (7..64).contains(&header.length) && payload.starts_with(&[0, 0, 0]);
        let is_error = wire::failure(payload).is_some_and(|failure| {
            failure.state.is_some_and(|state| state.iter().all(u8::is_ascii_alphanumeric))
        });
        is_whole && (is_ok || is_error || payload.starts_with(b"Uptime: "))
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
    let next = behind_unanswered(bytes);
    let left = total.saturating_sub((bytes.len() - next.len()) as u64);
    let is_whole = bytes.len() as u64 == total;
    matches!(either(next, left), Detection::Yes(Sender::Client))
        || is_whole && (are_commands(bytes) || next.is_empty() && !bytes.is_empty())
}
