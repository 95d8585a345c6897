//! Bytes that `io_uring` moves.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
};

use io_uring::{IoUring, opcode, squeue, types::Fd};

use porthole_agent_api::agent::CaptureMode;

use porthole_trials::{CannotRun, Outcome, Trial, reasons, trials};

use crate::{
    harness::{Agent, EVERY_CAPTURE, EVERY_HOOKS},
    http,
    lengths::connected,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        what_io_uring_carries_is_said_to_be_missing_and_the_other_end_is_counted,
        a_connection_that_io_uring_joins_goes_on_being_counted_without_it,
        what_io_uring_carries_at_both_ends_is_counted_from_packets_and_unaccounted_otherwise,
    ]
}

/// Does one operation and waits for it; gives its result.
fn wait_for(ring: &mut IoUring, operation: &squeue::Entry) -> usize {
    // SAFETY: the buffers live until it is complete, which is waited for.
    unsafe { ring.submission().push(operation) }.expect("room");
    ring.submit_and_wait(1).expect("submitted");
    let result = ring.completion().next().expect("complete").result();
    usize::try_from(result).expect("moved")
}

fn exchange(ring: &mut IoUring, fd: RawFd, path: &str) {
    let request = http::request(path);
    let len = u32::try_from(request.len()).expect("short");
    assert_eq!(wait_for(ring, &opcode::Send::new(Fd(fd), request.as_ptr(), len).build()), request.len());
    let (mut answer, mut left) = ([0; 512], http::OK.len());
    while left > 0 {
        left -= wait_for(ring, &opcode::Recv::new(Fd(fd), answer.as_mut_ptr(), 512).build());
    }
}

fn what_io_uring_carries_is_said_to_be_missing_and_the_other_end_is_counted() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let mut server = listener.accept().expect("accepted").0;
        let serving = std::thread::spawn(move || {
            for _ in 0..10 {
                http::read_head(&mut server).expect("request");
                std::io::Write::write_all(&mut server, http::OK).expect("sent");
            }
        });
        let mut ring = IoUring::new(4).expect("a ring");
        for _ in 0..10 {
            exchange(&mut ring, client.as_raw_fd(), "/by-ring");
        }
        serving.join().expect("served");
        assert_eq!(agent.counts("/by-ring"), (10, 0), "{hooks:?}");
        let limitations = agent.stats().limitations;
        assert!(limitations.iter().any(|sentence| sentence.contains("io_uring")), "{limitations:?}");
    }
    Ok(())
}

fn a_connection_that_io_uring_joins_goes_on_being_counted_without_it() -> Outcome {
    for counts in [&[][..], &["--no-offload"]] {
        let mut agent = Agent::start(&[EVERY_HOOKS[0], counts].concat())?;
        if agent.mode() != CaptureMode::CAPTURE_MODE_SOCKET {
            return Err(CannotRun::because(reasons::NO_SOCKET_TRACEPOINTS).into());
        }
        let server = http::Server::start();
        let mut stream = server.connect();
        let mut ring = IoUring::new(4).expect("a ring");
        for _ in 0..5 {
            http::exchange(&mut stream, "/by-calls");
            exchange(&mut ring, stream.as_raw_fd(), "/by-ring-between");
        }
        http::exchange(&mut stream, "/by-calls");
        assert_eq!(agent.counts("/by-calls"), (6, 6), "{counts:?}");
        assert_eq!(agent.counts("/by-ring-between"), (5, 0), "{counts:?}");
    }
    Ok(())
}

/// Sends bytes by a ring, and receives them by another.
fn carry(from: &mut IoUring, to: &mut IoUring, fds: [RawFd; 2], bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("short");
    let sent = wait_for(from, &opcode::Send::new(Fd(fds[0]), bytes.as_ptr(), len).build());
    assert_eq!(sent, bytes.len());
    let (mut buffer, mut left) = ([0; 512], bytes.len());
    while left > 0 {
        left -= wait_for(to, &opcode::Recv::new(Fd(fds[1]), buffer.as_mut_ptr(), 512).build());
    }
}

fn what_io_uring_carries_at_both_ends_is_counted_from_packets_and_unaccounted_otherwise() -> Outcome {
    const REQUESTS: u64 = 20;
    for arguments in EVERY_CAPTURE {
        let mut agent = Agent::start(arguments)?;
        let (client, server) = connected();
        let fds = [client.as_raw_fd(), server.as_raw_fd()];
        let mut rings = [(); 2].map(|()| IoUring::new(4).expect("a ring"));
        let [asks, answers] = &mut rings;
        for _ in 0..REQUESTS {
            carry(asks, answers, fds, &http::request("/by-rings"));
            carry(answers, asks, [fds[1], fds[0]], http::OK);
        }
        drop((client, server));
        let uncaptured = |agent: &Agent| agent.counters.bytes_unaccounted.first().copied().unwrap_or(0);
        match agent.mode() {
            CaptureMode::CAPTURE_MODE_PACKET => {
                assert_eq!(agent.counts("/by-rings"), (REQUESTS, REQUESTS));
                assert_eq!(uncaptured(&agent), 0);
            }
            // At least until the connection is ignored.
            CaptureMode::CAPTURE_MODE_SOCKET => {
                assert_eq!(agent.counts("/by-rings"), (0, 0));
                let request = http::request("/by-rings").len() as u64;
                agent.until("the bytes are unaccounted", |agent| {
                    (uncaptured(agent) >= 2 * 4 * request).then_some(())
                });
            }
            // The ends of system calls show nothing of it.
            _ => assert_eq!((agent.counts("/by-rings"), uncaptured(&agent)), ((0, 0), 0)),
        }
    }
    Ok(())
}
