//! Conversations and the exchanges they must give, however they are cut.

mod recordings;

use crate::{
    Connection,
    Direction::{Egress, Ingress},
    Protocol, ScopeId, Side, Transport, Verdict,
    http2::frame::PREFACE,
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, play},
};

fn detected() -> Connection {
    Connection::new(ScopeId(1))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])
}

/// A literal field, inserted into the table or not.
fn literal(name: &str, value: &str, insert: bool) -> Vec<u8> {
    let mut bytes = vec![if insert { 0x40 } else { 0 }];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    block.extend(literal(":path", path, true));
    block.extend(literal("cookie", "a=b", true));
    block
}

fn call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path, true));
    block.extend(literal("content-type", "application/grpc", true));
    block
}

fn trailers(status: &str) -> Vec<u8> {
    let mut block = literal("grpc-status", status, true);
    block.extend(literal("grpc-message", "", false));
    block
}

const END: u8 = 5;
const OPEN: u8 = 4;

fn handshake() -> Vec<Step> {
    vec![
        (Ingress, [PREFACE.to_vec(), settings()].concat()),
        (Egress, [settings(), frame(4, 1, 0, &[])].concat()),
    ]
}

fn with_handshake(steps: &[Step]) -> Vec<Step> {
    [handshake(), steps.to_vec()].concat()
}

fn assert_exchanges(steps: &[Step], expected: &[&str]) {
    let steps = with_handshake(steps);
    let expected: Vec<String> = expected.iter().map(|line| format!("Server {line}")).collect();
    assert_eq!(play(detected(), &steps), expected);
    assert_same_at_every_cut(detected, &steps, &expected);
    let steps: Vec<Step> = steps.into_iter().map(|(way, bytes)| (way.reverse(), bytes)).collect();
    let expected: Vec<String> = expected.iter().map(|line| line.replacen("Server", "Client", 1)).collect();
    assert_same_at_every_cut(detected, &steps, &expected);
}

#[test]
fn streams_pair_by_id_not_by_order() {
    assert_exchanges(
        &[
            (Ingress, [frame(1, END, 1, &get("/a/1?x")), frame(1, END, 3, &get("/b"))].concat()),
            (Egress, frame(1, OPEN, 3, &[0x8d])),
            (Egress, [frame(1, END, 1, &[0x88]), frame(0, 1, 3, b"none")].concat()),
        ],
        &["GET /a/{} 200 None 37/10", "GET /b 404 Client 33/23"],
    );
}

#[test]
fn a_grpc_call_has_its_status_from_the_trailers() {
    let mut steps = vec![];
    for (id, status) in [(1, "0"), (3, "5"), (5, "14")] {
        steps.push((
            Ingress,
            [frame(1, OPEN, id, &call("/shop.Cart/Add")), frame(0, 1, id, b"\0\0\0\0\0")].concat(),
        ));
        steps.push((Egress, frame(1, OPEN, id, &[0x88])));
        steps.push((Egress, frame(0, 0, id, b"\0\0\0\0\0")));
        steps.push((Egress, frame(1, END, id, &trailers(status))));
    }
    assert_exchanges(
        &steps,
        &[
            "POST /shop.Cart/Add 0 None 78/63",
            "POST /shop.Cart/Add 5 Client 78/63",
            "POST /shop.Cart/Add 14 Server 78/64",
        ],
    );
    let mut replay = Replay::new(detected());
    for (direction, bytes) in with_handshake(&steps) {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    assert!(replay.exchanges.iter().all(|exchange| exchange.protocol == Protocol::Grpc));
    assert_eq!(replay.exchanges[0].duration_ns(), 3000);
}

#[test]
fn fields_out_of_the_dynamic_table_are_followed() {
    // :path /a is entry 63 after the cookie was inserted.
    assert_exchanges(
        &[
            (Ingress, frame(1, END, 1, &get("/a"))),
            (Egress, frame(1, END, 1, &literal(":status", "418", true))),
            (Ingress, frame(1, END, 3, &[0x82, 0x86, 0xbf, 0xbe])),
            (Egress, frame(1, END, 3, &[0xbe])),
        ],
        &["GET /a 418 Client 33/22", "GET /a 418 Client 13/10"],
    );
}

#[test]
fn padding_priority_continuation_and_interim_responses() {
    let block = get("/long");
    let (first, rest) = block.split_at(4);
    let padded = [&[3, 0, 0, 0, 0, 16][..], first, &[0, 0, 0]].concat();
    assert_exchanges(
        &[
            (
                Ingress,
                [
                    frame(1, 0x29, 1, &padded),
                    frame(9, 0, 1, &rest[..3]),
                    frame(9, 4, 1, &rest[3..]),
                    frame(2, 0, 1, &[0; 5]),
                    frame(8, 0, 1, &[0; 4]),
                    frame(6, 0, 0, &[0; 8]),
                    frame(0xbe, 0xff, 7, b"extension"),
                ]
                .concat(),
            ),
            (Egress, frame(1, OPEN, 1, &literal(":status", "103", false))),
            (Egress, [frame(1, OPEN, 1, &[0x88]), frame(0, 9, 1, b"\x02ok\0\0")].concat()),
        ],
        &["GET /long 200 None 63/46"],
    );
}

#[test]
fn resets_goaway_and_close_end_what_waits() {
    assert_exchanges(
        &[
            (Ingress, frame(1, OPEN, 1, &get("/reset"))),
            (Ingress, frame(3, 0, 1, &[0, 0, 0, 8])),
            (Ingress, [frame(1, END, 3, &get("/kept")), frame(1, END, 5, &get("/refused"))].concat()),
            (Egress, frame(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0])),
            (Egress, frame(1, END, 3, &[0x89])),
            (Ingress, frame(1, END, 7, &get("/late"))),
        ],
        &[
            "GET /reset - NoResponse 37/0",
            "GET /refused - NoResponse 39/0",
            "GET /kept 204 None 36/10",
            "GET /late - NoResponse 36/0",
        ],
    );
}

