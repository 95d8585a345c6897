//! Exchanges that are sampled as spans.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use porthole_agent_api::{agent::Side, agent::Span, agent::SpanReason};

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, DEADLINE},
    http::{self, Server},
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        counts_are_the_same_with_every_exchange_a_span_and_with_none,
        failed_and_slow_exchanges_are_sampled_with_both_ends,
        failures_among_many_successes_are_sampled_though_the_kernel_aggregates_both,
        requests_that_overlap_in_one_thread_are_sampled_by_rate,
        spans_of_what_the_kernel_aggregates_carry_the_trace_that_the_request_names,
        the_budget_limits_spans_and_no_counts,
    ]
}

/// Spans of servers' exchanges of a path.
fn of_path<'a>(agent: &'a Agent, path: &str) -> Vec<&'a Span> {
    let ids: Vec<u32> = agent.series(Side::SIDE_SERVER, path).iter().map(|series| series.id).collect();
    agent.spans.iter().filter(|span| ids.contains(&span.series_id)).collect()
}

fn counts_are_the_same_with_every_exchange_a_span_and_with_none() -> Outcome {
    const REQUESTS: usize = 3_000;
    let every = ["--span-interval-ms", "0", "--spans-per-second", "1000000"];
    let none = ["--spans-per-second", "0"];
    for arguments in [&every[..], &none, &[]] {
        for counts in [&[][..], &["--no-offload"]] {
            let mut agent = Agent::start(&[arguments, counts].concat())?;
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
                [_, _, _, _] => {
                    assert!(spans as u64 + dropped >= all, "{spans} sampled and {dropped} dropped");
                }
                _ => assert_eq!((spans, dropped), (0, 0)),
            }
        }
    }
    Ok(())
}

fn failed_and_slow_exchanges_are_sampled_with_both_ends() -> Outcome {
    let mut agent = Agent::start(&["--slow-ms", "20"])?;
    let server = Server::start();
    let mut stream = server.connect();
    let (client, at) = (stream.local_addr().expect("address"), stream.peer_addr().expect("address"));
    for _ in 0..200 {
        http::exchange(&mut stream, "/often");
    }
    agent.catch_up();
    // By now the kernel aggregates these; slow ones among them are sampled nevertheless.
    http::exchange_slowly(&mut stream, "/often");
    agent.until("the slow one", |agent| {
        of_path(agent, "/often").iter().any(|span| is(span, SpanReason::SPAN_REASON_SLOW)).then_some(())
    });
    let spans = of_path(&agent, "/often");
    let slow = spans.iter().find(|span| is(span, SpanReason::SPAN_REASON_SLOW)).expect("sampled");
    assert!(u128::from(slow.duration_ns) >= http::SLOW.as_nanos(), "{slow:?}");
    assert_eq!((slow.local.clone(), slow.remote.clone()), (at.to_string(), client.to_string()));
    assert_eq!((slow.process_id, slow.thread_id != 0), (std::process::id(), true));
    let rate = spans.iter().filter(|span| is(span, SpanReason::SPAN_REASON_RATE)).count();
    assert!((1..=8).contains(&rate), "{rate}");
    Ok(())
}

/// Both ends of one connection.
fn ends() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    (client, server)
}

/// A whole exchange, moved by this thread.
fn carry(client: &mut TcpStream, server: &mut TcpStream, path: &str, status: u16) {
    request(client, server, path);
    respond(client, server, status);
}

fn request(client: &mut TcpStream, server: &mut TcpStream, path: &str) {
    deliver(client, server, &http::request(path));
}

fn deliver(client: &mut TcpStream, server: &mut TcpStream, request: &[u8]) {
    client.write_all(request).expect("sent");
    server.read_exact(&mut vec![0; request.len()]).expect("read");
}

fn respond(client: &mut TcpStream, server: &mut TcpStream, status: u16) {
    let response = format!("HTTP/1.1 {status} Reason\r\nContent-Length: 0\r\n\r\n");
    server.write_all(response.as_bytes()).expect("sent");
    client.read_exact(&mut vec![0; response.len()]).expect("read");
}

/// A request whose trace and caller's span have this number, and whose length has it, too.
fn traced(path: &str, number: usize) -> Vec<u8> {
    let (context, pad) = (format!("00-{number:032x}-{number:016x}-01"), "x".repeat(number));
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nTraceparent: {context}\r\nPad: {pad}\r\n\r\n").into_bytes()
}

/// The number of the request whose trace a span belongs to.
fn number(span: &Span) -> Option<u64> {
    let trace = u128::from_be_bytes(*span.trace_id.first_chunk()?);
    let parent = u64::from_be_bytes(*span.parent_span_id.first_chunk()?);
    (trace == u128::from(parent) && span.trace_sampled).then_some(parent)
}

