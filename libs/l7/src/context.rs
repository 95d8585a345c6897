//! What the connections of one agent share: names, limits and counts.

use foldhash::{HashMap, HashMapExt as _};

use crate::{
    Timestamp,
    coverage::UnaccountedBytes,
    exchange::Status,
    names::Candidates,
    routes::{
        RouteRef, Routes,
        learning::Sighting,
        own::{OwnTemplate, TEMPLATES_MAX, TemplateError},
        template::{self, template},
    },
    symbol::{Names, SEARCH_INTERVAL_NS, ScopeId, Symbol, UNUSED_NS},
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
    const ALL: [Self; 9] = [
        Self::HttpMethod,
        Self::GrpcMethod,
        Self::Table,
        Self::Command,
        Self::ErrorWord,
        Self::Destination,
        Self::Collection,
        Self::Domain,
        Self::KeyClass,
    ];

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
    /// Most distinct names in all, 65,536 at most; those that were not used for an hour make room.
    pub symbols: usize,
    /// Most distinct routes of one application.
    pub routes_per_scope: usize,
    /// Most requests that wait for their response on one connection.
    pub pending_per_connection: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { symbols: 16_384, routes_per_scope: 200, pending_per_connection: 1024 }
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
    /// Exchanges given out whose status or name is not known, because bytes are missing that held it.
    pub incomplete: u64,
    /// Connections that were given up because no protocol was recognised.
    pub unidentified: u64,
}

/// What the connections of one agent share.
#[derive(Debug)]
pub struct ParserContext {
    limits: Limits,
    tally: Tally,
    unaccounted: UnaccountedBytes,
    names: Names,
    vocabularies: HashMap<(ScopeId, NameKind), Vocabulary>,
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
    learned_ids: HashMap<(ScopeId, [u8; 16]), (Symbol, Timestamp)>,
    scratch: String,
}

/// Most applications whose names are kept: that which was not used for the longest time makes room.
const SCOPES_MAX: usize = 256;

/// Most ids of which names are kept.
const LEARNED_IDS_MAX: usize = 4096;

/// The names of one kind of an application, with the time of their last use.
#[derive(Debug, Default)]
struct Vocabulary {
    used: HashMap<Symbol, Timestamp>,
    searched: Timestamp,
}

impl Vocabulary {
    /// Whether a name is in it; it is used now.
    fn contains(&mut self, symbol: Symbol, now: Timestamp) -> bool {
        let Some(used) = self.used.get_mut(&symbol) else { return false };
        *used = now;
        true
    }

    fn has_room(&mut self, limit: usize, now: Timestamp) -> bool {
        if self.used.len() >= limit && now.since(self.searched) >= SEARCH_INTERVAL_NS {
            self.searched = now;
            self.used.retain(|_, used| now.since(*used) < UNUSED_NS);
        }
        self.used.len() < limit
    }
}

