//! What the connections of one agent share: names, limits and counts.

use std::collections::HashMap;

/// A name, as a small integer. Equal names have equal symbols within one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub u32);

impl Symbol {
    /// No name.
    pub const NONE: Self = Self(0);
    /// What a name becomes when there is no room for another.
    pub const OTHER: Self = Self(1);
}

/// The application in whose favour routes are limited: all connections of one container share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub u32);

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most distinct names in all.
    pub symbols: usize,
    /// Most distinct routes of one application.
    pub routes_per_scope: usize,
    /// Most requests that wait for their response on one connection.
    pub pending_per_connection: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { symbols: 4096, routes_per_scope: 200, pending_per_connection: 1024 }
    }
}

/// What the engine saw and did not understand, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Request starts seen on identified connections.
    pub messages_seen: u64,
    /// Exchanges given out.
    pub exchanges: u64,
    /// Request starts that never became an exchange: desynchronised, evicted, malformed.
    pub not_understood: u64,
    /// Names folded into [`Symbol::OTHER`].
    pub folded: u64,
    /// Gaps in a stream after which a parser had to look for the next message.
    pub gaps: u64,
}

/// What the connections of one agent share.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    tally: Tally,
    names: Vec<Box<str>>,
    symbols: HashMap<Box<str>, Symbol>,
}

impl Engine {
    /// An engine without connections.
    pub fn new(limits: Limits) -> Self {
        let mut engine = Self { limits, tally: Tally::default(), names: Vec::new(), symbols: HashMap::new() };
        for reserved in ["", "other"] {
            engine.intern(reserved);
        }
        engine
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it saw so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The text of a symbol.
    pub fn name(&self, symbol: Symbol) -> &str {
        self.names.get(symbol.0 as usize).map_or("other", |name| name)
    }

    /// The symbol of a name; [`Symbol::OTHER`], counted, when there is no room for another.
    pub fn intern(&mut self, name: &str) -> Symbol {
        if let Some(&symbol) = self.symbols.get(name) {
            return symbol;
        }
        if self.names.len() >= self.limits.symbols.max(2) {
            self.tally.folded += 1;
            return Symbol::OTHER;
        }
        let symbol = Symbol(u32::try_from(self.names.len()).unwrap_or(1));
        self.names.push(name.into());
        self.symbols.insert(name.into(), symbol);
        symbol
    }
}
