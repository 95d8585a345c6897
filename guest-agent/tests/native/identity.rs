//! A connection is its socket, whatever the descriptors are called.

use std::os::fd::AsRawFd;

use porthole_proto::agent::Side;

use crate::{
    harness::{Agent, EVERY_HOOKS},
    http::{self, Server},
};

#[test]
fn a_connection_that_was_open_before_the_agent_is_counted_from_then_on() {
    let server = Server::start();
    let mut stream = server.connect();
    for _ in 0..4 {
        http::exchange(&mut stream, "/before");
    }
    for hooks in EVERY_HOOKS {
        let Some(mut agent) = Agent::start(hooks) else { return };
        for _ in 0..7 {
            http::exchange(&mut stream, "/before");
        }
        assert_eq!(agent.counts("/before"), (7, 7));
    }
}

#[test]
fn reused_descriptors_are_other_connections() {
    for hooks in EVERY_HOOKS {
        let Some(mut agent) = Agent::start(hooks) else { return };
        let servers = [Server::start(), Server::start(), Server::start()];
        let mut descriptors = std::collections::HashSet::new();
        for round in 0..300 {
            let mut stream = servers[round % 3].connect();
            descriptors.insert(stream.as_raw_fd());
            for _ in 0..=round % 3 {
                http::exchange(&mut stream, "/reused");
            }
        }
        assert!(descriptors.len() < 100, "the test means to reuse descriptors");
        assert_eq!(agent.counts("/reused"), (600, 600));
        let mut by_peer: Vec<_> = agent
            .series(Side::SIDE_CLIENT, "/reused")
            .iter()
            .map(|series| (series.key.peer.clone(), series.duration.count))
            .collect();
        by_peer.sort();
        let mut expected: Vec<_> =
            servers.iter().map(|server| server.address.to_string()).zip([100, 200, 300]).collect();
        expected.sort();
        assert_eq!(by_peer, expected);
    }
}

#[test]
fn duplicates_of_a_descriptor_are_one_connection() {
    for hooks in EVERY_HOOKS {
        let Some(mut agent) = Agent::start(hooks) else { return };
        let server = Server::start();
        let mut one = server.connect();
        let mut other = one.try_clone().expect("duplicated");
        for _ in 0..10 {
            // The request by one descriptor, its answer by the other.
            std::io::Write::write_all(&mut one, &http::request("/duplicated")).expect("sent");
            http::read_head(&mut other).expect("answered");
            std::mem::swap(&mut one, &mut other);
        }
        assert_eq!(agent.counts("/duplicated"), (10, 10));
    }
}

/// Fewer than the requests that may wait for their response on one connection.
const REQUESTS: usize = 1_000;

#[test]
fn threads_that_share_a_connection_are_counted_once() {
    for hooks in EVERY_HOOKS {
        let Some(mut agent) = Agent::start(hooks) else { return };
        let server = Server::start();
        let mut reading = server.connect();
        let mut writing = reading.try_clone().expect("duplicated");
        // Writes and reads race, also in the kernel's records of them.
        let writer = std::thread::spawn(move || {
            for _ in 0..REQUESTS {
                std::io::Write::write_all(&mut writing, &http::request("/shared")).expect("sent");
            }
        });
        let mut answered = 0;
        let mut buffer = [0; 1000];
        while answered < REQUESTS * http::OK.len() {
            answered += std::io::Read::read(&mut reading, &mut buffer).expect("read");
        }
        writer.join().expect("written");
        assert_eq!(agent.counts("/shared"), (REQUESTS as u64, REQUESTS as u64), "{:?}", agent.counters);
    }
}
