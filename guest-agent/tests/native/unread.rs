//! Responses of which not one byte can be read, because the kernel moves them itself.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    thread,
};

use porthole_agent_api::agent::Side;
use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_CAPTURE, wait_for},
    http,
    lengths::connected,
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        responses_from_a_file_count_with_a_status_that_is_not_known,
        responses_from_a_pipe_count_with_a_status_that_is_not_known,
        an_answer_of_redis_from_a_file_counts_with_a_status_that_is_not_known,
        a_request_whose_body_comes_from_a_file_is_counted,
        what_haproxy_splices_is_counted_at_its_clients_end,
    ]
}

const BODY: usize = 20_000;

/// Without and with the aggregation in the kernel.
const OFFLOAD: [&[&str]; 2] = [&[], &["--no-offload"]];

fn from_file(to: RawFd, bytes: &[u8]) {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(bytes).expect("written");
    let mut offset = 0;
    while usize::try_from(offset).expect("positive") < bytes.len() {
        // SAFETY: two open descriptors, and a number that lives until after the call.
        let sent = unsafe { libc::sendfile(to, file.as_raw_fd(), &raw mut offset, bytes.len()) };
        assert!(sent > 0);
    }
}

fn from_pipe(to: RawFd, bytes: &[u8]) {
    let (from, mut end) = std::io::pipe().expect("pipe");
    end.write_all(bytes).expect("in the pipe");
    let mut left = bytes.len();
    while left > 0 {
        let null = std::ptr::null_mut();
        // SAFETY: no offsets.
        let moved = unsafe { libc::splice(from.as_raw_fd(), null, to, null, left, 0) };
        left -= usize::try_from(moved).expect("spliced");
    }
}

/// Sends bytes in a way of its own, and receives them at the other end.
fn moves(from: &TcpStream, to: &mut TcpStream, by: fn(RawFd, &[u8]), bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| by(from.as_raw_fd(), bytes));
        to.read_exact(&mut vec![0; bytes.len()]).expect("received");
    });
}

fn statuses(agent: &Agent, side: Side, path: &str) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    for series in agent.series(side, path) {
        match all.iter_mut().find(|(status, _)| *status == series.key.status) {
            Some((_, count)) => *count += series.duration.count,
            None => all.push((series.key.status.clone(), series.duration.count)),
        }
    }
    all.sort();
    all
}

fn responses_count(by: fn(RawFd, &[u8]), path: &str) -> Outcome {
    let response =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").into_bytes(), vec![b'x'; BODY]]
            .concat();
    for capture in EVERY_CAPTURE {
        for offload in OFFLOAD {
            let mut agent = Agent::start(&[capture, offload, &["--cpu-share", "0"]].concat())?;
            let (mut client, mut server) = connected();
            for round in 0..12 {
                client.write_all(&http::request(path)).expect("sent");
                http::read_head(&mut server).expect("request");
                if round % 3 == 0 {
                    server.write_all(http::OK).expect("sent");
                    client.read_exact(&mut vec![0; http::OK.len()]).expect("received");
                } else {
                    moves(&server, &mut client, by, &response);
                }
            }
            drop((client, server));
            assert_eq!(agent.counts(path), (12, 12), "{capture:?} {offload:?}");
            let all = vec![("200".to_owned(), 12)];
            let some = vec![("200".to_owned(), 4), ("other".to_owned(), 8)];
            let is_read = capture.contains(&"packets");
            assert_eq!(statuses(&agent, Side::SIDE_SERVER, path), if is_read { all.clone() } else { some });
            assert_eq!(statuses(&agent, Side::SIDE_CLIENT, path), all, "{capture:?} {offload:?}");
            let incomplete = agent.counters.exchanges_incomplete;
            assert!(incomplete >= if is_read { 0 } else { 8 }, "{capture:?} {offload:?}: {incomplete}");
        }
    }
    Ok(())
}

fn responses_from_a_file_count_with_a_status_that_is_not_known() -> Outcome {
    responses_count(from_file, "/whole-from-file")
}

fn responses_from_a_pipe_count_with_a_status_that_is_not_known() -> Outcome {
    responses_count(from_pipe, "/whole-from-pipe")
}

