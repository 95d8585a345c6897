//! The binary protocol (memcached: wiki, `BinaryProtocolRevamped`): 24-byte headers, answers in order.

use crate::{
    ErrorClass, Protocol, Status, Timestamp,
    memcached::{class, status},
    parser::{ConnectionContext, Framing, Outcome, Request, Resource, Segment, Sender},
    pending::{Fifo, Next},
    stream::{Framer, Head, Piece, Step},
};

/// Bytes of a header.
pub(super) const HEADER: usize = 24;

/// Bytes of a head that are looked at: header, extras, and a key's class.
const HEAD_MAX: usize = HEADER + 20 + 40;

/// A header's fields that matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: u8,
    key: u16,
    extras: u8,
    /// Of an answer.
    status: u16,
    body: u32,
    opaque: u32,
}

/// Reads a header with this magic byte; `None` where a rule of the protocol is broken.
pub(super) fn header(bytes: &[u8], magic: u8) -> Option<Header> {
    let fields: &[u8; HEADER] = bytes.first_chunk()?;
    let [found, opcode, k0, k1, extras, data_type, s0, s1, b0, b1, b2, b3, o0, o1, o2, o3, ..] = *fields;
    let header = Header {
        opcode,
        key: u16::from_be_bytes([k0, k1]),
        extras,
        status: u16::from_be_bytes([s0, s1]),
        body: u32::from_be_bytes([b0, b1, b2, b3]),
        opaque: u32::from_be_bytes([o0, o1, o2, o3]),
    };
    let sane = found == magic
        && data_type == 0
        && operation(opcode).is_some()
        && header.key <= 250
        && header.extras <= 20
        && header.body <= 1 << 30
        && u32::from(header.key) + u32::from(header.extras) <= header.body
        && (magic == REQUEST || header.status < 0x100);
    sane.then_some(header)
}

/// Magic byte of a request.
pub(super) const REQUEST: u8 = 0x80;
/// Magic byte of an answer.
pub(super) const ANSWER: u8 = 0x81;

/// Extras that a request of this opcode has, bytes, and whether it has a key.
pub(super) fn request_shape_is_right(header: &Header) -> bool {
    let (extras, key): (&[u8], bool) = match header.opcode {
        0x00 | 0x09 | 0x0c | 0x0d | 0x04 | 0x14 | 0x0e | 0x0f | 0x19 | 0x1a | 0x21 | 0x22 => (&[0], true),
        0x01..=0x03 | 0x11..=0x13 => (&[8], true),
        0x05 | 0x06 | 0x15 | 0x16 => (&[20], true),
        0x1c..=0x1e => (&[4], true),
        0x08 | 0x18 => (&[0, 4], false),
        0x10 => return header.extras == 0,
        0x07 | 0x0a | 0x0b | 0x17 | 0x20 => (&[0], false),
        _ => return false,
    };
    extras.contains(&header.extras) && key == (header.key > 0)
}

/// Whether these bytes are a request from its start, with everything that a request's header and key must have.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    let Some(header) = header(bytes, REQUEST).filter(request_shape_is_right) else { return false };
    let values =
        matches!(operation(header.opcode), Some(("set" | "add" | "replace" | "append" | "prepend", _)))
            || matches!(header.opcode, 0x21 | 0x22);
    let known = u32::from(header.key) + u32::from(header.extras);
    let start = HEADER + usize::from(header.extras);
    let key = bytes.get(start..).unwrap_or_default();
    let key = key.get(..usize::from(header.key)).unwrap_or(key);
    // The virtual bucket belongs to a protocol that was never released.
    bytes.get(6..8) == Some(&[0, 0])
        && (values || header.body == known)
        && !key.iter().any(|b| b.is_ascii_control() || *b == b' ')
}

/// Whether these bytes answer a request: the same command and mark, or the first that is not kept quiet about.
pub(super) fn answers(bytes: &[u8], request: &[u8]) -> bool {
    let (Some(answer), Some(request)) = (header(bytes, ANSWER), header(request, REQUEST)) else {
        return false;
    };
    let quiet = operation(request.opcode).is_some_and(|(_, quiet)| quiet);
    quiet || (answer.opcode == request.opcode && answer.opaque == request.opaque)
}