#[test]
fn a_call_whose_stream_the_server_resets_has_the_status_of_the_error_code() {
    for (code, expected) in [
        (0, "13 Server"),
        (2, "13 Server"),
        (5, "2 Server"),
        (7, "14 Server"),
        (8, "1 Client"),
        (11, "8 Client"),
    ] {
        // What is cancelled is not confirmed.
        let method = if code == 8 { "other" } else { "/s/m" };
        assert_exchanges(
            &[
                (Ingress, frame(1, OPEN, 1, &call("/s/m"))),
                (Egress, frame(3, 0, 1, &[0, 0, 0, code])),
                (Ingress, frame(1, OPEN, 3, &call("/s/m"))),
                (Ingress, frame(3, 0, 3, &[0, 0, 0, 8])),
            ],
            &[&format!("POST {method} {expected} 54/0"), &format!("POST {method} 1 Client 54/0")],
        );
    }
}

#[test]
fn responses_that_nobody_asked_for_cost_no_call_behind_them() {
    let answer = |stream, status: &str| (Egress, frame(1, END, stream, &literal(":status", status, false)));
    let ask = |stream| (Ingress, frame(1, END, stream, &get("/a")));
    assert_exchanges(
        &[
            answer(99, "500"),
            ask(1),
            answer(1, "204"),
            answer(1, "500"),
            answer(4, "500"),
            ask(3),
            answer(3, "404"),
        ],
        &["GET /a 204 None 33/22", "GET /a 404 Client 33/22"],
    );
}

#[test]
fn trailers_of_requests_and_pushed_responses_are_no_requests() {
    assert_exchanges(
        &[
            (Ingress, frame(1, OPEN, 1, &call("/s/m"))),
            (
                Egress,
                [frame(5, 4, 1, &[&[0, 0, 0, 2][..], &get("/pushed")].concat()), frame(1, END, 2, &[0x88])]
                    .concat(),
            ),
            (Egress, frame(1, END, 1, &[&[0x88][..], &trailers("0")].concat())),
            (Ingress, frame(1, END, 1, &literal("x-checksum", "1", true))),
        ],
        &["POST /s/m 0 None 54/40"],
    );
}

