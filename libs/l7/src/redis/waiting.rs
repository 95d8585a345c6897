//! A command that waits for its reply: what kind it is, and how it is called.

use crate::{
    NameKind, Symbol,
    parser::{ConnectionContext, Request},
    redis::{
        line,
        reader::{Message, UNREAD, Word},
        status::error_prefix,
        subscriber::SUBSCRIPTIONS,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Waits for this many confirmations more.
    Subscription(u64),
    /// The connection carries no commands afterwards.
    Last,
}

impl Kind {
    pub(super) fn is_subscription(self) -> bool {
        matches!(self, Self::Subscription(_))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    pub(super) kind: Kind,
    /// The name of a command that is not well known: the reply shows whether there is such a command.
    pub(super) unconfirmed: Word,
    /// An array may answer it.
    pub(super) by_array: bool,
}

pub(super) fn left_after(kind: Kind) -> u64 {
    if let Kind::Subscription(left) = kind { left.saturating_sub(1) } else { 0 }
}

/// Commands that wait until there is something to answer (redis.io: "Blocking commands"), and how they are called; the
/// last ones only with `BLOCK`.
pub(super) const LONG_POLLS: [(&str, &str); 12] = [
    ("BLMOVE", "BLMOVE (long poll)"),
    ("BLMPOP", "BLMPOP (long poll)"),
    ("BLPOP", "BLPOP (long poll)"),
    ("BRPOP", "BRPOP (long poll)"),
    ("BRPOPLPUSH", "BRPOPLPUSH (long poll)"),
    ("BZMPOP", "BZMPOP (long poll)"),
    ("BZPOPMAX", "BZPOPMAX (long poll)"),
    ("BZPOPMIN", "BZPOPMIN (long poll)"),
    ("WAIT", "WAIT (long poll)"),
    ("WAITAOF", "WAITAOF (long poll)"),
    ("XREAD", "XREAD (long poll)"),
    ("XREADGROUP", "XREADGROUP (long poll)"),
];

/// How a command is called.
pub(super) fn called(name: &'static str, blocks: bool) -> &'static str {
    let polls = if blocks { &LONG_POLLS[..] } else { &LONG_POLLS[..10] };
    polls.iter().find(|(command, _)| *command == name).map_or(name, |(_, called)| called)
}

/// Behind these a connection carries no commands.
pub(super) const LAST: [&str; 3] = ["MONITOR", "SYNC", "PSYNC"];

pub(super) fn kind(message: &Message) -> Kind {
    let [name, ..] = &message.words;
    if SUBSCRIPTIONS.into_iter().any(|subscription| name.is(subscription)) {
        Kind::Subscription(message.elements.saturating_sub(1).max(1))
    } else if LAST.into_iter().any(|last| name.is(last)) {
        Kind::Last
    } else {
        Kind::Plain
    }
}

impl Waiting {
    /// The request, with the command's name if the reply shows that there is such a command: servers answer `ERR` to
    /// what they do not know.
    pub(super) fn confirmed(&self, reply: &Message, cx: &mut ConnectionContext<'_>) -> Request {
        let refused = matches!(reply.kind, b'-' | b'!')
            && error_prefix(reply.words[0].as_bytes()).is_none_or(|prefix| prefix == "ERR");
        if refused || reply.kind == UNREAD || self.unconfirmed.as_bytes().is_empty() {
            return self.request;
        }
        let name = unusual_name(self.unconfirmed.as_bytes(), |text| cx.name(NameKind::Command, text));
        Request { operation: name.unwrap_or(Symbol::OTHER), ..self.request }
    }
}

/// The name of a command that is not well known (a module's), in capitals.
pub(super) fn unusual_name<T>(name: &[u8], to: impl FnOnce(&str) -> T) -> Option<T> {
    let mut upper = [0_u8; line::WORD_MAX];
    let plain = name.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    let upper = upper.get_mut(..name.len()).filter(|_| plain && !name.is_empty())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    std::str::from_utf8(upper).ok().map(to)
}
