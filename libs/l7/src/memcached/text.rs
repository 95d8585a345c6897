//! The text protocol and its meta commands, line by line (memcached: doc/protocol.txt).

use crate::memcached::Expect;

/// Longest key, bytes (memcached: `KEY_MAX_LENGTH`).
const KEY_MAX: usize = 250;

/// Largest value accepted: memcached's own upper bound of `-I` is 1 GiB.
const VALUE_MAX: u64 = 1 << 30;

/// A request line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'a> {
    pub(super) name: &'static str,
    /// Its first key.
    pub(super) key: &'a [u8],
    /// Bytes of the value behind the line, with its line end.
    pub(super) data: u64,
    pub(super) expect: Expect,
}

/// A response line.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyLine<'a> {
    /// Its first word.
    pub(super) word: &'a [u8],
    /// Bytes of the value behind the line, with its line end.
    pub(super) data: u64,
}

/// Reads a request line without its end. `None`: no memcached command.
pub(super) fn command(line: &[u8]) -> Option<Command<'_>> {
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let verb = words.next()?;
    let name = known(verb)?;
    let noreply = || line.ends_with(b" noreply");
    let mut key: &[u8] = b"";
    let mut data = 0;
    let expect = match name {
        "get" | "gets" => {
            key = words.next()?;
            Expect::UntilEnd
        }
        "gat" | "gats" => {
            number(words.next()?)?;
            key = words.next()?;
            Expect::UntilEnd
        }
        "set" | "add" | "replace" | "append" | "prepend" | "cas" => {
            key = words.next()?;
            number(words.next()?)?;
            signed(words.next()?)?;
            data = number(words.next()?)? + 2;
            if noreply() { Expect::Nothing } else { Expect::Line }
        }
        "ms" => {
            key = words.next()?;
            data = number(words.next()?)? + 2;
            quiet(words)
        }
        "mg" | "md" | "ma" | "me" => {
            key = words.next()?;
            quiet(words)
        }
        "incr" | "decr" | "delete" | "touch" => {
            key = words.next()?;
            if noreply() { Expect::Nothing } else { Expect::Line }
        }
        "stats" => Expect::UntilEnd,
        "mn" => Expect::Barrier,
        "flush_all" | "verbosity" if noreply() => Expect::Nothing,
        "quit" => Expect::Nothing,
        _ => Expect::Line,
    };
    (key.len() <= KEY_MAX && data <= VALUE_MAX).then_some(Command { name, key, data, expect })
}

/// Reads a response line without its end.
pub(super) fn answer(line: &[u8]) -> Option<ReplyLine<'_>> {
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let word = words.next()?;
    let data = match word {
        // VALUE <key> <flags> <bytes> [<cas>]
        b"VALUE" => number(words.nth(2)?)? + 2,
        b"VA" => number(words.next()?)? + 2,
        _ => 0,
    };
    let plain = word.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    (plain && data <= VALUE_MAX).then_some(ReplyLine { word, data })
}

/// Whether a quiet meta command keeps this answer to itself.
pub(super) fn suppressed(command: &str, word: &[u8]) -> bool {
    match command {
        "mg" => word == b"EN",
        "ms" => word == b"HD",
        _ => word == b"HD" || word == b"NF",
    }
}

/// The command of this name.
pub(super) fn known(verb: &[u8]) -> Option<&'static str> {
    const COMMANDS: [&str; 26] = [
        "get",
        "gets",
        "gat",
        "gats",
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "cas",
        "incr",
        "decr",
        "delete",
        "touch",
        "stats",
        "version",
        "verbosity",
        "flush_all",
        "quit",
        "mg",
        "ms",
        "md",
        "ma",
        "mn",
        "me",
        "shutdown",
    ];
    COMMANDS.into_iter().find(|command| command.as_bytes() == verb)
}

fn quiet<'a>(mut flags: impl Iterator<Item = &'a [u8]>) -> Expect {
    if flags.any(|flag| flag == b"q") { Expect::Quiet } else { Expect::Line }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 10 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

fn signed(text: &[u8]) -> Option<u64> {
    number(text.strip_prefix(b"-").unwrap_or(text))
}
