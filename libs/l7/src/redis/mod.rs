//! Redis: RESP2, RESP3 and inline commands, one exchange per command.
//!
//! ```text
//! Segment → Reader (one per direction) → Redis: first in, first out → Exchange
//! ```
//!
//! - Replies come in the order of the commands. Pushes (`>` of RESP3, messages to subscribers) answer nothing.
//! - `SUBSCRIBE a b` is one exchange and ends with the confirmation of its last channel.
//! - `CLIENT REPLY OFF|SKIP` make commands that get no reply: each is an exchange without status, over at once.
//! - Behind `MONITOR`, `SYNC` and `PSYNC` the connection carries no commands, and is ignored.
//! - Commands that wait until there is something (`BLPOP`, `XREAD BLOCK`) are called long polls.
//! - A redirect (`MOVED`, `ASK`) is a status, not an error: the client repeats the command on another server.
//!
//! A reply whose end was not captured (a long list) ends with the server's last byte before the next command. After a
//! loss [`Resync`] finds from where commands and replies correspond again.
//!
//! Only the command's name and an error's prefix leave this module. A command that is not well known has its name when a
//! reply has confirmed that it is one.

mod command;
mod detect;
mod line;
mod reader;
mod status;
mod subscriber;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::VecDeque;

#[cfg(test)]
pub(crate) use status::class;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp,
    offload::{ConnectionState, ExchangeDetail, OffloadedExchange},
    parser::{
        ConnectionContext, Entry, Flow, Framing, Offload, Offloadable, Outcome, Parser, Request, Resource,
        Segment, Sender, Start, Transport,
    },
    pending::{Fifo, Next},
    redis::{
        reader::{INLINE, Item, Message, Reader, Word},
        status::{error_outcome, outcome},
        subscriber::{SUBSCRIPTIONS, Subscriber, is_pong, is_published},
        waiting::{Kind, LAST, LONG_POLLS, Waiting, called, kind, left_after, unusual_name},
    },
    resync::{EARLY_NS_MAX, GapKind, ResponsePosition, Resync},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Redis,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |start: Start| {
        let [requests, replies] = start.is_boundary.map(Reader::new);
        Box::new(Redis { requests, replies, resync: Resync::optimistic(), ..Redis::default() })
    },
    offload: Some(Offload { name: name_offloaded, restore: Some(restore) }),
};

/// Most replies that wait for a command whose capture comes later.
const EARLY_MAX: usize = 64;

/// Quiet time after which a reply whose end was not captured counts as ended, nanoseconds.
const OPEN_QUIET_NS: u64 = 2_000_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replies {
    #[default]
    On,
    Off,
    /// Off for the next command.
    Skip,
}

/// One connection.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one connection, not states.
struct Redis {
    requests: Reader,
    replies: Reader,
    waiting: Fifo<Waiting>,
    early: VecDeque<Message>,
    mode: Replies,
    subscriber: Subscriber,
    /// A command was seen: what the server sends from now on may answer it.
    begun: bool,
    /// The client sent inline commands that are Redis's alone, and none of its bytes were lost since.
    inline: bool,
    resync: Resync,
    /// Pairing began again after a loss: no reply is taken for one that was captured before its command.
    realigned: bool,
    /// A command, and its reply whose end will not be found.
    open: Option<(Waiting, Message)>,
    ended: bool,
}

