//! Bytes that were lost or not captured, and what is known of the message at hand behind them.

use super::{CHUNK_TAIL, Handler, Reader, State};
use crate::{
    Timestamp,
    http1::{detect::Place, fields::Fields},
    parser::Sender,
    resync::GapKind,
};

/// What follows the last chunk's data in a message without trailers: CRLF, `0`, CRLF, CRLF.
const LAST_CHUNK_TAIL: u64 = 7;

/// Quiet time after which an unframed response counts as ended, nanoseconds.
pub(in crate::http1) const UNFRAMED_QUIET_NS: u64 = 5_000_000_000;

impl Reader {
    /// Whether it could not find a message's end or start in bytes that are missing now.
    pub(in crate::http1) fn is_blind(&self) -> bool {
        matches!(self.state, State::Lost | State::Unframed | State::UntilClose)
    }

    /// So many bytes were lost.
    pub(in crate::http1) fn lost(&mut self, bytes: u64, handler: &mut impl Handler) {
        self.decide(false, handler);
        self.skip_gap(bytes, false, handler);
        // The end of a request's body is not needed.
        if self.from == Sender::Client && self.is_blind() {
            self.end_unframed(handler);
            self.lose(GapKind::Lost, handler);
        }
    }

    /// The message, if it is unframed, has ended with its last byte so far.
    pub(in crate::http1) fn end_unframed(&mut self, handler: &mut impl Handler) {
        self.decide(false, handler);
        if self.state == State::Unframed {
            self.finish(handler);
            self.state = State::Lost;
        }
    }

    /// Nothing moved for a while.
    pub(in crate::http1) fn tick(&mut self, now: Timestamp, handler: &mut impl Handler) {
        if now.since(self.last) >= UNFRAMED_QUIET_NS {
            self.end_unframed(handler);
        }
    }

    /// `bytes` of this direction were not captured. With `one_call` they are the rest of what was moved at once, so
    /// that a message or a chunk most likely ends with them.
    pub(super) fn skip_gap(&mut self, bytes: u64, one_call: bool, handler: &mut impl Handler) {
        let gap = if one_call { GapKind::Truncated } else { GapKind::Lost };
        self.body_optional = false;
        let before = self.bytes;
        self.bytes = self.bytes.saturating_add(bytes);
        let place = self.place;
        if !matches!(self.state, State::Length(left) | State::ChunkData(left) if bytes <= left) {
            self.place = self.place.min(place_behind(gap));
        }
        match self.state {
            State::Start if self.line.is_empty() => self.lose(gap, handler),
            // The message at hand is still the next one: only what follows it is unknown.
            State::Start => {
                let buffered = std::mem::take(&mut self.line);
                self.fields = Fields::default();
                let is_start = self.begins_with(&buffered, place);
                if is_start && handler.start(&buffered, false, self.first) {
                    self.misses = 0;
                    self.head(false, handler);
                } else {
                    self.state = State::Lost;
                    self.bytes = 0;
                }
                handler.gap(gap);
            }
            State::Header => {
                self.head(false, handler);
                handler.gap(gap);
            }
            State::Length(remaining) if bytes < remaining => self.state = State::Length(remaining - bytes),
            State::Length(remaining) => {
                self.bytes = before.saturating_add(remaining);
                self.finish(handler);
                if bytes > remaining {
                    self.lose(gap, handler);
                }
            }
            State::ChunkData(remaining) if bytes <= remaining => {
                self.state =
                    if bytes == remaining { State::ChunkEnd } else { State::ChunkData(remaining - bytes) };
            }
            State::ChunkData(remaining) if one_call && bytes - remaining == CHUNK_TAIL => {
                self.state = State::ChunkSize;
            }
            State::ChunkData(remaining) if one_call && bytes - remaining == LAST_CHUNK_TAIL => {
                self.finish(handler);
            }
            State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailer => {
                handler.gap(gap);
                self.state = State::Unframed;
            }
            State::Lost => self.bytes = 0,
            State::UntilClose | State::Unframed | State::Tunnel => {}
        }
        self.line.clear();
        self.long = false;
    }

    pub(super) fn lose(&mut self, gap: GapKind, handler: &mut impl Handler) {
        self.bytes = 0;
        self.place = self.place.min(place_behind(gap));
        if self.state != State::Lost {
            self.state = State::Lost;
            handler.gap(gap);
        }
    }
}

/// How far what comes behind missing bytes can be relied on to begin a message.
fn place_behind(gap: GapKind) -> Place {
    if gap == GapKind::Lost { Place::Anywhere } else { Place::Plausible }
}
