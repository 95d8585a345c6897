//! What the connections of one agent share: names, limits and counts.

use std::collections::{HashMap, HashSet};

use crate::{
    exchange::Status,
    routes::{
        RouteRef, Routes,
        own::{OwnTemplate, TEMPLATES_MAX, TemplateError},
        template::{self, template},
    },
    symbol::{ScopeId, Symbol},
};

/// A vocabulary of names that an application brings, each bounded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NameKind {
    /// HTTP methods that are not well known.
    HttpMethod,
    /// gRPC `/service/method`.
    GrpcMethod,
    /// Tables of SQL statements.
    Table,
    /// Commands that are not well known, of any protocol.
    Command,
    /// Error words that are not well known: SQLSTATEs, Redis error prefixes.
    ErrorWord,
    /// Topics, subjects, queues, exchanges.
    Destination,
    /// Collections of document stores.
    Collection,
    /// Domain names, converged.
    Domain,
    /// Classes of keys.
    KeyClass,
}

impl NameKind {
    /// Most names of this kind that one application has.
    fn limit(self, limits: &Limits) -> usize {
        match self {
            Self::HttpMethod => 16,
            Self::Command | Self::ErrorWord => 64,
            _ => limits.routes_per_scope,
        }
    }
}

/// Longest name, bytes; longer ones are cut.
pub const NAME_BYTES_MAX: usize = 256;

/// Bounds of an context.
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
    /// Folds names beyond the bound into [`Symbol::OTHER`].
    pub overflowed_names: u64,
    /// Gaps in a stream after which a parser had to look for the next message.
    pub gaps: u64,
    /// Connections that were given up because no protocol was recognised.
    pub unidentified: u64,
}

/// What the connections of one agent share.
#[derive(Debug)]
pub struct ParserContext {
    limits: Limits,
    tally: Tally,
    names: Names,
    vocabularies: HashMap<(ScopeId, NameKind), HashSet<Symbol>>,
    routes: HashMap<ScopeId, Routes>,
    own_templates: Vec<OwnTemplate>,
    /// Only the routes of the user's templates have names.
    configured_routes_only: bool,
    /// What was called by an id, by the application that did so.
    learned_ids: HashMap<(ScopeId, [u8; 16]), Symbol>,
    scratch: String,
}

#[derive(Debug, Default)]
struct Names {
    texts: Vec<Box<str>>,
    symbols: HashMap<Box<str>, Symbol>,
}

impl ParserContext {
    /// An context without connections.
    pub fn new(limits: Limits) -> Self {
        let mut context = Self {
            limits,
            tally: Tally::default(),
            names: Names::default(),
            vocabularies: HashMap::new(),
            routes: HashMap::new(),
            own_templates: Vec::new(),
            configured_routes_only: false,
            learned_ids: HashMap::new(),
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

    /// What it saw so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The text of a symbol.
    pub fn name(&self, symbol: Symbol) -> &str {
        self.names.texts.get(symbol.0 as usize).map_or("other", |name| name)
    }

    /// The symbol of a name; [`Symbol::OTHER`], counted, when there is no room for another.
    pub fn intern(&mut self, name: &str) -> Symbol {
        self.names.intern(name, &self.limits, &mut self.tally)
    }

    /// Drops the names of an application whose connections are gone. Symbols stay.
    pub fn forget_scope(&mut self, scope: ScopeId) {
        self.routes.remove(&scope);
        self.vocabularies.retain(|(of, _), _| *of != scope);
        self.learned_ids.retain(|(of, _), _| *of != scope);
    }

    pub(crate) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// The symbol of a name out of an application's vocabulary; [`Symbol::OTHER`], counted, when that is full.
    pub(crate) fn name_of(&mut self, scope: ScopeId, kind: NameKind, name: &str) -> Symbol {
        let name = truncate(name, NAME_BYTES_MAX);
        if name.is_empty() {
            return Symbol::NONE;
        }
        let known = self.names.symbols.get(name).copied();
        let vocabulary = self.vocabularies.entry((scope, kind)).or_default();
        if let Some(symbol) = known
            && vocabulary.contains(&symbol)
        {
            return symbol;
        }
        if vocabulary.len() >= kind.limit(&self.limits) {
            self.tally.overflowed_names += 1;
            return Symbol::OTHER;
        }
        let symbol = self.intern(name);
        if symbol != Symbol::OTHER
            && let Some(vocabulary) = self.vocabularies.get_mut(&(scope, kind))
        {
            vocabulary.insert(symbol);
        }
        symbol
    }

    /// Learns the name of what an application calls by an id on any of its connections. With no room for another, it
    /// is not stored, and counted.
    pub(crate) fn learn_id(&mut self, scope: ScopeId, id: [u8; 16], name: Symbol) {
        if self.learned_ids.len() < self.limits.symbols || self.learned_ids.contains_key(&(scope, id)) {
            self.learned_ids.insert((scope, id), name);
        } else {
            self.tally.overflowed_names += 1;
        }
    }

    /// The name that belongs to an id of an application, once it is known.
    pub(crate) fn learned_id(&self, scope: ScopeId, id: [u8; 16]) -> Option<Symbol> {
        self.learned_ids.get(&(scope, id)).copied()
    }

    /// All names that were given out.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.texts.iter().map(|text| &**text)
    }

    /// Gives names to the routes of the user's templates alone: every other path is [`Symbol::OTHER`].
    pub fn set_configured_routes_only(&mut self, only: bool) {
        self.configured_routes_only = only;
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
        template(target, &mut self.scratch);
        self.routes.entry(scope).or_default().begin(&self.scratch)
    }

    /// The name of a route, now that its outcome is known.
    pub(crate) fn route_symbol(&mut self, scope: ScopeId, route: RouteRef, status: Status) -> Symbol {
        let Self { limits, tally, names, routes, .. } = self;
        let overflowed_before = tally.overflowed_names;
        let symbol =
            routes
                .entry(scope)
                .or_default()
                .finish(route, status, limits.routes_per_scope, |name| names.intern(name, limits, tally));
        if symbol == Symbol::OTHER && tally.overflowed_names == overflowed_before {
            tally.overflowed_names += 1;
        }
        symbol
    }
}

impl Names {
    fn intern(&mut self, name: &str, limits: &Limits, tally: &mut Tally) -> Symbol {
        if let Some(&symbol) = self.symbols.get(name) {
            return symbol;
        }
        if self.texts.len() >= limits.symbols.max(2) {
            tally.overflowed_names += 1;
            return Symbol::OTHER;
        }
        let symbol = Symbol(u32::try_from(self.texts.len()).unwrap_or(1));
        self.texts.push(name.into());
        self.symbols.insert(name.into(), symbol);
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
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_is_bounded_per_application() {
        let mut context = ParserContext::new(Limits { routes_per_scope: 3, ..Limits::default() });
        let (one, two) = (ScopeId(1), ScopeId(2));
        let first = context.name_of(one, NameKind::Table, "t0");
        for number in 1..10 {
            context.name_of(one, NameKind::Table, &format!("t{number}"));
        }
        assert_eq!(context.name_of(one, NameKind::Table, "t0"), first);
        assert_eq!(context.name_of(one, NameKind::Table, "t9"), Symbol::OTHER);
        assert_ne!(context.name_of(two, NameKind::Table, "t9"), Symbol::OTHER);
        assert_eq!(context.tally().overflowed_names, 8);
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(truncate("a\u{fc}b", 2), "a");
        assert_eq!(truncate("abc", 3), "abc");
    }
}
