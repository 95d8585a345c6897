//! What takes the messages that a reader finds, and decides how each continues after its head.

use crate::{Timestamp, http1::fields::Fields, resync::GapKind};

/// How a message continues after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http1) enum Body {
    /// Nothing follows.
    None,
    /// Nothing follows, and the message is only a forerunner of another.
    Interim,
    /// So many bytes, not 0.
    Length(u64),
    /// RFC 9112 section 7.1.
    Chunked,
    /// Until the connection ends.
    UntilClose,
    /// Unknown.
    Unframed,
    /// What follows is not HTTP.
    Tunnel,
}

/// Receives the messages.
pub(in crate::http1) trait Handler {
    /// A start line, without its line feed. `whole` is false when its end was not captured or kept. Returns whether it
    /// is one.
    fn start(&mut self, line: &[u8], whole: bool, at: Timestamp) -> bool;
    /// The head ended; `certain` is false when its end is in bytes that were not captured.
    fn head(&mut self, fields: &Fields, certain: bool, bytes: u64, at: Timestamp) -> Body;
    /// So many bytes, since then, are no message, or not known to be one without a time; `is_line` when they end with a line feed.
    fn malformed(&mut self, since: Option<Timestamp>, bytes: u64, is_line: bool);
    /// The message ended.
    fn end(&mut self, bytes: u64, at: Timestamp);
    /// The message, whose head did not end, is none.
    fn abandon(&mut self);
    /// Whether a message could start although the one before has not ended by its own framing.
    fn next_expected(&self) -> bool;
    /// The framing was lost behind the message at hand.
    fn gap(&mut self, gap: GapKind);
}
