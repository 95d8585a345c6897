//! Connections that the kernel side takes over from user space.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use porthole_agent_api::agent::Side;

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_HOOKS},
    http::{self, Server},
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        a_connection_that_was_open_before_the_agent_is_counted_by_the_kernel,
        redis_connections_that_were_open_before_are_counted_by_the_kernel,
        a_connection_goes_back_and_forth_and_every_exchange_is_counted_once,
    ]
}

/// Exchanges until what they cost to copy shows that the kernel side counts them; gives how many there were. What is
/// copied in one round is compared with what `round` exchanges would take at least.
pub fn until_counted(agent: &mut Agent, mut exchange: impl FnMut(), round: u64) -> u64 {
    let mut done = 0;
    agent.catch_up();
    for _ in 0..200 {
        let before = agent.counters.bytes_copied;
        for _ in 0..round {
            exchange();
        }
        done += round;
        agent.catch_up();
        // Each of them takes two records of 64 bytes at each end.
        if agent.counters.bytes_copied - before < round * 128 {
            return done;
        }
    }
    panic!("still copied after {done} exchanges: {:?}", agent.counters);
}

fn a_connection_that_was_open_before_the_agent_is_counted_by_the_kernel() -> Outcome {
    let server = Server::start();
    let mut stream = server.connect();
    http::exchange(&mut stream, "/before-offers");
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let done = until_counted(&mut agent, || http::exchange(&mut stream, "/before-offers"), 100);
        assert_eq!(agent.counts("/before-offers"), (done, done), "{hooks:?}");
    }
    Ok(())
}

fn redis_connections_that_were_open_before_are_counted_by_the_kernel() -> Outcome {
    let server = running::redis()?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
    let mut get = || {
        stream.write_all(b"*2\r\n$3\r\nGET\r\n$6\r\noffers\r\n").expect("sent");
        stream.read_exact(&mut [0; 5]).expect("answered");
    };
    get();
    let mut agent = Agent::start(&[])?;
    let done = until_counted(&mut agent, get, 200);
    agent.catch_up();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        let gets: u64 = agent
            .all(side)
            .iter()
            .filter(|series| series.key.operation == "GET" && series.key.resource.is_empty())
            .map(|series| series.duration.count)
            .sum();
        assert_eq!(gets, done, "{side:?}");
    }
    Ok(())
}

fn a_connection_goes_back_and_forth_and_every_exchange_is_counted_once() -> Outcome {
    let server = Server::start();
    let mut agent = Agent::start(&[])?;
    let mut stream = server.connect();
    let request = http::request("/to-and-fro");
    let mut done = 0;
    for _ in 0..3 {
        done += until_counted(&mut agent, || http::exchange(&mut stream, "/to-and-fro"), 100);
        // A head that is cut between two calls is for user space.
        stream.write_all(&request[..20]).expect("sent");
        std::thread::yield_now();
        stream.write_all(&request[20..]).expect("sent");
        stream.read_exact(&mut vec![0; http::OK.len()]).expect("answered");
        done += 1;
    }
    assert_eq!(agent.counts("/to-and-fro"), (done, done));
    Ok(())
}
