//! Conversations and the exchanges they must give, however they are cut.

use std::fmt::Write as _;

use crate::{
    Connection,
    Direction::{self, Egress, Ingress},
    ErrorClass, Limits, ParserContext, Protocol, ScopeId, Side, Transport, Verdict,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

mod losses;

fn detected() -> Connection {
    Connection::new(ScopeId(1))
}

fn step(direction: Direction, text: &str) -> Step {
    (direction, text.as_bytes().to_vec())
}

/// A server's view: received and sent bytes, alternately.
fn served(texts: &[&str]) -> Vec<Step> {
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| step(if at.is_multiple_of(2) { Ingress } else { Egress }, text))
        .filter(|step| !step.1.is_empty())
        .collect()
}

fn assert_served(texts: &[&str], expected: &[&str]) {
    let steps = served(texts);
    let expected: Vec<String> = expected.iter().map(|line| format!("Server {line}")).collect();
    assert_eq!(play(detected(), &steps), expected, "{texts:?}");
    assert_same_at_every_cut(detected, &steps, &expected);
    // The same seen from the client.
    let steps: Vec<Step> = steps.into_iter().map(|(way, bytes)| (way.reverse(), bytes)).collect();
    let expected: Vec<String> = expected.iter().map(|line| line.replacen("Server", "Client", 1)).collect();
    assert_same_at_every_cut(detected, &steps, &expected);
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn one_request_and_its_response() {
    assert_served(&["GET /users/42?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", OK], &["GET /users/{} 200 None 39/40"]);
}

#[test]
fn keep_alive_gives_one_exchange_each() {
    assert_served(
        &[
            "GET / HTTP/1.1\r\n\r\n",
            OK,
            "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n",
            "DELETE /a HTTP/1.0\r\n\r\n",
            "HTTP/1.0 500 Oops\r\n\r\nuntil the end",
        ],
        &["GET / 200 None 18/40", "POST /a 404 Client 42/44", "DELETE /a 500 Server 22/34"],
    );
}

#[test]
fn pipelined_responses_pair_in_order() {
    assert_served(
        &[
            "GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nPUT /c HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET /d HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        ],
        &[
            "GET /a 200 None 19/40",
            "HEAD /b 200 None 20/38",
            "PUT /c 201 None 39/63",
            "GET /d 304 None 19/48",
        ],
    );
}

#[test]
fn chunked_bodies_with_extensions_and_trailers() {
    assert_served(
        &[
            "POST /up HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0\r\n\r\nHTTP/\r\n0\r\nTrailer: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ],
        &["POST /up 200 None 101/60", "GET / 204 None 18/27"],
    );
}

#[test]
fn interim_responses_belong_to_the_final_one() {
    assert_served(
        &[
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "hi",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        ],
        &["POST / 201 None 62/105"],
    );
}

#[test]
fn a_refused_expectation_leaves_the_body_out() {
    assert_served(
        &[
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n",
            "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n",
        ],
        &["POST / 417 Client 61/38"],
    );
    let steps = served(&[
        "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n",
        "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n",
        "GET /next HTTP/1.1\r\n\r\n",
        OK,
    ]);
    assert_eq!(play(detected(), &steps)[1], "Server GET /next 200 None 22/40");
}

#[test]
fn a_body_that_a_client_does_not_wait_with_is_sent_whole_after_an_early_response() {
    for framing in ["Content-Length: 62", "Transfer-Encoding: chunked"] {
        let chunked = framing.contains("chunked");
        let request = format!("POST /up HTTP/1.1\r\n{framing}\r\n\r\n");
        let early = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
        // What is uploaded looks like requests.
        let part = "GET /phantom HTTP/1.1\r\nHost: x\r\n\r\n";
        let first = if chunked { format!("3e\r\n{}", &part[..20]) } else { part[..20].to_owned() };
        let rest = &part.repeat(2)[..42];
        let rest = if chunked { format!("{rest}\r\n0\r\n\r\n") } else { rest.to_owned() };
        for body_first in [false, true] {
            let begun: Vec<Step> =
                if body_first { vec![(Ingress, first.clone().into_bytes())] } else { vec![] };
            let mut steps = vec![(Ingress, request.clone().into_bytes())];
            steps.extend(begun);
            steps.push((Egress, early.as_bytes().to_vec()));
            if !body_first {
                steps.push((Ingress, first.clone().into_bytes()));
            }
            steps.push((Ingress, rest.clone().into_bytes()));
            steps.push((Ingress, b"GET /next HTTP/1.1\r\n\r\n".to_vec()));
            steps.push((Egress, OK.as_bytes().to_vec()));
            let lines = play(detected(), &steps);
            assert_eq!(lines.len(), 2, "{framing} {lines:?}");
            // What was sent until the response's end.
            let sent = request.len() + if body_first { first.len() } else { 0 };
            assert_eq!(lines[0], format!("Server POST /up 413 Client {sent}/{}", early.len()));
            assert!(lines[1].starts_with("Server GET /next 200 None 22/"), "{lines:?}");
        }
    }
}

#[test]
fn a_client_that_was_refused_may_send_the_body_or_leave_it_out() {
    for framing in ["Content-Length: 20", "Transfer-Encoding: chunked"] {
        let request = format!("POST /up HTTP/1.1\r\nExpect: 100-continue\r\n{framing}\r\n\r\n");
        let refused = "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
        let body = if framing.contains("chunked") {
            "14\r\nGET / HTTP/1.1\r\n\r\nab\r\n0\r\n\r\n"
        } else {
            "abGET / HTTP/1.1\r\n\r\n"
        };
        for sent in [None, Some(body)] {
            let mut steps = vec![(Ingress, request.clone().into_bytes()), (Egress, refused.into())];
            steps.extend(sent.map(|body| (Ingress, body.into())));
            steps.push((Ingress, b"GET /next HTTP/1.1\r\n\r\n".to_vec()));
            steps.push((Egress, OK.as_bytes().to_vec()));
            let lines = play(detected(), &steps);
            assert_eq!(lines.len(), 2, "{framing} {sent:?} {lines:?}");
            assert!(lines[1].starts_with("Server GET /next 200 None 22/"), "{lines:?}");
        }
    }
}

/// What follows a refusal may be so little that it can be either; what a length ends with is the body.
#[test]
fn what_follows_a_refusal_is_recognised_at_every_cut() {
    for (framing, body) in [
        ("Content-Length: 45", "GETTER /a b HTTP/1.1 is what may begin a body"),
        ("Content-Length: 47", "POST / HTTP/2.0\r\nis so as well, by its version."),
        ("Transfer-Encoding: chunked", "A\r\nGET / HTTP\r\n0\r\n\r\n"),
    ] {
        for sent in [None, Some(body)] {
            for next in ["GET /next HTTP/1.1\r\n\r\n", "FROB /next?a=b HTTP/1.1\r\nHost: x\r\n\r\n"] {
                for cut in 1..next.len().max(body.len()) {
                    let mut steps = served(&[
                        "GET /first HTTP/1.1\r\n\r\n",
                        OK,
                        &format!("POST /up HTTP/1.1\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"),
                        "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
                    ]);
                    for bytes in [sent, Some(next)].into_iter().flatten() {
                        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
                        steps.push((Ingress, head.into()));
                        steps.extend((!tail.is_empty()).then(|| (Ingress, tail.into())));
                    }
                    steps.push((Egress, OK.into()));
                    let lines = play(detected(), &steps);
                    assert_eq!(lines.len(), 3, "{framing} {sent:?} {next:?} cut at {cut}: {lines:?}");
                    assert!(
                        lines[2].contains(" /next 200 None "),
                        "{framing} {sent:?} cut at {cut}: {lines:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn target_forms() {
    assert_served(
        &[
            "GET http://h.example:80/p/7?q HTTP/1.1\r\n\r\n",
            OK,
            "OPTIONS * HTTP/1.1\r\n\r\n",
            OK,
            "GET http://h HTTP/1.1\r\n\r\n",
            OK,
        ],
        &["GET /p/{} 200 None 42/40", "OPTIONS * 200 None 22/40", "GET / 200 None 25/40"],
    );
}

#[test]
fn unknown_methods_and_sloppy_lines_are_taken_as_servers_take_them() {
    assert_served(
        &[
            "GET /a HTTP/1.1\nHost: x\n folded: y\nContent-Length: 1\n\nb",
            "HTTP/1.1 200\nContent-Length: 0\n\n",
            "\r\nFROB-1 /x HTTP/1.1\r\nno colon\r\n\r\n",
            "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n",
        ],
        &["GET /a 200 None 55/32", "other /x 400 Client 32/39"],
    );
}

#[test]
fn lengths_that_are_folded_or_repeated_frame_the_body() {
    for (request, response) in [
        ("Content-Length:\r\n 1\r\n\r\nb", "Content-Length: \r\n \r\n\t2\r\n\r\nok"),
        ("Content-Length: 1, 1\r\n\r\nb", "Content-Length: 2,2\r\nContent-Length: 2\r\n\r\nok"),
        (
            "Transfer-Encoding:\r\n chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n",
            "Transfer-Encoding: gzip,\r\n  chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("Content-Length: 1\r\n \r\n\r\nb", "X: y\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let request = format!("POST /a HTTP/1.1\r\n{request}");
        let response = format!("HTTP/1.1 200 OK\r\n{response}");
        let first = format!("POST /a 200 None {}/{}", request.len(), response.len());
        assert_served(
            &[&request, &response, "GET /b HTTP/1.1\r\n\r\n", OK],
            &[&first, "GET /b 200 None 19/40"],
        );
    }
}

#[test]
fn a_later_minor_version_is_taken_for_the_latest_known() {
    assert_served(
        &[
            "GET /a HTTP/1.2\r\n\r\n",
            "HTTP/1.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "GET /b HTTP/1.1\r\n\r\n",
            OK,
        ],
        &["GET /a 200 None 19/40", "GET /b 200 None 19/40"],
    );
}

#[test]
fn after_an_upgrade_the_connection_is_left_alone() {
    let steps = served(&[
        "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\u{1}frame",
        "GET /in/the/websocket HTTP/1.1\r\n\r\n",
        OK,
    ]);
    let expected = vec!["Server GET /chat 101 None 63/56".to_owned()];
    assert_same_at_every_cut(detected, &steps, &expected);
    let mut replay = Replay::new(detected());
    for (direction, bytes) in &steps {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    assert_eq!(replay.connection.verdict(), Verdict::Ignored);
}

#[test]
fn what_follows_a_successful_connect_is_recognised_anew() {
    assert_served(
        &["CONNECT db.example:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", OK],
        &["CONNECT db.example:443 200 None 35/19", "GET / 200 None 18/40"],
    );
    assert_served(
        &[
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx",
            "GET / HTTP/1.1\r\n\r\n",
            OK,
        ],
        &["CONNECT a:1 403 Client 24/39", "GET / 200 None 18/40"],
    );
}

#[test]
fn a_request_without_response_ends_with_the_connection() {
    assert_served(
        &["GET /a HTTP/1.1\r\n\r\n", OK, "POST /b HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"],
        &["GET /a 200 None 19/40", "POST /b - NoResponse 42/0"],
    );
}

#[test]
fn half_a_request_is_none() {
    for (text, starts) in [("GET / HTTP/1.1\r\nHost: a\r\n", 1), ("GET / HT", 0), ("GE", 0)] {
        let mut replay = Replay::new(detected());
        replay.ingress(text.as_bytes());
        replay.close();
        assert!(replay.exchanges.is_empty());
        assert_eq!(replay.context.tally().unparsed, starts, "{text:?}");
    }
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET / HTTP/1.1\r\n\r\n");
    replay.egress(OK.as_bytes());
    replay.ingress(b"GET /ab");
    replay.close();
    assert_eq!(replay.exchanges.len(), 1);
    assert_eq!(replay.context.tally().unparsed, 1);
}

#[test]
fn a_header_of_a_mebibyte_is_skipped_not_held() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /big HTTP/1.1\r\nCookie: ");
    for _ in 0..256 {
        replay.ingress(&[b'x'; 4096]);
    }
    replay.ingress(b"\r\n\r\n");
    replay.egress(OK.as_bytes());
    replay.ingress(b"GET /next HTTP/1.1\r\n\r\n");
    replay.egress(OK.as_bytes());
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /big 200 None 1048607/40", "Server GET /next 200 None 22/40"]);
}

#[test]
fn a_target_of_a_mebibyte_is_a_request() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /api/");
    for _ in 0..256 {
        replay.ingress(&[b'x'; 4096]);
    }
    replay.ingress(b" HTTP/1.1\r\n\r\n");
    replay.egress(b"HTTP/1.1 414 Too Long\r\nContent-Length: 0\r\n\r\n");
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /api/{} 414 Client 1048598/44"]);
}

#[test]
fn duration_is_from_the_first_byte_to_the_last() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"G");
    replay.ingress(b"ET / HTTP/1.1\r\n\r\n");
    replay.egress(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    replay.egress(b"k");
    assert_eq!(replay.exchanges[0].duration_ns(), 3000);
    replay.ingress(b"GET / HTTP/1.1\r\n\r\n");
    replay.egress(OK.as_bytes());
    assert_eq!(replay.exchanges[1].duration_ns(), 1000);
}

#[test]
fn a_proxy_header_is_skipped() {
    let expected = ["Server GET /a 200 None 19/40".to_owned()];
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x05\0\x50".to_vec();
    v2.extend(b"GET /a HTTP/1.1\r\n\r\n");
    for prefix in [b"PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\nGET /a HTTP/1.1\r\n\r\n".to_vec(), v2] {
        let steps = [(Ingress, prefix), step(Egress, OK)];
        assert_eq!(play(detected(), &steps), expected);
        assert_same_at_every_cut(detected, &steps, &expected);
    }
}

#[test]
fn other_protocols_are_ignored_without_an_exchange() {
    for texts in [
        &["220 mail ESMTP\r\n", "EHLO x\r\n", "250 ok\r\n", "MAIL FROM:<a>\r\n"][..],
        &["SSH-2.0-OpenSSH_9\r\n", "SSH-2.0-Go\r\n"],
        &["USER anonymous\r\n", "331 password\r\n"],
        &["asdfgh\r\n", ""],
        &["GET key\r\n", "VALUE key 0 1\r\n"],
    ] {
        let steps: Vec<Step> = served(texts).into_iter().cycle().take(200).collect();
        let mut replay = Replay::new(detected());
        for (direction, bytes) in &steps {
            replay.part(*direction, bytes, bytes.len() as u64);
        }
        assert_eq!(replay.connection.verdict(), Verdict::Ignored, "{texts:?}");
        replay.close();
        assert!(replay.exchanges.is_empty());
    }
}

#[test]
fn random_bytes_give_no_exchange() {
    let mut random = Random(7);
    for _ in 0..2000 {
        let mut replay = Replay::new(detected());
        for _ in 0..20 {
            let length = random.below(300);
            let bytes = random.bytes(length);
            let direction = if random.below(2) == 0 { Ingress } else { Egress };
            replay.part(direction, &bytes, (length + random.below(100)) as u64);
        }
        replay.close();
        assert!(replay.exchanges.is_empty());
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let whole = [
        "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc",
        "HEAD /c HTTP/1.1\r\n\r\nGET /d HTTP/1.0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ];
    assert_no_harm(Protocol::Http1, Transport::Stream, &served(&whole));
}

#[test]
fn more_requests_than_can_wait_keep_the_others_paired() {
    let mut replay = Replay::new(detected());
    replay.context = ParserContext::new(Limits { pending_shared: 0, ..Limits::default() });
    for number in 0..1500 {
        replay.ingress(format!("GET /{} HTTP/1.1\r\n\r\n", if number < 1000 { "a" } else { "b" }).as_bytes());
    }
    for number in 0..1500 {
        let status = if number < 1000 { 200 } else { 404 };
        replay.egress(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    replay.close();
    assert_eq!(replay.exchanges.len(), 1024);
    assert_eq!(replay.lines().iter().filter(|line| line.contains("/b 404")).count(), 500);
    assert_eq!(replay.lines().iter().filter(|line| line.contains("/a 200")).count(), 524);
    assert_eq!(replay.context.tally().unparsed, 476);
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<super::Http1>() <= 640, "{} bytes", size_of::<super::Http1>());
    assert!(size_of::<Connection>() <= 96, "{} bytes", size_of::<Connection>());
}

#[test]
fn a_connection_may_begin_with_a_method_nobody_knows() {
    assert_served(&["FROB /x HTTP/1.1\r\n\r\n", OK], &["FROB /x 200 None 20/40"]);
}

#[test]
fn a_connection_may_begin_with_a_method_that_is_no_word() {
    for method in ["frob", "X!Y", "Get"] {
        let steps = served(&[&format!("{method} /x HTTP/1.1\r\nHost: a\r\n\r\n"), OK]);
        assert_eq!(
            play(detected(), &steps),
            [format!("Server {method} /x 200 None {}/40", 25 + method.len())]
        );
    }
}

const REFUSED: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn a_malformed_request_that_is_refused_is_one() {
    let hello = [b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03".as_slice(), &[7; 58]].concat();
    for malformed in
        [b"GET /b c d\r\n\r\n".as_slice(), b"GARBAGE\r\n\r\n", b"\0\x01\x02", b"GET / HTTP/9.9\r\n\r\n"]
    {
        for begins in [false, true] {
            let mut replay = Replay::new(detected());
            if !begins {
                replay.ingress(b"GET /a HTTP/1.1\r\n\r\n");
                replay.egress(OK.as_bytes());
            }
            replay.ingress(malformed);
            replay.egress(REFUSED.as_bytes());
            replay.close();
            let last = replay.lines().pop().unwrap_or_default();
            assert!(last.starts_with("Server _OTHER  400 Client "), "{malformed:?}: {last}");
            assert_eq!(replay.exchanges.len(), 2 - usize::from(begins));
        }
    }
    // A client of TLS at a port of HTTP.
    let mut replay = Replay::new(detected());
    replay.ingress(&hello);
    replay.egress(REFUSED.as_bytes());
    replay.close();
    assert_eq!(replay.lines(), ["Server _OTHER  400 Client 69/66"]);
    assert_eq!(replay.context.tally().unparsed, 0);
}

/// RFC 9112 section 3.2: servers should refuse such a target; not all do.
#[test]
fn control_characters_in_a_query_are_the_servers_affair() {
    for status in ["200 OK", "400 Bad Request"] {
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let steps = served(&[
            "GET /a?b=\u{1}\t\u{7f}c HTTP/1.1\r\nHost: a\r\n\r\n",
            &response,
            "GET /b#\u{2} HTTP/1.1\r\nHost: a\r\n\r\n",
            &response,
        ]);
        let lines = play(detected(), &steps);
        let found: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(found, ["/a", "/b"], "{lines:?}");
        assert!(lines.iter().all(|line| line.contains(&status[..3])), "{lines:?}");
        assert_same_at_every_cut(detected, &steps, &lines);
    }
    // In a path they make the line none of a request's.
    let steps = served(&["GET /a\u{1}b HTTP/1.1\r\nHost: a\r\n\r\n", OK]);
    assert!(play(detected(), &steps).is_empty());
}

#[test]
fn a_request_is_refused_before_its_head_ends() {
    for status in ["400 Bad Request", "408 Request Timeout", "431 Request Header Fields Too Large"] {
        let steps = served(&[
            "GET /a HTTP/1.1\r\nHost: a\r\nX-Long: abc",
            &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"),
        ]);
        let lines = play(detected(), &steps);
        let expected = format!("Server GET /a {} Client 15/", &status[..3]);
        assert!(lines.len() == 1 && lines[0].starts_with(&expected), "{lines:?}");
    }
    // Any other response belongs to a request that was not seen.
    let steps = served(&["GET /a HTTP/1.1\r\nHost: a\r\nX-Long: abc", OK]);
    assert!(play(detected(), &steps).is_empty());
}

/// Events come as they happen: how long the stream lasts is no time that the server needed.
#[test]
fn a_stream_of_events_has_answered_with_its_head() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut replay = Replay::new(detected());
    for _ in 0..2 {
        replay.ingress(b"GET /events HTTP/1.1\r\n\r\n");
        replay.egress(head.as_bytes());
        for _ in 0..3 {
            replay.wait(30_000_000_000);
            replay.egress(b"b\r\ndata: x\r\n\r\n\r\n");
        }
        replay.egress(b"0\r\n\r\n");
    }
    // One that its client leaves.
    replay.ingress(b"GET /events HTTP/1.1\r\n\r\n");
    replay.egress(head.as_bytes());
    replay.wait(30_000_000_000);
    replay.close();
    assert_eq!(replay.lines(), vec![format!("Server GET /events 200 None 24/{}", head.len()); 3]);
    assert!(replay.exchanges.iter().all(|exchange| exchange.end.since(exchange.start) == 1000));
}

#[test]
fn an_exchange_has_the_trace_of_its_own_request() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let head = |headers: &str| format!("GET /a HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let requests = [
        head(&format!("Traceparent:  00-{trace}-00f067aa0ba902b7-01\r\n")),
        head(""),
        head(&format!("X-B3-TraceId: {trace}\r\nX-B3-SpanId: 00f067aa0ba902b7\r\n")),
        head(&format!("traceparent: 00-{trace}-00f067aa0ba902b7-1\r\n")),
    ];
    let whole = requests.concat();
    for at in 0..whole.len() {
        let mut replay = Replay::new(detected());
        // Pipelined, and cut anywhere.
        replay.ingress(&whole.as_bytes()[..at]);
        replay.ingress(&whole.as_bytes()[at..]);
        for _ in &requests {
            replay.egress(answer.as_bytes());
        }
        let traces: Vec<_> = replay.exchanges.iter().map(|exchange| exchange.trace).collect();
        let [Some(first), None, Some(third), None] = traces[..] else { panic!("{at}: {traces:?}") };
        assert_eq!((first.trace_id, first.sampled), (third.trace_id, true));
        assert!(!third.sampled && first.parent_span_id == third.parent_span_id);
    }
}
