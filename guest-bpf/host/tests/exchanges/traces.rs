//! Trace contexts of HTTP/1 requests that the programs follow.

use porthole_bpf_host::{
    agent::monitor::{Mode, Monitor},
    differential::Call,
};
use porthole_bpf_types::kernel_key::CONTEXT_MAX;
use porthole_l7::{Direction, Limits, ParserContext, Side, Timestamp};

use crate::support::Differences;

const T: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const S: &str = "00f067aa0ba902b7";

/// Lines of heads with one context, with several, or with none.
fn heads() -> Vec<String> {
    let parts =
        format!("X-B3-TraceId: {T}\r\nX-B3-SpanId: {S}\r\nX-B3-ParentSpanId: {S}\r\nX-B3-Sampled: 1\r\n");
    let [w3c, b3, jaeger] = [
        format!("traceparent: 00-{T}-{S}-01\r\n"),
        format!("b3: {S}{S}-{S}-1-{S}\r\n"),
        format!("Uber-Trace-Id: {T}:{S}:{S}:01\r\n"),
    ];
    let zero = w3c.replace(T, &"0".repeat(32));
    [
        &[&w3c][..],
        &[&w3c.to_uppercase().replace(&T.to_uppercase(), T).replace(&S.to_uppercase(), S)],
        &[&w3c, &w3c],
        &[&w3c, &zero],
        &[&zero],
        &[&b3],
        &[&b3, &w3c],
        &[&w3c, &b3],
        &[&b3, &b3],
        &[&parts],
        &[&parts.to_lowercase()],
        &[&parts, &b3],
        &[&parts, &w3c],
        &[&jaeger],
        &[&jaeger, &parts],
        &[&jaeger, &jaeger],
        &[&"traceparents: x\r\nb3a: x\r\nx-b30: x\r\nuber-trace-ids: x\r\nx-b3-other: x\r\n".to_owned()],
        &[&"Traceparent: \r\nb3: \r\n".to_owned()],
        &[],
    ]
    .map(|lines| lines.iter().map(|line| line.as_str()).collect())
    .to_vec()
}

fn request(lines: &str) -> String {
    format!("GET /cart HTTP/1.1\r\nHost: shop\r\n{lines}Accept: */*\r\n\r\n")
}

const RESPONSE: &str = "HTTP/1.1 200 OK\r\ntraceparent: 00-no\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn each_form_is_kept_however_the_calls_are_cut() {
    let mut differences = Differences::default();
    for side in [Side::Server, Side::Client] {
        let (to, from) = if side == Side::Server {
            (Direction::Ingress, Direction::Egress)
        } else {
            (Direction::Egress, Direction::Ingress)
        };
        for lines in heads() {
            let calls = [
                Call::new(to, request(&lines)),
                Call::new(from, RESPONSE),
                // One without a context, and one that the programs cannot parse while it waits.
                Call::new(to, request("")),
                Call::new(from, RESPONSE),
                Call::new(to, request(&lines)),
                Call::new(from, "HTTP/1.1 103 Early Hints\r\n\r\n"),
                Call::new(from, RESPONSE),
            ];
            differences.compare_however_cut(side, &calls, 7, &lines);
        }
    }
    differences.assert_none();
}

#[test]
fn a_context_at_the_very_end_of_the_longest_head_is_read() {
    let mut differences = Differences::default();
    for lines in heads() {
        for len in [900, 1_000, 1_020, 2_000, 3_500, 3_900, 4_000] {
            let long = format!("X-Long: {}\r\n{lines}", "x".repeat(len));
            let head = format!("GET /cart HTTP/1.1\r\n{long}\r\n");
            let calls = [Call::new(Direction::Ingress, head), Call::new(Direction::Egress, RESPONSE)];
            differences.compare(Side::Server, &calls, format_args!("{len} before {lines}"));
        }
    }
    differences.assert_none();
}

/// Of several requests that wait for a response the newest one's context is kept, and of several in one call none.
#[test]
fn no_request_has_the_context_of_another_one() {
    let number = |number: usize| format!("traceparent: 00-{number:032x}-{S}-01\r\n");
    let mut monitor = Monitor::new(Mode::Begun, Side::Server, ParserContext::new(Limits::default()));
    let mut now = 1_000;
    let mut call = |direction: Direction, bytes: String| {
        now += 1_000;
        monitor.call(direction, &[bytes.as_bytes()], Timestamp(now));
    };
    let of = |at: usize| request(&number(at)).replace("cart", &format!("cart?{at}"));
    // The sizes show which request it is.
    let sized = |at: usize| of(at).replace("Host: shop", &format!("Host: {}", "s".repeat(at)));
    call(Direction::Ingress, sized(1));
    call(Direction::Ingress, sized(2));
    call(Direction::Ingress, sized(3) + &sized(4));
    call(Direction::Ingress, request("").replace("Host: shop", "Host: sssss"));
    for _ in 0..5 {
        call(Direction::Egress, RESPONSE.to_owned());
    }
    assert!(monitor.is_offloaded());
    let shortest = sized(1).len() as u64;
    let traces: Vec<Option<u128>> = monitor
        .exchanges()
        .0
        .iter()
        .map(|exchange| exchange.trace.map(|trace| u128::from_be_bytes(trace.trace_id)))
        .collect();
    let lengths: Vec<u64> = monitor.exchanges().0.iter().map(|exchange| exchange.request_bytes).collect();
    assert_eq!(traces, [None, Some(2), None, None, None]);
    assert_eq!(lengths[..4], [0, 1, 2, 3].map(|more| shortest + more));
}

/// With a context the programs keep what follows it in the head.
#[test]
fn nothing_of_the_lines_behind_a_context_leaves() {
    const MARKER: &str = "swordfish";
    let lines = format!("traceparent: 00-{T}-{S}-01\r\nX-{MARKER}: {MARKER}\r\n");
    assert!(lines.len() < CONTEXT_MAX, "all of it is kept");
    let mut monitor = Monitor::new(Mode::Begun, Side::Server, ParserContext::new(Limits::default()));
    for now in 1..=4 {
        monitor.call(Direction::Ingress, &[request(&lines).as_bytes()], Timestamp(2_000 * now));
        monitor.call(Direction::Egress, &[RESPONSE.as_bytes()], Timestamp(2_000 * now + 1_000));
    }
    assert!(monitor.is_offloaded());
    let (exchanges, context) = monitor.exchanges();
    assert!(exchanges.iter().any(|exchange| exchange.trace.is_some()), "{exchanges:?}");
    let names: Vec<&str> = exchanges
        .iter()
        .flat_map(|exchange| [exchange.operation, exchange.resource])
        .map(|symbol| context.name(symbol))
        .collect();
    let left = format!("{exchanges:?} {names:?} {context:?}");
    assert!(!left.contains(MARKER), "{left}");
}