/// A connection that the kernel followed so far.
fn restore(resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> Box<dyn Parser> {
    Box::new(Redis::resumed(resumed, Resync::optimistic(), cx))
}

/// Emits an exchange that the kernel paired; returns whether an equal one will always have the same names.
fn name_offloaded(found: &OffloadedExchange<'_>, cx: &mut ConnectionContext<'_>) -> bool {
    let ExchangeDetail::Redis { command, error } = found.detail else { return false };
    let operation = command::at(command).map_or(Symbol::OTHER, |name| cx.word(called(name, false)));
    let resource = Resource::Name(Symbol::NONE);
    let request = Request { operation, resource, start: found.start, bytes: found.request_bytes };
    let (status, class) = match error {
        Some(text) => error_outcome(text, cx),
        None => (Status::None, ErrorClass::None),
    };
    let outcome = Outcome { status, error: class, end: found.end, bytes: found.response_bytes };
    cx.emit(Protocol::Redis, &request, &outcome);
    // Errors differ by their text.
    error.is_none()
}

/// The commands that the kernel can follow without knowing what they mean for the connection: index and name, and whether
/// that depends on the first argument (`CLIENT REPLY`, `CLIENT TRACKING`). Whether a command waits because of a later
/// argument only the parser sees.
pub fn redis_commands() -> impl Iterator<Item = (usize, &'static str, bool)> {
    command::all()
        .filter(|(_, name)| !changes_connection(name) && called(name, true) == called(name, false))
        .map(|(at, name)| (at, name, name == "CLIENT"))
}

/// Whether a command changes what its connection carries.
fn changes_connection(name: &str) -> bool {
    SUBSCRIPTIONS.contains(&name) || LAST.contains(&name)
}

impl Parser for Redis {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let mut reader = match segment.from {
            Sender::Client => std::mem::take(&mut self.requests),
            Sender::Server => std::mem::take(&mut self.replies),
        };
        let mut take = |item| self.item(segment.from, item, cx);
        if segment.gap > 0 {
            reader.lost(segment, &mut take);
        }
        match segment.from {
            Sender::Client => {
                if segment.is_unreadable() && !reader.in_message() {
                    self.end_open(cx);
                }
                // Behind a whole reply no other end of a command follows.
                let is_turn = segment.gap == 0 && self.resync.is_turn() && self.replies.is_between();
                if is_turn && detect::inline(segment.bytes, false) {
                    reader.expect_inline();
                }
                let starts = reader.starts(segment, true);
                self.client(segment, starts, cx);
                reader.segment(segment, true, |item| self.item(Sender::Client, item, cx));
                self.requests = reader;
            }
            Sender::Server => {
                self.resync.server(segment);
                if segment.gap > 0 {
                    self.end_open(cx);
                }
                if let Some((_, reply)) = &mut self.open {
                    let bytes = (segment.bytes.len() as u64).saturating_add(segment.truncated);
                    reply.bytes = reply.bytes.saturating_add(bytes);
                    reply.end = segment.at;
                } else if let Some(waiting) = self.answered_unread(segment, &reader) {
                    reader.forget();
                    self.open = Some((waiting, Message::unread(segment)));
                    self.lose(Sender::Server, GapKind::Truncated, cx);
                } else {
                    reader.segment(segment, false, |item| self.item(Sender::Server, item, cx));
                    if reader.is_lost() && self.resync.is_desynced() {
                        // What it answered is unknown.
                        self.resync.desync(Sender::Server, GapKind::Malformed);
                    }
                }
                self.replies = reader;
            }
        }
        if self.ended { Flow::Done } else { Flow::Continue }
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.requests.framing(),
            Sender::Server => self.replies.framing(),
        }
    }

    fn pending(&self) -> usize {
        self.waiting.known()
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.end_open(cx);
        if self.requests.in_message() {
            cx.orphan();
        }
        for _ in self.early.drain(..) {
            cx.orphan();
        }
        while let Some(waiting) = self.waiting.drain_one() {
            let mut outcome = Outcome::none(now);
            if LONG_POLLS.iter().any(|(_, name)| cx.word(name) == waiting.request.operation) {
                // A client may leave while it waits.
                outcome.error = ErrorClass::None;
            }
            cx.emit(Protocol::Redis, &waiting.request, &outcome);
        }
    }

    fn offloadable(&mut self) -> Option<&mut dyn Offloadable> {
        Some(self)
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if self.open.as_ref().is_some_and(|(_, reply)| now.since(reply.end) >= OPEN_QUIET_NS) {
            self.end_open(cx);
        }
    }
}

impl Offloadable for Redis {
    fn is_idle(&self) -> bool {
        self.begun
            && self.mode == Replies::On
            && self.subscriber == Subscriber::No
            && !self.ended
            && self.open.is_none()
            && self.waiting.is_empty()
            && self.early.is_empty()
            && !self.resync.is_desynced()
            && self.requests.is_between()
            && self.replies.is_between()
    }

    fn resume(&mut self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> bool {
        // What the client has shown of itself before holds on: the kernel follows arrays only.
        let (inline, realigned) = (self.inline, self.realigned);
        *self = Self { inline, realigned, ..Self::resumed(resumed, self.resync.resumed(), cx) };
        true
    }
}

impl Redis {
    /// One that the kernel followed so far.
    fn resumed(resumed: &ConnectionState<'_>, resync: Resync, cx: &mut ConnectionContext<'_>) -> Self {
        let mut redis = Self {
            requests: Reader::resumed(&resumed.requests),
            replies: Reader::resumed(&resumed.responses),
            begun: true,
            resync,
            ..Self::default()
        };
        for request in resumed.pending {
            cx.message();
            let by_array = command::may_answer_array(request.request);
            let operation =
                command::known(request.request).map_or(Symbol::OTHER, |known| cx.word(called(known, false)));
            let resource = Resource::Name(Symbol::NONE);
            let request = Request { operation, resource, start: request.start, bytes: request.bytes };
            let waiting = Waiting { request, kind: Kind::Plain, unconfirmed: Word::default(), by_array };
            redis.resync.request();
            if redis.waiting.push(waiting, cx.pending_max()).is_some() {
                cx.unparsed();
            }
        }
        redis
    }

