//! What sandboxes make up.

use super::*;

#[test]
fn who_reports_the_address_of_another_joins_nothing() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 0));
    let evil = guest("evil", "10.0.0.66", 0);
    let honest = [
        client(&shop, "10.0.0.1:4000", "10.0.0.2:80", 20, 50),
        server(&db, "10.0.0.2:80", "10.0.0.1:4000", 22, 48),
    ];
    let call = joined(&[(0, None), (1, Some(0))]);
    let lies = [
        server(&evil, "10.0.0.2:80", "10.0.0.1:4000", 22, 48),
        client(&evil, "10.0.0.1:4000", "10.0.0.2:80", 20, 50),
        // Its own address, and a call that the other end does not have.
        server(&evil, "10.0.0.66:80", "10.0.0.1:4000", 22, 48),
        client(&evil, "10.0.0.66:4000", "10.0.0.2:80", 20, 50),
        server(&evil, "127.0.0.1:80", "127.0.0.1:4000", 22, 48),
    ];
    for lie in lies {
        let spans = spans(&[honest[0], honest[1], lie]);
        assert_eq!(shapes(&spans), [call.clone(), joined(&[(2, None)])]);
    }
    let inside = [
        client(&shop, "127.0.0.1:4000", "127.0.0.1:80", 20, 50),
        server(&evil, "127.0.0.1:80", "127.0.0.1:4000", 22, 48),
    ];
    assert_eq!(shapes(&spans(&inside)).len(), 2, "the loopback is each sandbox's own");
}

#[test]
fn made_up_spans_of_its_own_calls_harm_its_own_alone() {
    let (shop, db) = (guest("shop", "10.0.0.1", 0), guest("db", "10.0.0.2", 0));
    let evil = guest("evil", "10.0.0.66", 0);
    let spans = spans(&[
        client(&shop, "10.0.0.1:4000", "10.0.0.2:80", 20, 50),
        server(&db, "10.0.0.2:80", "10.0.0.1:4000", 22, 48),
        server(&db, "10.0.0.2:80", "10.0.0.66:4000", 22, 48),
        client(&evil, "10.0.0.66:4000", "10.0.0.2:80", 20, 50),
        client(&evil, "10.0.0.66:4000", "10.0.0.2:80", 21, 51),
    ]);
    let single = |number| joined(&[(number, None)]);
    assert_eq!(shapes(&spans), [joined(&[(0, None), (1, Some(0))]), single(2), single(3), single(4)]);
}

#[test]
fn a_connection_of_which_all_spans_fit_each_other_is_not_compared_further() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| guest(name, "10.0.0.1", 0));
    let (shop, db) = (guest("shop", "10.0.0.2", 0), guest("db", "10.0.0.3", 0));
    let [clients, servers] = SANDBOX_SPANS_MAX;
    let (local, remote) = ("127.0.0.1:4000", "127.0.0.1:80");
    let honest = [
        client(&shop, "10.0.0.2:4000", "10.0.0.3:80", 20, 50),
        server(&db, "10.0.0.3:80", "10.0.0.2:4000", 22, 48),
    ];
    let fitting = |of, local, remote, clients, servers| {
        let calls = vec![client(of, local, remote, 0, 1_000); clients];
        [calls, vec![server(of, remote, local, 400, 500); servers]].concat()
    };
    let candidates = |all: &[Made<'_>]| {
        let pairs = calls::pairs(&spans(all));
        pairs.values().map(|pair| pair.candidates.len()).sum::<usize>()
    };
    let mut all = honest.to_vec();
    all.extend(names.iter().flat_map(|of| fitting(of, local, remote, clients, servers)));
    assert_eq!(candidates(&all), 1, "of the honest ones");
    // Connections that are just not too ambiguous.
    for local in ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003"] {
        let each = 2 * calls::CANDIDATES_PER_SPAN;
        all.extend(names.iter().flat_map(|of| fitting(of, local, remote, each, each)));
    }
    let few = candidates(&all);
    assert!((1_000..=calls::CANDIDATES_PER_SPAN * all.len()).contains(&few), "{few}");
    let shapes = shapes(&spans(&all));
    assert_eq!((&shapes[0], shapes.len()), (&joined(&[(0, None), (1, Some(0))]), all.len() - 1));
}

#[test]
fn whatever_guests_report_gives_trees_with_each_span_once() {
    let seed = 17;
    let mut random = fastrand::Rng::with_seed(seed);
    let guests = [guest("a", "10.0.0.1", 0), guest("b", "10.0.0.2", -5), guest("c", "10.0.0.1", 9)];
    let ends = ["10.0.0.1:1", "10.0.0.2:1", "127.0.0.1:1", "127.0.0.1:2", "/run/x", ""];
    for _ in 0..200 {
        let all: Vec<Made<'_>> = (0..60)
            .map(|_| {
                let from = random.u64(..30);
                let made = client(
                    &guests[random.usize(..3)],
                    ends[random.usize(..6)],
                    ends[random.usize(..6)],
                    from,
                    from + random.u64(..20),
                );
                Made { side: Side::ALL[random.usize(..2)], thread: random.u32(..3), ..made }
            })
            .collect();
        let mut spans = spans(&all);
        for span in &mut spans {
            if random.u8(..) < 40 {
                let mut odd = Kept::clone(span);
                odd.span.start_unix_ns = [0, u64::MAX, random.u64(..)][random.usize(..3)];
                odd.span.duration_ns = [0, u64::MAX, random.u64(..)][random.usize(..3)];
                odd.reception.offset = Offset { low_ns: i64::MIN, high_ns: i64::MAX };
                *span = Arc::new(odd);
            }
        }
        let traces = assemble(&spans, &IdKeys::default());
        let mut numbers: Vec<u64> =
            traces.iter().flat_map(|trace| trace.spans.iter().map(|span| span.kept.number)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..60).collect::<Vec<_>>(), "seed {seed}");
        for span in traces.iter().flat_map(|trace| &trace.spans) {
            assert_eq!(span.parent.is_none(), span.depth == 0, "seed {seed}");
        }
    }
}
