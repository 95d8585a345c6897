//! AMQP 0-9-1, with the extensions of `RabbitMQ`.
//!
//! ```text
//! Segment → Framer (one per direction) → frame → Channel: methods in order, content, confirms → Exchange
//! ```
//!
//! - A method that the server answers (`queue.declare`, `basic.get`, …) is an exchange until its answer; on one
//!   channel answers come in order. With `no-wait` it is over at once.
//! - `basic.publish` is over with the last byte of its message; on a channel in confirm mode with the server's
//!   acknowledgement of it (`NACK` when it is refused). The server returns what cannot be routed: a `basic.return`
//!   with its reply code.
//! - `basic.deliver` is over with the last byte of its message. The client's reply to it (`basic.ack`, `basic.nack`,
//!   `basic.reject`) is an exchange of its own, over at once.
//! - When the server closes a channel or the connection with an error, what waits there ends with the reply code;
//!   with nothing waiting the close itself is the exchange.
//!
//! The resource is the queue, or else the exchange, or else the routing key; names that name one thing out of many
//! become `{}`. Messages, headers and credentials are skipped by length.

mod channel;
mod channels;
#[cfg(test)]
mod tests;
mod wire;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    ErrorClass, NameKind, Protocol, Symbol, Timestamp,
    amqp::{
        channel::{Confirms, Delivery, Message, Waiting, outcome, over},
        channels::Channels,
        wire::{BODY, CONTENT, Frame, Id, METHOD, Method},
    },
    parser::{
        ConnectionContext, Entry, Flow, Framing, Outcome, Parser, Request, Resource, Segment, Sender, Start,
        Transport,
    },
    routes,
    stream::{Framer, Head, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Amqp,
    transports: &[Transport::Stream],
    detect: wire::detect,
    start: |_: Start| Box::new(Amqp::default()),
    offload: None,
};

/// Most bytes of a frame that are looked at: three names of 255 bytes, and what stands before them.
const LOOKED_AT: usize = 1024;

/// What may wait on each channel, however many channels share the connection's bound.
const WAITING_MIN: usize = 16;

/// Most consumers of a channel whose queues are remembered: the newest.
const CONSUMERS_MAX: usize = 64;

/// What a frame will do when its last byte is here.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Nothing,
    /// What it does is among bytes that are missing.
    Missing,
    Request {
        request: Request,
        replies: [Id; 2],
        no_wait: bool,
    },
    Reply {
        id: Id,
        names: u64,
    },
    Begin(Message),
    Got {
        message: bool,
    },
    Acknowledge {
        request: Request,
        tag: u64,
        multiple: bool,
        positive: bool,
    },
    Close {
        request: Request,
        connection: bool,
        code: Option<u16>,
    },
    Content {
        body: u64,
    },
    Body,
}

#[derive(Clone, Copy, Debug)]
struct Passing {
    channel: u16,
    bytes: u64,
    effect: Effect,
}

/// One direction.
#[derive(Debug, Default)]
struct Reader {
    framer: Framer,
    passing: Option<Passing>,
    greeted: bool,
}

/// One connection.
#[derive(Debug, Default)]
struct Amqp {
    /// By sender.
    readers: [Reader; 2],
    channels: Channels,
    scratch: String,
}

impl Parser for Amqp {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let from = segment.from;
        let mut reader = std::mem::take(&mut self.readers[from as usize]);
        let Reader { framer, passing, greeted } = &mut reader;
        framer.segment(segment, LOOKED_AT, |piece| match piece {
            Piece::Head(head) => match self.head(&head, from, greeted, cx) {
                Ok((frame, effect)) => {
                    let bytes = frame.length() as u64;
                    *passing = Some(Passing { channel: frame.channel, bytes, effect });
                    Step::Take(bytes)
                }
                Err(step) => step,
            },
            Piece::End { at } => {
                if let Some(passing) = passing.take() {
                    self.passed(&passing, from, at, cx);
                }
                Step::More
            }
            Piece::Gap => {
                cx.count_gap();
                *passing = None;
                self.lost(from, segment.at, cx);
                Step::More
            }
        });
        self.readers[from as usize] = reader;
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        self.readers[from as usize].framer.framing()
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let none = Outcome::none(now);
        for mut channel in self.channels.take() {
            for message in channel.messages.iter_mut().filter_map(Option::take) {
                cx.emit(Protocol::Amqp, &message.request, &none);
            }
            channel.end(&none, cx);
        }
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        for channel in self.channels.all() {
            channel.give_up(now, cx);
        }
    }
}

