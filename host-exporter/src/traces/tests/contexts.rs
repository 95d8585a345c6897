//! Trace contexts that requests carry.

use super::*;

fn numbered(lineage: Lineage, number: u64) -> Lineage {
    Lineage { number, ..lineage }
}

/// How the parent of each span of each trace is known, by the number of the first.
fn certainties(spans: &[Arc<Kept>]) -> Vec<Vec<&'static str>> {
    let mut traces = assemble(spans, &IdKeys::default());
    traces.sort_by_key(|trace| trace.root().kept.number);
    let known = |span: &TraceSpan| span.parent.map_or("", |(_, certainty)| certainty.as_str());
    traces.iter().map(|trace| trace.spans.iter().map(known).collect()).collect()
}

/// Addresses of four connections to `shop`, from it to `catalog`, and from there to `stock`.
const CONNECTIONS: [[&str; 3]; 4] = [
    ["10.0.0.100:3000", "10.0.0.1:4000", "10.0.0.2:5000"],
    ["10.0.0.100:3001", "10.0.0.1:4001", "10.0.0.2:5001"],
    ["10.0.0.100:3002", "10.0.0.1:4002", "10.0.0.2:5002"],
    ["10.0.0.100:3003", "10.0.0.1:4003", "10.0.0.2:5003"],
];

/// Four requests that are served together by a proxy that passes the ids on as they are, a service that gives its call a span's id, and
/// what that calls, again and again over the same connections of the proxy. As they come: what is deeper comes earlier.
fn together([shop, catalog, stock]: [&Guest; 3], rounds: u8) -> Vec<(Made<'_>, Lineage)> {
    let mut all = Vec::new();
    let mut number = 0;
    let mut add = |all: &mut Vec<_>, made, lineage| {
        number += 1;
        all.push((made, numbered(lineage, number)));
        number
    };
    for round in 0..rounds {
        let at = |ms| 500 * u64::from(round) + ms;
        for (request, [hub, of_shop, of_catalog]) in (0..).zip(CONNECTIONS) {
            let trace = 4 * round + request + 1;
            let (passed_on, own) = (carrying(trace, 1), carrying(trace, 100 + trace));
            add(&mut all, server(stock, "10.0.0.3:80", of_catalog, at(33), at(36)), own);
            let served = server(catalog, "10.0.0.2:80", of_shop, at(21), at(49));
            let parent = add(&mut all, served, passed_on);
            let own = Lineage { parent, certainty: Some(ParentCertainty::Thread), ..own };
            add(&mut all, client(catalog, of_catalog, "10.0.0.3:80", at(30), at(40)), own);
            add(&mut all, client(shop, of_shop, "10.0.0.2:80", at(20), at(50)), passed_on);
            add(&mut all, server(shop, "10.0.0.1:80", hub, at(19), at(51)), passed_on);
        }
    }
    all
}

#[test]
fn requests_with_ids_that_a_proxy_passes_on_are_a_trace_each_whatever_the_clocks_are_worth() {
    for error in [1, 100, 2_000] {
        let [shop, catalog, stock] =
            [("shop", "10.0.0.1", 0), ("catalog", "10.0.0.2", 900), ("stock", "10.0.0.3", -900)]
                .map(|(name, address, behind)| guest(name, address, behind).inexact(error));
        let spans = with_lineages(&together([&shop, &catalog, &stock], 3));
        let whole = ["", "propagated", "connection", "thread", "connection"];
        assert_eq!(certainties(&spans), [whole; 12], "clocks are known to within {error} ms");
        for trace in assemble(&spans, &IdKeys::default()) {
            let of_root = trace.root().kept.span.lineage.context.map(|context| context.trace);
            let contexts = trace.spans.iter().map(|span| span.kept.span.lineage.context);
            assert!(contexts.map(|context| context.map(|context| context.trace)).all(|id| id == of_root));
        }
    }
}

#[test]
fn a_call_with_the_same_ids_at_both_ends_of_its_connection_needs_no_other_to_agree_about_the_clocks() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 0).inexact(2_000));
    let ends = ["10.0.0.1:4000", "10.0.0.1:4001", "10.0.0.1:4002"];
    // The last one's times were noted late at one end.
    let all: Vec<_> = (0..)
        .zip(ends)
        .zip([0, 0, 20])
        .flat_map(|((at, local), late)| {
            let from = 100 * u64::from(at + 1);
            let lineage = carrying(at + 1, at + 1);
            [
                (client(&shop, local, "10.0.0.2:80", from, from + 3), lineage),
                (server(&db, "10.0.0.2:80", local, from + 1 + late, from + 2 + late), lineage),
            ]
        })
        .collect();
    assert_eq!(certainties(&with_lineages(&all)), [["", "connection"]; 3]);
    let without: Vec<_> = all.iter().map(|(made, _)| (*made, Lineage::default())).collect();
    assert_eq!(certainties(&with_lineages(&without)).len(), 4, "without ids it could be another request");
}

