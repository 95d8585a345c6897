//! Where messages begin: at the beginning of a segment if none is due, or one that is may not come.

use super::{Handler, LINE_BYTES_MAX, Reader, State};
use crate::{
    http1::detect::{self, Place},
    parser::{Detection, Segment, Sender},
    resync::GapKind,
};

impl Reader {
    /// Whether a message starts with this segment, as far as it and the bytes before it show.
    pub(in crate::http1) fn starts(&self, segment: &Segment<'_>) -> bool {
        match self.state {
            State::Start => self.line.is_empty() && !segment.bytes.is_empty(),
            State::Lost | State::Unframed | State::UntilClose => self.opens(segment) != Detection::No,
            _ => false,
        }
    }

    /// At the beginning of a segment: does a message start here although none was due? True if only what follows shows it: then the
    /// segment is held.
    pub(super) fn restart(&mut self, segment: &Segment<'_>, handler: &mut impl Handler) -> bool {
        if self.undecided.is_some() {
            let held = self.line.len();
            self.hold(segment.bytes);
            let detection = self.detect(&self.line, self.place.min(Place::Plausible));
            if detection == Detection::More && self.may_wait(held + segment.bytes.len(), segment) {
                return true;
            }
            self.line.truncate(held);
            self.long = false;
            let next = matches!(detection, Detection::Yes(_));
            self.decide(next, handler);
            // Else the segment may still begin a message by itself.
            if next {
                return false;
            }
        }
        match self.state {
            State::Lost if segment.bytes.is_empty() => {}
            State::Lost => {
                if self.opens(segment) == Detection::No {
                    self.misses = self.misses.saturating_add(1);
                } else {
                    self.state = State::Start;
                }
            }
            // A client has to send the whole body before its next request, or to close the connection, also when the
            // response comes early (RFC 9112 section 9.3), unless it waits for `100 Continue` (RFC 9110 section 10.1.1).
            State::Length(_) | State::ChunkSize
                if self.from == Sender::Client && (!self.body_optional || !self.line.is_empty()) => {}
            State::ChunkSize if self.from == Sender::Server => {}
            State::Unframed | State::UntilClose | State::Length(_) | State::ChunkSize
                if handler.next_expected() =>
            {
                match self.opens(segment) {
                    Detection::Yes(_) => self.begin_next(handler),
                    Detection::More if self.may_wait(segment.bytes.len(), segment) => {
                        self.undecided = Some(segment.at);
                        self.hold(segment.bytes);
                        return true;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        false
    }

    /// Whether so many bytes, up to a segment's end, may stay undecided: what a length ends with is the message's.
    fn may_wait(&self, held: usize, segment: &Segment<'_>) -> bool {
        let is_rest = matches!(self.state, State::Length(rest) if rest == held as u64);
        (1..=LINE_BYTES_MAX).contains(&held) && segment.truncated == 0 && !is_rest
    }

    /// The next message begins, whether the one at hand has ended by its framing or not.
    fn begin_next(&mut self, handler: &mut impl Handler) {
        if self.from == Sender::Server && matches!(self.state, State::Length(_)) {
            handler.gap(GapKind::Malformed);
        }
        self.finish(handler);
        self.place = Place::Plausible;
    }

    /// What is held is the next message, or more of the one at hand.
    pub(super) fn decide(&mut self, next: bool, handler: &mut impl Handler) {
        let Some(at) = self.undecided.take() else { return };
        let held = std::mem::take(&mut self.line);
        if next {
            self.begin_next(handler);
        }
        let mut input = held.as_slice();
        while !input.is_empty() {
            input = self.step(input, at, handler);
        }
    }

    /// Whether the segment's bytes look like the start of a message.
    fn opens(&self, segment: &Segment<'_>) -> Detection {
        self.detect(segment.bytes, self.place.min(Place::Plausible))
    }

    /// Whether what is buffered of a start line can become one.
    pub(super) fn detect_line(&self) -> Detection {
        self.detect(&self.line, self.place)
    }

    /// Whether a line can begin a message at such a place.
    pub(super) fn begins_with(&self, line: &[u8], place: Place) -> bool {
        self.from == Sender::Server || detect::has_method(line, place)
    }

    /// The next segment is the first one behind what the other end has answered.
    pub(in crate::http1) fn follows_response(&mut self) {
        self.place = self.place.max(Place::Plausible);
    }

    fn detect(&self, bytes: &[u8], place: Place) -> Detection {
        match self.from {
            Sender::Client => detect::request(bytes, place),
            Sender::Server => detect::response(bytes),
        }
    }
}