impl Amqp {
    /// Reads a frame's head.
    fn head(
        &mut self,
        head: &Head<'_>,
        from: Sender,
        greeted: &mut bool,
        cx: &mut ConnectionContext<'_>,
    ) -> Result<(Frame, Effect), Step> {
        let lost = if head.last { Step::Lost } else { Step::More };
        if head.resync && !wire::plausible(head.bytes).ok_or(lost)? {
            return Err(Step::Lost);
        }
        if head.bytes.len() < wire::HEADER {
            return Err(lost);
        }
        if head.bytes.starts_with(b"AMQP") && from == Sender::Client && !*greeted {
            *greeted = true;
            // The greeting is as long as a frame without a payload.
            return Ok((Frame { kind: 0, channel: 0, size: 0 }, Effect::Nothing));
        }
        *greeted = true;
        let frame = wire::frame(head.bytes).ok_or(Step::Lost)?;
        let wanted = match frame.kind {
            METHOD => frame.length().min(LOOKED_AT),
            CONTENT => wire::HEADER + 12,
            _ => wire::HEADER,
        };
        if head.bytes.len() < wanted && !head.last {
            return Err(Step::More);
        }
        if !wire::ends(head.bytes, &frame) && frame.length() <= LOOKED_AT && frame.kind == METHOD {
            return Err(Step::Lost);
        }
        if head.lacks(wanted) {
            cx.incomplete();
        }
        let end = head.bytes.len().min(frame.length() - 1);
        let payload = head.bytes.get(wire::HEADER..end).unwrap_or_default();
        let effect = match frame.kind {
            METHOD => match wire::method(payload) {
                // How many publications it is about.
                Some((Method::Acknowledge { .. }, false)) if from == Sender::Server => Effect::Missing,
                Some((method, _)) => self.method(&method, &frame, from, head.at, cx),
                None if payload.len() < 4 => Effect::Missing,
                None => return Err(Step::Lost),
            },
            CONTENT => wire::body_size(payload).map_or(Effect::Missing, |body| Effect::Content { body }),
            BODY => Effect::Body,
            _ => Effect::Nothing,
        };
        Ok((frame, effect))
    }