/// Name of an opcode, and whether it is quiet.
fn operation(opcode: u8) -> Option<(&'static str, bool)> {
    Some(match opcode {
        0x00 | 0x0c => ("get", false),
        0x09 | 0x0d => ("get", true),
        0x01 => ("set", false),
        0x11 => ("set", true),
        0x02 => ("add", false),
        0x12 => ("add", true),
        0x03 => ("replace", false),
        0x13 => ("replace", true),
        0x04 => ("delete", false),
        0x14 => ("delete", true),
        0x05 => ("incr", false),
        0x15 => ("incr", true),
        0x06 => ("decr", false),
        0x16 => ("decr", true),
        0x07 => ("quit", false),
        0x17 => ("quit", true),
        0x08 => ("flush_all", false),
        0x18 => ("flush_all", true),
        0x0a => ("noop", false),
        0x0b => ("version", false),
        0x0e => ("append", false),
        0x19 => ("append", true),
        0x0f => ("prepend", false),
        0x1a => ("prepend", true),
        0x10 => ("stats", false),
        0x1c => ("touch", false),
        0x1d => ("gat", false),
        0x1e => ("gat", true),
        0x20 => ("sasl_list_mechs", false),
        0x21 => ("sasl_auth", false),
        0x22 => ("sasl_step", false),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    opcode: u8,
    opaque: u32,
    quiet: bool,
}

/// One connection of the binary protocol.
#[derive(Debug, Default)]
pub(super) struct Binary {
    requests: Framer,
    answers: Framer,
    waiting: Fifo<Waiting>,
    incoming: Option<Waiting>,
    answering: Option<Header>,
}

impl Binary {
    pub(super) fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) {
        match segment.from {
            Sender::Client => {
                let mut requests = std::mem::take(&mut self.requests);
                requests.segment(segment, HEAD_MAX, |piece| self.request(&piece, cx));
                self.requests = requests;
            }
            Sender::Server => {
                let mut answers = std::mem::take(&mut self.answers);
                answers.segment(segment, HEAD_MAX, |piece| self.answer(&piece, cx));
                self.answers = answers;
            }
        }
    }

    /// How many commands wait.
    pub(super) fn pending(&self) -> usize {
        self.waiting.known()
    }

    /// Where this end's bytes stand.
    pub(super) fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.requests.framing(),
            Sender::Server => self.answers.framing(),
        }
    }

    fn request(&mut self, piece: &Piece<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Head(head) => return self.request_head(head, cx),
            Piece::End { .. } => {
                let limit = cx.pending_max();
                if self.incoming.take().and_then(|waiting| self.waiting.push(waiting, limit)).is_some() {
                    cx.unparsed();
                }
            }
            Piece::Gap => {
                if self.incoming.take().is_some() {
                    cx.unparsed();
                }
                self.lose(cx);
            }
        }
        Step::Lost
    }

    fn request_head(&mut self, head: &Head<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        if head.bytes.len() < HEADER {
            return Step::More;
        }
        let Some((header, (name, quiet))) = header(head.bytes, REQUEST)
            .filter(request_shape_is_right)
            .and_then(|header| operation(header.opcode).map(|operation| (header, operation)))
        else {
            return Step::Lost;
        };
        let key_start = HEADER + usize::from(header.extras);
        let key_end = key_start + usize::from(header.key);
        let wanted = key_end.min(HEAD_MAX);
        if head.bytes.len() < wanted && !head.last {
            return Step::More;
        }
        let key = head.bytes.get(key_start..key_end.min(head.bytes.len())).unwrap_or_default();
        let length = HEADER as u64 + u64::from(header.body);
        cx.message();
        let request = Request {
            operation: cx.word(name),
            resource: Resource::Name(class(key, cx)),
            start: head.at,
            bytes: length,
        };
        self.incoming = Some(Waiting { request, opcode: header.opcode, opaque: header.opaque, quiet });
        Step::Take(length)
    }

    fn answer(&mut self, piece: &Piece<'_>, cx: &mut ConnectionContext<'_>) -> Step {
        match piece {
            Piece::Head(head) => {
                if head.bytes.len() < HEADER {
                    return Step::More;
                }
                let Some(header) = header(head.bytes, ANSWER) else { return Step::Lost };
                self.answering = Some(header);
                return Step::Take(HEADER as u64 + u64::from(header.body));
            }
            Piece::End { at } => {
                if let Some(header) = self.answering.take() {
                    self.answered(&header, *at, cx);
                }
            }
            Piece::Gap => self.lose(cx),
        }
        Step::Lost
    }

    fn answered(&mut self, header: &Header, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        let mine = |waiting: &Waiting| waiting.opcode == header.opcode && waiting.opaque == header.opaque;
        // Quiet commands before the one that is answered were kept silent about.
        while let Some(&front) = self.waiting.front() {
            if mine(&front) || !front.quiet {
                break;
            }
            self.waiting.pop();
            let outcome = Outcome { status: Status::None, error: ErrorClass::None, end: at, bytes: 0 };
            cx.emit(Protocol::Memcached, &front.request, &outcome);
        }
        // Statistics come as many answers, of which the last is empty.
        if header.opcode == 0x10 && header.body > 0 && header.status == 0 {
            return;
        }
        if !self.waiting.front().is_none_or(mine) {
            return;
        }
        if let Some(Next::Waiting(waiting)) = self.waiting.pop() {
            let (word, error) = result(header.opcode, header.status);
            let outcome = Outcome {
                status: status(word.as_bytes(), cx),
                error,
                end: at,
                bytes: HEADER as u64 + u64::from(header.body),
            };
            cx.emit(Protocol::Memcached, &waiting.request, &outcome);
        }
    }

    fn lose(&mut self, cx: &mut ConnectionContext<'_>) {
        cx.count_gap();
        self.answering = None;
        // Answers name their command, so those that wait may still be found; a quiet one cannot be distinguished from a lost one.
        while self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
    }

    pub(super) fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if self.incoming.take().is_some() {
            cx.unparsed();
        }
        while let Some(waiting) = self.waiting.drain_one() {
            if waiting.quiet {
                let outcome = Outcome { status: Status::None, error: ErrorClass::None, end: now, bytes: 0 };
                cx.emit(Protocol::Memcached, &waiting.request, &outcome);
            } else {
                cx.emit(Protocol::Memcached, &waiting.request, &Outcome::none(now));
            }
        }
    }
}

/// An answer's status in the words of the text protocol.
fn result(opcode: u8, status: u16) -> (&'static str, ErrorClass) {
    let get = matches!(operation(opcode), Some(("get" | "gat", _)));
    match status {
        0x00 if get => ("HIT", ErrorClass::None),
        0x00 => ("", ErrorClass::None),
        0x01 if get => ("MISS", ErrorClass::None),
        0x01 => ("NOT_FOUND", ErrorClass::None),
        0x02 => ("EXISTS", ErrorClass::None),
        0x05 => ("NOT_STORED", ErrorClass::None),
        0x21 => ("SASL_CONTINUE", ErrorClass::None),
        0x03 | 0x04 | 0x06 | 0x20 | 0x81 => ("CLIENT_ERROR", ErrorClass::Client),
        _ => ("SERVER_ERROR", ErrorClass::Server),
    }
}