#[test]
fn joined_in_the_middle_what_is_unknown_is_other() {
    let steps = [
        (Egress, b"\0\0\0some data of a response".to_vec()),
        // All but the method and the scheme refers to what was not seen.
        (Ingress, frame(1, END, 101, &[0x82, 0x86, 0xc5, 0xc6])),
        (Egress, frame(1, END, 101, &[0x88, 0xc9])),
        // What is inserted from now on is known.
        (Ingress, frame(1, END, 103, &[&[0x82, 0x86][..], &literal(":path", "/new", true)].concat())),
        (Egress, frame(1, END, 103, &[0xc7])),
        (Ingress, frame(1, END, 105, &[0xc8, 0x86, 0xbe])),
        (Egress, frame(1, END, 105, &[0x8e])),
        // Perhaps a gRPC call: 200 is not its status.
        (Ingress, frame(1, END, 107, &[0x83, 0x86, 0xc8])),
        (Egress, frame(1, END, 107, &[0x88, 0xc9])),
        (
            Ingress,
            frame(
                1,
                END,
                109,
                &[&[0x83, 0x86, 0xc8][..], &literal("content-type", "application/grpc", true)].concat(),
            ),
        ),
        (Egress, frame(1, END, 109, &[&[0x88][..], &trailers("0")].concat())),
    ];
    assert_eq!(
        play(detected(), &steps),
        [
            "Server GET other 200 None 13/11",
            "Server GET /new other None 23/10",
            "Server other /new 500 Server 12/10",
            "Server POST other other None 12/11",
            "Server POST other 0 None 43/40",
        ]
    );
}

#[test]
fn bodies_of_which_only_the_head_was_captured_keep_the_framing() {
    let mut replay = Replay::new(detected());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    for id in [1, 3, 5] {
        replay.ingress(&frame(1, END, id, &get("/big")));
        let data = [frame(1, OPEN, id, &[0x88]), frame(0, 1, id, &[0; 16_000])].concat();
        replay.part(Egress, &data[..64], data.len() as u64 - 5000);
        replay.part(Egress, &[], 5000);
    }
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /big 200 None 35/16019"; 3]);
    assert_eq!(replay.context.tally().gaps, 0);
}

#[test]
fn after_a_loss_frames_are_found_again_and_nothing_wrong_is_said() {
    let mut replay = Replay::new(detected());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    replay.ingress(&frame(1, END, 1, &get("/a")));
    replay.lose(Egress, 100);
    replay.egress(b"the rest of some frame");
    replay.egress(&frame(1, END, 1, &[0xbe]));
    replay.lose(Ingress, 100);
    replay.ingress(&frame(1, END, 9, &[0x82, 0x86, 0xbf]));
    replay.egress(&frame(1, END, 9, &[0x88]));
    replay.close();
    assert_eq!(replay.lines(), ["Server GET /a other None 33/10", "Server GET other 200 None 12/10"]);
    assert_eq!(replay.context.tally().gaps, 2);
}

#[test]
fn a_header_block_cut_by_the_capture_gives_what_it_showed() {
    let mut replay = Replay::new(detected());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    let request = frame(1, END, 1, &[get("/a"), literal("cookie", &"x".repeat(100), true)].concat());
    replay.part(Ingress, &request[..40], request.len() as u64);
    replay.egress(&frame(1, END, 1, &[0x88]));
    replay.ingress(&frame(1, END, 3, &[0x82, 0x86, 0xbf]));
    replay.egress(&frame(1, END, 3, &[0x88]));
    replay.close();
    assert_eq!(replay.lines().len(), 2);
    assert!(replay.lines()[0].starts_with("Server GET /a 200"), "{:?}", replay.lines());
    assert!(replay.lines()[1].starts_with("Server GET other 200"), "{:?}", replay.lines());
}

