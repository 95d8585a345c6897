//! Inline commands (Redis: "Inline commands"), which read like the lines of other protocols.

use super::*;

#[track_caller]
fn expect_inline(rounds: &[[&'static [u8]; 2]], expected: &[&str]) {
    let steps: Vec<Say> = rounds.iter().flat_map(|[request, reply]| [C(request), S(reply)]).collect();
    assert_eq!(play(&steps, usize::MAX, true).operations(), expected);
}

#[test]
fn the_first_line_of_a_connection_shows_its_protocol() {
    const ARITY: &[u8] = b"-ERR wrong number of arguments for 'get' command\r\n";
    const UNKNOWN: &[u8] = b"-ERR unknown command\r\n";
    expect_inline(&[[b"PING\r\nQUIT\r\n", b"+PONG\r\n+OK\r\n"]], &["PING", "QUIT"]);
    expect_inline(
        &[[b"SELECT 1\r\nAUTH x\r\nGET k\r\n", b"+OK\r\n+OK\r\n$-1\r\n"], [b"GET k\r\n", b"$-1\r\n"]],
        &["SELECT", "AUTH", "GET", "GET"],
    );
    expect_inline(
        &[[b"GET k\r\nNOSUCH a\r\nGET k\r\n", b"$-1\r\n-ERR unknown command\r\n$-1\r\n"]],
        &["GET", "other=ERR", "GET"],
    );
    expect_inline(
        &[[b"ECHO \"hello world\"\r\n", b"$11\r\nhello world\r\n"], [b"GET \"a b\"\r\n", b"$-1\r\n"]],
        &["ECHO", "GET"],
    );
    expect_inline(&[[b"GET\r\n", ARITY], [b"PING\r\n", b"+PONG\r\n"]], &["GET=ERR", "PING"]);
    for first in [&b"\r\nPING\r\n"[..], b"PING\r\n\r\n"] {
        expect_inline(&[[first, b"+PONG\r\n"], [b"PING\r\n", b"+PONG\r\n"]], &["PING", "PING"]);
    }
    // A line that is refused does not make what follows a rest.
    expect_inline(
        &[[b"FOO\r\n", UNKNOWN], [b"PING\r\n", b"+PONG\r\n"], [b"QUIT\r\n", b"+OK\r\n"]],
        &["PING", "QUIT"],
    );
}

/// Where the first line may be the rest of an argument, every line has to be a command.
#[test]
fn quotes_hold_blanks_together_and_empty_lines_are_none() {
    let rest = |text: &str| detect::inline(text.as_bytes(), false);
    for text in [
        "PING\r\nQUIT\r\n",
        "\r\nPING\r\n\r\n",
        "SELECT 1\r\nAUTH x\r\nGET k\r\n",
        "ECHO \"hello world\"\r\n",
        "GET 'a b'\r\nGET \"a \\\" b\"\r\n",
        "  GET   k  \r\n",
    ] {
        assert!(rest(text), "{text:?}");
    }
    for text in [
        "QUIT\r\nPING\r\n",
        "\r\n",
        "GET a b\r\n",
        "GET \"a\r\n",
        "GET \"a\"b\r\n",
        "GET k\r\nfoo\r\n",
        "PING\r\nPUB a 0\r\n",
        "GET\r\n",
    ] {
        assert!(!rest(text), "{text:?}");
    }
}
