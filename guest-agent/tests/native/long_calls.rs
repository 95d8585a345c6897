//! Calls that carry much more than one message's head: every message in them counts.

use std::io::{Read, Write};

use porthole_agent_api::agent::Side;

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_CAPTURE, EVERY_HOOKS},
    lengths::connected,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        text_messages_of_one_call_are_all_counted,
        frames_between_large_bodies_are_all_counted,
        failures_behind_long_answers_are_seen,
        what_is_not_wanted_of_large_bodies_is_not_copied,
    ]
}

/// Moves bytes over a connection: in one call of the sender's, and in calls of `reads` bytes at most of the receiver's.
pub fn pass(from: &mut (impl Write + Send), to: &mut impl Read, bytes: &[u8], reads: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(bytes).expect("sent"));
        let (mut buffer, mut left) = (vec![0; reads], bytes.len());
        while left > 0 {
            let most = left.min(reads);
            left -= to.read(&mut buffer[..most]).expect("received");
        }
    });
}

/// Exchanges of one operation and of resources that begin so, as (client, server).
fn counts(agent: &mut Agent, operation: &str, resource: &str) -> (u64, u64) {
    agent.catch_up();
    let count = |side| {
        let mut series = agent.all(side);
        series.retain(|one| one.key.operation == operation && one.key.resource.starts_with(resource));
        series.iter().map(|series| series.duration.count).sum()
    };
    (count(Side::SIDE_CLIENT), count(Side::SIDE_SERVER))
}

fn text_messages_of_one_call_are_all_counted() -> Outcome {
    for capture in EVERY_CAPTURE {
        let mut agent = Agent::start(&[capture, &["--cpu-share", "0"]].concat())?;
        let (mut client, mut server) = connected();
        pass(&mut server, &mut client, b"INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\n", 1 << 16);
        pass(&mut client, &mut server, b"CONNECT {\"verbose\":false}\r\nPING\r\n", 1 << 16);
        pass(&mut server, &mut client, b"PONG\r\n", 1 << 16);
        // Not before the agent has an event of the connection, and no more at a time than its ring buffer has room for.
        agent.catch_up();
        let publication = [b"PUB batches.nats 100\r\n", &[b'x'; 100][..], b"\r\n"].concat();
        for _ in 0..8 {
            pass(&mut client, &mut server, &publication.repeat(250), 1 << 20);
        }
        assert_eq!(counts(&mut agent, "PUB", "batches.nats"), (2000, 2000), "NATS, {capture:?}");
    }
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;

        // Not by TCP, which the programs themselves follow.
        let (mut client, mut server) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let command = b"*4\r\n$5\r\nSETEX\r\n$7\r\nbatch:1\r\n$2\r\n60\r\n$7\r\nvalue-1\r\n";
        for _ in 0..4 {
            pass(&mut client, &mut server, &command.repeat(1000), 1 << 20);
            pass(&mut server, &mut client, &b"+OK\r\n".repeat(1000), 1 << 20);
        }
        assert_eq!(counts(&mut agent, "SETEX", ""), (4000, 4000), "Redis, {hooks:?}");
    }
    Ok(())
}

/// A frame of AMQP on channel 1.
fn amqp(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&[kind, 0, 1], &length[..], payload, &[0xce]].concat()
}

/// A publication to an exchange, in frames of at most 128 KiB.
fn publication(exchange: &str, body: usize) -> Vec<u8> {
    let name = [&[u8::try_from(exchange.len()).expect("short")], exchange.as_bytes()].concat();
    let mut frames = amqp(1, &[&[0, 60, 0, 40, 0, 0][..], &name, &[3, b'k', b'e', b'y', 0]].concat());
    frames.extend(amqp(2, &[&[0, 60, 0, 0][..], &(body as u64).to_be_bytes(), &[0, 0]].concat()));
    for part in vec![b'x'; body].chunks(131_064) {
        frames.extend(amqp(3, part));
    }
    frames
}