#[test]
fn requests_of_one_connection_with_other_ids_are_no_call() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 0).inexact(2_000));
    let (local, remote) = ("10.0.0.1:4000", "10.0.0.2:80");
    let called = |at: u64, lineage| (client(&shop, local, remote, at, at + 5), lineage);
    let served = |at: u64, lineage| (server(&db, remote, local, at + 1, at + 4), lineage);
    let joins = |all: &[(Made<'_>, Lineage)]| shapes(&with_lineages(all)).len() < all.len();
    let none = Lineage::default();
    for other in [carrying(1, 2), carrying(2, 1)] {
        assert!(!joins(&[called(10, carrying(1, 1)), served(500, other)]));
    }
    assert!(joins(&[called(10, carrying(1, 1)), served(10, none)]), "an agent does not find each context");
    assert!(joins(&[called(10, none), served(10, carrying(1, 1))]));
    // One of which an end found no context is of the one that is left.
    let [first, second] = [carrying(1, 1), carrying(2, 2)];
    let mixed = [called(10, none), served(10, first), called(500, second), served(500, second)];
    let call = |client, server| joined(&[(client, None), (server, Some(client))]);
    assert_eq!(shapes(&with_lineages(&mixed)), [call(0, 1), call(2, 3)]);
    // Sent again the ids distinguish nothing, and times do where the clocks are known by other calls.
    let again = [called(510, first), served(510, first), called(700, first), served(700, first)];
    assert_eq!(shapes(&with_lineages(&again)).len(), 4);
    let elsewhere = ["10.0.0.1:4001", "10.0.0.1:4002"].map(|local| {
        let served = server(&db, remote, local, 601, 604);
        [(client(&shop, local, remote, 600, 605), none), (served, none)]
    });
    let all = [&again[..], elsewhere.as_flattened()].concat();
    assert_eq!(shapes(&with_lineages(&all)), [call(0, 1), call(2, 3), call(4, 5), call(6, 7)]);
}

#[test]
fn what_a_proxy_passes_on_is_not_below_its_own_call() {
    let shop = guest("shop", "10.0.0.1", 0);
    let request = (server(&shop, "10.0.0.1:80", "10.0.0.100:1", 20, 50), carrying(7, 1));
    let other = (server(&shop, "10.0.0.1:80", "10.0.0.100:2", 19, 52), carrying(7, 2));
    let call = |from, to| (client(&shop, "10.0.0.1:4000", "10.96.0.7:80", from, to), carrying(7, 1));
    let below = joined(&[(0, None), (1, Some(0))]);
    assert_eq!(shapes(&with_lineages(&[request, call(21, 50)])), [below], "as long, within what times err");
    assert_eq!(shapes(&with_lineages(&[request, call(20, 60)])).len(), 2, "begins with it, and lasts longer");
    assert_eq!(shapes(&with_lineages(&[request, call(21, 50), other])).len(), 3, "one of two requests");
    let of_itself = [(client(&shop, "10.0.0.1:4000", "10.96.0.7:80", 19, 51), carrying(7, 1)), request];
    assert_eq!(certainties(&with_lineages(&of_itself)), [["", "propagated"]], "by way of an address outside");
}

#[test]
fn the_first_of_two_proxies_is_not_below_the_call_of_the_second() {
    let (shop, proxy) = (guest("shop", "10.0.0.1", 0), guest("proxy", "10.0.0.2", 0).inexact(100));
    let ids = carrying(7, 1);
    // What the second one calls was not sampled.
    let spans = with_lineages(&[
        (server(&shop, "10.0.0.1:80", "10.0.0.100:1", 20, 50), ids),
        (client(&shop, "10.0.0.1:4000", "10.0.0.2:80", 21, 50), ids),
        (server(&proxy, "10.0.0.2:80", "10.0.0.1:4000", 21, 49), ids),
        (client(&proxy, "10.0.0.2:4000", "10.96.0.7:80", 21, 49), ids),
    ]);
    assert_eq!(shapes(&spans), [joined(&[(0, None), (1, Some(0)), (2, Some(1)), (3, Some(2))])]);
}

#[test]
fn of_several_spans_with_the_same_ids_those_are_a_call_of_which_one_names_the_others_address() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 900));
    let evil = guest("evil", "10.0.0.66", 0);
    let ids = carrying(7, 1);
    let request = (server(&shop, "10.0.0.1:80", "10.0.0.100:1", 19, 51), ids);
    let call = |of, local| (client(of, local, "10.96.0.7:80", 20, 50), ids);
    let served = |of, remote| (server(of, "10.0.0.2:80", remote, 21, 49), ids);
    let direct = call(&shop, "10.0.0.1:4000");
    let whole = joined(&[(0, None), (1, Some(0)), (2, Some(1))]);
    let traces = |others: &[(Made<'_>, Lineage)]| shapes(&with_lineages(others));
    assert_eq!(traces(&[request, direct, served(&db, "10.0.0.1:4000")]), std::slice::from_ref(&whole));
    assert_eq!(traces(&[request, direct, served(&db, "10.0.0.50:1")]).len(), 2, "translated, too");
    let again = traces(&[request, direct, served(&db, "10.0.0.1:4000"), call(&shop, "10.0.0.1:4001")]);
    assert_eq!(again, [joined(&[(0, None), (1, Some(0)), (2, Some(1)), (3, Some(0))])]);
    // Claims of addresses of others.
    let claimed =
        [call(&evil, "10.0.0.1:4000"), (server(&evil, "10.0.0.66:80", "10.0.0.9:4000", 21, 49), ids)];
    for claim in claimed {
        let found = traces(&[request, direct, served(&db, "10.0.0.1:4000"), claim]);
        assert_eq!(found, [whole.clone(), joined(&[(3, None)])]);
    }
    let ambiguous = served(&evil, "10.0.0.1:4000");
    assert_eq!(traces(&[request, direct, served(&db, "10.0.0.1:4000"), ambiguous]).len(), 3);
}
