//! Detection: a request line or a status line of HTTP/1 at the start of the bytes.

use crate::parser::{Detection, Prefix, Sender};

/// Methods by which a connection is recognised: IANA's registry of methods, `WebDAV` as Exchange has it, `UPnP`, caches, BITS,
/// Configuration Manager, SSTP. Once it is, any token is a method. Those that end in another's name are here, too: [`Place::Plausible`] takes no others.
const METHODS: &[&str] = &[
    "GET",
    "POST",
    "PUT",
    "HEAD",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "ACL",
    "BAN",
    "BASELINE-CONTROL",
    "BCOPY",
    "BDELETE",
    "BIND",
    "BITS_POST",
    "BMOVE",
    "BPROPFIND",
    "BPROPPATCH",
    "CCM_POST",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "M-SEARCH",
    "NOTIFY",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SSTP_DUPLEX_POST",
    "SUBSCRIBE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// How far bytes can be relied on to begin a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// They may be within one: the connection was joined, or bytes before them were lost. Only a known method is one.
    Anywhere,
    /// They begin a call, and the message before them has ended as far as can be seen. A method is written as extensions are.
    Plausible,
    /// The connection's first bytes, or those behind a message of a known length. Any token is a method.
    Boundary,
}

/// Length of a target behind a known method that is accepted without having seen the version behind it, bytes.
const LONG_TARGET: usize = 256;

/// Length of an unknown method, bytes.
const METHOD_BYTES_MAX: usize = 32;

impl Place {
    /// Where bytes stand of which this is known.
    pub(super) fn of(is_boundary: bool, is_rest: bool) -> Self {
        match (is_boundary, is_rest) {
            (true, _) => Self::Boundary,
            (false, true) => Self::Anywhere,
            (false, false) => Self::Plausible,
        }
    }
}

/// Looks at first bytes.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    // A connection may begin with an unknown method.
    let place = Place::of(prefix.first, prefix.is_rest);
    let detection = match request(prefix.bytes, place) {
        Detection::No => response(prefix.bytes),
        detection => detection,
    };
    if detection == Detection::More && !prefix.may_grow() { Detection::No } else { detection }
}

/// Does a request start here?
pub(super) fn request(bytes: &[u8], place: Place) -> Detection {
    // RFC 9112 section 2.2: empty lines before a request are to be ignored.
    let blank = bytes.iter().take(8).take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let bytes = bytes.get(blank..).unwrap_or_default();
    let Some(method_end) = bytes.iter().take(METHOD_BYTES_MAX + 1).position(|b| !is_token(*b)) else {
        let begun = bytes.len() <= METHOD_BYTES_MAX
            && match place {
                _ if METHODS.iter().any(|method| method.as_bytes().starts_with(bytes)) => true,
                Place::Anywhere => false,
                Place::Plausible => bytes.iter().all(|byte| is_extension(*byte)),
                Place::Boundary => true,
            };
        return if begun { Detection::More } else { Detection::No };
    };
    let (method, rest) = bytes.split_at(method_end);
    let known = well_known(method).is_some();
    if !has_method(bytes, place) {
        return Detection::No;
    }
    let target = rest.get(1..).unwrap_or_default();
    let Some(&first) = target.first() else { return Detection::More };
    if !matches!(first, b'/' | b'*' | b'[') && !first.is_ascii_alphanumeric() {
        return Detection::No;
    }
    let line_end = memchr::memchr(b'\n', target);
    let line = line_end.map_or(target, |end| target.get(..end).unwrap_or_default());
    if !is_plain(line.strip_suffix(b"\r").unwrap_or(line)) {
        return Detection::No;
    }
    match line_end {
        Some(_) if version_at_end(line) => Detection::Yes(Sender::Client),
        Some(_) => Detection::No,
        None if known && first == b'/' && line.len() >= LONG_TARGET => Detection::Yes(Sender::Client),
        None => Detection::More,
    }
}

/// Whether a line begins with a method of a request that begins at such a place, and a space.
pub(super) fn has_method(line: &[u8], place: Place) -> bool {
    let (method, rest) = line.split_at(line.iter().position(|b| !is_token(*b)).unwrap_or(line.len()));
    // One that is not known is accepted with a path or an absolute target. One that ends in a known one is the end of something
    // else, and the request behind it, unless they are joined as words of a name are (`X_POST`).
    let ends_in_known = || {
        let before = METHODS.iter().filter_map(|known| method.strip_suffix(known.as_bytes()));
        before.filter_map(<[u8]>::last).any(|last| !matches!(last, b'_' | b'-'))
    };
    let is_plausible = || {
        method.iter().all(|byte| is_extension(*byte))
            && method.first().is_some_and(u8::is_ascii_uppercase)
            && !ends_in_known()
            && rest.get(1).is_none_or(|first| *first == b'/' || rest.get(1..).is_some_and(is_absolute))
    };
    let is_method = match place {
        _ if well_known(method).is_some() => true,
        Place::Anywhere => false,
        Place::Plausible => is_plausible(),
        Place::Boundary => !method.is_empty(),
    };
    is_method && rest.first() == Some(&b' ')
}

