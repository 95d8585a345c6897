//! TLS (RFC 8446, RFC 5246): recognised and counted, never decrypted.
//!
//! ```text
//! Segment → Tls: ClientHello, first record of the server → Exchange, then the connection is done
//! ```
//!
//! The exchange is the handshake's first step: a `ClientHello`, answered by a `ServerHello` or an alert. There is one
//! for each connection; its resource is the server name (RFC 6066), converged. After it the connection is ignored.

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp, domain,
    parser::{
        ConnectionContext, Detection, Entry, Flow, Framing, Outcome, Parser, Prefix, Request, Resource,
        Segment, Sender, Start, Transport, Unrecognised,
    },
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Tls,
    transports: &[Transport::Stream],
    detect,
    start: |_: Start| Box::new(Tls::default()),
    offload: None,
};

/// Most bytes of a `ClientHello` that are kept to find the server name: clients send their extensions in any order, among
/// them keys of 1.2 KiB (ML-KEM) and tickets.
const HELLO_BYTES_MAX: usize = 4096;

/// Length of a record's header (RFC 8446 section 5.1).
const RECORD_HEADER: usize = 5;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Record header, handshake header, version: type, 3, minor, length (2), type, length (3), 3, minor.
fn detect(prefix: &Prefix<'_>) -> Detection {
    let detection = hello(prefix.bytes);
    if detection == Detection::More && !prefix.may_grow() { Detection::No } else { detection }
}

fn hello(bytes: &[u8]) -> Detection {
    let mut kind = 0;
    let mut record = 0;
    let mut message = 0;
    for at in 0..11 {
        let Some(&byte) = bytes.get(at) else { return Detection::More };
        let fits = match at {
            0 => byte == HANDSHAKE,
            1 | 9 => byte == 3,
            2 | 10 => byte <= 3,
            3 | 4 => {
                record = record << 8 | usize::from(byte);
                at == 3 || (40..=1 << 14).contains(&record)
            }
            5 => {
                kind = byte;
                matches!(byte, CLIENT_HELLO | SERVER_HELLO)
            }
            _ => {
                message = message << 8 | usize::from(byte);
                // A hello may be longer than its record; only a large client's one is.
                at < 8
                    || (message >= 38 && (message + 4 <= record || kind == CLIENT_HELLO && message < 1 << 16))
            }
        };
        if !fits {
            return Detection::No;
        }
    }
    Detection::Yes(if kind == CLIENT_HELLO { Sender::Client } else { Sender::Server })
}

/// One connection.
#[derive(Debug, Default)]
struct Tls {
    hello: Vec<u8>,
    hello_bytes: u64,
    started: Option<Timestamp>,
    /// The first bytes of the server's answer.
    answer: Vec<u8>,
    answer_bytes: u64,
}

impl Parser for Tls {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let bytes = segment.bytes.len() as u64 + segment.truncated;
        match segment.from {
            Sender::Client => {
                self.started.get_or_insert(segment.at);
                self.hello_bytes = self.hello_bytes.saturating_add(bytes);
                let room = HELLO_BYTES_MAX.saturating_sub(self.hello.len()).min(segment.bytes.len());
                self.hello.extend_from_slice(segment.bytes.get(..room).unwrap_or_default());
                Flow::Continue
            }
            Sender::Server => {
                // A server's hello without a client's: the connection was joined in between.
                if self.started.is_none() {
                    // What was sent in the clear before, while nothing was recognised, has no further use.
                    let is_record = matches!(segment.bytes, [20..=23, 3, ..]);
                    return if is_record { Flow::Done } else { Flow::Continue };
                }
                self.answer_bytes = self.answer_bytes.saturating_add(bytes);
                let room = 7_usize.saturating_sub(self.answer.len()).min(segment.bytes.len());
                self.answer.extend_from_slice(segment.bytes.get(..room).unwrap_or_default());
                match self.answer.as_slice() {
                    [HANDSHAKE, ..] => self.finish(Status::None, ErrorClass::None, segment.at, cx),
                    // Level, description (RFC 8446 section 6).
                    [ALERT, _, _, _, _, _, description] => {
                        let status = Status::Code(u32::from(*description));
                        self.finish(status, ErrorClass::Server, segment.at, cx);
                    }
                    [ALERT, ..] => return Flow::Continue,
                    // A server of HTTP refuses what it does not understand.
                    [b'H', b'T', b'T', b'P', b'/', b'1', ..] => {
                        let unrecognised =
                            self.started.map(|start| Unrecognised { start, bytes: self.hello_bytes });
                        let rest = segment.bytes.len();
                        return Flow::Switch { to: Protocol::Http1, rest, handover: None, unrecognised };
                    }
                    _ => {
                        cx.orphan();
                        self.started = None;
                    }
                }
                Flow::Done
            }
        }
    }

    /// Of a connection only the beginning is followed.
    fn framing(&self, _: Sender) -> Framing {
        Framing::Head(0)
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.finish(Status::None, ErrorClass::NoResponse, now, cx);
    }
}

impl Tls {
    fn finish(&mut self, status: Status, error: ErrorClass, end: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Some(start) = self.started.take() else { return };
        let mut name = String::new();
        let resource = match server_name(&message(&self.hello)) {
            Some(server) => {
                domain::converge(server, &mut name);
                cx.name(NameKind::Domain, &name)
            }
            None => Symbol::NONE,
        };
        let request = Request {
            operation: cx.word("ClientHello"),
            resource: Resource::Name(resource),
            start,
            bytes: self.hello_bytes,
        };
        cx.message();
        cx.emit(Protocol::Tls, &request, &Outcome { status, error, end, bytes: self.answer_bytes });
    }
}

/// The first handshake message, as far as it is there, which may be in several records.
fn message(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(records.len());
    while let Some((&[HANDSHAKE, _, _, high, low], rest)) = records.split_first_chunk::<RECORD_HEADER>() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (piece, others) = rest.split_at(length);
        message.extend_from_slice(piece);
        records = others;
    }
    message
}

/// The server name in a `ClientHello` (RFC 8446 section 4.1.2, RFC 6066 section 3), as far as it is there.
fn server_name(hello: &[u8]) -> Option<&[u8]> {
    // Handshake header, version, random.
    let mut rest = hello.get(4 + 2 + 32..)?;
    let session = usize::from(*rest.first()?);
    rest = rest.get(1 + session..)?;
    rest = rest.get(2 + number(rest)?..)?;
    let compressions = usize::from(*rest.first()?);
    rest = rest.get(1 + compressions..)?;
    rest = rest.get(2..)?;
    loop {
        let kind = number(rest)?;
        rest = rest.get(2..)?;
        let length = number(rest)?;
        rest = rest.get(2..)?;
        if kind == 0 {
            // List length, type 0 (host name), length, name.
            let list = rest.get(..length)?;
            if *list.get(2)? != 0 {
                return None;
            }
            let name = list.get(3..)?;
            return name.get(2..2 + number(name)?);
        }
        rest = rest.get(length..)?;
    }
}

fn number(bytes: &[u8]) -> Option<usize> {
    let &[high, low] = bytes.first_chunk()?;
    Some(usize::from(u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests;
