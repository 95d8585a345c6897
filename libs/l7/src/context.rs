//! What the connections of one agent share: names, limits and counts.
//!
//! - [`vocabulary`] bounds the names of each kind that an application has, [`learned_ids`] what it calls by an id.

mod learned_ids;
mod vocabulary;

pub use vocabulary::NameKind;

use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt as _};

use self::{learned_ids::LearnedIds, vocabulary::Vocabularies};
use crate::{
    Timestamp,
    coverage::UnaccountedBytes,
    exchange::Status,
    lookups::Lookups,
    names::Candidates,
    pending::SharedPending,
    routes::{
        RouteRef, Routes,
        learning::Sighting,
        own::{OwnTemplate, TEMPLATES_MAX, TemplateError},
        template::{self, template},
    },
    symbol::{Names, ScopeId, Symbol},
};

/// Longest name, bytes; longer ones are cut.
pub const NAME_BYTES_MAX: usize = 256;

/// Bounds of an context.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most distinct names in all, 65,536 at most; those that were not used for an hour make room.
    pub symbols: usize,
    /// Most distinct routes of one application.
    pub routes_per_scope: usize,
    /// Requests that may wait for their response on any connection.
    pub pending_per_connection: usize,
    /// Further requests that may wait on all connections together, of protocols whose clients send many at once.
    pub pending_shared: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { symbols: 16_384, routes_per_scope: 200, pending_per_connection: 1024, pending_shared: 40_960 }
    }
}

/// What the context saw and did not understand, cumulative.
///
/// `messages_seen` is `exchanges` plus `unparsed` plus what still waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Request starts seen on identified connections; a response whose request was not seen counts as one.
    pub messages_seen: u64,
    /// Exchanges given out.
    pub exchanges: u64,
    /// Request starts that never became an exchange: desynchronised, evicted, malformed.
    pub unparsed: u64,
    /// Names that became `other` because a bound was reached. An exchange may have several: [`crate::Exchange::overflowed`].
    pub overflowed_names: u64,
    /// Gaps in a stream after which a parser had to look for the next message.
    pub gaps: u64,
    /// Exchanges given out whose status or name is not known, because bytes are missing that held it.
    pub incomplete: u64,
    /// Connections that were given up because no protocol was recognised.
    pub unidentified: u64,
}

/// What the connections of one agent share.
#[derive(Debug)]
pub struct ParserContext {
    limits: Limits,
    shared: SharedPending,
    tally: Tally,
    unaccounted: UnaccountedBytes,
    names: Names,
    vocabularies: Vocabularies,
    routes: HashMap<ScopeId, Routes>,
    /// When names of an application were last used.
    scopes: HashMap<ScopeId, Timestamp>,
    /// The time, as far as connections have shown it.
    now: Timestamp,
    own_templates: Vec<OwnTemplate>,
    /// Only the routes of the user's templates have names.
    configured_routes_only: bool,
    /// Every segment that looks like a word is part of a route's name.
    trusts_paths: bool,
    candidates: Candidates,
    /// What was called by an id, by the application that did so.
    learned_ids: LearnedIds,
    lookups: Lookups,
    scratch: String,
}

/// Most applications whose names are kept: that which was not used for the longest time makes room.
const SCOPES_MAX: usize = 256;

impl ParserContext {
    /// An context without connections.
    pub fn new(limits: Limits) -> Self {
        let mut context = Self {
            limits,
            shared: SharedPending::default(),
            tally: Tally::default(),
            unaccounted: UnaccountedBytes::default(),
            names: Names::new(limits.symbols),
            vocabularies: Vocabularies::default(),
            routes: HashMap::new(),
            scopes: HashMap::new(),
            now: Timestamp::default(),
            own_templates: Vec::new(),
            configured_routes_only: false,
            trusts_paths: false,
            candidates: Candidates::default(),
            learned_ids: LearnedIds::default(),
            lookups: Lookups::default(),
            scratch: String::new(),
        };
        for reserved in ["", "other"] {
            context.intern(reserved);
        }
        context
    }