fn frames_between_large_bodies_are_all_counted() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;
        let (mut client, mut server) = connected();
        pass(&mut client, &mut server, b"AMQP\0\0\x09\x01", 1 << 16);
        pass(&mut client, &mut server, &amqp(1, &[0, 20, 0, 10, 0]), 1 << 16);
        pass(&mut server, &mut client, &amqp(1, &[0, 20, 0, 11, 0, 0, 0, 0]), 1 << 16);
        agent.until("the protocol is known", |agent| {
            let sides = [Side::SIDE_CLIENT, Side::SIDE_SERVER];
            let known = |&side: &Side| agent.all(side).iter().any(|one| one.key.operation == "channel.open");
            sides.iter().all(known).then_some(())
        });
        // Frames begin anywhere in the calls of the end that reads.
        for reads in [1 << 16, 10_000, 1 << 20] {
            for _ in 0..10 {
                pass(&mut client, &mut server, &publication("big.exchange", 300_000), reads);
            }
        }
        // Several in a call.
        pass(&mut client, &mut server, &publication("big.exchange", 20_000).repeat(20), 1 << 16);
        assert_eq!(counts(&mut agent, "basic.publish", "big.exchange"), (50, 50), "{hooks:?}");
    }
    Ok(())
}

/// A frame of HTTP/2.
fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field of HPACK that is added to no table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

/// A gRPC call's request of one message.
fn grpc_request(stream: u32, path: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: http`.
    let fields =
        [&[0x83, 0x86][..], &field(":path", path), &field("content-type", "application/grpc")].concat();
    [http2(1, 4, stream, &fields), http2(0, 1, stream, &[0, 0, 0, 0, 1, b'x'])].concat()
}

/// Its response: a message of this length, then a status.
fn grpc_response(stream: u32, length: usize, status: &str) -> Vec<u8> {
    // `:status: 200`.
    let fields = [&[0x88][..], &field("content-type", "application/grpc")].concat();
    let mut frames = http2(1, 4, stream, &fields);
    let message =
        [&[0][..], &u32::try_from(length).expect("short").to_be_bytes(), &vec![b'y'; length]].concat();
    for part in message.chunks(1 << 14) {
        frames.extend(http2(0, 0, stream, part));
    }
    frames.extend(http2(1, 5, stream, &field("grpc-status", status)));
    frames
}

/// A connection on which settings were exchanged.
fn http2_connected() -> (std::net::TcpStream, std::net::TcpStream) {
    let (mut client, mut server) = connected();
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), http2(4, 0, 0, &[])].concat();
    pass(&mut client, &mut server, &preface, 1 << 16);
    pass(&mut server, &mut client, &http2(4, 0, 0, &[]), 1 << 16);
    (client, server)
}

fn failures_behind_long_answers_are_seen() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;
        let (mut client, mut server) = http2_connected();
        let mut stream = 1;
        for (path, length, status) in [("Short", 100, "0"), ("Long", 20_000, "13"), ("Longer", 300_000, "13")]
        {
            for _ in 0..10 {
                pass(
                    &mut client,
                    &mut server,
                    &grpc_request(stream, &format!("/long.Calls/{path}")),
                    1 << 16,
                );
                pass(&mut server, &mut client, &grpc_response(stream, length, status), 1 << 15);
                stream += 2;
            }
        }
        agent.catch_up();
        for side in [Side::SIDE_CLIENT, Side::SIDE_SERVER] {
            for (path, status) in [("Short", "0"), ("Long", "13"), ("Longer", "13")] {
                let of_path = agent.series(side, &format!("/long.Calls/{path}"));
                let seen: Vec<_> = of_path
                    .iter()
                    .map(|series| (series.key.status.as_str(), series.duration.count))
                    .collect();
                assert_eq!(seen, [(status, 10)], "{side:?} {path} {hooks:?}");
            }
        }
    }
    Ok(())
}

fn what_is_not_wanted_of_large_bodies_is_not_copied() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;
        let (mut client, mut server) = http2_connected();
        let mut stream = 1;
        let mut call = |times: usize, length: usize| {
            for _ in 0..times {
                pass(&mut client, &mut server, &grpc_request(stream, "/long.Calls/Bodies"), 1 << 16);
                pass(&mut server, &mut client, &grpc_response(stream, length, "0"), 1 << 16);
                stream += 2;
            }
        };
        // Until the messages are confirmed in both directions, at both ends.
        call(20, 100);
        agent.until("the first calls arrive", |agent| {
            (agent.count(Side::SIDE_SERVER, "/long.Calls/Bodies") == 20).then_some(())
        });
        call(10, 100);
        agent.catch_up();
        let before = agent.counters.bytes_copied;
        call(10, 1_000_000);
        agent.catch_up();
        let copied = agent.counters.bytes_copied - before;
        assert_eq!(agent.count(Side::SIDE_SERVER, "/long.Calls/Bodies"), 40, "{hooks:?}");
        println!("{copied} bytes copied of 20 MB that moved, {hooks:?}");
        assert!(copied < 1_000_000, "{copied} bytes of 20 MB that moved, {hooks:?}");
    }
    Ok(())
}
