//! Whether a connection is a subscriber's: to one the server sends what is published, which answers nothing (redis.io:
//! "Pub/sub").
//!
//! RESP3 has a type of its own for it. In RESP2 what is published and the confirmations are arrays, as replies are.

use crate::redis::reader::{Message, Word};

/// How what is published to a connection comes, if it is a subscriber's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Subscriber {
    #[default]
    No,
    /// As arrays, as far as they show: what looks published may be the reply to a command that was not seen. Until the
    /// client sends what a subscriber may not.
    Presumed,
    /// As arrays, as long as the confirmation shows nothing else.
    Requested,
    /// As arrays (RESP2).
    Arrays,
    /// As pushes (RESP3): arrays are replies.
    Pushes,
}

impl Subscriber {
    /// It is one, as far as is `shown`, unless more is known.
    pub(super) fn presume_if(&mut self, shown: bool) {
        if *self == Self::No && shown {
            *self = Self::Presumed;
        }
    }

    /// A subscription was sent that will be confirmed, and no command waits for it.
    pub(super) fn subscribes(&mut self) {
        if *self != Self::Arrays {
            *self = Self::Requested;
        }
    }

    /// Whether the server refuses what changes the connection's replies: to a subscriber of RESP2 it does.
    pub(super) fn refuses_changes(self) -> bool {
        self == Self::Arrays
    }

    /// The client sends this command.
    pub(super) fn sends(&mut self, name: &Word) {
        if *self == Self::Presumed && !is_subscribers(name) {
            *self = Self::No;
        }
    }

    /// Whether a message confirms a subscription or its end; one `is_due` where a subscription is answered next.
    pub(super) fn is_confirmed_by(&mut self, message: &Message, is_due: bool) -> bool {
        let [word, _, left] = &message.words;
        let is_confirmed = is_confirmation(word)
            && match message.kind {
                b'>' => true,
                // Nothing else of three elements that begins so answers a subscription or comes to a subscriber.
                b'*' => message.elements == 3 && (is_due || self.gets_arrays()),
                _ => false,
            };
        if is_confirmed {
            let has_ended = word.as_bytes().contains(&b'n') && left.as_bytes() == b"0";
            *self = match message.kind {
                _ if has_ended => Self::No,
                b'>' => Self::Pushes,
                _ => Self::Arrays,
            };
        }
        is_confirmed
    }

    /// A reply that is no error and no confirmation answers a subscription, or another command.
    pub(super) fn is_answered_by(&mut self, reply: &Message, is_subscription: bool, replies_are_on: bool) {
        let [word, ..] = &reply.words;
        *self = match *self {
            // Queued (`MULTI`): the reply to `EXEC` has the confirmation in it.
            Self::No if is_subscription => Self::Arrays,
            _ if reply.kind == b'+' && word.is("RESET") => Self::No,
            // In RESP2 a subscriber gets arrays and errors.
            Self::Requested | Self::Arrays if !is_subscription && reply.kind != b'*' && replies_are_on => {
                Self::No
            }
            same => same,
        };
    }

    /// Whether a message answers nothing.
    pub(super) fn is_push(self, message: &Message) -> bool {
        match message.kind {
            b'>' => !is_confirmation(&message.words[0]),
            b'*' => self.gets_arrays() && is_published(message),
            _ => false,
        }
    }

    fn gets_arrays(self) -> bool {
        matches!(self, Self::Presumed | Self::Requested | Self::Arrays)
    }
}

/// Commands that are answered by confirmations, one for each channel.
pub(super) const SUBSCRIPTIONS: [&str; 6] =
    ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"];

/// Whether a subscriber may send a command in RESP2 (redis.io: "Pub/sub").
fn is_subscribers(name: &Word) -> bool {
    SUBSCRIPTIONS.into_iter().chain(["PING", "QUIT", "RESET"]).any(|command| name.is(command))
}

/// How a server begins the confirmations of subscriptions.
pub(super) const CONFIRMATIONS: [&str; 6] =
    ["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"];

fn is_confirmation(word: &Word) -> bool {
    CONFIRMATIONS.into_iter().any(|confirmation| word.as_bytes() == confirmation.as_bytes())
}

/// Whether it answers a subscriber's `PING` in RESP2.
pub(super) fn is_pong(message: &Message) -> bool {
    message.kind == b'*' && message.elements == 2 && message.words[0].is("pong")
}

/// Whether an array is written as what is published to subscribers in RESP2.
pub(super) fn is_published(message: &Message) -> bool {
    let [word, ..] = &message.words;
    let elements = match () {
        () if word.is("message") || word.is("smessage") => 3,
        () if word.is("pmessage") => 4,
        () => return false,
    };
    message.kind == b'*' && message.elements == elements
}