    /// The client sent a segment, which `starts` a command.
    fn client(&mut self, segment: &Segment<'_>, starts: bool, cx: &mut ConnectionContext<'_>) {
        let half = self.open.is_none() && self.replies.in_message();
        if starts {
            self.end_open(cx);
        }
        if self.resync.client(
            segment,
            starts,
            if half { ResponsePosition::Inside } else { ResponsePosition::Boundary },
        ) {
            self.realigned = true;
            self.forget_waiting(cx);
        }
    }

    fn item(&mut self, from: Sender, item: Item, cx: &mut ConnectionContext<'_>) {
        match (from, item) {
            (Sender::Client, Item::Message(message)) => self.command(&message, cx),
            (Sender::Server, Item::Message(message)) => self.reply(&message, cx),
            (_, Item::Gap { gap, begun }) => {
                match (from, begun) {
                    // Its name is known, and the next reply answers it.
                    (Sender::Client, Some(message)) if gap == GapKind::Truncated && is_named(&message) => {
                        self.command(&message, cx);
                    }
                    (Sender::Client, Some(_)) => cx.orphan(),
                    (Sender::Client, None) => {}
                    (Sender::Server, begun) => self.cut(gap, begun),
                }
                self.lose(from, gap, cx);
            }
        }
    }

    /// Whether the unknown first word of a line is a command's name: this client sends inline commands, and the word is
    /// written as commands are.
    fn is_inline_command(&self, name: &Word) -> bool {
        self.inline && name.as_bytes().iter().all(|byte| byte.is_ascii_uppercase() || b"._".contains(byte))
    }

    fn command(&mut self, message: &Message, cx: &mut ConnectionContext<'_>) {
        let [name, argument, second] = &message.words;
        if message.elements == 0 {
            return;
        }
        cx.message();
        // The first string of an array is a command's name. The first word of a line may be data.
        let (operation, unconfirmed) = match command::known(name.as_bytes()) {
            Some(known) => (cx.word(called(known, message.blocks)), Word::default()),
            None if message.kind == b'*' || self.is_inline_command(name) => {
                match unusual_name(name.as_bytes(), |text| cx.known_name(NameKind::Command, text)).flatten() {
                    Some(confirmed) => (confirmed, Word::default()),
                    None => (Symbol::OTHER, *name),
                }
            }
            None => (Symbol::OTHER, Word::default()),
        };
        self.inline |= message.kind == INLINE && detect::is_distinct(name.as_bytes());
        let kind = kind(message);
        self.subscriber.sends(name);
        let request = Request {
            operation,
            resource: Resource::Name(Symbol::NONE),
            start: message.start,
            bytes: message.bytes,
        };
        let mode = self.mode;
        if name.is("CLIENT") && argument.is("REPLY") && !self.subscriber.refuses_changes() {
            self.mode = match () {
                () if second.is("OFF") => Replies::Off,
                () if second.is("SKIP") => Replies::Skip,
                () => Replies::On,
            };
        } else if mode == Replies::Skip {
            self.mode = Replies::On;
        }
        let answered = match (mode, self.mode) {
            // `CLIENT REPLY SKIP` itself is not answered either.
            (_, Replies::Off) | (Replies::Skip, _) | (Replies::On, Replies::Skip) => false,
            _ => true,
        };
        if !answered {
            if kind.is_subscription() {
                // It is confirmed all the same, as pushes are.
                self.subscriber.subscribes();
            }
            let outcome =
                Outcome { status: Status::None, error: ErrorClass::None, end: message.end, bytes: 0 };
            return cx.emit(Protocol::Redis, &request, &outcome);
        }
        let by_array = command::may_answer_array(name.as_bytes());
        let waiting = Waiting { request, kind, unconfirmed, by_array };
        self.begun = true;
        self.resync.request();
        if self.resync.is_desynced() {
            self.subscriber.presume_if(kind.is_subscription());
            return cx.unparsed();
        }
        if let Some(forgotten) = self.waiting.push(waiting, cx.pending_max()) {
            self.subscriber.presume_if(forgotten.kind.is_subscription());
            cx.unparsed();
        }
        while !self.waiting.is_empty() {
            let Some(early) = self.early.pop_front() else { break };
            if message.start.since(early.end) > EARLY_NS_MAX {
                cx.orphan();
            } else {
                self.reply(&early, cx);
            }
        }
    }

