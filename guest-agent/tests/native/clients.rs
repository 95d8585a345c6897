//! TCP connections that processes make: those that fail, by reason, and how the others end.

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use porthole_agent_api::{agent::Dependency, dependencies::Failure};
use porthole_trials::{Outcome, Trial, trials};

use crate::harness::{Agent, EVERY_HOOKS};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![attempts_that_fail_are_counted_by_address_and_reason_and_made_connections_with_their_time]
}

const QUESTION: &[u8] = b"a question\n";

/// Attempts of each kind.
const ATTEMPTS: u64 = 5;

fn attempts_that_fail_are_counted_by_address_and_reason_and_made_connections_with_their_time() -> Outcome {
    for arguments in EVERY_HOOKS {
        // Its first connection is made before the agent looks.
        let silent = FullListener::new();
        let mut agent = Agent::start(arguments)?;
        let refusing = closed_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let serving = listener.local_addr().expect("bound");
        for _ in 0..ATTEMPTS {
            TcpStream::connect(refusing).expect_err("nothing listens");
            TcpStream::connect_timeout(&silent.address, Duration::from_millis(20)).expect_err("no answer");
            // One that is closed, and one that the server resets.
            for resets in [false, true] {
                let mut client = TcpStream::connect(serving).expect("connected");
                let (mut accepted, _) = listener.accept().expect("accepted");
                std::io::Write::write_all(&mut client, QUESTION).expect("sent");
                if resets {
                    // What is closed with bytes that were not read is reset.
                    drop(accepted);
                    client.read(&mut [0; 8]).expect_err("reset");
                } else {
                    accepted.read_exact(&mut [0; QUESTION.len()]).expect("received");
                    drop(client);
                    assert_eq!(accepted.read(&mut [0; 8]).expect("the end"), 0);
                }
            }
        }
        agent.until("everything", |agent| {
            let failed =
                |address, failure| agent.dependency(address).map_or(0, |of| of.failed[failure as usize]);
            let served = agent.dependency(serving)?;
            let done = failed(refusing, Failure::Refused) == ATTEMPTS
                && failed(silent.address, Failure::Abandoned) == ATTEMPTS
                && served.made.count == 2 * ATTEMPTS
                && served.broken[Failure::Reset as usize] == ATTEMPTS
                && served.round_trip_us > 0;
            done.then_some(())
        });
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        let of = |address| agent.dependency(address).expect("known");
        let Dependency { failed, broken, made, .. } = of(serving);
        assert_eq!((sum(failed), sum(broken), made.sum_ns > 0), (0, ATTEMPTS, true));
        assert_eq!((sum(&of(refusing).failed), of(refusing).made.count), (ATTEMPTS, 0));
        assert_eq!((sum(&of(silent.address).failed), of(silent.address).made.count), (ATTEMPTS, 0));
    }
    Ok(())
}

/// An address at which nothing listens.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    listener.local_addr().expect("bound")
}

/// A listener that answers no further connection: its queue has room for one, which is taken.
struct FullListener {
    address: SocketAddr,
    _listener: TcpListener,
    _first: Vec<TcpStream>,
}

impl FullListener {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        // A second call changes the length of the queue (listen(2)).
        // SAFETY: the descriptor is open, and the call takes no memory.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().expect("bound");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let first = std::iter::from_fn(connect).take(8).collect();
        Self { address, _listener: listener, _first: first }
    }
}
