//! The recorder: exchanges become series, and some of them spans.
//!
//! ```text
//! exchange with its Origin ──► Recorder ──► SeriesTable: sums by key, which the host gets when they change
//!                                  └──────► SpanSampler: single exchanges, each sent once
//! ```
//!
//! - [`origin`] is where an exchange was seen: [`containers`], [`peer`].
//! - [`series`] keeps the sums, [`labels`] writes their keys for the host; [`spans`] samples.
//!
//! Invariants: memory is bounded; an exchange counts in exactly one series, of which the host knows before it gets a span
//! of it; nothing here knows from where exchanges come.

pub mod containers;
mod key;
mod labels;
pub mod origin;
pub mod peer;
mod peers;
pub mod series;
pub mod spans;

use porthole_l7::{Exchange, ParserContext};

pub use self::{
    origin::{Details, Origin},
    series::{Increment, SeriesTable},
    spans::{SpanPolicy, SpanSampler},
};

/// Series and spans of one agent.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The sums.
    pub series: SeriesTable,
    /// The sampled exchanges.
    pub spans: SpanSampler,
    /// The wall clock's time when the monotonic clock showed 0, nanoseconds since 1970.
    unix_offset_ns: u64,
}

impl Recorder {
    /// Takes the wall clock's time when the monotonic clock showed 0, nanoseconds since 1970. The wall clock can be set.
    pub fn set_unix_offset(&mut self, unix_offset_ns: u64) {
        self.unix_offset_ns = unix_offset_ns;
    }

    /// Records an exchange; gives the number of its series, or none when there was no room.
    pub fn record(
        &mut self,
        exchange: &Exchange,
        origin: Origin<'_>,
        context: &ParserContext,
    ) -> Option<usize> {
        let end_unix_ns = self.unix_offset_ns.saturating_add(exchange.end.0);
        let series = self.series.record(exchange, origin, context, end_unix_ns)?;
        self.spans.consider(series, exchange, &origin, end_unix_ns);
        Some(series)
    }
}
