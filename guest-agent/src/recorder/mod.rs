//! The recorder: exchanges become series, and some of them spans.
//!
//! ```text
//! exchange with its Origin ──► Recorder ──► SeriesTable: sums by key, which the host gets when they change
//!                                  └──────► SpanSampler: single exchanges, each sent once
//! ```
//!
//! - [`origin`] is where an exchange was seen: [`containers`], [`peer`].
//! - [`dependencies`] counts connections by address.
//! - [`parents`] keeps clients' spans until the request that they were made for is answered.
//! - [`series`] keeps the sums, [`labels`] writes their keys for the host; [`spans`] samples.
//!
//! Invariants: memory is bounded; an exchange counts in exactly one series, which the host gets before a span
//! of it; nothing here depends on where exchanges come from.

pub mod containers;
pub mod dependencies;
mod key;
mod labels;
mod marks;
pub mod origin;
pub mod parents;
pub mod peer;
mod peers;
pub mod series;
pub mod spans;
#[cfg(test)]
pub(crate) mod testing;

use porthole_l7::{Exchange, ParserContext};

pub use self::{
    dependencies::Dependencies,
    origin::{Details, Origin, ProcessServing, Serving, Worker},
    series::{Increment, NamedSeries, Place, SeriesTable},
    spans::{SpanPolicy, SpanSampler},
};

/// Series, spans and dependencies of one agent.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The sums.
    pub series: SeriesTable,
    /// The sampled exchanges.
    pub spans: SpanSampler,
    /// Connections by address, since the agent's start.
    pub dependencies: Dependencies,
    /// The wall clock's time when the monotonic clock showed 0, nanoseconds since 1970.
    unix_offset_ns: u64,
}

impl Recorder {
    /// Takes the wall clock's time when the monotonic clock showed 0, nanoseconds since 1970. The wall clock can be set.
    pub fn set_unix_offset(&mut self, unix_offset_ns: u64) {
        self.unix_offset_ns = unix_offset_ns;
    }

    /// Begins anew, but for dependencies; gives the series and spans before.
    #[must_use]
    pub fn renew(&mut self, now_ns: u64) -> Self {
        let now_unix_ns = self.unix_offset_ns.saturating_add(now_ns);
        Self {
            series: self.series.renew(now_ns, now_unix_ns),
            spans: self.spans.renew(),
            dependencies: Dependencies::default(),
            unix_offset_ns: self.unix_offset_ns,
        }
    }

    /// Records an exchange; gives its series, or none when there was no room.
    pub fn record(
        &mut self,
        exchange: &Exchange,
        origin: Origin<'_>,
        context: &ParserContext,
    ) -> Option<Place> {
        let other = exchange.peer.map(peer::Peer::Internet);
        let origin = Origin { peer: other.as_ref().unwrap_or(origin.peer), ..origin };
        let end_unix_ns = self.unix_offset_ns.saturating_add(exchange.end.0);
        let series = self.series.record(exchange, origin, context, end_unix_ns)?;
        self.spans.consider(series.at, exchange, &origin, end_unix_ns);
        Some(series)
    }
}
