//! AMQP 0-9-1 on the wire: frames and methods (`amqp0-9-1.extended.xml`), and detection by them.

use crate::parser::{Detection, Prefix, Sender};

/// A client's first bytes.
const GREETING: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// Before a frame's payload: type, channel, size.
pub(super) const HEADER: usize = 7;

/// Largest frame accepted, bytes; RabbitMQ's own limit is 128 KiB unless it is set.
const FRAME_MAX: usize = 16 << 20;

/// Behind every frame.
const FRAME_END: u8 = 0xce;

/// Kinds of frames.
pub(super) const METHOD: u8 = 1;
pub(super) const CONTENT: u8 = 2;
pub(super) const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// A heartbeat.
const HEARTBEAT_FRAME: [u8; 8] = [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];

/// Most frames that are looked at for one that only one end sends.
const FRAMES_MAX: usize = 64;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u16,
    /// Of the payload, bytes.
    pub(super) size: usize,
}

impl Frame {
    /// The whole frame, bytes.
    pub(super) fn length(&self) -> usize {
        HEADER + self.size + 1
    }
}

/// Reads a frame's header; `None` when it is none. `bytes` has at least [`HEADER`] bytes.
pub(super) fn frame(bytes: &[u8]) -> Option<Frame> {
    let &[kind, c1, c0, s3, s2, s1, s0, ..] = bytes else { return None };
    let channel = u16::from_be_bytes([c1, c0]);
    let size = usize::try_from(u32::from_be_bytes([s3, s2, s1, s0])).ok()?;
    let fits = match kind {
        METHOD => size >= 4,
        // Class, weight, size of the body, flags.
        CONTENT => size >= 14 && channel > 0,
        BODY => size > 0 && channel > 0,
        HEARTBEAT => size == 0 && channel == 0,
        _ => false,
    };
    (fits && size <= FRAME_MAX).then_some(Frame { kind, channel, size })
}

/// Whether a frame ends as frames do, when its end is there.
pub(super) fn ends(bytes: &[u8], frame: &Frame) -> bool {
    bytes.get(frame.length() - 1).is_none_or(|end| *end == FRAME_END)
}

