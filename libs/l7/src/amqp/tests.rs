//! Conversations as clients and servers have them, whole, cut and mutated, and bytes that are none.

use crate::{
    Connection, Direction, Limits, Protocol, ScopeId, Transport, captured,
    parser::{Detection, Sender},
    testing::{Random, Replay, Step, assert_client_exchanges, assert_no_harm, first_bytes},
};

const C: Direction = Direction::Egress;
const S: Direction = Direction::Ingress;

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("short");
    [&[kind], &channel.to_be_bytes()[..], &size.to_be_bytes(), payload, &[0xce]].concat()
}

fn method(channel: u16, class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    frame(1, channel, &[&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat())
}

fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

/// A content header and a body in frames of at most 100 bytes.
fn content(channel: u16, body: &[u8]) -> Vec<u8> {
    let mut header = vec![0, 60, 0, 0];
    header.extend((body.len() as u64).to_be_bytes());
    header.extend([0, 0]);
    let mut all = frame(2, channel, &header);
    body.chunks(100).for_each(|part| all.extend(frame(3, channel, part)));
    all
}

fn publish(channel: u16, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let arguments = [&[0, 0][..], &text(exchange), &text(key), &[0]].concat();
    [method(channel, 60, 40, &arguments), content(channel, body)].concat()
}

fn declare(channel: u16, queue: &str, bits: u8) -> Vec<u8> {
    method(channel, 50, 10, &[&[0, 0][..], &text(queue), &[bits], &[0; 4]].concat())
}

fn declared(channel: u16, queue: &str) -> Vec<u8> {
    method(channel, 50, 11, &[&text(queue)[..], &[0; 8]].concat())
}

fn consume(channel: u16, queue: &str, tag: &str) -> Vec<u8> {
    method(channel, 60, 20, &[&[0, 0][..], &text(queue), &text(tag), &[0], &[0; 4]].concat())
}

fn deliver(channel: u16, tag: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let arguments = [&text(tag)[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0], &text(""), &text(key)].concat();
    [method(channel, 60, 60, &arguments), content(channel, body)].concat()
}

fn acknowledge(channel: u16, number: u16, tag: u8, multiple: u8) -> Vec<u8> {
    method(channel, 60, number, &[0, 0, 0, 0, 0, 0, 0, tag, multiple])
}

fn close(channel: u16, class: u16, code: u16) -> Vec<u8> {
    let number = if class == 10 { 50 } else { 40 };
    method(channel, class, number, &[&code.to_be_bytes()[..], &text("NOT_FOUND"), &[0; 4]].concat())
}

const GREETING: &[u8] = b"AMQP\0\0\x09\x01";

fn conversation() -> (Vec<Step>, Vec<&'static str>) {
    let steps = vec![
        (C, GREETING.to_vec()),
        (S, method(0, 10, 10, &[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        (C, method(0, 10, 11, &[0; 11])),
        (S, method(0, 10, 30, &[0; 8])),
        (C, [method(0, 10, 31, &[0; 8]), method(0, 10, 40, b"\x01/\0\0")].concat()),
        (S, method(0, 10, 41, &[0])),
        (C, [method(1, 20, 10, &[0]), method(2, 20, 10, &[0])].concat()),
        (S, [method(2, 20, 11, &[0; 4]), method(1, 20, 11, &[0; 4])].concat()),
        (C, [declare(1, "orders", 0), consume(1, "orders", ""), declare(1, "quiet", 16)].concat()),
        (S, [declared(1, "orders"), method(1, 60, 21, &text("ctag1")), frame(8, 0, &[])].concat()),
        (C, publish(1, "", "orders", &[b'x'; 250])),
        (C, publish(1, "shop", "order.new", b"")),
        (S, deliver(1, "ctag1", "some.key", &[b'x'; 250])),
        (C, [acknowledge(1, 80, 1, 0), frame(8, 0, &[])].concat()),
        // Channel 2 confirms.
        (C, method(2, 85, 10, &[0])),
        (S, method(2, 85, 11, &[])),
        (
            C,
            [
                publish(2, "shop", "a", b"1"),
                publish(2, "", "b", b"2"),
                publish(2, "", "amq.gen-Xy1", b"3"),
                publish(2, "", "d", b"4"),
            ]
            .concat(),
        ),
        (S, [acknowledge(2, 80, 2, 1), acknowledge(2, 120, 3, 0)].concat()),
        (S, close(2, 20, 404)),
        (C, method(2, 20, 41, &[])),
        // Nothing waits on channel 3 when it is closed.
        (C, method(3, 20, 10, &[0])),
        (S, [method(3, 20, 11, &[0; 4]), close(3, 20, 406)].concat()),
        (C, close(0, 10, 200)),
        (S, method(0, 10, 51, &[])),
    ];
    let expected = vec![
        "connection.start-ok  - None 23/20",
        "connection.open  - None 16/13",
        "channel.open  - None 13/16",
        "channel.open  - None 13/16",
        "queue.declare quiet - None 25/0",
        "queue.declare orders - None 26/27",
        "basic.consume orders - None 27/18",
        "basic.publish orders - None 319/0",
        "basic.publish shop - None 52/0",
        "basic.deliver orders - None 333/0",
        "basic.ack  - None 21/0",
        "confirm.select  - None 13/12",
        "basic.publish shop - None 53/21",
        "basic.publish b - None 49/21",
        "basic.publish amq.gen-{} NACK Server 59/21",
        "basic.publish d 404 Client 49/28",
        "channel.open  - None 13/16",
        "channel.close  406 Client 28/28",
        "connection.close  - None 28/12",
    ];
    (steps, expected)
}

#[test]
fn methods_messages_and_confirmations_are_paired() {
    let (steps, expected) = conversation();
    assert_client_exchanges(connection, &steps, &expected);
}

#[test]
fn what_pika_and_rabbitmq_say_is_understood() {
    let expected = [
        "connection.start-ok  - None 328/20",
        "connection.open  - None 16/13",
        "channel.open  - None 13/16",
        "exchange.declare shop - None 30/12",
        "queue.declare orders - None 26/27",
        "queue.bind orders - None 39/12",
        "basic.publish shop - None 62/0",
        "basic.publish shop - None 62/0",
        "basic.publish shop - None 62/0",
        "basic.publish orders - None 10069/0",
        "basic.publish orders - None 45/0",
        "basic.qos  - None 19/12",
        "basic.get orders - None 22/72",
        "basic.get orders - None 22/72",
        "basic.ack  - None 21/0",
        "basic.nack  - None 21/0",
        "basic.get orders - None 22/72",
        "basic.consume orders - None 65/51",
        "basic.deliver orders - None 10114/0",
        "basic.deliver orders - None 90/0",
        "basic.ack  - None 21/0",
        "basic.ack  - None 21/0",
        "basic.cancel  - None 52/51",
        "basic.get orders - None 22/13",
        "queue.purge orders - None 22/16",
        "queue.declare  - None 20/51",
        "basic.publish amq.gen-{} - None 82/0",
        "channel.open  - None 13/16",
        "confirm.select  - None 13/12",
        "basic.publish shop - None 62/21",
        "basic.publish shop - None 62/21",
        "basic.return shop 312 Client 69/0",
        "basic.publish shop - None 61/21",
        "basic.publish missing 404 Client 61/65",
        "channel.open  - None 13/16",
        "queue.declare missing 404 Client 27/62",
        "channel.open  - None 13/16",
        "tx.select  - None 12/12",
        "basic.publish shop - None 61/0",
        "tx.commit  - None 12/12",
        "channel.close  - None 34/12",
        "queue.delete orders - None 22/16",
        "exchange.delete shop - None 20/12",
        "channel.close  - None 34/12",
        "connection.close  - None 34/12",
        // A wrong password.
        "connection.start-ok  403 Client 328/127",
    ];
    captured::assert_exchanges("amqp-rabbitmq", &expected);
}

#[test]
fn what_is_not_answered_ends_with_the_connection() {
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    replay.egress(&declare(1, "orders", 0));
    replay.egress(&publish(1, "", "orders", &[0; 500])[..200]);
    replay.close();
    assert_eq!(
        replay.lines(),
        ["Client basic.publish orders - NoResponse 153/0", "Client queue.declare orders - NoResponse 26/0"]
    );
    // A connection that the server closes ends what waits on every channel.
    let mut replay = Replay::new(connection());
    replay.egress(&[declare(1, "a", 0), declare(2, "b", 0)].concat());
    replay.ingress(&close(0, 10, 320));
    replay.close();
    assert_eq!(
        replay.lines(),
        ["Client queue.declare a 320 Server 21/28", "Client queue.declare b 320 Server 21/28"]
    );
}

#[test]
fn a_method_without_an_answer_ends_and_the_answer_that_comes_after_all_is_dropped() {
    const MINUTE: u64 = 60_000_000_000;
    let (steps, _) = conversation();
    let mut replay = Replay::new(connection());
    for (direction, bytes) in &steps[..8] {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    let before = replay.exchanges.len();
    replay.egress(&[declare(1, "orders", 0), method(2, 85, 10, &[0])].concat());
    replay.ingress(&method(2, 85, 11, &[]));
    replay.egress(&publish(2, "shop", "a", b"1"));
    replay.wait(MINUTE);
    assert_eq!(replay.exchanges.len(), before + 1);
    replay.wait(2 * MINUTE);
    assert!(replay.lines()[before + 1].starts_with("Client queue.declare orders - NoResponse"));
    assert_eq!(replay.exchanges[before + 1].duration_ns(), 2 * MINUTE);
    replay.egress(&declare(1, "late", 0));
    replay.ingress(&[declared(1, "orders"), declared(1, "late")].concat());
    assert!(
        replay.lines()[before + 2].starts_with("Client queue.declare late - None"),
        "{:?}",
        replay.lines()
    );
    replay.wait(10 * MINUTE);
    assert!(replay.lines()[before + 3].starts_with("Client basic.publish shop - NoResponse"));
    replay.ingress(&acknowledge(2, 80, 1, 0));
    replay.close();
    assert_eq!((replay.exchanges.len(), replay.context.tally().unparsed), (before + 4, 0));
}

#[test]
fn bodies_need_not_be_captured() {
    let message = publish(1, "shop", "k", &[7; 100]);
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    replay.part(C, &message[..message.len() - 60], message.len() as u64);
    replay.egress(&publish(1, "shop", "k", b""));
    replay.close();
    assert_eq!(
        replay.lines(),
        ["Client basic.publish shop - None 152/0", "Client basic.publish shop - None 44/0"]
    );
}

/// As packets come when the ring buffer is crowded: the head of each is captured, and headers of body frames are not.
#[test]
fn a_publication_counts_when_headers_of_its_body_are_missing() {
    let body = vec![b'x'; 131_064];
    let mut replay = Replay::new(connection());
    replay.ingress(GREETING);
    let header = [&[0, 60, 0, 0][..], &300_000_u64.to_be_bytes(), &[0, 0]].concat();
    let message = [
        method(1, 60, 40, &[&[0, 0][..], &text(""), &text("big"), &[0]].concat()),
        frame(2, 1, &header),
        frame(3, 1, &body),
        frame(3, 1, &body),
        frame(3, 1, &body[..300_000 - 2 * body.len()]),
    ]
    .concat();
    for captured in [100, 4000, 65_000] {
        for _ in 0..10 {
            for packet in message.chunks(65_483) {
                replay.part(Direction::Ingress, &packet[..packet.len().min(captured)], packet.len() as u64);
            }
        }
    }
    replay.close();
    let lines = replay.lines();
    assert_eq!(lines.len(), 30, "{lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with("Server basic.publish big - None ")), "{lines:#?}");
}

#[test]
fn after_a_loss_nothing_is_paired_that_is_not_sure() {
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    replay.egress(&method(1, 85, 10, &[0]));
    replay.ingress(&method(1, 85, 11, &[]));
    replay.egress(&[publish(1, "shop", "k", b"1"), declare(1, "orders", 0)].concat());
    replay.lose(S, 21);
    replay.ingress(b"the rest of a message\xce");
    replay.ingress(&acknowledge(1, 80, 1, 0));
    replay.egress(&declare(1, "orders", 0));
    replay.ingress(&declared(1, "orders"));
    replay.lose(C, 300);
    replay.egress(b"\x01\x00\x01\x00\x00\x00\x05 the middle of a body");
    replay.egress(&declare(1, "orders", 0));
    replay.ingress(&declared(1, "orders"));
    replay.close();
    assert_eq!(
        replay.lines(),
        [
            "Client confirm.select  - None 13/12",
            "Client queue.declare orders - None 26/27",
            "Client queue.declare orders - None 26/27"
        ]
    );
    let tally = replay.context.tally();
    assert_eq!((tally.unparsed, tally.gaps), (2, 2));
}

#[test]
fn what_waits_is_bounded_over_all_channels() {
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    for _ in 0..60 {
        for channel in 1..=300 {
            replay.egress(&declare(channel, "orders", 0));
        }
    }
    replay.close();
    // The first of them had more to itself.
    assert!(
        replay.exchanges.len() < 8 * Limits::default().pending_per_connection,
        "{}",
        replay.exchanges.len()
    );
    assert_eq!(replay.context.tally().messages_seen, 18_000);
}

#[test]
fn a_channel_on_which_nothing_is_under_way_makes_room_for_another() {
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    // One that consumes and one on which a request waits stay as long as there are others.
    replay.egress(&[consume(1, "kept", "tag"), declare(2, "slow", 0)].concat());
    replay.ingress(&method(1, 60, 21, &text("tag")));
    let many = u16::try_from(2 * super::channels::CHANNELS_MAX).expect("a channel");
    for channel in 3..many {
        replay.egress(&declare(channel, "orders", 0));
        replay.ingress(&declared(channel, "orders"));
    }
    replay.ingress(&[deliver(1, "tag", "key", b"x"), declared(2, "slow")].concat());
    let found: Vec<String> = replay.lines();
    assert_eq!(
        found.iter().filter(|line| line.contains("queue.declare orders")).count(),
        usize::from(many) - 3
    );
    assert!(found.iter().any(|line| line.contains("basic.deliver kept")), "its queue is known");
    assert!(found.iter().any(|line| line.contains("queue.declare slow")));
    assert_eq!(replay.context.tally().unparsed, 0);
}

#[test]
fn of_consuming_channels_the_least_recently_used_makes_room() {
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    let delivery = deliver(1, "tag", "key", b"x");
    let many = u16::try_from(3 * super::channels::CHANNELS_MAX).expect("a channel");
    for channel in 1..many {
        replay.egress(&consume(channel, "kept", "tag"));
        replay.ingress(&method(channel, 60, 21, &text("tag")));
        replay.ingress(&delivery);
    }
    let found = replay.lines();
    assert_eq!(
        found.iter().filter(|line| line.contains("basic.consume kept")).count(),
        usize::from(many) - 1
    );
    assert_eq!(
        found.iter().filter(|line| line.contains("basic.deliver kept")).count(),
        usize::from(many) - 1,
        "its queue is known"
    );
}

#[test]
fn room_is_looked_for_in_a_few_channels_at_a_time() {
    let mut replay = Replay::new(connection());
    replay.egress(GREETING);
    let many = u16::try_from(super::channels::CHANNELS_MAX).expect("a channel");
    // On all but one of them a request waits.
    (1..=many).for_each(|channel| replay.egress(&declare(channel, "slow", 0)));
    replay.ingress(&declared(1000, "slow"));
    let before = replay.exchanges.len();
    replay.egress(&declare(many + 1, "orders", 0));
    replay.ingress(&declared(many + 1, "orders"));
    assert_eq!(replay.exchanges.len(), before, "one of the others is free");
    for _ in 0..many / 16 {
        replay.egress(&declare(many + 1, "orders", 0));
    }
    replay.ingress(&declared(many + 1, "orders"));
    assert_eq!(replay.exchanges.len(), before + 1);
}

fn detect(bytes: &[u8]) -> Detection {
    super::wire::detect(&first_bytes(Transport::Stream, bytes, &[]))
}

#[test]
fn both_ends_are_recognised_also_in_the_middle() {
    let messages = [
        (GREETING.to_vec(), Sender::Client),
        (declare(1, "orders", 0), Sender::Client),
        (declared(1, "orders"), Sender::Server),
        (method(0, 10, 10, &[0, 9, 0, 0, 0, 0]), Sender::Server),
        (deliver(1, "ctag1", "k", b"x"), Sender::Server),
    ];
    for (bytes, sender) in messages {
        assert_eq!(detect(&bytes), Detection::Yes(sender));
        // The first frame, cut.
        let end = if bytes.starts_with(b"AMQP") { 8 } else { 8 + usize::from(bytes[6]) };
        for cut in 1..end {
            assert_eq!(detect(&bytes[..cut]), Detection::More, "{cut}");
        }
        // Without its end octet, of another class, on something that is no frame.
        for (at, byte) in [(end - 1, 0xcd), (7, 11), (0, 7)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert_ne!(detect(&bad), Detection::Yes(sender), "{at}");
        }
    }
    // AMQP 1.0 is another protocol.
    assert_eq!(detect(b"AMQP\0\x01\0\0"), Detection::No);
    assert_eq!(detect(b"AMQP\x03\x01\0\0"), Detection::No);
}

#[test]
fn random_bytes_are_never_amqp() {
    let mut random = Random(3);
    for round in 0..300_000_u32 {
        let length = 8 + random.below(60);
        let mut bytes = random.bytes(length);
        if round % 2 == 0 {
            bytes[0] = 1;
            bytes[3..7].copy_from_slice(&u32::try_from(length - 8).expect("small").to_be_bytes());
            bytes[7] = 0;
        }
        assert!(!matches!(detect(&bytes), Detection::Yes(_)), "{bytes:?}");
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    assert_no_harm(Protocol::Amqp, Transport::Stream, &conversation().0);
}
