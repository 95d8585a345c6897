//! Bytes that were not captured, lost or out of order.

use super::*;

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
            // A server's close of an idle connection is seen before the next request is sent.
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
fn the_answer_to_a_request_that_cannot_be_parsed_is_not_given_to_the_next_one() {
    for piece in [b"\x1aGET /a HTTP/1.1\r\n\r\n".as_slice(), b"G@T /a HTTP/1.1\r\n\r\n", b"0\r\n\r\n"] {
        let mut replay = Replay::new(detected());
        let turn = |replay: &mut Replay| {
            replay.ingress(b"GET /first HTTP/1.1\r\n\r\n");
            replay.egress(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        };
        turn(&mut replay);
        replay.ingress(piece);
        replay.ingress(b"DELETE /users/17 HTTP/1.1\r\n\r\n");
        replay.egress(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        replay.egress(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n");
        // Silence shows that all is answered.
        replay.now += 200_000_000;
        turn(&mut replay);
        replay.close();
        assert_eq!(replay.lines(), ["Server GET /first 200 None 23/38"; 2], "{piece:?}");
    }
}
