//! Detection of Redis: a command array, or an inline command that was answered as Redis answers.
//!
//! Both ends send arrays of bulk strings, and the first string of a reply may be a command's name. So an array alone is no
//! proof of a client: the other end decides, by something that only its role sends, or by an array that cannot answer this
//! one (`GET` is answered by no array). What is published to subscribers is a server's, whatever the other end sends. Where
//! nothing decides, a later message does. Only when the other end stays silent (the connection ends, or much was sent) an
//! array in capitals with as many arguments as its command takes is a client's.

use crate::{
    parser::{Detection, PREFIX_BYTES_MAX, Prefix, Sender},
    redis::{
        command,
        line::{self, Length},
        status, subscriber,
    },
};

/// Most arguments that are accepted of a command by which a connection is recognised.
const ARGUMENTS_MAX: u64 = 1 << 20;

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    match publication(prefix.bytes) {
        Line::Whole => return Detection::Yes(Sender::Server),
        Line::Begun if prefix.may_grow() => return Detection::More,
        Line::Begun | Line::None => {}
    }
    if publication(prefix.peer) == Line::Whole && (request(prefix.bytes).is_ok() || is_unlisted(prefix.bytes))
    {
        return Detection::Yes(Sender::Client);
    }
    let detection = match request(prefix.bytes) {
        Ok(command) => array_by_both_ends(prefix, &command),
        Err(Detection::More) => Detection::More,
        Err(_) if !prefix.peer.is_empty() && begins_unlisted(prefix.bytes) => Detection::More,
        Err(_) => by_both_ends(prefix),
    };
    // Of a command whose end was not captured the other end can still show that it is one.
    let waits_for_peer = request(prefix.bytes).is_ok();
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

/// An array that may be a command.
#[derive(Clone, Copy, Debug)]
struct Command<'a> {
    name: &'a [u8],
    certainty: Certainty,
}

impl Command<'_> {
    /// Whether these bytes of the other end can answer it.
    fn is_answered_by(&self, bytes: &[u8]) -> bool {
        value(bytes) == Line::Whole && (!is_array(bytes) || command::may_answer_array(self.name))
    }

    /// Whether these bytes of the other end, of which the first line has not ended, may become an answer.
    fn may_be_answered_by(&self, bytes: &[u8]) -> bool {
        self.certainty > Certainty::Name && value(bytes) == Line::Begun
    }

    /// A command between a server and its replica: what both ends send are commands.
    fn is_replication(&self) -> bool {
        self.name.eq_ignore_ascii_case(b"REPLCONF")
    }
}

/// An array that may be a command: what the other end sends decides.
fn array_by_both_ends(prefix: &Prefix<'_>, mine: &Command<'_>) -> Detection {
    if prefix.peer.is_empty() {
        let silent = prefix.last || prefix.bytes.len() >= PREFIX_BYTES_MAX;
        let alone = silent && mine.certainty == Certainty::Alone;
        return if alone { Detection::Yes(Sender::Client) } else { Detection::More };
    }
    match request(prefix.peer) {
        Ok(theirs) if mine.is_replication() || theirs.is_replication() => Detection::No,
        Ok(theirs) => {
            let (answered, answers) = (mine.is_answered_by(prefix.peer), theirs.is_answered_by(prefix.bytes));
            match (answered, answers) {
                (true, false) => Detection::Yes(Sender::Client),
                (false, true) => Detection::Yes(Sender::Server),
                (true, true) if mine.certainty > theirs.certainty => Detection::Yes(Sender::Client),
                (true, true) if mine.certainty < theirs.certainty => Detection::Yes(Sender::Server),
                // Either end may be the client: a later message decides.
                _ => Detection::No,
            }
        }
        // The end of a reply that begins before what is seen may read like a command.
        Err(_) if !prefix.peer_is_turn && inline(prefix.peer, false) && mine.certainty > Certainty::Name => {
            Detection::More
        }
        Err(_) if inline(prefix.peer, prefix.peer_is_turn) => Detection::Yes(Sender::Server),
        Err(_) if is_rest(prefix) => Detection::More,
        Err(_) if mine.certainty > Certainty::Name && mine.is_answered_by(prefix.peer) => {
            Detection::Yes(Sender::Client)
        }
        // No answer, so it is a command: one that is not listed.
        Err(_) if is_unlisted(prefix.peer) && !command::may_answer_array(mine.name) => {
            Detection::Yes(Sender::Server)
        }
        Err(_) if mine.may_be_answered_by(prefix.peer) => Detection::More,
        Err(detection) => detection,
    }
}