/// A character of an extension method, as they are written.
fn is_extension(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
}

/// Whether a target has no control character up to its query. Those that stand behind, some servers refuse and others pass
/// on: the status shows which.
pub(super) fn is_plain(target: &[u8]) -> bool {
    target.iter().take_while(|byte| !matches!(byte, b'?' | b'#')).all(|byte| *byte >= b' ' && *byte != 0x7f)
}

/// Whether a target begins with `http://`, as far as it is there.
fn is_absolute(target: &[u8]) -> bool {
    let scheme = b"http://";
    let begun = target.get(..scheme.len()).unwrap_or(target);
    scheme.starts_with(begun)
}

/// Does a response start here?
pub(super) fn response(bytes: &[u8]) -> Detection {
    const SHAPE: &[u8; 13] = b"HTTP/1.v ddd ";
    for (at, shape) in SHAPE.iter().enumerate() {
        let Some(&byte) = bytes.get(at) else { return Detection::More };
        let fits = match shape {
            b'd' if at == 9 => matches!(byte, b'1'..=b'9'),
            b'v' | b'd' => byte.is_ascii_digit(),
            // The reason phrase may be missing with its space.
            b' ' if at == 12 => matches!(byte, b' ' | b'\r' | b'\n'),
            literal => byte == *literal,
        };
        if !fits {
            return Detection::No;
        }
    }
    Detection::Yes(Sender::Server)
}

/// Whether a request line (without its line feed) ends in a version of HTTP/1: a minor one that is not known is taken for the
/// highest that is (RFC 9110 section 2.5).
pub(super) fn version_at_end(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_end();
    matches!(line, [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit())
}

/// The method's name, if it is a well-known one.
pub(crate) fn well_known(method: &[u8]) -> Option<&'static str> {
    METHODS.iter().copied().find(|known| known.as_bytes() == method)
}

/// RFC 9110 section 5.6.2, `tchar`.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_are_recognised_from_their_prefix_on() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "\r\nPOST /x?y HTTP/1.0\n",
            "CONNECT a.b:443 HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "GET http://a/b HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
        ] {
            for cut in 0..text.len() {
                assert_eq!(
                    request(&text.as_bytes()[..cut], Place::Anywhere),
                    Detection::More,
                    "{text:?} cut at {cut}"
                );
            }
            assert_eq!(request(text.as_bytes(), Place::Anywhere), Detection::Yes(Sender::Client), "{text:?}");
        }
        for text in ["HTTP/1.1 200 ", "HTTP/1.0 404\r", "HTTP/1.1 599\n"] {
            for cut in 0..text.len() {
                assert_eq!(response(&text.as_bytes()[..cut]), Detection::More, "{text:?} cut at {cut}");
            }
            assert_eq!(response(text.as_bytes()), Detection::Yes(Sender::Server), "{text:?}");
        }
    }

    #[test]
    fn neighbours_are_not_taken_for_it() {
        for text in [
            "GET key\r\n",
            "get / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "OPTIONS rtsp://x RTSP/1.0\r\n",
            "INVITE sip:a@b SIP/2.0\r\n",
            "HTTP/2 200 \r\n",
            "HTTP/1.1 20x ",
            "GET /\r\n",
            "GET \0 HTTP/1.1\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "\x16\x03\x01",
        ] {
            for place in [Place::Anywhere, Place::Plausible] {
                assert_eq!(request(text.as_bytes(), place), Detection::No, "{text:?}");
            }
            assert_eq!(response(text.as_bytes()), Detection::No, "{text:?}");
        }
    }

    #[test]
    fn how_well_known_a_method_has_to_be_depends_on_the_place() {
        let found = |method: &str| {
            [Place::Anywhere, Place::Plausible, Place::Boundary]
                .map(|place| request(format!("{method} /a HTTP/1.1\r\n").as_bytes(), place) != Detection::No)
        };
        for method in METHODS {
            assert_eq!(found(method), [true; 3], "{method}");
        }
        for method in ["FROB", "X_POST", "X-GET"] {
            assert_eq!(found(method), [false, true, true], "{method}");
        }
        assert_eq!(found("frob"), [false, false, true]);
        // The end of a body, and the next request.
        for method in ["helloGET", "HELLOGET", "0POST", "_DELETE"] {
            assert_eq!(found(method), [false, false, true], "{method}");
        }
    }
}