impl ParserContext {
    /// An context without connections.
    pub fn new(limits: Limits) -> Self {
        let mut context = Self {
            limits,
            tally: Tally::default(),
            unaccounted: UnaccountedBytes::default(),
            names: Names::new(limits.symbols),
            vocabularies: HashMap::new(),
            routes: HashMap::new(),
            scopes: HashMap::new(),
            now: Timestamp::default(),
            own_templates: Vec::new(),
            configured_routes_only: false,
            trusts_paths: false,
            candidates: Candidates::default(),
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

    /// The symbol of a word of the code or the configuration, which is kept; [`Symbol::OTHER`], counted, when there is no room
    /// for another name.
    pub fn intern(&mut self, word: &str) -> Symbol {
        self.symbol(word, true)
    }

    fn symbol(&mut self, name: &str, is_word: bool) -> Symbol {
        self.make_room();
        let symbol = self.names.intern(name, is_word, self.now);
        self.tally.overflowed_names += u64::from(symbol.is_none());
        symbol.unwrap_or(Symbol::OTHER)
    }

    /// If there is no room for another name, those that were not used for a while are dropped, and with them what has them.
    fn make_room(&mut self) {
        if !self.names.make_room(self.now) {
            return;
        }
        let names = &self.names;
        for vocabulary in self.vocabularies.values_mut() {
            vocabulary.used.retain(|symbol, _| names.is_in_use(*symbol));
        }
        for routes in self.routes.values_mut() {
            routes.retain(|symbol| names.is_in_use(symbol));
        }
        self.learned_ids.retain(|_, (symbol, _)| names.is_in_use(*symbol));
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
            for kind in NameKind::ALL {
                if let Some(vocabulary) = self.vocabularies.get_mut(&(scope, kind)) {
                    vocabulary.contains(symbol, self.now);
                }
            }
            if let Some(routes) = self.routes.get_mut(&scope) {
                routes.touch(symbol, self.now);
            }
        }
    }

    /// Drops the names of an application whose connections are gone. Symbols stay while they are used.
    pub fn forget_scope(&mut self, scope: ScopeId) {
        self.routes.remove(&scope);
        self.candidates.forget(scope);
        self.vocabularies.retain(|(of, _), _| *of != scope);
        self.learned_ids.retain(|(of, _), _| *of != scope);
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

    /// The symbol of a name out of an application's vocabulary; [`Symbol::OTHER`], counted, when that is full.
    pub(crate) fn name_of(&mut self, scope: ScopeId, kind: NameKind, name: &str) -> Symbol {
        let name = truncate(name, NAME_BYTES_MAX);
        if name.is_empty() {
            return Symbol::NONE;
        }
        self.enter(scope);
        let now = self.now;
        let known = self.names.known(name);
        let vocabulary = self.vocabularies.entry((scope, kind)).or_default();
        if let Some(symbol) = known
            && vocabulary.contains(symbol, now)
        {
            self.names.touch(symbol, now);
            return symbol;
        }
        if !vocabulary.has_room(kind.limit(&self.limits), now) {
            self.tally.overflowed_names += 1;
            return Symbol::OTHER;
        }
        let symbol = self.symbol(name, false);
        if symbol != Symbol::OTHER
            && let Some(vocabulary) = self.vocabularies.get_mut(&(scope, kind))
        {
            vocabulary.used.insert(symbol, now);
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
            None => self.candidates.symbol(scope, kind, name),
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
        let symbol = if let Some((kind, text)) = candidates.settle(symbol, is_confirmed, at) {
            self.name_of(scope, kind, text)
        } else {
            self.tally.overflowed_names += 1;
            Symbol::OTHER
        };
        self.candidates = candidates;
        symbol
    }

    /// The symbol of a name that is in an application's vocabulary already.
    pub(crate) fn known_name(&mut self, scope: ScopeId, kind: NameKind, name: &str) -> Option<Symbol> {
        let symbol = self.names.known(name)?;
        self.vocabularies.get_mut(&(scope, kind))?.contains(symbol, self.now).then_some(symbol)
    }

    /// Learns the name of what an application calls by an id on any of its connections. With no room for another, it
    /// is not stored, and counted.
    pub(crate) fn learn_id(&mut self, scope: ScopeId, id: [u8; 16], name: Symbol) {
        let now = self.now;
        if self.learned_ids.len() >= LEARNED_IDS_MAX && !self.learned_ids.contains_key(&(scope, id)) {
            self.learned_ids.retain(|_, (_, used)| now.since(*used) < UNUSED_NS);
        }
        if self.learned_ids.len() < LEARNED_IDS_MAX || self.learned_ids.contains_key(&(scope, id)) {
            self.learned_ids.insert((scope, id), (name, now));
        } else {
            self.tally.overflowed_names += 1;
        }
    }

    /// The name that belongs to an id of an application, once it is known.
    pub(crate) fn learned_id(&mut self, scope: ScopeId, id: [u8; 16]) -> Option<Symbol> {
        let (symbol, used) = self.learned_ids.get_mut(&(scope, id))?;
        *used = self.now;
        Some(*symbol)
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
        let overflowed_before = tally.overflowed_names;
        let routes = routes.entry(scope).or_default();
        let symbol = routes.finish(route, status, sighting, trusts, limits.routes_per_scope, |name| {
            let symbol = names.intern(name, false, *now);
            tally.overflowed_names += u64::from(symbol.is_none());
            symbol.unwrap_or(Symbol::OTHER)
        });
        if symbol == Symbol::OTHER && tally.overflowed_names == overflowed_before {
            tally.overflowed_names += 1;
        }
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
    fn names_that_are_not_used_make_room() {
        let mut context = ParserContext::new(Limits { routes_per_scope: 3, ..Limits::default() });
        let scope = ScopeId(1);
        for round in 0..3_u64 {
            context.observe(Timestamp(round * UNUSED_NS));
            for number in 0..3 {
                let name = format!("t{round}{number}");
                assert_ne!(context.name_of(scope, NameKind::Table, &name), Symbol::OTHER, "{name}");
                assert_ne!(context.name_of(scope, NameKind::Domain, &name), Symbol::OTHER, "{name}");
            }
            assert_eq!(context.name_of(scope, NameKind::Table, "late"), Symbol::OTHER, "all are in use");
        }
        // What is used stays.
        context.observe(Timestamp(2 * UNUSED_NS + UNUSED_NS / 2));
        let used = context.name_of(scope, NameKind::Table, "t20");
        context.observe(Timestamp(3 * UNUSED_NS));
        assert_ne!(context.name_of(scope, NameKind::Table, "new"), Symbol::OTHER);
        assert_eq!(context.known_name(scope, NameKind::Table, "t20"), Some(used));
        assert_eq!(context.known_name(scope, NameKind::Table, "t21"), None);
    }

    #[test]
    fn applications_and_ids_that_are_not_used_make_room() {
        let mut context = ParserContext::new(Limits::default());
        let number = |at: usize| u32::try_from(at).expect("few");
        for at in 0..2 * SCOPES_MAX {
            context.observe(Timestamp(at as u64));
            let scope = ScopeId(number(at));
            context.name_of(scope, NameKind::Table, "t");
            context.route(scope, b"/a");
            assert!(context.scopes.len() <= SCOPES_MAX && context.routes.len() <= SCOPES_MAX);
            assert!(context.vocabularies.len() <= SCOPES_MAX);
        }
        for round in 0..2_u64 {
            context.observe(Timestamp((round + 1) * UNUSED_NS));
            for at in 0..LEARNED_IDS_MAX {
                let id = (u128::from(round) << 64 | at as u128).to_be_bytes();
                context.learn_id(ScopeId(1), id, Symbol(7));
                assert_eq!(context.learned_id(ScopeId(1), id), Some(Symbol(7)), "{round} {at}");
            }
        }
        assert!(context.learned_ids.len() <= LEARNED_IDS_MAX);
    }

    /// Fills every bound many times over, and then names come that are used all the time.
    #[test]
    fn whatever_filled_a_bound_ordinary_names_are_known_again_an_hour_later() {
        const KINDS: [NameKind; 9] = NameKind::ALL;
        let limits = Limits { symbols: 2048, ..Limits::default() };
        let mut context = ParserContext::new(limits);
        let word = context.intern("SELECT");
        let mut first = Symbol::NONE;
        for number in 0..5_u32 * 2048 {
            context.observe(Timestamp(u64::from(number) * 1_000_000));
            let scope = ScopeId(number % 20);
            for kind in KINDS {
                let name = format!("{kind:?}-{number}");
                let symbol = context.name_of(scope, kind, &name);
                if first == Symbol::NONE {
                    first = symbol;
                }
                assert!(symbol == Symbol::OTHER || context.name(symbol) == name);
                context.candidate(scope, kind, &format!("candidate-{number}"));
            }
            let route = context.route(scope, format!("/api/orders/v{number}/items").as_bytes());
            let sighting =
                Sighting { client: u64::from(number), at: Timestamp(u64::from(number) * 1_000_000) };
            context.route_symbol(scope, route, Status::Code(200), sighting);
            context.learn_id(scope, u128::from(number).to_be_bytes(), word);
        }
        assert_eq!(context.name_of(ScopeId(1), NameKind::Table, "late"), Symbol::OTHER, "no room");
        let at = Timestamp(100_000_000_000 + UNUSED_NS);
        context.observe(at);
        for scope in (0..20).map(ScopeId) {
            for kind in KINDS {
                let name = format!("ordinary-{kind:?}");
                for _ in 0..2 {
                    let symbol = context.name_of(scope, kind, &name);
                    assert_eq!(context.name(symbol), name);
                }
            }
            let route = context.route(scope, b"/api/orders");
            let symbol = context.route_symbol(scope, route, Status::Code(200), Sighting { client: 1, at });
            assert_eq!(context.name(symbol), "/api/orders");
            context.learn_id(scope, [7; 16], symbol);
            assert_eq!(context.learned_id(scope, [7; 16]), Some(symbol));
        }
        // What was dropped is the name of nothing now, words stay, and the bound holds.
        assert!(first != Symbol::OTHER && context.name(first) == "other");
        assert_eq!(context.name(word), "SELECT");
        assert!(context.names().count() <= 2048);
    }

    #[test]
    fn names_that_are_used_keep_their_symbols() {
        let mut context = ParserContext::new(Limits { symbols: 100, ..Limits::default() });
        let scope = ScopeId(1);
        let used = context.name_of(scope, NameKind::Table, "used");
        for minute in 0..600_u64 {
            context.observe(Timestamp(minute * 60_000_000_000));
            context.used([used, Symbol::NONE]);
            for number in 0..10 {
                context.name_of(ScopeId(2), NameKind::Table, &format!("t{minute}-{number}"));
            }
        }
        assert_eq!(context.name(used), "used");
    }

    #[test]
    fn names_of_what_is_aggregated_elsewhere_are_used() {
        let limits = Limits { symbols: 100, routes_per_scope: 20, ..Limits::default() };
        let (mut context, scope) = (ParserContext::new(limits), ScopeId(1));
        let table = context.name_of(scope, NameKind::Table, "used");
        let sighting = |at| Sighting { client: 1, at };
        let route = context.route(scope, b"/api/orders");
        let route = context.route_symbol(scope, route, Status::Code(200), sighting(Timestamp(0)));
        for minute in 0..180_u64 {
            let at = Timestamp(minute * 60_000_000_000);
            context.keep_names(scope, [table, route, Symbol::OTHER], at);
            for number in 0..30 {
                context.name_of(scope, NameKind::Table, &format!("t{minute}-{number}"));
                let other = context.route(scope, format!("/api/v{minute}/v{number}/items").as_bytes());
                context.route_symbol(scope, other, Status::Code(200), sighting(at));
            }
        }
        assert_eq!((context.name(table), context.name(route)), ("used", "/api/orders"));
        assert_eq!(context.name_of(scope, NameKind::Table, "used"), table, "in the vocabulary");
        let again = context.route(scope, b"/api/orders");
        assert!(again.is_known());
        assert_eq!(context.route_symbol(scope, again, Status::Code(200), sighting(context.now)), route);
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(truncate("a\u{fc}b", 2), "a");
        assert_eq!(truncate("abc", 3), "abc");
    }
}
