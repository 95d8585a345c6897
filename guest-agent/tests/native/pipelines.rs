//! Thousands of requests in one call, before the first response.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use porthole_agent_api::agent::{Protocol, Side};
use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_CAPTURE},
    http,
    lengths::connected,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![every_request_of_a_long_pipeline_is_counted]
}

/// A protocol whose clients need not wait for responses.
struct Spoken {
    protocol: Protocol,
    /// What shows the protocol, by the client and the server in turn.
    opening: &'static [&'static [u8]],
    request: Vec<u8>,
    response: &'static [u8],
    /// What the exchanges are called, as nothing else here is.
    operation: &'static str,
    resource: &'static str,
}

fn spoken() -> [Spoken; 5] {
    [
        Spoken {
            protocol: Protocol::PROTOCOL_HTTP1,
            opening: &[],
            request: http::request("/in-line"),
            response: http::OK,
            operation: "GET",
            resource: "/in-line",
        },
        Spoken {
            protocol: Protocol::PROTOCOL_REDIS,
            opening: &[],
            request: b"*2\r\n$6\r\nSTRLEN\r\n$3\r\nkey\r\n".to_vec(),
            response: b":1\r\n",
            operation: "STRLEN",
            resource: "",
        },
        Spoken {
            protocol: Protocol::PROTOCOL_MEMCACHED,
            opening: &[],
            request: b"get in-line:1\r\n".to_vec(),
            response: b"END\r\n",
            operation: "get",
            resource: "in-line",
        },
        Spoken {
            protocol: Protocol::PROTOCOL_POSTGRESQL,
            opening: &[b"\0\0\0\x08\0\x03\0\0", b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"],
            request: b"Q\0\0\0\x1aSELECT a FROM in_line\0".to_vec(),
            response: b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I",
            operation: "SELECT",
            resource: "in_line",
        },
        Spoken {
            protocol: Protocol::PROTOCOL_MYSQL,
            // A ping.
            opening: &[b"\x01\0\0\0\x0e", b"\x07\0\0\x01\0\0\0\x02\0\0\0"],
            request: b"\x18\0\0\0\x03DELETE FROM in_line_too".to_vec(),
            response: b"\x07\0\0\x01\0\0\0\x02\0\0\0",
            operation: "DELETE",
            resource: "in_line_too",
        },
    ]
}

/// One end sends all of it with one call, the other one takes it.
fn say_at_once(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(from.write(bytes).expect("sent"), bytes.len()));
        let (mut left, mut buffer) = (bytes.len(), vec![0; 1 << 16]);
        while left > 0 {
            left -= to.read(&mut buffer).expect("received");
        }
    });
}

fn every_request_of_a_long_pipeline_is_counted() -> Outcome {
    let captures = EVERY_CAPTURE.into_iter().chain([&["--hooks", "auto", "--no-offload"][..]]);
    for capture in captures {
        // One agent for all: names of tables are other until they are confirmed.
        let mut agent = Agent::start(&[capture, &["--ring-kib", "16384", "--cpu-share", "0"]].concat())?;
        for spoken in &spoken() {
            let (mut client, mut server) = connected();
            for (index, bytes) in spoken.opening.iter().enumerate() {
                match index % 2 {
                    0 => say_at_once(&mut client, &mut server, bytes),
                    _ => say_at_once(&mut server, &mut client, bytes),
                }
            }
            let mut sent = 0;
            for many in [1, 5_000, 20_000] {
                say_at_once(&mut client, &mut server, &spoken.request.repeat(many));
                say_at_once(&mut server, &mut client, &spoken.response.repeat(many));
                sent += many as u64;
                // As long as the protocol is not known, less is captured of a call.
                agent.catch_up();
            }
            let counted = [Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| -> u64 {
                let all = agent.all(side).into_iter().filter(|series| {
                    series.key.protocol.enum_value() == Ok(spoken.protocol)
                        && series.key.operation == spoken.operation
                        && [spoken.resource, "other"].contains(&series.key.resource.as_str())
                });
                all.map(|series| series.duration.count).sum()
            });
            let counters = &agent.counters;
            if capture.contains(&"packets") {
                // What comes at once is more than sockets and the ring buffer always take: what is missing is counted as such.
                let shows = counters.unparsed + counters.bytes_unaccounted.iter().sum::<u64>() > 0;
                assert!(
                    counted == [sent; 2] || shows,
                    "{:?} {counted:?} of {sent}, {counters:?}",
                    spoken.protocol
                );
            } else {
                assert_eq!(counted, [sent; 2], "{capture:?} {:?} {counters:?}", spoken.protocol);
            }
        }
    }
    Ok(())
}
