//! Packets of connections that are not as they should be: each request counts once, with its own time.

mod packets;

use packets::{ACK, Capture, End, FIN, MS, RST, SYN, ends};

#[test]
fn a_connection_is_counted_whatever_an_older_one_between_the_same_ends_still_says() {
    let older = |next| (End { next, ..ends().0 }, End { next: 5_000, ..ends().1 });
    for number in [777_000, 1_500, 0x9000_0000] {
        for reset in [false, true] {
            let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
            capture.tcp(client, server, SYN, b"");
            let (old_client, old_server) = older(number);
            capture.tcp(old_server, old_client, ACK, b"");
            if reset {
                capture.tcp(old_client, old_server, RST, b"");
            }
            capture.now_ns += 1_000 * MS;
            capture.open(&mut client, &mut server);
            for _ in 0..3 {
                capture.exchange(&mut client, &mut server);
            }
            assert_eq!(capture.replay(), [(true, 20); 3], "{number}, reset {reset}");
        }
    }
}

#[test]
fn a_connection_that_comes_back_with_its_numbers_after_its_end_is_counted() {
    for reset in [false, true] {
        let mut capture = Capture::default();
        for _ in 0..3 {
            let (mut client, mut server) = ends();
            capture.open(&mut client, &mut server);
            capture.exchange(&mut client, &mut server);
            if reset {
                capture.tcp(client, server, RST, b"");
            } else {
                capture.close(&mut client, &mut server);
            }
        }
        assert_eq!(capture.replay(), [(true, 20); 3], "reset {reset}");
    }
}

#[test]
fn a_second_answer_to_a_syn_with_another_number_takes_the_place_of_the_first() {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.tcp(client, server, SYN, b"");
    let first = End { next: 9_000_000, ..server };
    let opened = End { next: client.next + 1, ..client };
    capture.tcp(first, opened, SYN | ACK, b"");
    capture.open(&mut client, &mut server);
    capture.exchange(&mut client, &mut server);
    assert_eq!(capture.replay(), [(true, 20)]);
}

/// What ends and strangers send on a connection that goes on: each is answered with an acknowledgement at most.
#[test]
fn a_connection_goes_on_whatever_is_sent_that_is_not_of_it() {
    type Stray = fn(&mut Capture, End, End);
    let strays: [(&str, Stray); 9] = [
        ("SYN", |capture, client, server| capture.tcp(End { next: 7_000_000, ..client }, server, SYN, b"")),
        ("SYN of the other end", |capture, client, server| {
            capture.tcp(End { next: 7_000_000, ..server }, client, SYN, b"");
        }),
        ("SYN with bytes", |capture, client, server| {
            capture.tcp(End { next: 7_000_000, ..client }, server, SYN, b"GET /b HTTP/1.1\r\n\r\n");
        }),
        ("SYN and bytes", |capture, client, server| {
            let mut stray = End { next: 7_000_000, ..client };
            capture.tcp(stray, server, SYN, b"");
            stray.next += 1;
            capture.tcp(stray, server, ACK, b"GET /b HTTP/1.1\r\n\r\n");
        }),
        ("SYN-ACK", |capture, client, server| {
            let (stray, of) = (End { next: 7_000_000, ..server }, End { next: 8_000_000, ..client });
            capture.tcp(stray, of, SYN | ACK, b"");
        }),
        ("SYN-ACK for the client's number", |capture, client, server| {
            capture.tcp(End { next: 7_000_000, ..server }, End { next: 1_001, ..client }, SYN | ACK, b"");
        }),
        ("RST", |capture, client, server| {
            capture.tcp(End { next: client.next + 90, ..client }, server, RST, b"");
        }),
        ("RST of the server", |capture, client, server| {
            capture.tcp(End { next: server.next - 1, ..server }, client, RST | ACK, b"");
        }),
        ("FIN", |capture, client, server| {
            for (from, to) in [(client, server), (server, client)] {
                capture.tcp(End { next: from.next + 8, ..from }, to, FIN | ACK, b"");
                capture.tcp(End { next: from.next - 9, ..from }, to, FIN | ACK, b"");
            }
        }),
    ];
    for (name, stray) in strays {
        for at_exchange in [0, 2] {
            let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
            capture.open(&mut client, &mut server);
            for number in 0..4 {
                if number == at_exchange {
                    stray(&mut capture, client, server);
                    capture.tcp(server, client, ACK, b"");
                }
                capture.exchange(&mut client, &mut server);
            }
            capture.close(&mut client, &mut server);
            assert_eq!(capture.replay(), [(true, 20); 4], "{name} before {at_exchange}");
        }
    }
}