/// Whether what the other end sent is no command, and may be the rest of a reply that began before: it decides nothing.
fn is_rest(prefix: &Prefix<'_>) -> bool {
    let is_command =
        || request(prefix.peer).is_ok() || inline(prefix.peer, false) || is_unlisted(prefix.peer);
    !prefix.peer_is_turn && !is_command()
}

/// Whether an array with elements begins here.
fn is_array(bytes: &[u8]) -> bool {
    matches!(bytes, [b'*', b'1'..=b'9', ..])
}

/// An array of bulk strings whose first one is written as names of commands are.
fn is_unlisted(bytes: &[u8]) -> bool {
    let name = || {
        let (_, rest) = number(bytes.strip_prefix(b"*")?, ARGUMENTS_MAX).ok()?;
        let (length, rest) = number(rest.strip_prefix(b"$")?, line::WORD_MAX as u64).ok()?;
        rest.get(..usize::try_from(length).ok()?)
    };
    name().is_some_and(|name| {
        name.len() >= 2
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
            && name.first().is_some_and(u8::is_ascii_alphabetic)
    })
}

/// Whether an array begins here whose first string has not ended.
fn begins_unlisted(bytes: &[u8]) -> bool {
    array_head(bytes)
        .is_ok_and(|(_, length, name)| name.len() < length && name.iter().all(u8::is_ascii_graphic))
}

/// `*<n>\r\n$<length>\r\n<command>\r\n`; otherwise whether it may become one.
fn request(bytes: &[u8]) -> Result<Command<'_>, Detection> {
    array(bytes).map(|(count, name)| {
        let certainty = match () {
            () if !command::takes(name, count) => Certainty::Name,
            () if name.iter().any(u8::is_ascii_lowercase) => Certainty::Arity,
            () => Certainty::Alone,
        };
        Command { name, certainty }
    })
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
    let (length, rest) = number(rest, line::WORD_MAX as u64)?;
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

/// What a server sends to subscribers in RESP2, and its answer to their `PING` (redis.io, "Pub/Sub"): its first string, and
/// the number of its elements.
const PUBLICATIONS: [(&[u8], u64); 4] = [(b"message", 3), (b"smessage", 3), (b"pmessage", 4), (b"pong", 2)];

/// Whether this array is what a server sends to subscribers. A confirmation begins as a client's command may, but ends with
/// the number of subscriptions.
fn publication(bytes: &[u8]) -> Line {
    let (count, length, rest) = match array_head(bytes) {
        Ok(head) => head,
        Err(Detection::More) if !bytes.is_empty() => return Line::Begun,
        Err(_) => return Line::None,
    };
    let name = rest.get(..length).unwrap_or(rest);
    let is = |known: &[u8]| known.len() == length && known.starts_with(name);
    let published = PUBLICATIONS.iter().any(|(known, elements)| is(known) && *elements == count);
    let confirmed = count == 3 && subscriber::CONFIRMATIONS.iter().any(|known| is(known.as_bytes()));
    match rest.get(length..).and_then(|rest| rest.strip_prefix(b"\r\n")) {
        _ if !published && !confirmed => Line::None,
        None => Line::Begun,
        Some(_) if published => Line::Whole,
        // The channel, or none, then the number.
        Some(rest) => match strip(rest, b'$').and_then(|rest| number(rest, u64::from(u32::MAX))) {
            Ok((length, rest)) => {
                let behind = rest.get(usize::try_from(length).unwrap_or(usize::MAX)..);
                match behind.map_or(&b""[..], |behind| behind.get(2..).unwrap_or_default()) {
                    [] => Line::Begun,
                    [b':', ..] => Line::Whole,
                    _ => Line::None,
                }
            }
            Err(Detection::More) => Line::Begun,
            Err(_) if rest.starts_with(b"$-1\r\n:") => Line::Whole,
            Err(_) if b"$-1\r\n:".starts_with(rest) => Line::Begun,
            Err(_) => Line::None,
        },
    }
}

