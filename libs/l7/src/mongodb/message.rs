//! Messages (MongoDB manual: wire protocol), and detection of MongoDB by them.

use crate::{
    mongodb::bson::{self, Elements, Fault, Value},
    parser::{Detection, Prefix, Sender},
};

/// Length, request's id, id that is answered, opcode.
pub(super) const HEADER: usize = 16;

/// Largest message, bytes (`maxMessageSizeBytes`).
const MESSAGE_MAX: usize = 48_000_000;

const OP_REPLY: i32 = 1;
pub(super) const OP_UPDATE: i32 = 2001;
pub(super) const OP_INSERT: i32 = 2002;
const OP_QUERY: i32 = 2004;
pub(super) const OP_GET_MORE: i32 = 2005;
pub(super) const OP_DELETE: i32 = 2006;
pub(super) const OP_KILL_CURSORS: i32 = 2007;
pub(super) const OP_COMPRESSED: i32 = 2012;
const OP_MSG: i32 = 2013;

/// Flag bits of `OP_MSG`: a checksum at the end; another message follows unasked; the server may do so.
const CHECKSUM_PRESENT: u32 = 1;
const MORE_TO_COME: u32 = 1 << 1;
const EXHAUST_ALLOWED: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) id: i32,
    /// The id of the request that this answers; 0 in a request.
    pub(super) answers: i32,
    pub(super) opcode: i32,
}

/// Reads a header; `bytes` are at least [`HEADER`] long or it is cut.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Fault> {
    let at = |at: usize| bson::int(bytes.get(at..).unwrap_or_default());
    let length = usize::try_from(at(0)?).map_err(|_| Fault::Bad)?;
    let header = Header { length, id: at(4)?, answers: at(8)?, opcode: at(12)? };
    let known = matches!(
        header.opcode,
        OP_REPLY | OP_UPDATE | OP_INSERT | OP_QUERY | OP_GET_MORE..=OP_KILL_CURSORS | OP_COMPRESSED | OP_MSG
    );
    if known && (HEADER + 4..=MESSAGE_MAX).contains(&length) { Ok(header) } else { Err(Fault::Bad) }
}

/// What a message holds besides its header.
#[derive(Clone, Debug)]
pub(super) struct Body<'a> {
    /// The command, or the answer.
    pub(super) elements: Option<Elements<'a>>,
    /// No answer will come to this request, or another will come unasked after this answer.
    pub(super) more_to_come: bool,
    /// What a message of the older kind is about: `database.collection`.
    pub(super) namespace: &'a [u8],
}

/// Reads a message's body as far as it goes. `bytes` start behind the header.
pub(super) fn body<'a>(header: &Header, bytes: &'a [u8]) -> Result<Body<'a>, Fault> {
    let mut body = Body { elements: None, more_to_come: false, namespace: &[] };
    match header.opcode {
        OP_MSG => {
            let flags = bson::int(bytes)?.cast_unsigned();
            if flags & !(CHECKSUM_PRESENT | MORE_TO_COME | EXHAUST_ALLOWED) != 0 {
                return Err(Fault::Bad);
            }
            body.more_to_come = flags & MORE_TO_COME != 0;
            let checksum = if flags & CHECKSUM_PRESENT != 0 { 4 } else { 0 };
            let most = header.length - HEADER - 4 - checksum.min(header.length - HEADER - 4);
            body.elements = Some(section(bytes.get(4..).unwrap_or_default(), most)?);
        }
        OP_QUERY => {
            let flags = bson::int(bytes)?;
            let rest = bytes.get(4..).unwrap_or_default();
            let end = match memchr::memchr(0, rest) {
                Some(end) => end,
                None if rest.len() < 256 => return Err(Fault::Cut),
                None => return Err(Fault::Bad),
            };
            body.namespace = rest.get(..end).unwrap_or_default();
            let printable = body.namespace.iter().all(|b| (b' '..0x7f).contains(b));
            if flags & !0xff != 0 || !printable || !body.namespace.contains(&b'.') {
                return Err(Fault::Bad);
            }
            // To skip, to return.
            let (length, elements) = bson::document(rest.get(end + 9..).ok_or(Fault::Cut)?)?;
            if length + HEADER + 4 + end + 9 > header.length {
                return Err(Fault::Bad);
            }
            body.elements = Some(elements);
        }
        OP_REPLY => {
            let flags = bson::int(bytes)?;
            let returned = bson::int(bytes.get(16..).ok_or(Fault::Cut)?)?;
            if flags & !0xf != 0 || returned < 0 {
                return Err(Fault::Bad);
            }
            if returned > 0 {
                let (length, elements) = bson::document(bytes.get(20..).ok_or(Fault::Cut)?)?;
                if length + HEADER + 20 > header.length {
                    return Err(Fault::Bad);
                }
                body.elements = Some(elements);
            }
        }
        _ => {}
    }
    Ok(body)
}

