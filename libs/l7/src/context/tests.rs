//! Names of applications: within bounds, and again when they are used.

use super::{learned_ids::LEARNED_IDS_MAX, *};
use crate::{
    ClientId, Protocol, Side,
    exchange::Outcome,
    parser::{ConnectionContext, Request, Resource},
    symbol::UNUSED_NS,
};

#[test]
fn a_vocabulary_is_bounded_per_application() {
    let mut context = ParserContext::new(Limits { routes_per_scope: 3, ..Limits::default() });
    let (one, two) = (ScopeId(1), ScopeId(2));
    let first = context.name_of(one, NameKind::Table, "t0");
    for number in 1..10 {
        context.name_of(one, NameKind::Table, &format!("t{number}"));
    }
    assert_eq!(context.name_of(one, NameKind::Table, "t0"), first);
    assert_eq!(context.name_of(one, NameKind::Table, "t9"), Symbol::OVERFLOWED);
    assert_ne!(context.name_of(two, NameKind::Table, "t9"), Symbol::OVERFLOWED);
    assert_eq!(context.tally().overflowed_names, 8);
}

/// A context that has no room for any name but these of the code.
fn full() -> ParserContext {
    let mut context = ParserContext::new(Limits { routes_per_scope: 0, symbols: 4, ..Limits::default() });
    for name in ["GET", "SELECT", "full"] {
        context.intern(name);
    }
    context
}

#[test]
fn an_exchange_overflows_once_however_many_of_its_names_find_no_room() {
    let mut context = full();
    let mut given = Vec::new();
    let mut sink = |exchange| given.push(exchange);
    let of = (ScopeId(1), ClientId(1), Side::Server);
    let mut cx = ConnectionContext::new(&mut context, of, &mut sink);
    let [known, unknown] = [cx.word("GET"), Symbol::OTHER];
    let names =
        [cx.name(NameKind::Command, "a"), cx.name(NameKind::Table, "b"), cx.name(NameKind::ErrorWord, "c")];
    for [operation, resource, status] in [
        [known, Symbol::NONE, Symbol::NONE],
        [unknown; 3],
        [names[0], Symbol::NONE, Symbol::NONE],
        [known, names[1], Symbol::NONE],
        [known, unknown, names[2]],
        names,
    ] {
        let start = Timestamp(1);
        let request = Request { operation, resource: Resource::Name(resource), start, bytes: 1 };
        let outcome = Outcome { status: Status::Word(status), ..Outcome::none(start) };
        cx.emit(Protocol::Redis, &request, &outcome);
    }
    assert_eq!(
        given.iter().map(|exchange| exchange.overflowed).collect::<Vec<_>>(),
        [false, false, true, true, true, true]
    );
    // What is given out has one symbol for all of them.
    let last = given.last().map(|exchange| (exchange.operation, exchange.resource, exchange.status));
    assert_eq!(last, Some((Symbol::OTHER, Symbol::OTHER, Status::UNKNOWN)));
    assert_eq!(context.name(names[1]), "other");
}

#[test]
fn a_route_without_a_name_overflows_where_a_bound_was_reached_alone() {
    let scope = ScopeId(1);
    let symbol = |context: &mut ParserContext, path: &str| {
        let route = context.route(scope, path.as_bytes());
        context.route_symbol(scope, route, Status::Code(200), Sighting { client: 1, at: Timestamp(1) })
    };
    let mut context = ParserContext::new(Limits::default());
    context.set_configured_routes_only(true);
    assert_eq!(symbol(&mut context, "/orders"), Symbol::OTHER);
    assert_eq!(context.tally().overflowed_names, 0);
    assert_eq!(symbol(&mut full(), "/orders"), Symbol::OVERFLOWED, "no route");
    let mut without_symbols = ParserContext::new(Limits { symbols: 2, ..Limits::default() });
    assert_eq!(symbol(&mut without_symbols, "/orders"), Symbol::OVERFLOWED, "no name");
    assert_eq!(without_symbols.tally().overflowed_names, 1);
}

#[test]
fn names_that_are_not_used_make_room() {
    let mut context = ParserContext::new(Limits { routes_per_scope: 3, ..Limits::default() });
    let scope = ScopeId(1);
    for round in 0..3_u64 {
        context.observe(Timestamp(round * UNUSED_NS));
        for number in 0..3 {
            let name = format!("t{round}{number}");
            assert_ne!(context.name_of(scope, NameKind::Table, &name), Symbol::OVERFLOWED, "{name}");
            assert_ne!(context.name_of(scope, NameKind::Domain, &name), Symbol::OVERFLOWED, "{name}");
        }
        assert_eq!(context.name_of(scope, NameKind::Table, "late"), Symbol::OVERFLOWED, "all are in use");
    }
    // What is used stays.
    context.observe(Timestamp(2 * UNUSED_NS + UNUSED_NS / 2));
    let used = context.name_of(scope, NameKind::Table, "t20");
    context.observe(Timestamp(3 * UNUSED_NS));
    assert_ne!(context.name_of(scope, NameKind::Table, "new"), Symbol::OVERFLOWED);
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
            assert!(symbol == Symbol::OVERFLOWED || context.name(symbol) == name);
            context.candidate(scope, kind, &format!("candidate-{number}"));
        }
        let route = context.route(scope, format!("/api/orders/v{number}/items").as_bytes());
        let sighting = Sighting { client: u64::from(number), at: Timestamp(u64::from(number) * 1_000_000) };
        context.route_symbol(scope, route, Status::Code(200), sighting);
        context.learn_id(scope, u128::from(number).to_be_bytes(), word);
    }
    assert_eq!(context.name_of(ScopeId(1), NameKind::Table, "late"), Symbol::OVERFLOWED, "no room");
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
    assert!(first != Symbol::OVERFLOWED && context.name(first) == "other");
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
