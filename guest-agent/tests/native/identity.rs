//! A connection is its socket, whatever the descriptors are called.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd},
};

use porthole_agent_api::agent::Side;

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_HOOKS},
    http::{self, Server},
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        a_connection_that_was_open_before_the_agent_is_counted_from_then_on,
        reused_descriptors_are_other_connections,
        duplicates_of_a_descriptor_are_one_connection,
        threads_that_share_a_connection_are_counted_once,
        bytes_that_come_before_a_connection_is_established_belong_to_it,
    ]
}

fn a_connection_that_was_open_before_the_agent_is_counted_from_then_on() -> Outcome {
    let server = Server::start();
    let mut stream = server.connect();
    for _ in 0..4 {
        http::exchange(&mut stream, "/before");
    }
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        for _ in 0..7 {
            http::exchange(&mut stream, "/before");
        }
        assert_eq!(agent.counts("/before"), (7, 7));
    }
    Ok(())
}

fn reused_descriptors_are_other_connections() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
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
    Ok(())
}

fn duplicates_of_a_descriptor_are_one_connection() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
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
    Ok(())
}

/// Fewer than the requests that may wait for their response on one connection.
const REQUESTS: usize = 1_000;

fn threads_that_share_a_connection_are_counted_once() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
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
    Ok(())
}

/// Opens a connection by TCP Fast Open (RFC 7413) when the server's cookie is known, whose first bytes arrive before it
/// is established.
fn fast_open(address: SocketAddr) -> TcpStream {
    let SocketAddr::V4(address) = address else { panic!("IPv4") };
    // SAFETY: all zero is valid.
    let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    to.sin_family = libc::sa_family_t::try_from(libc::AF_INET).expect("small");
    to.sin_port = address.port().to_be();
    to.sin_addr.s_addr = u32::from(*address.ip()).to_be();
    let len = libc::socklen_t::try_from(size_of_val(&to)).expect("small");
    let request = http::request("/fast-open");
    // SAFETY: the buffers live until after the calls; nothing else owns the descriptor.
    unsafe {
        let stream =
            TcpStream::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0));
        let (bytes, to) = (request.as_ptr().cast(), (&raw const to).cast());
        let sent = libc::sendto(stream.as_raw_fd(), bytes, request.len(), libc::MSG_FASTOPEN, to, len);
        assert_eq!(usize::try_from(sent), Ok(request.len()));
        stream
    }
}

/// Serves connections one after the other, each until its client ends it; gives how many brought bytes before they were
/// established.
fn serve(listener: &TcpListener, connections: usize) -> u32 {
    let before: libc::c_int = 5;
    // SAFETY: the value lives until after the call.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const before).cast(),
            libc::socklen_t::try_from(size_of_val(&before)).expect("small"),
        )
    };
    assert_eq!(set, 0);
    let mut early = 0;
    for stream in listener.incoming().take(connections) {
        let mut stream = stream.expect("accepted");
        // SAFETY: all zero is valid, and the values live until after the call.
        unsafe {
            let mut info: libc::tcp_info = std::mem::zeroed();
            let mut len = libc::socklen_t::try_from(size_of_val(&info)).expect("small");
            let (to, len) = ((&raw mut info).cast(), &raw mut len);
            assert_eq!(libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, len), 0);
            early += u32::from(info.tcpi_options & TCPI_OPT_SYN_DATA != 0);
        }
        while http::read_head(&mut stream).is_some() {
            std::io::Write::write_all(&mut stream, http::OK).expect("sent");
        }
    }
    early
}

/// `include/uapi/linux/tcp.h`: the SYN brought data, which was taken.
const TCPI_OPT_SYN_DATA: u8 = 32;

fn bytes_that_come_before_a_connection_is_established_belong_to_it() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let alone = std::thread::spawn(|| {
            // SAFETY: only this thread, and those that it starts, go into the new namespace, which ends with them.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("ip").success());
            std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").expect("allowed");
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            let address = listener.local_addr().expect("address");
            let serving = std::thread::spawn(move || serve(&listener, 4));
            for _ in 0..4 {
                let mut stream = fast_open(address);
                http::read_head(&mut stream).expect("answered");
                http::exchange(&mut stream, "/fast-open");
            }
            serving.join().expect("served")
        });
        // The first connection brings the server's cookie.
        assert!(alone.join().expect("done") > 0, "the test means to open connections fast");
        assert_eq!(agent.counts("/fast-open"), (8, 8), "{hooks:?}");
    }
    Ok(())
}