#[test]
fn a_connection_that_takes_the_place_of_one_that_is_open_is_counted() {
    for (syn, answer) in [(true, true), (true, false), (false, true)] {
        let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
        capture.open(&mut client, &mut server);
        capture.exchange(&mut client, &mut server);
        let (mut client, mut server) = (End { next: 7_000_000, ..client }, End { next: 9_000_000, ..server });
        capture.open(&mut client, &mut server);
        // SYN, its answer, acknowledgement.
        let opening = capture.packets.len() - 3;
        if !answer {
            capture.packets.remove(opening + 1);
        }
        if !syn {
            capture.packets.remove(opening);
        }
        for _ in 0..3 {
            capture.exchange(&mut client, &mut server);
        }
        assert_eq!(capture.replay(), [(true, 20); 4], "SYN {syn}, answer {answer}");
    }
}

#[test]
fn a_request_in_the_first_segment_is_counted_once() {
    const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (taken, older) in [(true, false), (false, false), (true, true), (false, true)] {
        let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
        let mut expected = vec![(true, 20)];
        if older {
            let (mut client, mut server) =
                (End { next: 7_000_000, ..client }, End { next: 9_000_000, ..server });
            capture.open(&mut client, &mut server);
            capture.exchange(&mut client, &mut server);
            expected.push((true, 20));
        }
        capture.tcp(client, server, SYN, REQUEST);
        client.next += 1;
        let after = End { next: client.next + u32::try_from(REQUEST.len()).expect("short"), ..client };
        capture.tcp(server, if taken { after } else { client }, SYN | ACK, b"");
        server.next += 1;
        capture.tcp(if taken { after } else { client }, server, ACK, if taken { b"" } else { REQUEST });
        client = after;
        capture.now_ns += 20 * MS;
        capture.send(&mut server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        capture.close(&mut client, &mut server);
        assert_eq!(capture.replay(), expected, "taken {taken}, older {older}");
    }
}

#[test]
fn bytes_behind_a_gap_have_their_own_time() {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.open(&mut client, &mut server);
    for _ in 0..2 {
        capture.send(&mut client, server, b"GET /big HTTP/1.1\r\nHost: a.example\r\n\r\n");
        capture.now_ns += 100 * MS;
        capture.send(&mut server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n");
        for number in 0..10 {
            capture.send(&mut server, client, &[b'x'; 1_000]);
            if number == 3 {
                capture.packets.pop_back();
            }
        }
        capture.now_ns += 5_000 * MS;
    }
    capture.exchange(&mut client, &mut server);
    assert_eq!(capture.replay(), [(true, 100), (true, 100), (true, 20)]);
}

#[test]
fn a_clock_that_is_set_back_leaves_durations_right() {
    for back_ns in [50 * MS, 700 * MS, 3_600_000 * MS] {
        let mut capture = Capture { now_ns: 2 * 3_600_000 * MS, ..Capture::default() };
        for port in 0..12 {
            let (mut client, mut server) = ends();
            client.port += port;
            capture.open(&mut client, &mut server);
            capture.exchange(&mut client, &mut server);
            capture.close(&mut client, &mut server);
            if port == 4 {
                capture.now_ns -= back_ns;
            }
        }
        assert_eq!(capture.replay(), [(true, 20); 12], "{back_ns}");
    }
}

#[test]
fn everything_that_is_captured_twice_counts_once() {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.open(&mut client, &mut server);
    capture.exchange(&mut client, &mut server);
    capture.close(&mut client, &mut server);
    for response in [false, true] {
        capture.dns(client, response);
        capture.now_ns += 20 * MS;
    }
    let twice =
        capture.packets.iter().flat_map(|(at, bytes)| [(*at, bytes.clone()), (at + 1_000, bytes.clone())]);
    let twice = Capture { packets: twice.collect(), now_ns: 0 };
    assert_eq!(twice.replay(), [(true, 20), (true, 20)]);
}

#[test]
fn questions_to_a_group_of_hosts_are_no_exchanges() {
    const QUESTION: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
    for (host, exchanges) in [([10, 0, 0, 2], 1), ([224, 0, 0, 252], 0)] {
        let mut capture = Capture::default();
        capture.question(host, QUESTION);
        assert_eq!(capture.replay().len(), exchanges, "{host:?}");
    }
}

#[test]
fn a_response_that_comes_too_late_is_none_although_nothing_else_was_captured_before_it() {
    let (mut capture, (client, _)) = (Capture::default(), ends());
    capture.dns(client, false);
    capture.now_ns += 20_000 * MS;
    capture.dns(client, true);
    assert_eq!(capture.replay(), [(false, 15_000)]);
}

#[test]
fn a_connection_without_its_beginning_may_begin_within_a_message() {
    for opened in [true, false] {
        let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
        if opened {
            capture.open(&mut client, &mut server);
        }
        // An unknown method, or the end of a body and the next request.
        capture.send(&mut client, server, b"helloGET /a HTTP/1.1\r\n\r\n");
        capture.send(&mut server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        capture.exchange(&mut client, &mut server);
        assert_eq!(capture.replay().len(), if opened { 2 } else { 1 });
    }
}
