//! Durations, beside those that client and server measured themselves.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use porthole_agent_api::agent::Side;
use porthole_histogram::Histogram;

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::Agent,
    http::{OK, exchange, read_head},
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![medians_lie_within_one_bucket_of_what_both_ends_measured,]
}

const REQUESTS: usize = 40;

/// Buckets grow by this factor (schema 3).
const BUCKET: f64 = 1.090_507_732_665_257_7;

/// The median of an agent's side of a path, seconds: the upper bound of its bucket.
fn median_of(agent: &Agent, side: Side, path: &str) -> f64 {
    let mut all = Histogram::default();
    for series in agent.series(side, path) {
        all.merge(&Histogram::try_from(&*series.duration).expect("a histogram"));
    }
    assert_eq!(all.count(), REQUESTS as u64, "{side:?}");
    all.quantile(0.5).expect("a median")
}

fn median(mut durations: Vec<Duration>) -> f64 {
    durations.sort_unstable();
    durations[durations.len() / 2 - 1].as_secs_f64()
}

fn medians_lie_within_one_bucket_of_what_both_ends_measured() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address");
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        let mut took = Vec::new();
        while read_head(&mut stream).is_some() {
            let begin = Instant::now();
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(OK).expect("answered");
            took.push(begin.elapsed());
        }
        took
    });
    let mut stream = TcpStream::connect(address).expect("connected");
    let mut asked = Vec::new();
    for _ in 0..REQUESTS {
        let begin = Instant::now();
        exchange(&mut stream, "/sleeps");
        asked.push(begin.elapsed());
    }
    drop(stream);
    let own = serving.join().expect("served");
    agent.catch_up();
    let (client, server) =
        (median_of(&agent, Side::SIDE_CLIENT, "/sleeps"), median_of(&agent, Side::SIDE_SERVER, "/sleeps"));
    for (what, agents, measured) in [("client", client, median(asked)), ("server", server, median(own))] {
        // The bound of the right bucket is at most one factor above; another bucket is allowed to either side.
        let ratio = agents / measured;
        assert!(
            (1.0 / BUCKET..=BUCKET * BUCKET).contains(&ratio),
            "{what}: {agents} s, measured {measured} s"
        );
    }
    assert!(server <= client * 1.000_001, "the server's {server} s lie within the client's {client} s");
    Ok(())
}