fn spans_of_what_the_kernel_aggregates_carry_the_trace_that_the_request_names() -> Outcome {
    // A proxy passes the header on. Of both its ends and those of its client and of its server each exchange is a span.
    const REQUESTS: usize = 60;
    let mut agent = Agent::start(&["--span-interval-ms", "0", "--spans-per-second", "1000000"])?;
    let server = Server::start();
    let proxy = format!(
        "location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}",
        server.address
    );
    let nginx = running::nginx(&proxy)?;
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).expect("connected");
    for at in 1..=REQUESTS {
        stream.write_all(&traced("/traced", at)).expect("sent");
        http::read_head(&mut stream).expect("answered");
    }
    agent.catch_up();
    let mut ends: BTreeMap<(bool, String), Vec<&Span>> = BTreeMap::new();
    for (side, is_server) in [(Side::SIDE_SERVER, true), (Side::SIDE_CLIENT, false)] {
        let ids: Vec<u32> = agent.series(side, "/traced").iter().map(|series| series.id).collect();
        for span in agent.spans.iter().filter(|span| ids.contains(&span.series_id)) {
            let at = if is_server { &span.local } else { &span.remote };
            ends.entry((is_server, at.clone())).or_default().push(span);
        }
    }
    assert_eq!(ends.len(), 4, "{:?}", ends.keys());
    for (end, spans) in ends {
        // Spans of what else runs on this machine can take the place of some.
        assert!(spans.len() > REQUESTS / 2, "{end:?}: {}", spans.len());
        let lengths: BTreeSet<Option<u64>> =
            spans.iter().map(|span| Some(span.request_bytes - number(span)?)).collect();
        assert!(lengths.len() == 1 && !lengths.contains(&None), "{end:?}: {lengths:?}");
    }
    Ok(())
}

fn failures_among_many_successes_are_sampled_though_the_kernel_aggregates_both() -> Outcome {
    const ROUND: u64 = 500;
    // By rate there is one of each outcome and stripe of CPUs, and not another one in time.
    let seldom = ["--span-interval-ms", "3600000"];
    for counts in [&[][..], &["--no-offload"]] {
        let mut agent = Agent::start(&[&seldom, counts].concat())?;
        let (mut client, mut server) = ends();
        let mut failures = 0;
        let until = Instant::now() + DEADLINE;
        // More than there would be by rate; both outcomes have a slot in the kernel long before.
        while sampled(&agent, "/among", "500") < 12 {
            assert!(
                Instant::now() < until,
                "{failures} failures, {} sampled",
                sampled(&agent, "/among", "500")
            );
            for _ in 0..ROUND {
                carry(&mut client, &mut server, "/among", 200);
            }
            failures += 1;
            deliver(&mut client, &mut server, &traced("/among", failures));
            respond(&mut client, &mut server, 500);
            agent.catch_up();
        }
        let all = (ROUND + 1) * failures as u64;
        assert_eq!(agent.counts("/among"), (all, all), "{counts:?}");
        let of_failures = |span: &&Span| status_of(&agent, span) == "500";
        let spans = of_path(&agent, "/among");
        assert!(
            spans.iter().copied().filter(of_failures).all(|span| is(span, SpanReason::SPAN_REASON_ERROR))
        );
        // When one was read it was not known that it would fail.
        let shortest = traced("/among", 0).len() as u64;
        let is_traced = |span: &Span| number(span) == Some(span.request_bytes - shortest);
        assert!(spans.iter().copied().filter(of_failures).all(is_traced), "{counts:?}: {spans:?}");
        let successes = spans.iter().filter(|span| status_of(&agent, span) == "200").count();
        assert!((1..=10).contains(&successes), "{successes} of the successes sampled");
    }
    Ok(())
}

fn requests_that_overlap_in_one_thread_are_sampled_by_rate() -> Outcome {
    // Long compared with an exchange: what is due when the first request is read is not due again at the responses.
    let mut agent = Agent::start(&["--span-interval-ms", "1000"])?;
    let mut ends = [ends(), ends(), ends()];
    let mut overlap = || {
        for (client, server) in &mut ends {
            request(client, server, "/among");
        }
        for (client, server) in &mut ends {
            respond(client, server, 200);
        }
    };
    for _ in 0..200 {
        overlap();
    }
    agent.catch_up();
    // By now the kernel aggregates these.
    agent.spans.clear();
    let until = Instant::now() + DEADLINE;
    let by_rate = |agent: &Agent| {
        let spans = of_path(agent, "/among");
        spans.into_iter().filter(|span| is(span, SpanReason::SPAN_REASON_RATE)).count()
    };
    while by_rate(&agent) < 3 {
        assert!(Instant::now() < until, "{} by rate", by_rate(&agent));
        overlap();
        agent.catch_up();
    }
    Ok(())
}

fn status_of<'a>(agent: &'a Agent, span: &Span) -> &'a str {
    let all = agent.all(Side::SIDE_SERVER);
    all.into_iter().find(|series| series.id == span.series_id).map_or("", |series| &series.key.status)
}

fn sampled(agent: &Agent, path: &str, status: &str) -> usize {
    of_path(agent, path).iter().filter(|span| status_of(agent, span) == status).count()
}

fn the_budget_limits_spans_and_no_counts() -> Outcome {
    const REQUESTS: u64 = 3_000;
    let per_second = 5;
    let began = Instant::now();
    let mut agent = Agent::start(&["--span-interval-ms", "0", "--spans-per-second", "5"])?;
    let (mut client, mut server) = ends();
    for _ in 0..REQUESTS {
        carry(&mut client, &mut server, "/bounded", 200);
    }
    assert_eq!(agent.counts("/bounded"), (REQUESTS, REQUESTS));
    // Two seconds' worth may be saved up. Spans of other tests' servers are within the same budget.
    let most = per_second * (2 + began.elapsed().as_secs() + 1);
    assert!((1..=most).contains(&(agent.spans.len() as u64)), "{} of {most}", agent.spans.len());
    assert!(agent.counters.spans_dropped >= 2 * REQUESTS - most, "{}", agent.counters.spans_dropped);
    Ok(())
}

fn is(span: &Span, reason: SpanReason) -> bool {
    span.reason.enum_value() == Ok(reason)
}