/// The number of an array's elements, the length of its first string, and what follows.
fn array_head(bytes: &[u8]) -> Result<(u64, usize, &[u8]), Detection> {
    let (count, rest) = number(strip(bytes, b'*')?, ARGUMENTS_MAX)?;
    let (length, rest) = number(strip(rest, b'$')?, line::WORD_MAX as u64)?;
    Ok((count, usize::try_from(length).unwrap_or(usize::MAX), rest))
}

/// What follows this byte.
fn strip(bytes: &[u8], first: u8) -> Result<&[u8], Detection> {
    match bytes.split_first() {
        Some((byte, rest)) if *byte == first => Ok(rest),
        Some(_) => Err(Detection::No),
        None => Err(Detection::More),
    }
}

/// What a value's first line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Whole,
    /// Its end is missing: a client may read it piece by piece.
    Begun,
    None,
}

impl Line {
    /// Reads the type byte and the text of a line; `fits` gets both, and whether that is all.
    fn read(bytes: &[u8], fits: impl Fn(u8, &[u8], bool) -> bool) -> Self {
        let end = memchr::memchr(b'\n', bytes);
        let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let text = line.strip_suffix(b"\r");
        match line.split_first() {
            Some((&kind, rest)) => {
                let whole = end.is_some();
                let text = text.map_or(rest, |text| text.get(1..).unwrap_or_default());
                let is_line = if whole { line.ends_with(b"\r") } else { rest.len() <= LINE_MAX };
                match is_line && fits(kind, text, whole || line.ends_with(b"\r")) {
                    true if whole => Self::Whole,
                    true => Self::Begun,
                    false => Self::None,
                }
            }
            None => Self::None,
        }
    }
}

/// Most bytes of a line that has not ended.
const LINE_MAX: usize = 256;

/// The first line of any RESP value.
fn value(bytes: &[u8]) -> Line {
    Line::read(bytes, |kind, text, whole| match kind {
        b'+' | b'-' => text.iter().all(|byte| (b' '..0x7f).contains(byte)),
        b'$' | b'*' | b'~' | b'%' if text == b"?" => true,
        b'$' | b'*' | b':' | b'%' | b'~' | b'>' | b'=' | b'!' => {
            let digits = text.strip_prefix(b"-").unwrap_or(text);
            line::length(digits).is_some() || (!whole && digits.is_empty())
        }
        b'_' => text.is_empty(),
        b'#' => matches!(text, b"t" | b"f") || (!whole && text.is_empty()),
        b',' | b'(' => (!whole || !text.is_empty()) && text.len() <= line::WORD_MAX,
        _ => false,
    })
}

/// Digits and a line end; the number and what follows.
fn number(bytes: &[u8], most: u64) -> Result<(u64, &[u8]), Detection> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let (text, rest) = bytes.split_at(digits);
    match rest {
        [b'\r', b'\n', after @ ..] => match line::length(text) {
            Some(Length::Bytes(value)) if value <= most => Ok((value, after)),
            _ => Err(Detection::No),
        },
        [] | [b'\r'] if digits <= 10 => Err(Detection::More),
        _ => Err(Detection::No),
    }
}

