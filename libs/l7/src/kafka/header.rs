//! Frames (a length, a header with a correlation id, a body), and detection of Kafka by them.

use crate::{
    kafka::{
        api::{self, API_VERSIONS, Api, METADATA},
        layout::{self, End, RequestFields, Topic},
    },
    parser::{Detection, Prefix, Sender},
};

/// Length field before a message, bytes.
pub(super) const PREFIX: usize = 4;

/// Largest message accepted, bytes; a broker's own default limit is 100 MiB (`socket.request.max.bytes`).
const MESSAGE_MAX: usize = 256 << 20;

/// Largest token of a login accepted, bytes: a Kerberos ticket with the groups of its user (`MaxTokenSize` of Windows).
const TOKEN_MAX: u64 = 64 << 10;

/// Versions beyond the table's that are accepted: clients are newer than this.
const NEWER: i16 = 3;

/// Highest version of an API that there may be: a new one comes with every few releases.
const VERSION_MAX: i16 = 99;

/// Bytes of a request's header up to the client's name.
const HEADER_MIN: usize = 10;

/// Longest name of a client that is accepted, bytes.
const CLIENT_MAX: i16 = 255;

/// Requests up to this size are wanted whole before a connection is taken for Kafka, bytes.
const WHOLE_MAX: usize = 400;

/// Longest topic name.
const TOPIC_MAX: usize = 249;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    pub(super) key: i16,
    pub(super) version: i16,
    pub(super) correlation: i32,
    pub(super) client: Option<&'a [u8]>,
    /// What follows it, as far as it is there.
    pub(super) body: &'a [u8],
}

/// The length of the message that starts here, without its length field.
pub(super) fn length(bytes: &[u8]) -> Result<usize, End> {
    let length = usize::try_from(int(bytes, 0)?).map_err(|_| End::Bad)?;
    if (4..=MESSAGE_MAX).contains(&length) { Ok(length) } else { Err(End::Bad) }
}

/// The length of the token of a login that starts here, which may be empty and has no header.
pub(super) fn token_length(bytes: &[u8]) -> Result<u64, End> {
    let length = u64::try_from(int(bytes, 0)?).map_err(|_| End::Bad)?;
    if length <= TOKEN_MAX { Ok(length) } else { Err(End::Bad) }
}

/// Reads a request's header; `bytes` start behind the length.
pub(super) fn request(bytes: &[u8]) -> Result<Header<'_>, End> {
    let (key, version, correlation) = (short(bytes, 0)?, short(bytes, 2)?, int(bytes, 4)?);
    let client_length = short(bytes, 8)?;
    let (client, at) = match client_length {
        -1 => (None, 10),
        length => {
            let end = 10 + usize::try_from(length).map_err(|_| End::Bad)?;
            (Some(bytes.get(10..end).ok_or(End::Cut)?), end)
        }
    };
    let mut body = bytes.get(at..).ok_or(End::Cut)?;
    if api::of(key).is_some_and(|api| api.is_flexible(version)) {
        body = body.get(layout::tagged(body)?..).ok_or(End::Cut)?;
    }
    Ok(Header { key, version, correlation, client, body })
}

/// The body of a response; `bytes` start behind the correlation id.
pub(super) fn response_body<'a>(bytes: &'a [u8], api: &Api, version: i16) -> Option<&'a [u8]> {
    // A client reads this one before it knows the server's versions.
    if !api.is_flexible(version) || api.key == API_VERSIONS {
        return Some(bytes);
    }
    bytes.get(layout::tagged(bytes).ok()?..)
}

/// Reads a request's body, when its layout is known.
pub(super) fn body<'a>(header: &Header<'a>) -> (RequestFields<'a>, End) {
    match api::of(header.key) {
        Some(api) if header.version <= api.latest => {
            let flexible = api.is_flexible(header.version);
            layout::read(header.body, api.request, header.version, flexible, &mut |_, _| ())
        }
        _ => (RequestFields::default(), End::Open),
    }
}

fn short(bytes: &[u8], at: usize) -> Result<i16, End> {
    bytes.get(at..at + 2).and_then(|b| b.first_chunk()).map(|b| i16::from_be_bytes(*b)).ok_or(End::Cut)
}

pub(super) fn int(bytes: &[u8], at: usize) -> Result<i32, End> {
    bytes.get(at..at + 4).and_then(|b| b.first_chunk()).map(|b| i32::from_be_bytes(*b)).ok_or(End::Cut)
}

/// What the head of a client's bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageMatch {
    /// A request.
    Request,
    /// A request, if the server answers to its correlation id: the client gives no name.
    Perhaps(i32),
    No,
    /// More bytes are needed to decide.
    Cut,
}