    fn reply(&mut self, message: &Message, cx: &mut ConnectionContext<'_>) {
        if !self.begun && !self.requests.in_message() {
            // Joined in the middle: the answer to a command that was never seen, or what was published.
            self.subscriber.presume_if(is_published(message));
            return;
        }
        let front = self.waiting.front();
        let confirms = front.is_some_and(|front| front.kind.is_subscription());
        // Joined in the middle of a subscription: otherwise no such array answers this command.
        let answers = front.is_none_or(|front| front.by_array && !confirms);
        self.subscriber.presume_if(!answers && (is_published(message) || is_pong(message)));
        let confirmed = self.subscriber.is_confirmed_by(message, confirms);
        if self.subscriber.is_push(message) {
            return;
        }
        if self.mode == Replies::Off && !confirmed && self.waiting.is_empty() && !self.requests.in_message() {
            // `CLIENT REPLY ON` was lost, or is captured after its reply.
            self.mode = Replies::On;
        }
        match self.waiting.front() {
            Some(Waiting { kind: Kind::Subscription(left), .. }) if confirmed && *left > 1 => {
                if let Some(front) = self.waiting.front_mut() {
                    front.kind = Kind::Subscription(left_after(front.kind));
                    return;
                }
            }
            // More confirmations than channels were named: `UNSUBSCRIBE` from all.
            Some(Waiting { kind: Kind::Plain | Kind::Last, .. }) | None if confirmed => return,
            None => {
                if self.waiting.is_empty() {
                    if self.resync.is_desynced() {
                        self.resync.response();
                    } else if !self.realigned && self.early.len() < EARLY_MAX {
                        self.early.push_back(*message);
                    } else {
                        cx.orphan();
                        self.lose(Sender::Client, GapKind::Lost, cx);
                    }
                    return;
                }
            }
            Some(_) => {}
        }
        self.resync.response();
        match self.waiting.pop() {
            Some(Next::Waiting(waiting)) => {
                let (status, error) = outcome(message, cx);
                let outcome = Outcome { status, error, end: message.end, bytes: message.bytes };
                let request = waiting.confirmed(message, cx);
                cx.emit(Protocol::Redis, &request, &outcome);
                if error == ErrorClass::None && !confirmed {
                    let replies_are_on = self.mode == Replies::On;
                    self.subscriber.is_answered_by(message, waiting.kind.is_subscription(), replies_are_on);
                }
                self.ended |= waiting.kind == Kind::Last && error == ErrorClass::None;
            }
            Some(Next::Forgotten) | None => {}
        }
    }

    /// The rest of a reply was not captured: it is still the next one's.
    fn cut(&mut self, gap: GapKind, begun: Option<Message>) {
        let Some(reply) = begun.filter(|reply| {
            self.begun && gap == GapKind::Truncated && reply.kind != 0 && !self.subscriber.is_push(reply)
        }) else {
            return;
        };
        if self.waiting.front().is_some_and(|waiting| waiting.kind == Kind::Plain)
            && let Some(Next::Waiting(waiting)) = self.waiting.pop()
        {
            self.open = Some((waiting, reply));
        }
    }

    /// The command that is answered by a segment that could not be read, if no other one waits.
    fn answered_unread(&mut self, segment: &Segment<'_>, replies: &Reader) -> Option<Waiting> {
        let is_lone = segment.is_unreadable()
            && !self.resync.is_desynced()
            && self.subscriber == Subscriber::No
            && !replies.in_message()
            && self.waiting.len() == 1;
        let front = self.waiting.front().filter(|waiting| is_lone && waiting.kind == Kind::Plain).copied()?;
        self.waiting.pop();
        Some(front)
    }

    /// The reply whose end was not captured has ended with its last byte so far.
    fn end_open(&mut self, cx: &mut ConnectionContext<'_>) {
        let Some((waiting, reply)) = self.open.take() else { return };
        let (status, error) = outcome(&reply, cx);
        let request = waiting.confirmed(&reply, cx);
        let outcome = Outcome { status, error, end: reply.end, bytes: reply.bytes };
        cx.emit(Protocol::Redis, &request, &outcome);
        self.replies.forget();
    }

    /// Bytes of one end are missing: what follows cannot be paired. Commands before a loss of the client's bytes are
    /// still answered first.
    fn lose(&mut self, of: Sender, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        cx.count_gap();
        self.resync.desync(of, gap);
        for _ in self.early.drain(..) {
            cx.orphan();
        }
        match of {
            Sender::Client => self.inline = false,
            Sender::Server => self.forget_waiting(cx),
        }
    }

    fn forget_waiting(&mut self, cx: &mut ConnectionContext<'_>) {
        while let Some(waiting) = self.waiting.drain_one() {
            self.subscriber.presume_if(waiting.kind.is_subscription());
            cx.unparsed();
        }
    }
}

/// Whether a command whose end is missing shows its name: its first argument has begun.
fn is_named(message: &Message) -> bool {
    let [name, argument, _] = &message.words;
    message.kind == b'*'
        && message.elements > 1
        && !argument.as_bytes().is_empty()
        && command::known(name.as_bytes()).is_some()
}