/// The elements of the section that is a document (kind 0); sequences of documents (kind 1) may stand before it.
fn section(bytes: &[u8], most: usize) -> Result<Elements<'_>, Fault> {
    let mut at = 0;
    loop {
        let kind = *bytes.get(at).ok_or(Fault::Cut)?;
        let rest = bytes.get(at + 1..).unwrap_or_default();
        let length = usize::try_from(bson::int(rest)?).map_err(|_| Fault::Bad)?;
        if length < 5 || at + 1 + length > most {
            return Err(Fault::Bad);
        }
        match kind {
            0 => return bson::document(rest).map(|(_, elements)| elements),
            1 => at += 1 + length,
            _ => return Err(Fault::Bad),
        }
    }
}

/// What the head of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageMatch {
    From(Sender),
    No,
    /// More bytes are needed to decide.
    Cut,
}

/// Looks at the start of a message. Strict: opcode, flags, lengths and the document's first element must fit.
pub(super) fn match_message(bytes: &[u8]) -> MessageMatch {
    // The opcodes' upper bytes, and the lengths'.
    let early = [(3, [0_u8, 1, 2]), (14, [0; 3]), (15, [0; 3])];
    if early.iter().any(|(at, fits)| bytes.get(*at).is_some_and(|byte| !fits.contains(byte))) {
        return MessageMatch::No;
    }
    let header = match header(bytes) {
        Ok(header) if matches!(header.opcode, OP_MSG | OP_QUERY | OP_REPLY) => header,
        Err(Fault::Cut) => return MessageMatch::Cut,
        _ => return MessageMatch::No,
    };
    let sender = if header.answers == 0 { Sender::Client } else { Sender::Server };
    if header.opcode != OP_MSG && (header.opcode == OP_QUERY) != (sender == Sender::Client) {
        return MessageMatch::No;
    }
    let rest = bytes.get(HEADER..bytes.len().min(header.length)).unwrap_or_default();
    let fault = |fault| match fault {
        Fault::Cut if bytes.len() < header.length => MessageMatch::Cut,
        _ => MessageMatch::No,
    };
    let mut elements = match body(&header, rest) {
        Ok(Body { elements: Some(elements), .. }) => elements,
        Ok(_) => return MessageMatch::No,
        Err(of) => return fault(of),
    };
    match elements.next() {
        Some(Ok((name, value))) => {
            let known = match sender {
                // `{find: "orders"`, `{hello: 1`, `{getMore: <cursor>`; legacy queries may wrap it.
                Sender::Client => {
                    is_word(name) && (value != Value::Other)
                        || matches!(name, b"$query" | b"query") && matches!(value, Value::Document(_))
                }
                Sender::Server => {
                    name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'$') && !name.is_empty()
                }
            };
            if known { MessageMatch::From(sender) } else { MessageMatch::No }
        }
        Some(Err(of)) => fault(of),
        None => MessageMatch::No,
    }
}

/// Whether a command may be called so.
pub(super) fn is_word(name: &[u8]) -> bool {
    (2..=40).contains(&name.len())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && name.first().is_some_and(u8::is_ascii_alphabetic)
}

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    match match_message(prefix.bytes) {
        MessageMatch::From(sender) => Detection::Yes(sender),
        MessageMatch::Cut if prefix.may_grow() => Detection::More,
        MessageMatch::Cut | MessageMatch::No => Detection::No,
    }
}