#[test]
fn an_upgrade_from_http1_is_answered_on_stream_one() {
    let steps = [
        (
            Ingress,
            b"GET /first HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n".to_vec(),
        ),
        (
            Egress,
            [
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec(),
                settings(),
                frame(1, OPEN, 1, &[0x88]),
            ]
            .concat(),
        ),
        (Ingress, [PREFACE.to_vec(), settings()].concat()),
        (Egress, frame(0, 1, 1, b"hello")),
        (Ingress, frame(1, END, 3, &get("/second"))),
        (Egress, frame(1, END, 3, &[0x8d])),
    ];
    let expected =
        ["Server GET /first 200 None 100/24", "Server GET /second 404 Client 38/10"].map(str::to_owned);
    assert_eq!(play(detected(), &steps), expected);
    assert_same_at_every_cut(detected, &steps, &expected);
    let mut replay = Replay::new(detected());
    for (direction, bytes) in &steps {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    assert_eq!(replay.connection.verdict(), Verdict::Known(Protocol::Http2));
    assert!(replay.exchanges.iter().all(|exchange| exchange.protocol == Protocol::Http2));
}

#[test]
fn random_bytes_give_no_exchange() {
    let mut random = Random(5);
    for round in 0..2000 {
        let connection = if round % 2 == 0 {
            detected()
        } else {
            Connection::known(ScopeId(1), Transport::Stream, Protocol::Http2, Side::Client).expect("http2")
        };
        let mut replay = Replay::new(connection);
        for _ in 0..20 {
            let length = random.below(300);
            let bytes = random.bytes(length);
            replay.part(if random.below(2) == 0 { Ingress } else { Egress }, &bytes, length as u64);
        }
        replay.close();
        assert!(replay.exchanges.is_empty());
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let mut whole = handshake();
    for id in [1, 3, 5] {
        whole.push((Ingress, [frame(1, OPEN, id, &call("/a.B/c")), frame(0, 1, id, b"12345")].concat()));
        whole.push((Egress, [frame(1, OPEN, id, &[0x88]), frame(0, 0, id, b"12345")].concat()));
        whole.push((Egress, frame(1, END, id, &trailers("0"))));
        whole.push((Ingress, frame(3, 0, id, &[0; 4])));
    }
    assert_no_harm(Protocol::Http2, Transport::Stream, &whole);
}

#[test]
fn frames_of_two_mebibytes_and_streams_near_the_end_are_followed() {
    for first in [1_u32, (1 << 24) + 1, (1 << 31) - 41] {
        let mut replay = Replay::new(detected());
        for (direction, bytes) in handshake() {
            replay.part(direction, &bytes, bytes.len() as u64);
        }
        for id in (first..first + 40).step_by(2) {
            let ask = frame(1, END, id, &[0x83, 0x86, 0x04, 0x02, b'/', b'a']);
            replay.part(Ingress, &ask, ask.len() as u64);
            let large = frame(0, 0, id, &vec![7; 2 << 20]);
            let answer = [frame(1, OPEN, id, &[0x88]), large[..100].to_vec()].concat();
            let total = answer.len() + large.len() - 100;
            replay.part(Egress, &answer, total as u64);
            if id == first + 20 {
                // Bytes of both ends are lost.
                replay.lose(Ingress, 5000);
                replay.lose(Egress, 5000);
            }
            replay.egress(&frame(0, 1, id, b"x"));
        }
        replay.close();
        let answered = replay.lines().iter().filter(|line| line.contains("POST /a 200 None")).count();
        assert!(answered >= 19, "{first}: {answered}");
    }
}

/// A channel whose header blocks refer to the dynamic table alone, as those of the C core's clients do.
#[test]
fn a_channel_joined_in_the_middle_gives_its_calls() {
    let client = [0xc8, 0x83, 0x86, 0xc7, 0xc6, 0xc5];
    let initial = [0x88, 0xc4, 0xc3];
    let status = [0xbe, 0xbf];
    let mut steps: Vec<Step> = Vec::new();
    for id in (1001_u32..1041).step_by(2) {
        steps.push((Ingress, [frame(1, OPEN, id, &client), frame(0, 1, id, b"\0\0\0\0\x02hi")].concat()));
        steps.push((Egress, [frame(8, 0, 0, &[0, 0, 0, 7]), frame(6, 0, 0, &[1; 8])].concat()));
        let answer =
            [frame(1, OPEN, id, &initial), frame(0, 0, id, b"\0\0\0\0\x02ok"), frame(1, END, id, &status)];
        steps.push((Egress, answer.concat()));
        steps.push((Ingress, frame(6, 1, 0, &[1; 8])));
    }
    for joined in 0..8 {
        let expected = (steps.len() - joined) / 4 - 1;
        let mut replay = Replay::new(detected());
        for (direction, bytes) in &steps[joined..] {
            replay.part(*direction, bytes, bytes.len() as u64);
        }
        replay.close();
        let lines = replay.lines();
        let fine = lines.iter().filter(|line| line.starts_with("Server") && line.contains(" None ")).count();
        assert!(fine >= expected && lines.len() <= expected + 2, "joined at {joined}: {lines:#?}");
        let protocols: Vec<_> = replay.exchanges.iter().map(|exchange| exchange.protocol).collect();
        let grpc = protocols.iter().filter(|protocol| **protocol == Protocol::Grpc).count();
        assert!(grpc >= expected, "joined at {joined}: {protocols:?}");
    }
}

/// As gRPC's core sends requests for methods that were not called before.
#[test]
fn a_channel_joined_in_the_middle_may_call_new_methods() {
    for name in [b"\x05:path".as_slice(), b"\x84\xb9\x58\xd3\x3f"] {
        for joined in 0..2 {
            let mut replay = Replay::new(detected());
            for id in [5_u32, 7] {
                let block = [&[0x40], name, b"\x0e/shop.Cart/Add", &[0xc2, 0x83, 0x86, 0xc1]].concat();
                let request = [
                    frame(1, OPEN, id, &block),
                    frame(0, 1, id, b"\0\0\0\0\x02hi"),
                    frame(8, 0, 0, &[0, 0, 0, 7]),
                ];
                if id > 5 || joined == 0 {
                    replay.ingress(&request.concat());
                }
                let block = [&[0x88, 0xc1][..], &trailers("5")].concat();
                replay.egress(&[frame(1, END, id, &block), frame(8, 0, 0, &[0, 0, 0, 25])].concat());
            }
            replay.close();
            let lines = replay.lines();
            let found = lines.iter().filter(|line| line.contains(" 5 Client ")).count();
            assert_eq!((found, lines.len()), (2 - joined, 2 - joined), "{joined}: {lines:?}");
        }
    }
}

/// Connect's streams and gRPC-Web frame their messages as gRPC does, but have no trailers.
#[test]
fn framed_messages_without_trailers_are_not_grpc() {
    let mut replay = Replay::new(detected());
    for id in (1001_u32..1021).step_by(2) {
        replay
            .ingress(&[frame(1, OPEN, id, &[0xc8, 0x83, 0x86]), frame(0, 1, id, b"\0\0\0\0\x02hi")].concat());
        replay.egress(&[frame(1, OPEN, id, &[0x88, 0xc4]), frame(0, 1, id, b"\0\0\0\0\x02ok")].concat());
    }
    replay.close();
    assert!(replay.exchanges.len() >= 9);
    assert!(replay.exchanges.iter().all(|exchange| exchange.protocol == Protocol::Http2));
}

#[test]
fn a_stream_of_events_has_answered_with_its_head() {
    let mut replay = Replay::new(detected());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    let head = [&[0x88][..], &literal("content-type", "text/event-stream", true)].concat();
    for (id, cancelled) in [(1, false), (3, true)] {
        replay.ingress(&frame(1, END, id, &get("/events")));
        replay.egress(&frame(1, OPEN, id, &head));
        replay.wait(30_000_000_000);
        replay.egress(&frame(0, u8::from(!cancelled), id, b"data: x\n\n"));
        if cancelled {
            replay.ingress(&frame(3, 0, id, &8_u32.to_be_bytes()));
        }
    }
    replay.close();
    assert_eq!(replay.lines().len(), 2);
    assert!(replay.lines().iter().all(|line| line.starts_with("Server GET /events 200 None ")));
    assert!(replay.exchanges.iter().all(|exchange| exchange.end.since(exchange.start) == 1000));
}

#[test]
fn a_stream_has_the_trace_of_its_request_also_out_of_the_dynamic_table() {
    let traceparent = |span: u8| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000{span:02x}-01");
    let with = |span: Option<u8>| {
        let mut block = call("/shop.Cart/Add");
        block.extend(span.map(|span| literal("traceparent", &traceparent(span), true)).unwrap_or_default());
        block
    };
    let mut replay = crate::testing::Replay::new(detected());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    // The last one refers to the newest entry of the table, which is the second one's field.
    let again = [&[0x83, 0x86][..], &literal(":path", "/a", false), &[0xbe]].concat();
    for (stream, block) in [(1, with(Some(1))), (3, with(None)), (5, with(Some(2))), (7, again)] {
        replay.ingress(&frame(1, END, stream, &block));
    }
    for stream in [7, 5, 3, 1] {
        replay.egress(&frame(1, END, stream, &[&[0x88][..], &trailers("0")].concat()));
    }
    let spans: Vec<_> =
        replay.exchanges.iter().map(|exchange| exchange.trace.map(|trace| trace.parent_span_id[7])).collect();
    assert_eq!(spans, [Some(2), Some(2), None, Some(1)]);
}