fn an_answer_of_redis_from_a_file_counts_with_a_status_that_is_not_known() -> Outcome {
    // A command that nothing else here uses.
    const COMMAND: &[u8] = b"*2\r\n$8\r\nGETRANGE\r\n$1\r\na\r\n";
    for capture in EVERY_CAPTURE {
        for offload in OFFLOAD {
            let mut agent = Agent::start(&[capture, offload, &["--cpu-share", "0"]].concat())?;
            let (mut client, mut server) = connected();
            for round in 0..12 {
                client.write_all(COMMAND).expect("sent");
                server.read_exact(&mut [0; COMMAND.len()]).expect("received");
                let by = if round % 3 == 0 { |to, bytes: &[u8]| written(to, bytes) } else { from_file };
                moves(&server, &mut client, by, b"$2\r\nok\r\n");
            }
            drop((client, server));
            agent.catch_up();
            let count = |side, status: &str| -> u64 {
                let all = agent.series(side, "").into_iter();
                let ours =
                    all.filter(|series| series.key.operation == "GETRANGE" && series.key.status == status);
                ours.map(|series| series.duration.count).sum()
            };
            let unread = if capture.contains(&"packets") { 0 } else { 8 };
            let server = ["", "other"].map(|status| count(Side::SIDE_SERVER, status));
            assert_eq!(server, [12 - unread, unread], "{capture:?} {offload:?}");
            assert_eq!(count(Side::SIDE_CLIENT, ""), 12, "{capture:?} {offload:?}");
        }
    }
    Ok(())
}

fn written(to: RawFd, bytes: &[u8]) {
    // SAFETY: an open descriptor, and a buffer of that length.
    let sent = unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(usize::try_from(sent), Ok(bytes.len()));
}

fn a_request_whose_body_comes_from_a_file_is_counted() -> Outcome {
    let head = format!("POST /upload-file HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n");
    for capture in EVERY_CAPTURE {
        for offload in OFFLOAD {
            let mut agent = Agent::start(&[capture, offload, &["--cpu-share", "0"]].concat())?;
            let (mut client, mut server) = connected();
            for _ in 0..9 {
                client.write_all(head.as_bytes()).expect("sent");
                http::read_head(&mut server).expect("request");
                moves(&client, &mut server, from_file, &vec![b'x'; BODY]);
                server.write_all(http::OK).expect("sent");
                client.read_exact(&mut [0; http::OK.len()]).expect("answer");
            }
            assert_eq!(agent.counts("/upload-file"), (9, 9), "{capture:?} {offload:?}");
            for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
                assert_eq!(statuses(&agent, side, "/upload-file"), [("200".to_owned(), 9)], "{capture:?}");
                let bytes: u64 =
                    agent.series(side, "/upload-file").iter().map(|series| series.request_bytes).sum();
                assert_eq!(bytes, 9 * (head.len() + BODY) as u64, "{side:?} {capture:?}");
            }
        }
    }
    Ok(())
}

/// A proxy that forwards without looking at what it forwards: it takes requests and the beginnings of responses into its
/// buffers, and lets the kernel move the rest.
fn what_haproxy_splices_is_counted_at_its_clients_end() -> Outcome {
    const REQUESTS: u64 = 12;
    const LENGTH: usize = 600_000;
    for capture in EVERY_CAPTURE {
        for mode in ["http", "tcp"] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            let origin = listener.local_addr().expect("address");
            let serving = thread::spawn(move || {
                let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
                let mut server = listener.accept().expect("accepted").0;
                while http::read_head(&mut server).is_some() {
                    server.write_all(response.as_bytes()).expect("sent");
                    server.write_all(&vec![b'x'; LENGTH]).expect("sent");
                }
            });
            let proxy = running::haproxy(mode, origin)?;
            let mut agent = Agent::start(&[capture, &["--cpu-share", "0"]].concat())?;
            let mut client =
                wait_for("the proxy listens", || TcpStream::connect(("127.0.0.1", proxy.port)).ok());
            for _ in 0..REQUESTS {
                client.write_all(&http::request("/by-proxy")).expect("sent");
                let head = http::read_head_alone(&mut client);
                assert!(head.starts_with(b"HTTP/1.1 200"));
                client.read_exact(&mut vec![0; LENGTH]).expect("received");
            }
            drop(client);
            drop(proxy);
            serving.join().expect("served");
            agent.catch_up();
            // The origin and the proxy as its client; the proxy and its client.
            for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
                let found = statuses(&agent, side, "/by-proxy");
                if mode == "http" || capture.contains(&"packets") {
                    assert_eq!(found, [("200".to_owned(), 2 * REQUESTS)], "{capture:?} {mode}");
                    continue;
                }
                // Of the proxy's ends only what it took into its buffers is read; the rest counts as missing.
                let read = found.iter().find(|(status, _)| status == "200").map_or(0, |(_, count)| *count);
                assert!(read >= REQUESTS && found.iter().all(|(status, _)| !status.is_empty()), "{found:?}");
                let unread = agent.counters.bytes_unaccounted.iter().sum::<u64>();
                assert!(
                    unread >= LENGTH as u64 || read == 2 * REQUESTS,
                    "{capture:?}: {unread} bytes, {read}"
                );
            }
        }
    }
    Ok(())
}
