//! Reads RESP2 and RESP3 values, cut anywhere, keeping only what pairing needs: kind, first words, size.
//!
//! Format: the Redis serialization protocol specification (redis.io: reference/protocol-spec). Bulk contents are
//! skipped by length, captured or not.

use crate::{
    Timestamp,
    offload::{DirectionState, FramingState},
    parser::{Framing, Segment},
    redis::line::{Length, WORD_MAX, length, starts_message},
    resync::GapKind,
};

/// Scalars of a command among which options are looked for.
const OPTIONS_WITHIN: usize = 8;

/// Most streamed aggregates within each other.
const STREAMS_MAX: usize = 16;

/// Longest line that is no inline command or error, bytes: longer ones are no RESP.
const LINE_MAX: usize = 64 * 1024;

/// The first bytes of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    bytes: [u8; WORD_MAX],
    length: u8,
}

impl Word {
    /// One of which bytes are missing: reads as empty.
    const DAMAGED: Self = Self { bytes: [0; WORD_MAX], length: u8::MAX };

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        usize::from(self.length) == WORD_MAX
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = WORD_MAX - usize::from(self.length).min(WORD_MAX);
        for byte in bytes.iter().take(room) {
            if let Some(slot) = self.bytes.get_mut(usize::from(self.length)) {
                *slot = *byte;
                self.length += 1;
            }
        }
    }

    pub(super) fn is(&self, text: &str) -> bool {
        self.as_bytes().eq_ignore_ascii_case(text.as_bytes())
    }
}

/// In place of the type byte of a message that is an inline command.
pub(super) const INLINE: u8 = 0;

/// A whole message: a top-level value, or an inline command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// The type byte (`*`, `+`, `-`, …), or [`INLINE`].
    pub(super) kind: u8,
    /// Elements of an aggregate, words of an inline command; 1 for a scalar.
    pub(super) elements: u64,
    /// The first scalars: of a command its name and arguments, of an error its text.
    pub(super) words: [Word; 3],
    /// One of the first arguments is `BLOCK`.
    pub(super) blocks: bool,
    /// When its first byte moved.
    pub(super) start: Timestamp,
    /// When its last byte moved.
    pub(super) end: Timestamp,
    /// Its size.
    pub(super) bytes: u64,
}

/// In place of the type byte of a reply that could not be read.
pub(super) const UNREAD: u8 = b'?';

impl Message {
    /// A reply of which not one byte could be read.
    pub(super) fn unread(segment: &Segment<'_>) -> Self {
        Self {
            kind: UNREAD,
            elements: 1,
            words: [Word::default(); 3],
            blocks: false,
            start: segment.at,
            end: segment.at,
            bytes: segment.truncated,
        }
    }
}

/// What a reader found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Message(Message),
    /// Bytes are missing or are no RESP; with the message that had begun and whose end will not be found.
    Gap {
        gap: GapKind,
        begun: Option<Message>,
    },
}

/// Reads one direction.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one direction, not states.
pub(super) struct Reader {
    message: Option<Message>,
    scalars: usize,
    /// Values of the message that follow the current one, however they are nested; within a streamed aggregate, of the value
    /// in it.
    left: u64,
    /// Streamed aggregates of RESP3 that have not ended, the outermost first: the values that follow each.
    streams: Vec<u64>,
    /// The current bulk is a streamed string of RESP3, which comes in chunks.
    chunked: bool,
    /// The current one of the first scalars behind those that are kept.
    option: Word,
    /// The line that is being read.
    line: Word,
    line_bytes: usize,
    line_last: u8,
    /// Bytes of the current bulk and its line end that are still to come.
    bulk: u64,
    lost: bool,
    /// Nothing is known of what came before: the next bytes may be within a message.
    joined: bool,
    /// The next segment begins with an inline command.
    inline_begins: bool,
}

enum Line {
    Continues,
    Broken,
}

