//! One connection: identified by its first bytes, then followed by its protocol's parser.

use crate::{Chunk, Engine, Exchange, Protocol, ScopeId, Timestamp};

/// What is known about a connection's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough was seen.
    Guessing,
    /// It speaks this.
    Known(Protocol),
    /// Nothing known, or no longer worth following: no further bytes are needed.
    Ignored,
}

/// One connection's parser state.
#[derive(Debug)]
pub struct Connection {
    scope: ScopeId,
    verdict: Verdict,
}

impl Connection {
    /// A connection of which nothing was seen yet.
    pub fn new(scope: ScopeId) -> Self {
        Self { scope, verdict: Verdict::Guessing }
    }

    /// What is known about its protocol.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes the next bytes, in the order of each direction's offsets; gives out every exchange that they end.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, engine: &mut Engine, sink: &mut dyn FnMut(Exchange)) {
        let _ = (chunk, engine, sink, self.scope);
    }

    /// The connection was closed: requests still waiting end without a response.
    pub fn close(&mut self, now: Timestamp, engine: &mut Engine, sink: &mut dyn FnMut(Exchange)) {
        let _ = (now, engine, sink);
    }
}
