//! Import of what the kernel aggregated or followed: exchanges get names, connections get a parser that resumes.
//!
//! Each protocol converts its own state, in the [`Offload`] of its table entry.

use crate::{
    connection::Connection,
    context::ParserContext,
    exchange::{ErrorClass, Exchange, Status},
    offload::{ConnectionState, NamedExchange, OffloadedExchange},
    parser::{ConnectionContext, Offload, Transport},
    symbol::{ClientId, ScopeId, Symbol},
    table,
};

impl ParserContext {
    /// Gives names to an exchange that the kernel paired. `None` for a protocol whose exchanges the kernel cannot pair.
    pub fn name_offloaded(&mut self, offloaded: &OffloadedExchange<'_>) -> Option<NamedExchange> {
        let protocol = offloaded.detail.protocol();
        let Offload { name, .. } = table::entry(protocol)?.offload?;
        let mut exchange = Exchange {
            protocol,
            side: offloaded.side,
            operation: Symbol::OTHER,
            resource: Symbol::OTHER,
            status: Status::None,
            error: ErrorClass::None,
            start: offloaded.start,
            end: offloaded.end,
            request_bytes: offloaded.request_bytes,
            response_bytes: offloaded.response_bytes,
            peer: None,
            trace: None,
            overflowed: false,
        };
        let mut sink = |given| exchange = given;
        let of = (offloaded.scope, offloaded.client, offloaded.side);
        let mut cx = ConnectionContext::new(self, of, &mut sink);
        cx.context.observe(offloaded.end);
        cx.message();
        cx.set_trace(offloaded.trace);
        let is_stable = name(offloaded, &mut cx);
        Some(NamedExchange { exchange, is_stable })
    }

    /// Counts exchanges that the kernel aggregated under names that are known already.
    pub fn count_offloaded(&mut self, exchanges: u64) {
        let tally = self.tally_mut();
        tally.messages_seen += exchanges;
        tally.exchanges += exchanges;
    }
}

impl Connection {
    /// Resumes where the kernel stopped, which followed the connection from its beginning or since it was
    /// [idle](Self::idle_state). Without a parser that can resume, the pending requests are counted as unparsed.
    pub fn resume(&mut self, scope: ScopeId, state: &ConnectionState<'_>, context: &mut ParserContext) {
        if self.resume_here(state, context) {
            return;
        }
        if let Some(resumed) = Self::restored(scope, state, context) {
            *self = resumed.of_client(self.client());
            return;
        }
        let tally = context.tally_mut();
        tally.messages_seen += state.pending.len() as u64;
        tally.unparsed += state.pending.len() as u64;
    }

    /// The connection with a new parser, for a protocol whose parser needs nothing of what was sent before.
    fn restored(scope: ScopeId, state: &ConnectionState<'_>, context: &mut ParserContext) -> Option<Self> {
        let restore = table::entry(state.protocol)?.offload?.restore?;
        let mut sink = |_| {};
        let mut cx = ConnectionContext::new(context, (scope, ClientId::default(), state.side), &mut sink);
        let parser = restore(state, &mut cx);
        Some(Self::following(scope, Transport::Stream, state.protocol, state.side, parser, state.offsets))
    }
}

#[cfg(test)]
mod databases;
#[cfg(test)]
mod tests;
