//! Conversations in which the programs and `l7` once differed.

use porthole_bpf_host::{differential::Call, generated};
use porthole_l7::{Direction, Side};
use porthole_protocol::Offload;

use crate::support::Differences;

/// Inputs of the fuzz targets `offload_*`, with what they led to.
const INPUTS: &[(&str, Offload, &[u8])] = &[
    ("unknown inline commands after arrays", Offload::Redis, b"\x0e\x00\xb5\xb5"),
    ("a request line in two calls behind a body that was refused", Offload::Http1, b"\x04\x0f\x83\x36"),
];

#[test]
fn inputs_of_the_fuzz_targets_give_the_same_exchanges() {
    for (what, protocol, input) in INPUTS {
        println!("{what}");
        generated::fuzz(*protocol, input);
    }
}

/// The programs follow arrays only: that a client sends lines, too, stays known over the time in which they follow it.
#[test]
fn a_line_is_a_command_behind_arrays_as_well() {
    let exchange = |request: &str, reply: &str| {
        [Call::new(Direction::Ingress, request), Call::new(Direction::Egress, reply)]
    };
    let calls = [
        exchange("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
        exchange("GET key\r\n", "$-1\r\n"),
        exchange("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
        exchange("MODULE.DO it\r\n", "+OK\r\n"),
        exchange("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
    ];
    let mut differences = Differences::default();
    differences.compare(Side::Server, calls.as_flattened(), "lines between arrays");
    differences.assert_none();
}

/// The programs follow no streamed values: the connection falls back in the middle of a reply, too.
#[test]
fn streamed_replies_are_the_same() {
    let exchange = |request: &str, reply: &str| {
        [Call::new(Direction::Ingress, request), Call::new(Direction::Egress, reply)]
    };
    let get = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    let mget = "*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n";
    let calls = [
        exchange(get, "$-1\r\n"),
        exchange(get, "$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n"),
        exchange(mget, "*2\r\n$1\r\na\r\n$?\r\n;0\r\n"),
        exchange(mget, "*?\r\n$1\r\na\r\n*?\r\n.\r\n.\r\n"),
        exchange(get, "-WRONGTYPE no\r\n"),
        exchange(mget, "*2\r\n%?\r\n+a\r\n:1\r\n.\r\n:2\r\n"),
        exchange(get, "$-1\r\n"),
    ];
    let mut differences = Differences::default();
    differences.compare(Side::Server, calls.as_flattened(), "streamed replies");
    differences.assert_none();
}

/// Each status has a slot of its own; the first exchanges are records, by which it is assigned.
#[test]
fn requests_that_recur_are_aggregated_with_the_same_sums() {
    let exchange = |status: &str| {
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello");
        let request = "GET /cart HTTP/1.1\r\nHost: shop\r\n\r\n";
        [Call::new(Direction::Ingress, request), Call::new(Direction::Egress, response)]
    };
    let calls: Vec<[Call; 2]> =
        (0..12).map(|index| exchange(if index % 3 == 0 { "404 Not Found" } else { "200 OK" })).collect();
    let mut differences = Differences::default();
    differences.compare(Side::Server, calls.as_flattened(), "requests that recur");
    differences.assert_none();
    assert!(differences.aggregated >= 8, "{} of 12", differences.aggregated);
}

/// A control character does not end what it stands in, but for a line feed; and it is none of the letters of a field's name.
#[test]
fn control_characters_in_heads_and_chunks_mean_the_same() {
    let plain = "GET /cart HTTP/1.1\r\nHost: shop\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let requests = [
        "GET /cart?a\nb HTTP/1.1\r\n\r\n",
        "GET /cart?a b\rc\0 HTTP/1.1\r\n\r\n",
        "GET /cart? HTTP/1.1\r\n\r\n",
        "GET /cart?HTTP/1.1\r\n\r\n",
        "GET /cart HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "POST /cart HTTP/1.1\r\nContent\rLength: 9\r\n\r\n",
        "POST /cart HTTP/1.1\r\nContent-Length\u{1a} 9\r\n\r\n",
        "POST /cart HTTP/1.1\r\nContent-Length: 5\rx\r\n\r\nhello",
        "POST /cart HTTP/1.1\r\nTransfer\rEncoding: chunked\r\n\r\n",
    ];
    let responses = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n10\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\r0\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent\rLength: 9\r\nContent-Length: 5\r\n\r\nhello",
    ];
    let with = |request: &str, response: &str| {
        let exchange = |request: &str, response: &str| {
            [Call::new(Direction::Ingress, request), Call::new(Direction::Egress, response)]
        };
        [exchange(plain, answer), exchange(plain, answer), exchange(request, response)].concat()
    };
    let mut differences = Differences::default();
    let odd = requests.iter().map(|request| with(request, answer));
    for calls in odd.chain(responses.iter().map(|response| with(plain, response))) {
        let what = calls[4..].iter().map(|call| call.bytes.escape_ascii().to_string()).collect::<String>();
        differences.compare(Side::Server, &calls, what);
    }
    differences.assert_none();
}

/// Arrays in arrays that announce 2^32 values, of which the programs' count has none.
#[test]
fn replies_of_more_values_than_fit_in_a_word_do_not_end_early() {
    let exchange = |reply: &str| {
        [Call::new(Direction::Ingress, "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), Call::new(Direction::Egress, reply)]
    };
    let huge = format!("{}*4\r\n", "*1073741824\r\n".repeat(4));
    let calls = [exchange("$-1\r\n"), exchange(&huge), exchange("$1\r\nb\r\n")];
    let mut differences = Differences::default();
    differences.compare(Side::Server, calls.as_flattened(), "2^32 values");
    differences.assert_none();
}

/// A control character ends no method, and what follows it begins none.
#[test]
fn methods_with_control_characters_in_calls_of_one_byte_are_the_same() {
    let plain = [
        Call::new(Direction::Ingress, "GET /cart HTTP/1.1\r\nHost: shop\r\n\r\n"),
        Call::new(Direction::Egress, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    let mut differences = Differences::default();
    for control in ["\0", "\r", "\t", "\u{1}", "\u{7f}"] {
        let odd = [
            Call::new(Direction::Ingress, "G"),
            Call::new(Direction::Ingress, control),
            Call::new(Direction::Ingress, "ET /cart HTTP/1.1\r\nHost: shop\r\n\r\n"),
            Call::new(Direction::Egress, "HTTP/1.1 400 no\r\nContent-Length: 0\r\n\r\n"),
        ];
        let what = control.escape_default().to_string();
        differences.compare(Side::Server, &[&odd[..], &plain, &plain].concat(), &what);
        differences.compare(Side::Server, &[&plain[..], &odd, &plain].concat(), &what);
    }
    differences.assert_none();
}