/// The size of the body that a content header announces.
pub(super) fn body_size(payload: &[u8]) -> Option<u64> {
    payload.get(4..12)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// A method, by class and number.
pub(super) type Id = (u16, u16);

/// The meaning of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method<'a> {
    /// A client's method that is answered by one of these, unless it has `no-wait` set.
    Request { name: &'static str, about: &'a [u8], replies: [Id; 2], no_wait: bool },
    /// The answer to one, with what it names: a consumer's tag, a queue.
    Reply { id: Id, names: &'a [u8] },
    /// A message from the client.
    Publish { exchange: &'a [u8], key: &'a [u8] },
    /// A message to the client.
    Deliver { consumer: &'a [u8], exchange: &'a [u8], key: &'a [u8] },
    /// The answer to `basic.get`: with a message, or without.
    Got { message: bool },
    /// A message that could not be routed.
    Return { code: Option<u16>, exchange: &'a [u8], key: &'a [u8] },
    /// The client acknowledges a delivery, or the server a publication.
    Acknowledge { name: &'static str, tag: u64, multiple: bool, positive: bool },
    /// `connection.close`, or of one channel.
    Close { connection: bool, code: Option<u16> },
    /// Nothing to count.
    Other,
}

/// A method's arguments, and whether they could be read to the end.
struct Arguments<'a> {
    bytes: &'a [u8],
    complete: bool,
}

impl<'a> Arguments<'a> {
    /// A reply code, if it is there.
    fn code(&mut self) -> Option<u16> {
        self.take(2).first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        if let Some((taken, rest)) = self.bytes.split_at_checked(count) {
            self.bytes = rest;
            return taken;
        }
        self.complete = false;
        self.bytes = &[];
        &[]
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn short(&mut self) -> u16 {
        self.take(2).first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    fn long_long(&mut self) -> u64 {
        self.take(8).first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn string(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }
}

/// Reads a method out of as much of its payload as is there; `None` when it is none.
pub(super) fn method(payload: &[u8]) -> Option<(Method<'_>, bool)> {
    let mut arguments = Arguments { bytes: payload, complete: true };
    let id = (arguments.short(), arguments.short());
    let found = arguments_of(id, &mut arguments)?;
    Some((found, arguments.complete))
}

fn arguments_of<'a>(id: Id, from: &mut Arguments<'a>) -> Option<Method<'a>> {
    let plain = |name, reply: u16| Method::Request {
        name,
        about: &[],
        replies: [(id.0, reply), (id.0, reply)],
        no_wait: false,
    };
    Some(match id {
        // The client's answers to the server's challenges are followed by another, by tune or by close.
        (10, 11) => Method::Request {
            name: "connection.start-ok",
            about: &[],
            replies: [(10, 20), (10, 30)],
            no_wait: false,
        },
        (10, 21) => Method::Request {
            name: "connection.secure-ok",
            about: &[],
            replies: [(10, 20), (10, 30)],
            no_wait: false,
        },
        (10, 40) => plain("connection.open", 41),
        (10, 70) => plain("connection.update-secret", 71),
        (10, 50) => Method::Close { connection: true, code: from.code() },
        (10, 20 | 30 | 41 | 51 | 71)
        | (20, 11 | 41)
        | (40, 11 | 21 | 31 | 51)
        | (50, 21 | 31 | 41 | 51)
        | (85, 11)
        | (90, 11 | 21 | 31) => Method::Reply { id, names: &[] },
        (20, 10) => plain("channel.open", 11),
        (20, 40) => Method::Close { connection: false, code: from.code() },
        (10, 10 | 31 | 60 | 61) | (20, 20 | 21) | (60, 100) => Method::Other,
        (40, 10 | 20 | 30 | 40) => exchange(id, from),
        (50, 10 | 20 | 30 | 40 | 50) => queue(id, from),
        (50, 11) => Method::Reply { id, names: from.string() },
        (60, _) => basic(id, from)?,
        (85, 10) => {
            let no_wait = from.byte() & 1 != 0;
            Method::Request { name: "confirm.select", about: &[], replies: [(85, 11); 2], no_wait }
        }
        (90, 10) => plain("tx.select", 11),
        (90, 20) => plain("tx.commit", 21),
        (90, 30) => plain("tx.rollback", 31),
        _ => return None,
    })
}

/// The class `exchange`.
fn exchange<'a>(id: Id, from: &mut Arguments<'a>) -> Method<'a> {
    from.short();
    let about = from.string();
    let (name, strings, reply, bit) = match id.1 {
        10 => ("exchange.declare", 1, 11, 4),
        20 => ("exchange.delete", 0, 21, 1),
        30 => ("exchange.bind", 2, 31, 0),
        _ => ("exchange.unbind", 2, 51, 0),
    };
    for _ in 0..strings {
        from.string();
    }
    let no_wait = from.byte() >> bit & 1 != 0;
    Method::Request { name, about, replies: [(40, reply); 2], no_wait }
}

/// The class `queue`.
fn queue<'a>(id: Id, from: &mut Arguments<'a>) -> Method<'a> {
    from.short();
    let about = from.string();
    let (name, strings, reply, bit) = match id.1 {
        10 => ("queue.declare", 0, 11, Some(4)),
        20 => ("queue.bind", 2, 21, Some(0)),
        30 => ("queue.purge", 0, 31, Some(0)),
        40 => ("queue.delete", 0, 41, Some(2)),
        _ => ("queue.unbind", 2, 51, None),
    };
    for _ in 0..strings {
        from.string();
    }
    let no_wait = bit.is_some_and(|bit| from.byte() >> bit & 1 != 0);
    Method::Request { name, about, replies: [(50, reply); 2], no_wait }
}

/// The class `basic`.
fn basic<'a>(id: Id, from: &mut Arguments<'a>) -> Option<Method<'a>> {
    let acknowledge = |name, positive, from: &mut Arguments<'a>| {
        let tag = from.long_long();
        Method::Acknowledge { name, tag, multiple: from.byte() & 1 != 0, positive }
    };
    Some(match id.1 {
        10 => Method::Request { name: "basic.qos", about: &[], replies: [(60, 11); 2], no_wait: false },
        20 => {
            from.short();
            let about = from.string();
            from.string();
            let no_wait = from.byte() >> 3 & 1 != 0;
            Method::Request { name: "basic.consume", about, replies: [(60, 21); 2], no_wait }
        }
        30 => {
            from.string();
            let no_wait = from.byte() & 1 != 0;
            Method::Request { name: "basic.cancel", about: &[], replies: [(60, 31); 2], no_wait }
        }
        40 => {
            from.short();
            Method::Publish { exchange: from.string(), key: from.string() }
        }
        50 => {
            let code = from.code();
            from.string();
            Method::Return { code, exchange: from.string(), key: from.string() }
        }
        60 => {
            let consumer = from.string();
            from.take(9);
            Method::Deliver { consumer, exchange: from.string(), key: from.string() }
        }
        70 => {
            from.short();
            let about = from.string();
            Method::Request { name: "basic.get", about, replies: [(60, 71), (60, 72)], no_wait: false }
        }
        71 => Method::Got { message: true },
        72 => Method::Got { message: false },
        80 => acknowledge("basic.ack", true, from),
        90 => acknowledge("basic.reject", false, from),
        110 => Method::Request { name: "basic.recover", about: &[], replies: [(60, 111); 2], no_wait: false },
        120 => acknowledge("basic.nack", false, from),
        21 => Method::Reply { id, names: from.string() },
        11 | 31 | 111 => Method::Reply { id, names: &[] },
        _ => return None,
    })
}