    fn method(
        &mut self,
        method: &Method<'_>,
        frame: &Frame,
        from: Sender,
        start: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) -> Effect {
        let bytes = frame.length() as u64;
        let mut request = |name, about: &[u8], cx: &mut ConnectionContext<'_>| Request {
            operation: cx.word(name),
            resource: Resource::Name(self.name(about, cx)),
            start,
            bytes,
        };
        let message = |request, what| Effect::Begin(Message { request, what, left: None });
        match (*method, from) {
            (Method::Request { name, about, replies, no_wait }, Sender::Client) => {
                Effect::Request { request: request(name, about, cx), replies, no_wait }
            }
            (Method::Reply { id, names }, Sender::Server) => Effect::Reply { id, names: hash(names) },
            (Method::Publish { exchange, key }, Sender::Client) => {
                let about = if exchange.is_empty() { key } else { exchange };
                message(request("basic.publish", about, cx), Delivery::Publish)
            }
            (Method::Deliver { consumer, exchange, key }, Sender::Server) => {
                let tag = hash(consumer);
                let channel = self.channels.get(frame.channel);
                let known = channel.and_then(|channel| {
                    channel.consumers.iter().find(|(of, _)| *of == tag).map(|(_, queue)| *queue)
                });
                let mut request = |about: &[u8], cx: &mut ConnectionContext<'_>| Request {
                    operation: cx.word("basic.deliver"),
                    resource: Resource::Name(known.unwrap_or_else(|| self.name(about, cx))),
                    start,
                    bytes,
                };
                message(request(if exchange.is_empty() { key } else { exchange }, cx), Delivery::Deliver)
            }
            (Method::Got { message }, Sender::Server) => Effect::Got { message },
            (Method::Return { code, exchange, key }, Sender::Server) => {
                let about = if exchange.is_empty() { key } else { exchange };
                message(request("basic.return", about, cx), Delivery::Return { code })
            }
            (Method::Acknowledge { name, tag, multiple, positive }, _) => {
                let request = request(name, &[], cx);
                Effect::Acknowledge { request, tag, multiple, positive }
            }
            (Method::Close { connection, code }, _) => {
                let name = if connection { "connection.close" } else { "channel.close" };
                Effect::Close { request: request(name, &[], cx), connection, code }
            }
            _ => Effect::Nothing,
        }
    }

    /// A frame went by.
    fn passed(&mut self, passing: &Passing, from: Sender, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        match passing.effect {
            Effect::Nothing => return,
            Effect::Missing => {
                cx.count_gap();
                return self.lost(from, at, cx);
            }
            _ => {}
        }
        if let Effect::Close { request, connection, code } = passing.effect {
            return self.closing(&request, passing, from, connection, code, at, cx);
        }
        if let Effect::Reply { id: (10, 51) | (20, 41), .. } = passing.effect {
            // close-ok: whatever else waits will not be answered.
            self.reply(passing, (if passing.channel == 0 { 10 } else { 20 }, 0), 0, at, cx);
            return;
        }
        let share = cx.limits().pending_per_connection / self.channels.len().max(1);
        let Some(channel) = self.channels.use_or_open(passing.channel) else { return cx.orphan() };
        channel.most = share.max(WAITING_MIN);
        match passing.effect {
            Effect::Request { request, replies, no_wait } => {
                cx.message();
                if no_wait {
                    return cx.emit(Protocol::Amqp, &request, &over(at, 0));
                }
                let waiting = Waiting { request, replies };
                if channel.waiting.push(waiting, channel.most).is_some() {
                    cx.unparsed();
                }
            }
            Effect::Reply { id, names } => self.reply(passing, id, names, at, cx),
            Effect::Got { message } => {
                let id = (60, if message { 71 } else { 72 });
                if channel.is_late(id) {
                    return;
                }
                let Some(waiting) = channel.answered(id, cx) else { return cx.orphan() };
                if message {
                    let what = Delivery::Got { bytes: passing.bytes };
                    channel.begin(Message { request: waiting.request, what, left: None }, from, cx);
                } else {
                    cx.emit(Protocol::Amqp, &waiting.request, &over(at, passing.bytes));
                }
            }
            Effect::Begin(message) => {
                cx.message();
                channel.begin(message, from, cx);
            }
            Effect::Content { body } => channel.content(from, body, passing.bytes, at, cx),
            Effect::Body => channel.body(from, passing.bytes, at, cx),
            Effect::Acknowledge { request, tag, multiple, positive } => {
                if from == Sender::Client {
                    cx.message();
                    cx.emit(Protocol::Amqp, &request, &over(at, 0));
                } else {
                    channel.confirmed(tag, multiple, positive, passing.bytes, at, cx);
                }
            }
            Effect::Close { .. } | Effect::Missing | Effect::Nothing => {}
        }
    }

    fn reply(
        &mut self,
        passing: &Passing,
        id: Id,
        names: u64,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        let Some(channel) = self.channels.get_mut(passing.channel) else { return cx.orphan() };
        if channel.is_late(id) {
            return;
        }
        let Some(waiting) = channel.answered(id, cx) else { return cx.orphan() };
        cx.emit(Protocol::Amqp, &waiting.request, &over(at, passing.bytes));
        match id {
            // basic.consume-ok: the consumer's tag.
            (60, 21) => {
                if let Resource::Name(queue) = waiting.request.resource {
                    channel.consumers.retain(|(tag, _)| *tag != names);
                    if channel.consumers.len() >= CONSUMERS_MAX {
                        channel.consumers.remove(0);
                    }
                    channel.consumers.push((names, queue));
                }
            }
            (85, 11) => channel.confirms = Some(Confirms::default()),
            // channel.close-ok, connection.close-ok.
            (10 | 20, 0) => {
                if let Some(mut channel) = self.channels.remove(passing.channel) {
                    channel.end(&Outcome::none(at), cx);
                }
            }
            _ => {}
        }
    }

    #[allow(clippy::too_many_arguments)] // One frame's facts.
    fn closing(
        &mut self,
        request: &Request,
        passing: &Passing,
        from: Sender,
        connection: bool,
        code: Option<u16>,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        if from == Sender::Client {
            cx.message();
            let id = (if connection { 10 } else { 20 }, 0);
            let waiting = Waiting { request: *request, replies: [id; 2] };
            let Some(channel) = self.channels.use_or_open(passing.channel) else { return cx.unparsed() };
            if channel.waiting.push(waiting, channel.most.max(WAITING_MIN)).is_some() {
                cx.unparsed();
            }
            return;
        }
        let (status, error) = match code {
            Some(code) => outcome(code),
            // A server closes a channel for an error only.
            None if !connection => (cx.unknown_status().0, ErrorClass::Client),
            None => cx.unknown_status(),
        };
        let outcome = Outcome { status, error, end: at, bytes: passing.bytes };
        let mut ended = false;
        if connection {
            for mut channel in self.channels.take() {
                ended |= channel.end(&outcome, cx);
            }
        } else if let Some(mut channel) = self.channels.remove(passing.channel) {
            ended = channel.end(&outcome, cx);
        }
        if !ended {
            cx.message();
            cx.emit(Protocol::Amqp, request, &outcome);
        }
    }

    /// Bytes of one end are missing.
    fn lost(&mut self, from: Sender, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        for channel in self.channels.all() {
            channel.cut(from, at, cx);
            // Publications are not numbered any more, or their acknowledgements are missing.
            for _ in channel.confirms.take().into_iter().flat_map(|confirms| confirms.waiting) {
                cx.unparsed();
            }
            while from == Sender::Server && channel.waiting.drain_one().is_some() {
                cx.unparsed();
            }
        }
    }

    fn name(&mut self, name: &[u8], cx: &mut ConnectionContext<'_>) -> Symbol {
        // Names that servers make up.
        for (prefix, text) in
            [(b"amq.gen-".as_slice(), "amq.gen-{}"), (b"amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to")]
        {
            if name.starts_with(prefix) {
                return cx.word(text);
            }
        }
        if name.is_empty() {
            return Symbol::NONE;
        }
        routes::template::name(name, &mut self.scratch);
        cx.name(NameKind::Destination, &self.scratch)
    }
}

/// Whose error a reply code is.
#[cfg(test)]
pub(crate) fn error_class(code: u16) -> crate::ErrorClass {
    channel::outcome(code).1
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
