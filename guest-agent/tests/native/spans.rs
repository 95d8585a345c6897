//! Exchanges that are told in full.

use porthole_proto::agent::{Side, Span, SpanReason};

use crate::{
    harness::Agent,
    http::{self, Server},
};

/// Spans of servers' exchanges of a path.
fn of_path<'a>(agent: &'a Agent, path: &str) -> Vec<&'a Span> {
    let ids: Vec<u32> = agent.series(Side::SIDE_SERVER, path).iter().map(|series| series.id).collect();
    agent.spans.iter().filter(|span| ids.contains(&span.series_id)).collect()
}

#[test]
fn counts_are_the_same_with_every_exchange_a_span_and_with_none() {
    const REQUESTS: usize = 3_000;
    let every = ["--span-interval-ms", "0", "--spans-per-second", "1000000"];
    let none = ["--spans-per-second", "0"];
    for arguments in [&every[..], &none, &[]] {
        for counts in [&[][..], &["--no-kernel-counts"]] {
            let Some(mut agent) = Agent::start(&[arguments, counts].concat()) else { return };
            let server = Server::start();
            let mut stream = server.connect();
            for _ in 0..REQUESTS {
                http::exchange(&mut stream, "/spanned");
            }
            let all = REQUESTS as u64;
            assert_eq!(agent.counts("/spanned"), (all, all), "{arguments:?} {counts:?}");
            let (spans, dropped) = (of_path(&agent, "/spanned").len(), agent.counters.spans_dropped);
            match arguments {
                [] => assert!((1..10).contains(&spans), "{spans}"),
                [_, _, _, _] => assert!(spans as u64 + dropped >= all, "{spans} told and {dropped} dropped"),
                _ => assert_eq!((spans, dropped), (0, 0)),
            }
        }
    }
}

#[test]
fn what_fails_and_what_is_slow_is_told_with_both_ends() {
    let Some(mut agent) = Agent::start(&["--slow-ms", "20"]) else { return };
    let server = Server::start();
    let mut stream = server.connect();
    let (client, at) = (stream.local_addr().expect("address"), stream.peer_addr().expect("address"));
    for _ in 0..200 {
        http::exchange(&mut stream, "/often");
    }
    agent.catch_up();
    // By now the kernel counts these; what is slow among them is told nevertheless.
    http::exchange_slowly(&mut stream, "/often");
    agent.until("the slow one", |agent| {
        of_path(agent, "/often").iter().any(|span| is(span, SpanReason::SPAN_REASON_SLOW)).then_some(())
    });
    let spans = of_path(&agent, "/often");
    let slow = spans.iter().find(|span| is(span, SpanReason::SPAN_REASON_SLOW)).expect("told");
    assert!(u128::from(slow.duration_ns) >= http::SLOW.as_nanos(), "{slow:?}");
    assert_eq!((slow.local.clone(), slow.remote.clone()), (at.to_string(), client.to_string()));
    assert_eq!((slow.process_id, slow.thread_id != 0), (std::process::id(), true));
    let rate = spans.iter().filter(|span| is(span, SpanReason::SPAN_REASON_RATE)).count();
    assert!((1..=8).contains(&rate), "{rate}");
}

fn is(span: &Span, reason: SpanReason) -> bool {
    span.reason.enum_value() == Ok(reason)
}
