//! The header fields of a message that its framing, its end, or its trace depends on.

use crate::trace::{TraceContext, TraceFields, TraceHeader, header};

/// The framing of a message by its head, and the trace that it names.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one head.
pub(super) struct Fields {
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding` ends with `chunked`.
    pub(super) chunked: bool,
    /// There is a `Transfer-Encoding`.
    pub(super) coded: bool,
    /// Lengths contradict each other or are none.
    pub(super) contradictory: bool,
    /// `Upgrade: h2c`.
    pub(super) upgrade_h2c: bool,
    /// `Expect: 100-continue`.
    pub(super) expects_continue: bool,
    /// The content is a stream of events.
    pub(super) is_event_stream: bool,
    /// What names a trace; most heads have nothing of it.
    trace: Option<Box<TraceFields>>,
    /// The field of the line before.
    before: FieldBefore,
}

/// A field about the framing, which a folded line continues (RFC 9112 section 5.2).
#[derive(Clone, Copy, Debug, Default)]
enum FieldBefore {
    #[default]
    Other,
    /// `Content-Length` without a value so far; what was known before it.
    EmptyLength { length: Option<u64>, contradictory: bool },
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding`.
    Encoding,
}

impl Fields {
    /// The trace that the head names.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.trace.as_ref()?.context()
    }

    /// Takes a header line, if it concerns framing or traces.
    pub(super) fn take(&mut self, line: &[u8]) {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            self.continues(line.trim_ascii());
            return;
        }
        self.before = FieldBefore::Other;
        let Some((name, value)) = header(line) else { return };
        if name.eq_ignore_ascii_case(b"content-length") {
            self.before = if value.is_empty() {
                FieldBefore::EmptyLength { length: self.length, contradictory: self.contradictory }
            } else {
                FieldBefore::Length
            };
            self.take_length(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.before = FieldBefore::Encoding;
            self.coded = true;
            self.take_encoding(value);
        } else if name.eq_ignore_ascii_case(b"content-type") {
            self.is_event_stream = is_event_stream(value);
        } else if name.eq_ignore_ascii_case(b"expect") {
            self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade_h2c |=
                value.split(|b| *b == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(b"h2c"));
        } else if let Some(of) = TraceHeader::of(name) {
            self.trace.get_or_insert_default().take(of, value);
        }
    }

    /// Takes a folded line.
    fn continues(&mut self, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        match self.before {
            FieldBefore::Other => {}
            FieldBefore::EmptyLength { length, contradictory } => {
                (self.length, self.contradictory) = (length, contradictory);
                self.before = FieldBefore::Length;
                self.take_length(value);
            }
            FieldBefore::Length => self.contradictory = true,
            FieldBefore::Encoding => self.take_encoding(value),
        }
    }

    fn take_length(&mut self, value: &[u8]) {
        let length = content_length(value);
        self.contradictory |= length.is_none() || self.length.is_some_and(|known| Some(known) != length);
        self.length = length;
    }

    fn take_encoding(&mut self, value: &[u8]) {
        let last = value.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        self.chunked = last.eq_ignore_ascii_case(b"chunked");
    }
}

/// The length that a `Content-Length` gives, also as a list of equal ones (RFC 9110 section 8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    let mut lengths = value.split(|byte| *byte == b',').map(|one| decimal(one.trim_ascii()));
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

/// Whether a content type is that of server-sent events (WHATWG HTML, section 9.2).
pub(crate) fn is_event_stream(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"text/event-stream";
    content_type.split_at_checked(NAME.len()).is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b';' | b' ' | b'\t'))
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