/// An inline command alone could be many things; with a RESP answer it is Redis.
fn by_both_ends(prefix: &Prefix<'_>) -> Detection {
    let mine = || inline(prefix.bytes, prefix.is_turn && !prefix.is_rest);
    if prefix.peer.is_empty() || is_rest(prefix) {
        return if mine() { Detection::More } else { Detection::No };
    }
    let is_command = || request(prefix.peer).is_ok_and(|theirs| theirs.certainty > Certainty::Name);
    if mine() && !prefix.is_turn && is_command() {
        return Detection::More;
    }
    if mine() && answer(prefix.peer) != Line::None {
        return if answer(prefix.peer) == Line::Whole {
            Detection::Yes(Sender::Client)
        } else {
            Detection::More
        };
    }
    // The other end's array cannot be a command that this one answers: so it answers this one, which is not listed.
    let unlisted = || {
        is_unlisted(prefix.bytes)
            && request(prefix.peer)
                .is_ok_and(|command| !command.is_replication() && !command::may_answer_array(command.name))
    };
    if unlisted() {
        return Detection::Yes(Sender::Client);
    }
    let answers = || {
        prefix.is_turn
            && request(prefix.peer).is_ok_and(|command| {
                command.certainty > Certainty::Name && command.is_answered_by(prefix.bytes)
            })
    };
    let is_inline = inline(prefix.peer, prefix.peer_is_turn);
    if (is_inline && answer(prefix.bytes) == Line::Whole) || answers() {
        return Detection::Yes(Sender::Server);
    }
    let may_answer = || request(prefix.peer).is_ok_and(|command| command.may_be_answered_by(prefix.bytes));
    if (is_inline && answer(prefix.bytes) == Line::Begun) || may_answer() {
        return Detection::More;
    }
    Detection::No
}

/// Words that clients of other line protocols send, whose servers answer `+OK` or `-ERR`, too (POP3: RFC 1939, RFC 5034).
const SHARED_WORDS: [&str; 4] = ["AUTH", "QUIT", "HELP", "TYPE"];

/// Whether this is a command of Redis, and of no other line protocol.
pub(super) fn is_distinct(name: &[u8]) -> bool {
    command::known(name).is_some_and(|name| !SHARED_WORDS.contains(&name))
}

/// Whole lines of commands, of which the first is one of Redis alone. Where it does not begin for certain, it may be the rest of
/// an argument: then every line is a known command with as many words as it takes.
pub(super) fn inline(bytes: &[u8], begins: bool) -> bool {
    let Some(end) = memchr::memrchr(b'\n', bytes) else { return false };
    let lines = bytes.get(..end).unwrap_or_default().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    // An empty line is no command, and is not answered.
    let mut lines = lines.filter(|line| !line.is_empty());
    let fits =
        |line: &[u8]| is_plain(line) && words(line).is_some_and(|words| command::takes(name(line), words));
    let is_command = |line: &[u8]| command::known(name(line)).is_some() && fits(line);
    let Some(first) = lines.next().filter(|first| is_distinct(name(first)) && is_plain(first)) else {
        return false;
    };
    begins || (is_command(first) && lines.all(is_command))
}

/// The first word of a line.
fn name(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b' ').next().unwrap_or_default()
}

fn is_plain(line: &[u8]) -> bool {
    line.iter().all(|byte| (b' '..0x7f).contains(byte))
}

/// How many words a line has: blanks separate them, but not within quotes (Redis: `sdssplitargs`). None where a quote is
/// not closed, or something else than a blank follows it.
fn words(line: &[u8]) -> Option<u64> {
    let (mut count, mut rest) = (0, line.trim_ascii());
    while !rest.is_empty() {
        count += 1;
        rest = behind_word(rest)?.trim_ascii_start();
    }
    Some(count)
}

/// What follows the word with which these bytes begin.
fn behind_word(bytes: &[u8]) -> Option<&[u8]> {
    let (mut quote, mut is_escaped) = (None, false);
    for (at, byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), b'\\') => is_escaped = true,
            (Some(open), byte) if open == byte => {
                let rest = bytes.get(at + 1..)?;
                return rest.first().is_none_or(|next| *next == b' ').then_some(rest);
            }
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b' ') => return bytes.get(at..),
            _ => {}
        }
    }
    quote.is_none().then_some(&[])
}

/// The first line of a RESP value that other line protocols do not send: `+OK`, `+PONG`, `-ERR …`, `$3`, `:1`, `*2`.
fn answer(bytes: &[u8]) -> Line {
    Line::read(bytes, |kind, text, whole| match kind {
        b'+' => ["OK", "PONG", "QUEUED", "RESET"]
            .iter()
            .any(|word| word.as_bytes() == text || (!whole && word.as_bytes().starts_with(text))),
        b'-' => status::error_prefix(text).is_some() || (!whole && text.iter().all(u8::is_ascii_uppercase)),
        b'$' | b'*' | b':' | b'%' => line::length(text).is_some() || (!whole && matches!(text, b"" | b"-")),
        _ => false,
    })
}