/// Looks for a request at the start of `bytes`. Strict: the key, the version, the client's name and, as far as it is
/// there, every field of the body must fit, and the body must end with the message.
pub(super) fn match_message(bytes: &[u8]) -> MessageMatch {
    // What the first bytes exclude.
    if bytes.first().is_some_and(|high| usize::from(*high) << 24 > MESSAGE_MAX)
        || bytes.get(4).is_some_and(|high| *high != 0)
        || bytes.get(6).is_some_and(|high| *high != 0)
    {
        return MessageMatch::No;
    }
    let length = match length(bytes) {
        Ok(length) => length,
        Err(End::Cut) => return MessageMatch::Cut,
        Err(_) => return MessageMatch::No,
    };
    let message = bytes.get(PREFIX..).unwrap_or_default();
    let message = message.get(..length).unwrap_or(message);
    let whole = message.len() == length;
    let missing = if whole { MessageMatch::No } else { MessageMatch::Cut };
    if let (Ok(key), Ok(version)) = (short(message, 0), short(message, 2)) {
        match api::of(key) {
            Some(api) if version <= api.latest + NEWER => {}
            _ => return MessageMatch::No,
        }
    }
    if int(message, 4).is_ok_and(|correlation| correlation < 0) {
        return MessageMatch::No;
    }
    if let Ok(client) = short(message, 8) {
        let fits = usize::try_from(client).is_ok_and(|client| 10 + client <= length) || client == -1;
        let name = message.get(10..).unwrap_or_default();
        let name = name.get(..usize::try_from(client).unwrap_or(0)).unwrap_or(name);
        if !fits || client > CLIENT_MAX || !name.iter().all(|b| (b' '..0x7f).contains(b)) {
            return MessageMatch::No;
        }
    }
    let header = match request(message) {
        Ok(header) => header,
        Err(End::Cut) => return missing,
        Err(_) => return MessageMatch::No,
    };
    let (found, end) = body(&header);
    let named = header.client.is_some_and(|name| name.len() >= 2);
    let alone = bytes.len() == PREFIX + length;
    match end {
        _ if !sensible(&found) => MessageMatch::No,
        End::At(end) if whole && named && header.body.len() == end => MessageMatch::Request,
        // Clients without a name are accepted with a request that clients send first.
        End::At(end)
            if alone && header.body.len() == end && matches!(header.key, METADATA | API_VERSIONS) =>
        {
            MessageMatch::Perhaps(header.correlation)
        }
        // Its body is like any other: the answer decides.
        End::Open if alone && named => MessageMatch::Perhaps(header.correlation),
        End::Open if !whole && named => MessageMatch::Cut,
        // Of a large one, mostly records, a topic must be there.
        End::Cut if !whole && named && length > WHOLE_MAX && found.topic.is_some() => MessageMatch::Request,
        End::Cut if !whole => MessageMatch::Cut,
        _ => MessageMatch::No,
    }
}

/// Looks for a request at the start of `bytes` by its header alone: an API of the table in any version that there may be, and a client's
/// name that can be printed, or none.
pub(super) fn match_header(bytes: &[u8]) -> MessageMatch {
    let length = match length(bytes) {
        Ok(length) => length,
        Err(End::Cut) => return MessageMatch::Cut,
        Err(_) => return MessageMatch::No,
    };
    let message = bytes.get(PREFIX..).unwrap_or_default();
    let message = message.get(..length).unwrap_or(message);
    let fits = short(message, 0).is_ok_and(|key| api::of(key).is_some())
        && short(message, 2).is_ok_and(|version| (0..=VERSION_MAX).contains(&version))
        && int(message, 4).is_ok_and(|correlation| correlation >= 0)
        && short(message, 8).is_ok_and(|client| (-1..=CLIENT_MAX).contains(&client));
    match request(message) {
        _ if message.len() >= HEADER_MIN && !fits => MessageMatch::No,
        Ok(header) if header.client.unwrap_or_default().iter().all(|byte| (b' '..0x7f).contains(byte)) => {
            MessageMatch::Request
        }
        Err(End::Cut) if message.len() < length => MessageMatch::Cut,
        _ => MessageMatch::No,
    }
}

/// Whether a body's values are plausible.
fn sensible(found: &RequestFields<'_>) -> bool {
    let topic = match found.topic {
        Some(Topic::Name(name)) => is_topic(name),
        _ => true,
    };
    topic
        && found.acks.is_none_or(|acks| (-1..=1).contains(&acks))
        && found.max_wait >= 0
        && found.min_bytes.is_none_or(|bytes| bytes >= 0)
}

/// Whether a topic may have this name (Apache Kafka: `Topic.validate`).
pub(super) fn is_topic(name: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    name.len() <= TOPIC_MAX && name.iter().all(plain)
}

pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    match match_message(prefix.bytes) {
        MessageMatch::Request if prefix.may_grow() && is_short(prefix.bytes) => Detection::More,
        MessageMatch::Request => Detection::Yes(Sender::Client),
        MessageMatch::Perhaps(_) if prefix.peer.is_empty() => Detection::More,
        MessageMatch::Perhaps(correlation) if answers(prefix.peer, correlation) => {
            Detection::Yes(Sender::Client)
        }
        MessageMatch::Cut if prefix.may_grow() => Detection::More,
        _ => match match_message(prefix.peer) {
            MessageMatch::Perhaps(correlation) if answers(prefix.bytes, correlation) => {
                Detection::Yes(Sender::Server)
            }
            MessageMatch::Perhaps(_) if prefix.bytes.len() < 8 && prefix.may_grow() => Detection::More,
            _ => Detection::No,
        },
    }
}

/// Whether these bytes are less of a message than a client sends at once. HTTP/2's frames can be the beginning of a request.
fn is_short(bytes: &[u8]) -> bool {
    bytes.len() < WHOLE_MAX && length(bytes).is_ok_and(|length| bytes.len() < PREFIX + length)
}

/// Whether these bytes start an answer to this correlation id.
fn answers(bytes: &[u8], correlation: i32) -> bool {
    length(bytes).is_ok_and(|length| PREFIX + length >= bytes.len()) && int(bytes, PREFIX) == Ok(correlation)
}
