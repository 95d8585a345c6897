//! HTTP/1: each way of framing of RFC 9112 section 6, and what clients and servers make of it.

use super::{Message, choices::Choices, client, server};

const METHODS: &[&str] =
    &["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "FROB"];
const TARGETS: &[&str] = &[
    "/",
    "/a",
    "/users/17",
    "/users/4711/orders",
    "/a?b=c&d",
    "/a?b\u{1}c\td\u{7f}",
    "/x/0f3c9a1e-77aa-4d1b-9c2e-0123456789ab",
    "/a#b",
    "/%20/b",
    "/é",
    "*",
    "http://h/abs/7",
    "//x",
];
const FIELDS: &[&str] = &[
    "Host: example.org",
    "Accept: */*",
    "X:",
    "Content-Type: text/plain",
    "Content-Language: de",
    "Transfer: x",
    "transferred-by: y",
    "Upgraded: no",
    "Expected: no",
    "Content-Length-Hint: 7",
    "Connection: keep-alive",
    "TE: trailers",
    "X-Long: ",
];

/// A stream of events has answered with its head.
const EVENTS: &[&str] = &[
    "Content-Type: text/event-stream",
    "content-type:text/event-stream; charset=utf-8",
    "CONTENT-TYPE:\tText/Event-Stream",
    "Content-Type:  text/event-stream",
    "Content-Type: text/eventual",
];

fn field_name(choices: &mut Choices<'_>, name: &str) -> String {
    match choices.below(4) {
        0 => name.to_ascii_lowercase(),
        1 => name.to_ascii_uppercase(),
        _ => name.to_owned(),
    }
}

fn blank(choices: &mut Choices<'_>) -> &'static str {
    choices.of(&[" ", " ", " ", " ", "", "  ", "\t"])
}

/// A body with the field that frames it.
#[derive(Default)]
struct Body {
    field: String,
    content: Vec<u8>,
    /// Its framing holds a control character: the other end refuses it, and closes the connection.
    is_last: bool,
}

fn body(choices: &mut Choices<'_>, ends_with_connection: bool) -> Body {
    let size = choices.size();
    let content = choices.text(size).into_bytes();
    match choices.below(if ends_with_connection { 7 } else { 6 }) {
        0 => Body::default(),
        1..=3 => {
            let (name, blank) = (field_name(choices, "Content-Length"), blank(choices));
            let zeros = choices.of(&["", "", "", "", "0", "000"]);
            let field = format!("{name}:{blank}{zeros}{}\r\n", content.len());
            Body { field, content, is_last: false }
        }
        6 => Body { content, ..Body::default() },
        _ => {
            let (name, blank) = (field_name(choices, "Transfer-Encoding"), blank(choices));
            let coding =
                choices.of(&["chunked", "chunked", "chunked", "Chunked", "gzip, chunked", "chunked "]);
            let (content, is_last) = chunked(choices, &content);
            Body { field: format!("{name}:{blank}{coding}\r\n"), content, is_last }
        }
    }
}

/// The content in chunks, and whether their lines hold a control character.
fn chunked(choices: &mut Choices<'_>, content: &[u8]) -> (Vec<u8>, bool) {
    let (mut out, mut has_control) = (Vec::new(), false);
    let mut rest = content;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(1 + choices.below(rest.len()));
        rest = behind;
        let extension = choices.of(&["", "", "", "", "", ";a=b", " "]);
        let size =
            if choices.once_in(2) { format!("{:x}", chunk.len()) } else { format!("{:03X}", chunk.len()) };
        let (mut before, mut after) = (format!("{size}{extension}\r\n").into_bytes(), b"\r\n".to_vec());
        has_control |= choices.control(&mut before) | choices.control(&mut after);
        out.extend([&before, chunk, &after].concat());
    }
    let trailer = choices.of(&["", "", "", "", "X-Trailer: y\r\n"]);
    let mut end = format!("0\r\n{trailer}\r\n").into_bytes();
    has_control |= choices.control(&mut end);
    out.extend(end);
    (out, has_control)
}

fn fields(choices: &mut Choices<'_>) -> String {
    let count = choices.below(5);
    let mut all = String::new();
    for _ in 0..count {
        let fields = if choices.once_in(40) { EVENTS } else { FIELDS };
        all.push_str(choices.of(fields));
        if choices.once_in(12) {
            let size = choices.size();
            all.push_str(&choices.text(size));
        }
        all.push_str(if choices.once_in(60) { "\n" } else { "\r\n" });
    }
    all
}

/// The head and what follows of one message.
fn message(line: &str, framing: &str, choices: &mut Choices<'_>, body: &[u8]) -> Vec<u8> {
    let (before, after) = (fields(choices), fields(choices));
    let twice = if choices.once_in(60) { framing } else { "" };
    let mut bytes = format!("{line}\r\n{before}{framing}{twice}{after}\r\n").into_bytes();
    choices.control(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// A response, and whether it is the connection's last.
fn response(choices: &mut Choices<'_>, method: &str, last: bool) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while choices.once_in(25) {
        let line = choices.of(&["HTTP/1.1 100 Continue", "HTTP/1.1 103 Early Hints", "HTTP/1.1 102 "]);
        bytes.extend_from_slice(format!("{line}\r\n\r\n").as_bytes());
    }
    let version = if choices.once_in(12) { "HTTP/1.0" } else { "HTTP/1.1" };
    let status = choices.of(&[200, 200, 200, 201, 204, 301, 304, 400, 404, 413, 500, 503]);
    let reason = choices.of(&[" OK", " OK", " Not Found", " ", ""]);
    let Body { field, content, is_last } = body(choices, last);
    let no_body = method == "HEAD" || status == 204 || status == 304;
    let field = if field.is_empty() && content.is_empty() && !no_body && !last {
        "Content-Length: 0\r\n".to_owned()
    } else {
        field
    };
    let line = format!("{version} {status}{reason}");
    bytes.extend(message(&line, &field, choices, if no_body { b"" } else { &content }));
    (bytes, is_last && !no_body)
}

/// A conversation.
pub(super) fn conversation(choices: &mut Choices<'_>) -> Vec<Message> {
    let mut all = Vec::new();
    let mut unanswered: Vec<&str> = Vec::new();
    let rounds = 1 + choices.below(8);
    let pipelines = choices.once_in(4);
    for round in 0..rounds {
        let method = choices.of(METHODS);
        let version = if choices.once_in(12) { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut target = choices.of(TARGETS).to_owned();
        if choices.once_in(15) {
            target = format!("/long?{}", choices.text(700).replace(' ', "+"));
        }
        let Body { field: mut framing, content: body, is_last } = body(choices, false);
        let expects = !body.is_empty() && unanswered.is_empty() && choices.once_in(8);
        if expects {
            let name = field_name(choices, "Expect");
            framing.push_str(&[&name, ": 100-continue\r\n"].concat());
        }
        let request = message(&format!("{method} {target} {version}"), &framing, choices, b"");
        let last = is_last || round + 1 == rounds;
        let mut answers = Answers { all: &mut all, is_over: is_last };
        if expects {
            answers.all.push(client(request));
            if choices.once_in(3) {
                // Refused: the body stays away.
                answers.answer(choices, method, last);
            } else {
                answers.all.push(server("HTTP/1.1 100 Continue\r\n\r\n"));
                answers.all.push(client(body));
                answers.answer(choices, method, last);
            }
        } else if pipelines && !last && choices.once_in(2) {
            answers.all.push(client([request, body].concat()));
            unanswered.push(method);
        } else if !body.is_empty() && choices.once_in(6) && unanswered.is_empty() {
            // The response comes before the upload's end.
            let (head, rest) = body.split_at(choices.below(body.len()));
            answers.all.push(client([&request[..], head].concat()));
            answers.answer(choices, method, false);
            answers.all.push(client(rest));
        } else {
            answers.all.push(client([request, body].concat()));
            unanswered.push(method);
            let count = unanswered.len();
            for (index, method) in unanswered.drain(..).enumerate() {
                if answers.answer(choices, method, last && index + 1 == count) {
                    break;
                }
            }
        }
        if answers.is_over {
            break;
        }
    }
    all
}

/// Where responses go.
struct Answers<'a> {
    all: &'a mut Vec<Message>,
    /// Nothing follows on the connection.
    is_over: bool,
}

impl Answers<'_> {
    /// Returns whether no other response can follow.
    fn answer(&mut self, choices: &mut Choices<'_>, method: &str, last: bool) -> bool {
        let (response, is_last) = response(choices, method, last);
        self.all.push(server(response));
        self.is_over |= is_last;
        is_last
    }
}