impl Reader {
    /// One whose first bytes begin a message, or may be within one.
    pub(super) fn new(is_boundary: bool) -> Self {
        Self { joined: !is_boundary, ..Self::default() }
    }

    /// The next segment begins with an inline command, as far as it and the reply before it show.
    pub(super) fn expect_inline(&mut self) {
        self.inline_begins = true;
    }

    /// One that the kernel followed so far.
    pub(super) fn resumed(end: &DirectionState<'_>) -> Self {
        let FramingState::Values { remaining: left, items } = end.framing else { return Self::default() };
        let mut words = [Word::default(); 3];
        words[0].extend(end.name);
        Self {
            message: Some(Message {
                // An error is one line, which is never in the middle.
                kind: b'*',
                elements: 1,
                words,
                blocks: false,
                start: end.start,
                end: end.start,
                bytes: end.bytes,
            }),
            // What comes are no words that matter.
            scalars: words.len(),
            left: u64::from(items).saturating_sub(u64::from(left == 0)),
            bulk: left,
            ..Self::default()
        }
    }

    /// So many bytes were lost before now.
    pub(super) fn lost(&mut self, segment: &Segment<'_>, mut give: impl FnMut(Item)) {
        self.skip_gap(segment.gap, segment.at, GapKind::Lost, &mut give);
    }

