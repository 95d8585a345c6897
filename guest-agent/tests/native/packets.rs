//! Packet mode on this machine's kernel: the same counts as from system calls.

use std::io::{Read, Write};

use porthole_agent_api::{agent::CaptureMode, agent::Side};

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::Agent,
    http::{self, Server},
    lengths::connected,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        packets_tell_the_same_counts_and_hello_says_so,
        pipelined_requests_are_all_counted_from_packets,
        records_are_hardly_larger_than_their_packets,
        what_nobody_understands_is_no_longer_copied,
    ]
}

const PACKETS: [&str; 2] = ["--capture", "packets"];

fn packets_tell_the_same_counts_and_hello_says_so() -> Outcome {
    let mut agent = Agent::start(&PACKETS)?;
    assert_eq!(agent.mode(), CaptureMode::CAPTURE_MODE_PACKET);
    let server = Server::start();
    // A connection that stays, and one for each.
    server.get("/kept", 300);
    for _ in 0..40 {
        server.get("/fresh", 1);
    }
    assert_eq!(agent.counts("/kept"), (300, 300));
    assert_eq!(agent.counts("/fresh"), (40, 40));
    assert_eq!(agent.counters.events_lost, 0);
    let peers: Vec<_> =
        agent.series(Side::SIDE_CLIENT, "/kept").iter().map(|series| series.key.peer.clone()).collect();
    assert_eq!(peers, [server.address.to_string()]);
    Ok(())
}

fn pipelined_requests_are_all_counted_from_packets() -> Outcome {
    let mut agent = Agent::start(&PACKETS)?;
    let server = Server::start();
    let mut stream = server.connect();
    let (batch, rounds) = (16, 50);
    let mut answers = vec![0; http::OK.len() * batch];
    for _ in 0..rounds {
        stream.write_all(&http::request("/pipelined").repeat(batch)).expect("sent");
        stream.read_exact(&mut answers).expect("answered");
    }
    let all = (batch * rounds) as u64;
    assert_eq!(agent.counts("/pipelined"), (all, all));
    Ok(())
}

/// What records leave empty has no room for packets while the agent waits for a CPU.
fn records_are_hardly_larger_than_their_packets() -> Outcome {
    const BODY: usize = 33_000;
    /// So few that all have room if records are twice as large: where there is none, packets are captured in part.
    const REQUESTS: usize = 10;
    let mut agent = Agent::start(&[PACKETS.as_slice(), &["--cpu-share", "0"]].concat())?;
    let (mut client, mut server) = connected();
    agent.catch_up();
    let before = agent.counters.bytes_copied;
    let head = format!("POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n");
    let request = [head, "x".repeat(BODY)].concat().into_bytes();
    let mut buffer = vec![0; request.len()];
    for _ in 0..REQUESTS {
        client.write_all(&request).expect("sent");
        server.read_exact(&mut buffer).expect("received");
        server.write_all(http::OK).expect("sent");
        client.read_exact(&mut buffer[..http::OK.len()]).expect("received");
    }
    assert_eq!(agent.counts("/large"), (REQUESTS as u64, REQUESTS as u64), "{:?}", agent.counters);
    let copied = agent.counters.bytes_copied - before;
    // Each packet comes at both ends.
    let sent = 2 * REQUESTS * (request.len() + http::OK.len());
    assert!(copied < sent as u64 * 3 / 2, "{copied} bytes of records for {sent} bytes");
    Ok(())
}

fn what_nobody_understands_is_no_longer_copied() -> Outcome {
    let mut agent = Agent::start(&PACKETS)?;
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut client = std::net::TcpStream::connect(server.local_addr().expect("address")).expect("connected");
    let (mut accepted, _) = server.accept().expect("accepted");
    let ignored = agent.counters.connections_ignored;
    let mut buffer = vec![0; 5_000];
    let mut converse = |rounds: u8| {
        for number in 0..rounds {
            client.write_all(&[number.wrapping_mul(37) | 0x80; 5_000]).expect("sent");
            accepted.read_exact(&mut buffer).expect("received");
        }
    };
    agent.until("both ends are ignored", |agent| {
        converse(20);
        (agent.counters.connections_ignored >= ignored + 2).then_some(())
    });
    agent.catch_up();
    let before = agent.counters.bytes_copied;
    for _ in 0..5 {
        converse(200);
    }
    agent.catch_up();
    let copied = agent.counters.bytes_copied - before;
    assert!(copied < 100_000, "{copied} bytes of 10 million were copied");
    Ok(())
}
