//! Conversations and the exchanges they must give, however they are cut.

use std::fmt::Write as _;

use crate::{
    Connection,
    Direction::{self, Egress, Ingress},
    ErrorClass, Protocol, ScopeId, Side, Transport, Verdict,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

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
        &["GET /a 200 None 55/32", "FROB-1 /x 400 Client 32/39"],
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
fn after_a_successful_connect_the_connection_is_left_alone() {
    assert_served(
        &["CONNECT db.example:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", OK],
        &["CONNECT db.example:443 200 None 35/19"],
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
fn bodies_of_known_length_need_no_bytes() {
    let mut replay = Replay::new(detected());
    for _ in 0..3 {
        let head = b"POST /up HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n";
        replay.part(Ingress, head, head.len() as u64 + 400_000);
        replay.part(Ingress, b"HTTP/1.1 200 OK\r\n\r\n", 300_000);
        replay.part(Ingress, b"", 300_000);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
        replay.part(Egress, head, head.len() as u64 + 1000);
        replay.lose(Egress, 3000);
        replay.part(Egress, b"GET / HTTP/1.1\r\n\r\n", 1000);
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server POST /up 200 None 1000046/5041"; 3]);
    assert_eq!(replay.context.tally().gaps, 0);
}

#[test]
fn chunked_bodies_with_truncated_capture_stay_exact_without_pipelining() {
    let mut replay = Replay::new(detected());
    for _ in 0..5 {
        replay.ingress(b"GET /stream HTTP/1.1\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\nHTTP/1.1 500 no\r\n\r\n";
        replay.part(Egress, head, 9000);
        replay.part(Egress, b"2000\r\nxxxx", 8200);
        replay.part(Egress, b"HTTP/1.1 500 neither\r\n\r\n", 8200);
        replay.now += 10_000;
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /stream 200 None 24/25400"; 5]);
    assert!(replay.exchanges.iter().all(|exchange| exchange.duration_ns() == 3000));
    assert!(replay.context.tally().gaps > 0);
}

#[test]
fn chunks_that_are_written_whole_need_not_be_captured_whole() {
    let mut replay = Replay::new(detected());
    for _ in 0..3 {
        replay.ingress(b"GET /stream HTTP/1.1\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\nxxxx";
        replay.part(Egress, head, head.len() as u64 - 4 + 8192 + 2);
        replay.part(Egress, b"2000\r\nxxxx", 6 + 8192 + 2);
        replay.part(Egress, b"1000\r\nxxxx", 6 + 4096 + 7);
        assert_eq!(replay.exchanges.last().map(crate::Exchange::duration_ns), Some(3000));
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /stream 200 None 24/20556"; 3]);
    assert_eq!(replay.context.tally().gaps, 0);
}

#[test]
fn the_last_chunk_of_an_unframed_body_ends_it() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /stream HTTP/1.1\r\n\r\n");
    replay.part(Egress, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\nxx", 9000);
    replay.egress(b"0\r\n\r\n");
    assert_eq!(replay.lines(), ["Server GET /stream 200 None 24/9005"]);
}

#[test]
fn an_unframed_response_ends_when_the_connection_is_quiet() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /stream HTTP/1.1\r\n\r\n");
    replay.part(Egress, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\nxx", 9000);
    let now = crate::Timestamp(replay.now + 6_000_000_000);
    let exchanges = &mut replay.exchanges;
    replay.connection.tick(now, &mut replay.context, &mut |exchange| exchanges.push(exchange));
    assert_eq!(replay.exchanges.len(), 1);
    assert_eq!(replay.exchanges[0].duration_ns(), 1000);
    replay.ingress(b"GET /next HTTP/1.1\r\n\r\n");
    replay.egress(OK.as_bytes());
    replay.close();
    assert_eq!(replay.exchanges.len(), 2);
}

#[test]
fn heads_that_were_not_captured_whole_count_when_they_are_answered() {
    let mut replay = Replay::new(detected());
    for _ in 0..3 {
        replay.part(Ingress, b"GET /cookies HTTP/1.1\r\nCookie: xxxxx", 5000);
        replay.part(Egress, b"HTTP/1.1 302 Found\r\nSet-Cookie: xxxxxx", 4000);
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /cookies 302 None 5000/4000"; 3]);
}

#[test]
fn a_connection_joined_within_a_response_waits_for_a_start() {
    for garbage in ["tail of a body", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "GE"] {
        let steps = [
            step(Egress, garbage),
            step(Ingress, "GET /a HTTP/1.1\r\n\r\n"),
            step(Egress, OK),
            step(Ingress, "GET /b HTTP/1.1\r\n\r\n"),
            step(Egress, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
        ];
        assert_eq!(
            play(detected(), &steps),
            ["Server GET /a 200 None 19/40", "Server GET /b 404 Client 19/38"],
            "{garbage:?}"
        );
    }
}

#[test]
fn a_response_delivered_before_its_request_is_paired() {
    let connection =
        || Connection::known(ScopeId(1), Transport::Stream, Protocol::Http1, Side::Server).expect("http");
    let mut replay = Replay::new(connection());
    // The request's time is the earlier one although it is delivered later.
    replay.now = 100_000;
    replay.egress(OK.as_bytes());
    replay.now = 50_000;
    replay.ingress(b"GET /a HTTP/1.1\r\n\r\n");
    // From now on the pairing is known to be right.
    replay.now = 200_000;
    replay.egress(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    replay.ingress(b"GET /b HTTP/1.1\r\n\r\n");
    replay.ingress(b"GET /c HTTP/1.1\r\n\r\n");
    replay.egress(OK.as_bytes());
    replay.close();
    assert_eq!(
        replay.lines(),
        ["Server GET /a 200 None 19/40", "Server GET /b 404 Client 19/38", "Server GET /c 200 None 19/40"]
    );
}

/// Exchanges one after the other.
fn repeat(replay: &mut Replay, path: &str, status: u16, times: usize) {
    for _ in 0..times {
        replay.ingress(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
        replay.egress(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
}

/// The number of exchanges of this path and status.
fn count(replay: &Replay, path: &str, status: u16) -> usize {
    let wanted = format!(" {path} {status} ");
    replay.lines().iter().filter(|line| line.contains(&wanted)).count()
}

#[test]
fn after_a_loss_one_exchange_is_watched_and_the_next_is_paired() {
    for of in [Ingress, Egress] {
        let mut replay = Replay::new(detected());
        repeat(&mut replay, "/a", 200, 40);
        if of == Ingress {
            replay.lose(Ingress, 19);
            replay.egress(b"HTTP/1.1 500 Lost\r\nContent-Length: 0\r\n\r\n");
        } else {
            replay.ingress(b"GET /lost HTTP/1.1\r\n\r\n");
            replay.lose(Egress, 40);
        }
        repeat(&mut replay, "/b", 404, 10);
        replay.close();
        assert_eq!(replay.exchanges.len(), 40 + count(&replay, "/b", 404), "{of:?}");
        assert!(count(&replay, "/b", 404) >= 8, "{of:?}: {:?}", replay.lines());
    }
}

#[test]
fn after_a_loss_on_a_young_connection_turns_are_counted() {
    let mut replay = Replay::new(detected());
    repeat(&mut replay, "/a", 200, 2);
    replay.lose(Ingress, 19);
    repeat(&mut replay, "/b", 404, 100);
    replay.close();
    assert_eq!(count(&replay, "/a", 200), 2);
    assert!((60..100).contains(&count(&replay, "/b", 404)), "{}", count(&replay, "/b", 404));
}

#[test]
fn after_a_loss_while_pipelining_silence_says_that_all_is_answered() {
    let mut replay = Replay::new(detected());
    let batch = "GET /a HTTP/1.1\r\n\r\n".repeat(4);
    replay.ingress(batch.as_bytes());
    replay.egress(OK.repeat(4).as_bytes());
    assert_eq!(replay.exchanges.len(), 4);
    replay.ingress(batch.as_bytes());
    replay.part(Egress, &OK.as_bytes()[..20], OK.len() as u64 * 2);
    replay.egress(OK.repeat(2).as_bytes());
    let marked = "GET /b HTTP/1.1\r\n\r\n".repeat(4);
    let answers = "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".repeat(4);
    replay.ingress(marked.as_bytes());
    replay.egress(answers.as_bytes());
    assert_eq!(count(&replay, "/b", 404), 0);
    replay.now += 200_000_000;
    replay.ingress(marked.as_bytes());
    replay.egress(answers.as_bytes());
    replay.close();
    assert_eq!(count(&replay, "/a", 200), 5);
    assert_eq!(count(&replay, "/b", 404), 4);
    assert_eq!(replay.exchanges.len(), 9);
}

#[test]
fn what_was_asked_before_a_loss_of_requests_is_still_answered_first() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    replay.lose(Ingress, 19);
    replay.ingress(b"GET /d HTTP/1.1\r\n\r\n");
    for status in [200, 404, 500, 503] {
        replay.egress(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /a 200 None 19/37", "Server GET /b 404 Client 19/37"]);
}

#[test]
fn retransmitted_bytes_are_seen_once() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /a HTTP/1.1\r\n\r\n");
    let mut engine_chunk = |offset: u64, text: &str| {
        let chunk = crate::Chunk {
            direction: Egress,
            timestamp: crate::Timestamp(9),
            offset,
            bytes: text.as_bytes(),
            total: text.len() as u64,
        };
        let exchanges = &mut replay.exchanges;
        replay.connection.chunk(&chunk, &mut replay.context, &mut |exchange| exchanges.push(exchange));
    };
    engine_chunk(0, &OK[..20]);
    engine_chunk(0, &OK[..20]);
    engine_chunk(10, &OK[10..]);
    assert_eq!(replay.lines(), ["Server GET /a 200 None 19/40"]);
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
fn a_truncated_response_keeps_its_status() {
    let steps = served(&["GET /a HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"]);
    let mut replay = Replay::new(detected());
    for (direction, bytes) in &steps {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /a 200 None 19/44"]);
    assert_eq!(replay.exchanges[0].error, ErrorClass::None);
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<super::Http1>() <= 640, "{} bytes", size_of::<super::Http1>());
    assert!(size_of::<Connection>() <= 96, "{} bytes", size_of::<Connection>());
}

#[test]
fn after_a_hole_in_pipelined_requests_no_response_is_given_to_another() {
    let mut random = Random(1);
    for round in 0..200 {
        let mut replay = Replay::new(detected());
        let mut requests = String::new();
        let mut responses = String::new();
        for _ in 0..200 {
            requests.clear();
            responses.clear();
            let depth = 1 + random.below(16);
            for _ in 0..depth {
                let status = ["200", "301", "404", "500"][random.below(4)];
                write!(requests, "GET /s{status} HTTP/1.1\r\nHost: example\r\n\r\n").expect("a string grows");
                write!(responses, "HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nhello")
                    .expect("a string grows");
            }
            let cap = 30 + random.below(400);
            for (direction, text) in [(Ingress, &requests), (Egress, &responses)] {
                replay.part(direction, &text.as_bytes()[..cap.min(text.len())], text.len() as u64);
            }
        }
        replay.close();
        for line in replay.lines() {
            let status = line.split(' ').nth(3).expect("a status");
            assert!(line.contains(&format!("/s{status}")) || status == "-", "round {round}: {line}");
        }
    }
}

#[test]
fn a_response_nobody_asked_for_does_not_shift_the_others() {
    let mut replay = Replay::new(detected());
    for (status, pause) in [(200, 0), (404, 0), (408, 3_000_000_000_u64), (500, 0), (200, 0)] {
        if status == 408 {
            // A server that closes an idle connection says so before the next request was sent.
            replay.egress(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
            replay.now += pause;
            continue;
        }
        replay.ingress(format!("GET /s{status} HTTP/1.1\r\n\r\n").as_bytes());
        replay.egress(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    replay.close();
    let statuses: Vec<String> =
        replay.lines().iter().map(|line| line.split(' ').nth(3).expect("a status").to_owned()).collect();
    assert_eq!(statuses, ["200", "404", "500", "200"]);
}

#[test]
fn a_connection_may_begin_with_a_method_nobody_knows() {
    assert_served(&["FROB /x HTTP/1.1\r\n\r\n", OK], &["FROB /x 200 None 20/40"]);
}

#[test]
fn a_malformed_request_that_is_refused_is_one() {
    let mut replay = Replay::new(detected());
    replay.ingress(b"GET /a HTTP/1.1\r\n\r\n");
    replay.egress(OK.as_bytes());
    replay.ingress(b"GET /b c d\r\n\r\n");
    replay.egress(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    replay.close();
    assert!(replay.lines()[1].starts_with("Server _OTHER  400 Client "), "{:?}", replay.lines());
}