    /// Sets the route templates that win over what is found by looking at the traffic, the first one that matches first.
    ///
    /// # Errors
    ///
    /// A template that cannot be used, by name; then none is.
    pub fn set_route_templates(&mut self, templates: &[impl AsRef<str>]) -> Result<(), TemplateError> {
        if templates.len() > TEMPLATES_MAX {
            return Err(TemplateError::TooMany);
        }
        let mut own = Vec::new();
        for text in templates {
            let symbol = self.intern(truncate(text.as_ref(), NAME_BYTES_MAX));
            own.push(OwnTemplate::parse(text.as_ref(), symbol)?);
        }
        self.own_templates = own;
        Ok(())
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Requests that wait beyond [`Limits::pending_per_connection`].
    pub(crate) fn shared_pending(&self) -> &SharedPending {
        &self.shared
    }

    /// What it saw so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Bytes of connections whose protocol is known that no exchange accounts for.
    pub fn unaccounted(&self) -> UnaccountedBytes {
        self.unaccounted
    }

    pub(crate) fn unaccounted_mut(&mut self) -> &mut UnaccountedBytes {
        &mut self.unaccounted
    }

    /// The text of a symbol.
    pub fn name(&self, symbol: Symbol) -> &str {
        self.names.text(symbol)
    }

    /// The symbol of a word of the code or the configuration, which is kept; [`Symbol::OVERFLOWED`], counted, when there is no room
    /// for another name.
    pub fn intern(&mut self, word: &str) -> Symbol {
        self.symbol(word, true)
    }

    fn symbol(&mut self, name: &str, is_word: bool) -> Symbol {
        self.make_room();
        let symbol = self.names.intern(name, is_word, self.now);
        self.tally.overflowed_names += u64::from(symbol.is_none());
        symbol.unwrap_or(Symbol::OVERFLOWED)
    }

    /// If there is no room for another name, those that were not used for a while are dropped, and with them what has them.
    fn make_room(&mut self) {
        if !self.names.make_room(self.now) {
            return;
        }
        let names = &self.names;
        self.vocabularies.retain(|symbol| names.is_in_use(symbol));
        for routes in self.routes.values_mut() {
            routes.retain(|symbol| names.is_in_use(symbol));
        }
        self.learned_ids.retain(|symbol| names.is_in_use(symbol));
        self.lookups.retain(|_, symbol| names.is_in_use(symbol));
    }

    /// An exchange has these names.
    pub(crate) fn used(&mut self, symbols: [Symbol; 2]) {
        for symbol in symbols {
            self.names.touch(symbol, self.now);
        }
    }

    /// Exchanges with these names are aggregated elsewhere: they are used as if the exchanges had come here.
    pub fn keep_names(&mut self, scope: ScopeId, symbols: [Symbol; 3], at: Timestamp) {
        self.observe(at);
        self.enter(scope);
        for symbol in symbols.into_iter().filter(|symbol| *symbol > Symbol::OTHER) {
            self.names.touch(symbol, self.now);
            self.vocabularies.touch(scope, symbol, self.now);
            if let Some(routes) = self.routes.get_mut(&scope) {
                routes.touch(symbol, self.now);
            }
        }
    }

    /// Drops the names of an application whose connections are gone. Symbols stay while they are used.
    pub fn forget_scope(&mut self, scope: ScopeId) {
        self.routes.remove(&scope);
        self.candidates.forget(scope);
        self.vocabularies.forget(scope);
        self.learned_ids.forget(scope);
        self.lookups.retain(|of, _| of != scope);
        self.scopes.remove(&scope);
    }

    /// Time has passed.
    pub(crate) fn observe(&mut self, at: Timestamp) {
        self.now = self.now.max(at);
    }

    /// Names of an application are used.
    fn enter(&mut self, scope: ScopeId) {
        let now = self.now;
        if let Some(used) = self.scopes.get_mut(&scope) {
            *used = now;
            return;
        }
        if self.scopes.len() >= SCOPES_MAX
            && let Some((&oldest, _)) = self.scopes.iter().min_by_key(|(_, used)| **used)
        {
            self.forget_scope(oldest);
        }
        self.scopes.insert(scope, now);
    }

    pub(crate) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// The symbol of a name out of an application's vocabulary; [`Symbol::OVERFLOWED`], counted, when that is full.
    pub(crate) fn name_of(&mut self, scope: ScopeId, kind: NameKind, name: &str) -> Symbol {
        let name = truncate(name, NAME_BYTES_MAX);
        if name.is_empty() {
            return Symbol::NONE;
        }
        self.enter(scope);
        let now = self.now;
        let known = self.names.known(name);
        if let Some(symbol) = known
            && self.vocabularies.contain(scope, kind, symbol, now)
        {
            self.names.touch(symbol, now);
            return symbol;
        }
        if !self.vocabularies.have_room(scope, kind, kind.limit(&self.limits), now) {
            self.tally.overflowed_names += 1;
            return Symbol::OVERFLOWED;
        }
        let symbol = self.symbol(name, false);
        if symbol != Symbol::OVERFLOWED {
            self.vocabularies.insert(scope, kind, symbol, now);
        }
        symbol
    }

    /// The symbol of a name that has to be confirmed: a candidate, unless it is in the application's vocabulary already.
    pub(crate) fn candidate(&mut self, scope: ScopeId, kind: NameKind, name: &str) -> Symbol {
        let name = truncate(name, NAME_BYTES_MAX);
        if name.is_empty() || self.trusts_paths {
            return self.name_of(scope, kind, name);
        }
        if template::holds_token(name.as_bytes()) {
            return self.intern("{}");
        }
        match self.known_name(scope, kind, name) {
            Some(symbol) => symbol,
            None => self.candidates.symbol(scope, kind, name, self.now),
        }
    }

    /// The name of a symbol that may be a candidate, now that a request with it has ended.
    pub(crate) fn settle(
        &mut self,
        scope: ScopeId,
        symbol: Symbol,
        is_confirmed: bool,
        at: Timestamp,
    ) -> Symbol {
        if !symbol.is_candidate() {
            return symbol;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        let symbol = match candidates.settle(symbol, is_confirmed, at) {
            Ok((kind, text)) => self.name_of(scope, kind, text),
            Err(other) => {
                self.tally.overflowed_names += u64::from(other == Symbol::OVERFLOWED);
                other
            }
        };
        self.candidates = candidates;
        symbol
    }

    /// The symbol of a name that is in an application's vocabulary already.
    pub(crate) fn known_name(&mut self, scope: ScopeId, kind: NameKind, name: &str) -> Option<Symbol> {
        let symbol = self.names.known(name)?;
        self.vocabularies.contain(scope, kind, symbol, self.now).then_some(symbol)
    }

    pub(crate) fn look_up(&mut self, scope: ScopeId, address: IpAddr, name: Symbol) {
        // Of a name that has no place, and of what is no name of a host, there is nothing to show.
        if name != Symbol::NONE && !name.is_other() && self.names.text(name) != "{}" {
            self.lookups.add(scope, address.to_canonical(), name, self.now);
        }
    }

    /// The name, converged, for which an application got this address from a name server.
    pub fn looked_up(&self, scope: ScopeId, address: IpAddr) -> Option<&str> {
        let symbol = self.lookups.name(scope, address.to_canonical())?;
        self.names.is_in_use(symbol).then(|| self.names.text(symbol))
    }

    /// Learns the name of what an application calls by an id on any of its connections. With no room for another, it
    /// is not stored, and counted.
    pub(crate) fn learn_id(&mut self, scope: ScopeId, id: [u8; 16], name: Symbol) {
        if !self.learned_ids.learn(scope, id, name, self.now) {
            self.tally.overflowed_names += 1;
        }
    }

    /// The name that belongs to an id of an application, once it is known.
    pub(crate) fn learned_id(&mut self, scope: ScopeId, id: [u8; 16]) -> Option<Symbol> {
        self.learned_ids.get(scope, id, self.now)
    }

    /// All names that were given out.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.texts()
    }

    /// Gives names to the routes of the user's templates alone: every other path is [`Symbol::OTHER`].
    pub fn set_configured_routes_only(&mut self, only: bool) {
        self.configured_routes_only = only;
    }

    /// Takes every segment of a path that looks like a word for code, and every name for confirmed, on its first request: for
    /// who may see all data anyway.
    pub fn set_trusts_paths(&mut self, trusts: bool) {
        self.trusts_paths = trusts;
    }

    /// Looks up the route of a request target.
    pub(crate) fn route(&mut self, scope: ScopeId, target: &[u8]) -> RouteRef {
        if let Ok(path) = template::path(target)
            && let Some(own) = self.own_templates.iter().find(|own| own.matches(path))
        {
            return RouteRef::own(own.symbol);
        }
        if self.configured_routes_only {
            return RouteRef::unnamed();
        }
        self.enter(scope);
        template(target, &mut self.scratch);
        self.routes.entry(scope).or_default().begin(&self.scratch)
    }

    /// The name of a route, now that its outcome is known.
    pub(crate) fn route_symbol(
        &mut self,
        scope: ScopeId,
        route: RouteRef,
        status: Status,
        sighting: Sighting,
    ) -> Symbol {
        self.make_room();
        let trusts = self.trusts_paths;
        let Self { limits, tally, names, routes, now, .. } = self;
        let routes = routes.entry(scope).or_default();
        let symbol = routes.finish(route, status, sighting, trusts, limits.routes_per_scope, |name| {
            let symbol = names.intern(name, false, *now);
            symbol.unwrap_or(Symbol::OVERFLOWED)
        });
        tally.overflowed_names += u64::from(symbol == Symbol::OVERFLOWED);
        symbol
    }
}

/// The longest prefix of at most `bytes` bytes that ends between two characters.
fn truncate(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests;
