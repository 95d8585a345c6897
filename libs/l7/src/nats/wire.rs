//! NATS' protocol lines (docs.nats.io: reference, client protocol).

/// Largest payload accepted; the server's own default limit is 1 MiB, its hard one 64 MiB.
const PAYLOAD_MAX: u64 = 64 << 20;

/// A line that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb<'a> {
    /// `PUB`, `HPUB`: the client publishes.
    Publish(Message<'a>),
    /// `MSG`, `HMSG`: the server delivers.
    Deliver(Message<'a>),
    Subscribe {
        subject: &'a [u8],
    },
    /// `INFO`, `CONNECT`, `PING`, `PONG`, `UNSUB`, `+OK`, `-ERR`: nothing to count.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) subject: &'a [u8],
    /// Where an answer is expected.
    pub(super) reply: Option<&'a [u8]>,
    /// Bytes of headers, payload and the line end behind it.
    pub(super) data: u64,
    /// It has headers before its payload.
    pub(super) headers: bool,
}

impl Verb<'_> {
    /// Whether this is the whole verb as far as can be seen: without its first letter `HPUB a 12 17` has a size for a reply.
    pub(super) fn is_plausible(&self) -> bool {
        match self {
            Self::Publish(message) | Self::Deliver(message) => {
                message.reply.is_none_or(|reply| number(reply).is_none())
            }
            Self::Subscribe { .. } | Self::Other => true,
        }
    }
}

/// Reads a line without its end; `None` when it is no NATS.
pub(super) fn line(text: &[u8]) -> Option<Verb<'_>> {
    let end = text.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(text.len());
    let (verb, rest) = text.split_at(end);
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    // <subject> [reply] <size>, behind the subscription's id when it is delivered; a header's size before the whole's.
    match () {
        () if is("PUB") => message(rest, 0, 1).map(Verb::Publish),
        () if is("HPUB") => message(rest, 0, 2).map(Verb::Publish),
        () if is("MSG") => message(rest, 1, 1).map(Verb::Deliver),
        () if is("HMSG") => message(rest, 1, 2).map(Verb::Deliver),
        () if is("SUB") => {
            words(rest).next().filter(|s| is_subject(s)).map(|subject| Verb::Subscribe { subject })
        }
        () if is("INFO") || is("CONNECT") => {
            rest.iter().find(|b| !b.is_ascii_whitespace()).filter(|b| **b == b'{').map(|_| Verb::Other)
        }
        () if is("PING") || is("PONG") || is("+OK") => Some(Verb::Other),
        () if is("UNSUB") || is("-ERR") => (!rest.is_empty()).then_some(Verb::Other),
        () => None,
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    text.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn message(rest: &[u8], ids: usize, sizes: usize) -> Option<Message<'_>> {
    let mut parts = words(rest);
    let subject = parts.next().filter(|subject| is_subject(subject))?;
    let count = parts.clone().count();
    for _ in 0..ids {
        parts.next()?;
    }
    let reply = match count.checked_sub(ids + sizes)? {
        0 => None,
        1 => Some(parts.next().filter(|reply| is_subject(reply))?),
        _ => return None,
    };
    let size = number(parts.last()?)?;
    Some(Message { subject, reply, data: size + 2, headers: sizes == 2 })
}

fn is_subject(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_graphic() || *b >= 0x80)
        && !text.starts_with(b".")
        && !text.ends_with(b".")
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value <= PAYLOAD_MAX).then_some(value)
}

/// Whether a publication requests messages from a consumer of `JetStream` (NATS: ADR-13): it waits until there are
/// some, for as long as it states itself.
pub(super) fn is_pull(subject: &[u8]) -> bool {
    subject.starts_with(b"$JS.API.CONSUMER.MSG.NEXT.")
        || (subject.starts_with(b"$JS.")
            && subject.windows(23).any(|part| part == b".API.CONSUMER.MSG.NEXT."))
}

/// Writes the converged form of a subject: a token that holds a digit becomes `{}`, and of an inbox (`_INBOX.…`) or an
/// acknowledgement (`$JS.ACK.…`) only the prefix stays.
pub(super) fn converge(subject: &[u8], into: &mut String) {
    into.clear();
    if subject.starts_with(b"_INBOX.") {
        return into.push_str("_INBOX");
    }
    if subject.starts_with(b"$JS.ACK.") {
        return into.push_str("$JS.ACK");
    }
    for (index, token) in subject.split(|b| *b == b'.').enumerate() {
        if index > 0 {
            into.push('.');
        }
        let plain = token.len() <= 40 && token.iter().all(|b| b.is_ascii_graphic() && !b.is_ascii_digit());
        match std::str::from_utf8(token) {
            Ok(token) if plain => into.push_str(token),
            _ => into.push_str("{}"),
        }
        if into.len() > 120 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_reply_and_headers() {
        let publish = |text: &'static [u8]| match line(text) {
            Some(Verb::Publish(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(publish(b"PUB a.b 5"), Message { subject: b"a.b", reply: None, data: 7, headers: false });
        assert_eq!(publish(b"pub a\tINBOX.1  5").reply, Some(b"INBOX.1".as_slice()));
        assert_eq!(publish(b"HPUB a 12 17").data, 19);
        assert_eq!(publish(b"HPUB a r 12 17").reply, Some(b"r".as_slice()));
        assert!(matches!(line(b"MSG a 9 r 5"), Some(Verb::Deliver(Message { reply: Some(b"r"), .. }))));
        assert!(matches!(line(b"HMSG a 9 12 17"), Some(Verb::Deliver(Message { reply: None, .. }))));
        for bad in ["PUB a", "PUB a b c 5", "PUB a x", "MSG a 5", "HELLO", "", "INFO x"] {
            assert_eq!(line(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn subjects_converge() {
        let mut text = String::new();
        for (subject, expected) in [
            ("orders.created", "orders.created"),
            ("orders.123.created", "orders.{}.created"),
            ("_INBOX.abc.def", "_INBOX"),
            ("$JS.ACK.stream.consumer.1.2.3", "$JS.ACK"),
            ("$JS.API.STREAM.INFO.events", "$JS.API.STREAM.INFO.events"),
        ] {
            converge(subject.as_bytes(), &mut text);
            assert_eq!(text, expected);
        }
    }
}