    /// Takes a segment, whose loss was reported before, and gives out every message that it ends. With
    /// `inline`, lines without a type byte are commands.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, inline: bool, mut give: impl FnMut(Item)) {
        let mut input = segment.bytes;
        if (self.lost || self.joined) && !input.is_empty() {
            // A message can only be found at the start of a segment.
            let is_found = self.finds_message(input, inline);
            self.inline_begins = false;
            if !is_found {
                self.lose(GapKind::Malformed, &mut give);
                return;
            }
            self.lost = false;
            self.joined = false;
        }
        self.inline_begins = false;
        while !input.is_empty() {
            if self.bulk > 0 {
                input = self.take_bulk(input, segment.at, &mut give);
                continue;
            }
            let end = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
            let (line, rest) = input.split_at(end);
            input = rest;
            self.take_line_bytes(line, segment.at);
            if line.last() == Some(&b'\n') {
                if let Line::Broken = self.line_ended(inline, segment.at, &mut give) {
                    self.lose(GapKind::Malformed, &mut give);
                    return;
                }
            } else if self.line_bytes > LINE_MAX {
                self.lose(GapKind::Malformed, &mut give);
                return;
            }
        }
        if segment.truncated > 0 {
            self.skip_gap(segment.truncated, segment.at, GapKind::Truncated, &mut give);
        }
    }

    /// Whether a message starts with this segment, as far as it and the bytes before it show.
    pub(super) fn starts(&self, segment: &Segment<'_>, inline: bool) -> bool {
        if self.lost || self.joined {
            self.finds_message(segment.bytes, inline)
        } else {
            self.message.is_none() && !segment.bytes.is_empty()
        }
    }

    /// Whether a message begins with these bytes, where none is known to.
    fn finds_message(&self, bytes: &[u8], inline: bool) -> bool {
        starts_message(bytes, inline) || self.inline_begins
    }

    /// Whether the start of the next message is unknown.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Where the direction's bytes stand.
    pub(super) fn framing(&self) -> Framing {
        match &self.message {
            _ if self.lost => Framing::Lost,
            Some(begun) => Framing::Head(begun.bytes),
            None => Framing::Head(0),
        }
    }

    /// Where the current message ends is unknown: looks for the next one.
    pub(super) fn forget(&mut self) {
        self.lose(GapKind::Truncated, &mut |_| {});
    }

    /// Whether a message's first byte comes next.
    pub(super) fn is_between(&self) -> bool {
        self.message.is_none() && self.line_bytes == 0 && self.bulk == 0 && !self.lost && !self.joined
    }

    /// Whether a message has begun that did not end.
    pub(super) fn in_message(&self) -> bool {
        self.message.is_some()
    }

    fn lose(&mut self, gap: GapKind, give: &mut impl FnMut(Item)) {
        let begun = self.message.take();
        self.joined = false;
        self.scalars = 0;
        self.option = Word::default();
        self.left = 0;
        self.streams.clear();
        self.chunked = false;
        self.line = Word::default();
        self.line_bytes = 0;
        self.bulk = 0;
        if !self.lost || gap == GapKind::Lost {
            self.lost = true;
            give(Item::Gap { gap, begun });
        }
    }

    fn skip_gap(&mut self, bytes: u64, at: Timestamp, gap: GapKind, give: &mut impl FnMut(Item)) {
        if self.bulk >= bytes {
            self.bulk -= bytes;
            if let Some(message) = &mut self.message {
                message.bytes += bytes;
                // Half a name is none.
                if let Some(word) = message.words.get_mut(self.scalars).filter(|word| !word.is_full()) {
                    *word = Word::DAMAGED;
                }
            }
            if self.bulk == 0 {
                self.bulk_ended(at, give);
            }
            return;
        }
        if let Some(message) = &mut self.message {
            message.bytes += bytes;
            message.end = at;
        }
        self.lose(gap, give);
    }

    fn take_bulk<'a>(&mut self, input: &'a [u8], at: Timestamp, give: &mut impl FnMut(Item)) -> &'a [u8] {
        let step = usize::try_from(self.bulk).unwrap_or(usize::MAX).min(input.len());
        let (inside, rest) = input.split_at(step);
        // The last two bytes are the line end.
        let content = usize::try_from(self.bulk.saturating_sub(2)).unwrap_or(usize::MAX).min(inside.len());
        if let Some(message) = &mut self.message {
            message.bytes += step as u64;
            let content = inside.get(..content).unwrap_or_default();
            match message.words.get_mut(self.scalars) {
                Some(word) => word.extend(content),
                None if self.scalars < OPTIONS_WITHIN => self.option.extend(content),
                None => {}
            }
        }
        self.bulk -= step as u64;
        if self.bulk == 0 {
            self.bulk_ended(at, give);
        }
        rest
    }

    fn take_line_bytes(&mut self, bytes: &[u8], at: Timestamp) {
        let message = self.message.get_or_insert(Message {
            kind: 0,
            elements: 1,
            words: [Word::default(); 3],
            blocks: false,
            start: at,
            end: at,
            bytes: 0,
        });
        message.bytes += bytes.len() as u64;
        self.line.extend(bytes);
        self.line_bytes = self.line_bytes.saturating_add(bytes.len());
        self.line_last =
            bytes.len().checked_sub(2).and_then(|i| bytes.get(i)).copied().unwrap_or(self.line_last);
    }

    fn line_ended(&mut self, inline: bool, at: Timestamp, give: &mut impl FnMut(Item)) -> Line {
        let line = std::mem::take(&mut self.line);
        self.line_bytes = 0;
        let text = line.as_bytes();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        // An attribute comes before the value that counts.
        let top = self.message.as_ref().is_some_and(|message| match message.kind {
            0 => true,
            b'|' => self.left == 0,
            _ => false,
        });
        let Some((&kind, rest)) = text.split_first() else {
            // Redis passes over empty lines between commands.
            if top && inline {
                self.message = None;
                return Line::Continues;
            }
            return Line::Broken;
        };
        if top && inline && kind != b'*' {
            return self.inline_command(text, at, give);
        }
        if let Some(message) = self.message.as_mut().filter(|_| top) {
            if message.kind == b'|' {
                // Its words are not the value's.
                message.words = [Word::default(); 3];
                self.scalars = 0;
            }
            message.kind = kind;
        }
        if !inline && let Some(line) = self.streamed(kind, rest, at, give) {
            return line;
        }
        match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => {
                self.word(rest);
                self.scalar_ended(at, give);
            }
            b'$' | b'=' | b'!' => match length(rest) {
                Some(Length::Bytes(length)) => self.bulk = length + 2,
                Some(Length::Null) => self.scalar_ended(at, give),
                None => return Line::Broken,
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Some(count) = length(rest) else { return Line::Broken };
                let pairs = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
                let elements = match count {
                    Length::Bytes(count) => count.saturating_mul(pairs),
                    Length::Null => 0,
                };
                if let Some(message) = self.message.as_mut().filter(|_| top) {
                    message.elements = elements;
                }
                self.left = self.left.saturating_add(elements);
                if kind != b'|' {
                    self.value_ended(at, give);
                }
            }
            _ => return Line::Broken,
        }
        Line::Continues
    }

    /// Takes a line of a streamed string or aggregate (RESP3, "Streamed strings", "Streamed aggregated data types"): `$?` and `*?`
    /// have no length, and end with an empty chunk and with `.`. `None` when it is none of these.
    fn streamed(
        &mut self,
        kind: u8,
        rest: &[u8],
        at: Timestamp,
        give: &mut impl FnMut(Item),
    ) -> Option<Line> {
        match (kind, rest) {
            (b';', _) if self.chunked => match length(rest) {
                Some(Length::Bytes(0)) => {
                    self.chunked = false;
                    self.scalar_ended(at, give);
                }
                Some(Length::Bytes(length)) => self.bulk = length + 2,
                _ => return Some(Line::Broken),
            },
            _ if self.chunked => return Some(Line::Broken),
            (b'$', b"?") => self.chunked = true,
            (b'*' | b'~' | b'%', b"?") if self.streams.len() < STREAMS_MAX => {
                self.streams.push(std::mem::take(&mut self.left));
            }
            (b'.', b"") if self.left == 0 => {
                let Some(left) = self.streams.pop() else { return Some(Line::Broken) };
                self.left = left;
                self.value_ended(at, give);
            }
            _ => return None,
        }
        Some(Line::Continues)
    }

    fn inline_command(&mut self, text: &[u8], at: Timestamp, give: &mut impl FnMut(Item)) -> Line {
        if !text.first().is_some_and(u8::is_ascii_alphabetic) {
            return Line::Broken;
        }
        let Some(message) = &mut self.message else { return Line::Broken };
        message.elements = 0;
        for (index, word) in text.split(|b| *b == b' ').filter(|word| !word.is_empty()).enumerate() {
            message.elements += 1;
            if let Some(slot) = message.words.get_mut(index) {
                slot.extend(word);
            }
        }
        self.message_ended(at, give);
        Line::Continues
    }

    fn word(&mut self, text: &[u8]) {
        if let Some(word) = self.message.as_mut().and_then(|message| message.words.get_mut(self.scalars)) {
            word.extend(text);
        }
    }

    /// Of a streamed string another chunk follows.
    fn bulk_ended(&mut self, at: Timestamp, give: &mut impl FnMut(Item)) {
        if !self.chunked {
            self.scalar_ended(at, give);
        }
    }

    fn scalar_ended(&mut self, at: Timestamp, give: &mut impl FnMut(Item)) {
        if self.scalars < OPTIONS_WITHIN {
            let option = std::mem::take(&mut self.option);
            if let Some(message) = &mut self.message {
                message.blocks |= message.words.get(self.scalars).unwrap_or(&option).is("BLOCK");
            }
        }
        self.scalars += 1;
        self.value_ended(at, give);
    }

    /// A value ended, or the line that begins an aggregate; the last one ends the message.
    fn value_ended(&mut self, at: Timestamp, give: &mut impl FnMut(Item)) {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None if !self.streams.is_empty() => {}
            None => self.message_ended(at, give),
        }
    }

    fn message_ended(&mut self, at: Timestamp, give: &mut impl FnMut(Item)) {
        self.scalars = 0;
        if let Some(mut message) = self.message.take() {
            message.end = at;
            give(Item::Message(message));
        }
    }
}