/// Who sends a method, when only one end does.
fn sender(method: &Method<'_>, payload: &[u8]) -> Option<Sender> {
    match method {
        // A server closes for an error only.
        Method::Request { .. } | Method::Publish { .. } | Method::Close { code: Some(..300), .. } => {
            Some(Sender::Client)
        }
        Method::Reply { id, .. } if *id != (10, 51) && *id != (20, 41) => Some(Sender::Server),
        Method::Deliver { .. } | Method::Got { .. } | Method::Return { .. } => Some(Sender::Server),
        Method::Other if payload.starts_with(&[0, 10, 0, 10]) => Some(Sender::Server),
        _ => None,
    }
}

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    let bytes = prefix.bytes;
    let more = if prefix.may_grow() { Detection::More } else { Detection::No };
    if bytes.starts_with(GREETING) {
        return Detection::Yes(Sender::Client);
    }
    if GREETING.starts_with(bytes) {
        return more;
    }
    let mut rest = bytes;
    for _ in 0..FRAMES_MAX {
        rest = match first_frame(rest) {
            FrameMatch::Of(sender) => return Detection::Yes(sender),
            FrameMatch::Either(length) => rest.get(length..).unwrap_or_default(),
            FrameMatch::No => return Detection::No,
            FrameMatch::Cut => return more,
        };
        if rest.is_empty() {
            break;
        }
    }
    // What follows decides, or the other end.
    Detection::More
}

/// What the first frame shows.
enum FrameMatch {
    No,
    /// It is not whole.
    Cut,
    /// Only this end sends it.
    Of(Sender),
    /// It is so long, and both ends send such.
    Either(usize),
}

fn first_frame(bytes: &[u8]) -> FrameMatch {
    let Some(&kind) = bytes.first() else { return FrameMatch::Cut };
    // What the first bytes exclude: frames of 16 MiB, methods of other classes, contents of other classes than `basic`.
    let fits = |at: usize, byte: u8| match (kind, at) {
        (METHOD | CONTENT | BODY, 0) => true,
        (HEARTBEAT, _) => HEARTBEAT_FRAME.get(at).is_none_or(|expected| *expected == byte),
        (_, 0) => false,
        (_, 3) | (METHOD, 4 | 7 | 9) | (CONTENT, 4 | 7 | 9 | 10) => byte == 0,
        (METHOD, 8) => matches!(byte, 10 | 20 | 40 | 50 | 60 | 85 | 90),
        (CONTENT, 8) => byte == 60,
        _ => true,
    };
    if !bytes.iter().take(11).enumerate().all(|(at, byte)| fits(at, *byte)) {
        return FrameMatch::No;
    }
    if bytes.len() < HEADER {
        return FrameMatch::Cut;
    }
    let Some(frame) = frame(bytes).filter(|frame| ends(bytes, frame)) else { return FrameMatch::No };
    match bytes.get(HEADER..frame.length() - 1) {
        Some(payload) if bytes.len() >= frame.length() => match method(payload).filter(|_| kind == METHOD) {
            Some((method, true)) => {
                sender(&method, payload).map_or(FrameMatch::Either(frame.length()), FrameMatch::Of)
            }
            _ if kind == METHOD => FrameMatch::No,
            _ => FrameMatch::Either(frame.length()),
        },
        _ => FrameMatch::Cut,
    }
}

/// Whether a message may start here beyond doubt: a whole method that ends as it should, or a heartbeat.
pub(super) fn plausible(bytes: &[u8]) -> Option<bool> {
    if bytes.len() < HEADER {
        return None;
    }
    let Some(frame) = frame(bytes).filter(|frame| matches!(frame.kind, METHOD | HEARTBEAT)) else {
        return Some(false);
    };
    let payload = bytes.get(HEADER..frame.length() - 1)?;
    let known = frame.kind == HEARTBEAT || method(payload).is_some_and(|(_, complete)| complete);
    bytes.get(frame.length() - 1).map(|end| *end == FRAME_END && known)
}
