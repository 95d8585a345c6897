//! Every system call that moves bytes on a socket.

use std::{
    io::Write,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use porthole_agent_api::{agent::CaptureMode, agent::Side};

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_HOOKS},
    http,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        sockets_own_tracepoints_are_the_first_choice_where_the_kernel_has_them,
        every_call_that_moves_bytes_is_seen_over_many_small_buffers,
        what_is_only_peeked_at_is_not_counted,
        a_body_sent_from_a_file_counts_in_length,
        unix_sockets_are_seen_with_their_path,
        noise_is_not_counted_and_costs_its_budget_only,
        another_look_at_an_ignored_connection_is_no_loss,
        many_pipelined_requests_are_all_counted,
        requests_in_a_thousand_buffers_of_one_call_are_all_counted,
    ]
}

/// Cuts bytes into buffers of one, two, three, … bytes.
fn buffers(bytes: &mut [u8]) -> Vec<libc::iovec> {
    let mut rest = bytes;
    let mut vectors = Vec::new();
    while !rest.is_empty() {
        let (first, others) = rest.split_at_mut((vectors.len() + 1).min(rest.len()));
        vectors.push(libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() });
        rest = others;
    }
    vectors
}

fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    message
}

/// Moves bytes by one of the calls.
#[derive(Clone, Copy, Debug)]
enum By {
    ReadWrite,
    Vector,
    ToFrom,
    Message,
    Messages,
}

impl By {
    fn send(self, fd: RawFd, bytes: &[u8]) {
        let mut copy = bytes.to_vec();
        let mut vectors = buffers(&mut copy);
        let count = i32::try_from(vectors.len()).expect("few");
        let message = message(&mut vectors);
        // SAFETY: all pointers live until after the call.
        let sent = unsafe {
            match self {
                Self::ReadWrite => libc::write(fd, bytes.as_ptr().cast(), bytes.len()),
                Self::Vector => libc::writev(fd, message.msg_iov, count),
                Self::ToFrom => libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, std::ptr::null(), 0),
                Self::Message => libc::sendmsg(fd, &raw const message, 0),
                Self::Messages => {
                    let mut one = libc::mmsghdr { msg_hdr: message, msg_len: 0 };
                    assert_eq!(libc::sendmmsg(fd, &raw mut one, 1, 0), 1);
                    isize::try_from(one.msg_len).expect("small")
                }
            }
        };
        assert_eq!(usize::try_from(sent), Ok(bytes.len()), "{self:?}");
    }

    /// Receives once; gives the number of bytes.
    fn receive(self, fd: RawFd, flags: i32) -> usize {
        let mut buffer = [0_u8; 400];
        let len = buffer.len();
        let mut vectors = buffers(&mut buffer);
        let count = i32::try_from(vectors.len()).expect("few");
        let base = vectors[0].iov_base;
        let mut message = message(&mut vectors);
        // SAFETY: all pointers live until after the call.
        let received = unsafe {
            match self {
                Self::ReadWrite => libc::read(fd, base, len),
                Self::Vector => libc::readv(fd, message.msg_iov, count),
                Self::ToFrom => {
                    libc::recvfrom(fd, base, len, flags, std::ptr::null_mut(), std::ptr::null_mut())
                }
                Self::Message => libc::recvmsg(fd, &raw mut message, flags),
                Self::Messages => {
                    let mut one = libc::mmsghdr { msg_hdr: message, msg_len: 0 };
                    match libc::recvmmsg(fd, &raw mut one, 1, flags, std::ptr::null_mut()) {
                        1 => isize::try_from(one.msg_len).expect("small"),
                        _ => -1,
                    }
                }
            }
        };
        usize::try_from(received).unwrap_or_else(|_| panic!("{self:?}: {}", std::io::Error::last_os_error()))
    }

    /// Receives a whole message of known length.
    fn receive_all(self, fd: RawFd, len: usize) {
        let mut left = len;
        while left > 0 {
            let received = self.receive(fd, 0);
            assert!(received > 0, "the end came early");
            left -= received;
        }
    }
}

/// Exchanges of `request` over connected sockets, by the same call at both ends.
fn converse(client: RawFd, server: RawFd, by: By, path: &str, times: usize) {
    let request = http::request(path);
    for _ in 0..times {
        by.send(client, &request);
        by.receive_all(server, request.len());
        by.send(server, http::OK);
        by.receive_all(client, http::OK.len());
    }
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    (client, listener.accept().expect("accepted").0)
}

fn sockets_own_tracepoints_are_the_first_choice_where_the_kernel_has_them() -> Outcome {
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let name = b"\0btf_trace_sock_send_length\0";
    let best = if types.windows(name.len()).any(|window| window == name) {
        CaptureMode::CAPTURE_MODE_SOCKET
    } else {
        CaptureMode::CAPTURE_MODE_SYSCALL_RAW_TRACEPOINT
    };
    let [auto, raw] = EVERY_HOOKS;
    for (hooks, mode) in [(auto, best), (raw, CaptureMode::CAPTURE_MODE_SYSCALL_RAW_TRACEPOINT)] {
        let agent = Agent::start(hooks)?;
        assert_eq!(agent.mode(), mode, "{hooks:?}");
    }
    Ok(())
}

fn every_call_that_moves_bytes_is_seen_over_many_small_buffers() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let calls = [
            (By::ReadWrite, "/by-read"),
            (By::Vector, "/by-vector"),
            (By::ToFrom, "/by-recvfrom"),
            (By::Message, "/by-message"),
            (By::Messages, "/by-messages"),
        ];
        for (by, path) in calls {
            let (client, server) = connected();
            converse(client.as_raw_fd(), server.as_raw_fd(), by, path, 11);
        }
        for (by, path) in calls {
            assert_eq!(agent.counts(path), (11, 11), "{by:?}");
        }
    }
    Ok(())
}

fn what_is_only_peeked_at_is_not_counted() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let (client, server) = connected();
        let request = http::request("/peeked");
        for by in [By::ToFrom, By::Message, By::Messages] {
            for _ in 0..5 {
                by.send(client.as_raw_fd(), &request);
                for _ in 0..3 {
                    assert!(by.receive(server.as_raw_fd(), libc::MSG_PEEK) > 0);
                }
                by.receive_all(server.as_raw_fd(), request.len());
                by.send(server.as_raw_fd(), http::OK);
                by.receive(client.as_raw_fd(), libc::MSG_PEEK);
                by.receive_all(client.as_raw_fd(), http::OK.len());
            }
        }
        assert_eq!(agent.counts("/peeked"), (15, 15));
    }
    Ok(())
}

fn a_body_sent_from_a_file_counts_in_length() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let body = 300_000;
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&vec![b'x'; body]).expect("written");
        let (mut client, mut server) = connected();
        for _ in 0..3 {
            client.write_all(&http::request("/from-file")).expect("sent");
            http::read_head(&mut server).expect("request");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
            server.write_all(head.as_bytes()).expect("sent");
            let sending = std::thread::spawn({
                let (to, from) = (server.try_clone().expect("clone"), file.try_clone().expect("clone"));
                move || {
                    let mut offset = 0;
                    while usize::try_from(offset).expect("positive") < body {
                        // SAFETY: the offset lives until after the call.
                        let sent = unsafe {
                            libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &raw mut offset, body)
                        };
                        assert!(sent > 0);
                    }
                }
            });
            let mut left = head.len() + body;
            let mut buffer = vec![0; 65_536];
            while left > 0 {
                left -= std::io::Read::read(&mut client, &mut buffer).expect("read");
            }
            sending.join().expect("sent");
        }
        assert_eq!(agent.counts("/from-file"), (3, 3));
        let sizes = agent.series(Side::SIDE_SERVER, "/from-file")[0].response_bytes;
        assert!(sizes >= 3 * body as u64, "{sizes}");
    }
    Ok(())
}

fn unix_sockets_are_seen_with_their_path() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("app.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let client = UnixStream::connect(&path).expect("connected");
        let server = listener.accept().expect("accepted").0;
        converse(client.as_raw_fd(), server.as_raw_fd(), By::Message, "/over-unix", 9);
        assert_eq!(agent.counts("/over-unix"), (9, 9));
        let peer = &agent.series(Side::SIDE_CLIENT, "/over-unix")[0].key.peer;
        assert_eq!(peer, &path.display().to_string());
    }
    Ok(())
}

fn noise_is_not_counted_and_costs_its_budget_only() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let (mut client, mut server) = connected();
        let before = agent.counters.connections_ignored;
        let noise = noise(5_000);
        let mut buffer = vec![0; noise.len()];
        for _ in 0..2_000 {
            client.write_all(&noise).expect("sent");
            std::io::Read::read_exact(&mut server, &mut buffer).expect("received");
        }
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let to = datagrams.local_addr().expect("address");
        for _ in 0..100 {
            datagrams.send_to(&noise[..500], to).expect("sent");
            datagrams.recv_from(&mut buffer).expect("received");
        }
        agent.catch_up();
        assert!(agent.counters.connections_ignored >= before + 2, "{:?}", agent.counters);
        let unspecified =
            agent.series(Side::SIDE_SERVER, "").len() + agent.series(Side::SIDE_CLIENT, "").len();
        assert_eq!(unspecified, 0);
        // 2000 writes and reads of 5000 bytes: by far the most was not looked at.
        assert!(agent.counters.bytes_copied < 4_000_000, "{:?}", agent.counters);
    }
    Ok(())
}

/// Bytes of no protocol.
fn noise(len: usize) -> Vec<u8> {
    (0..=255_u8).cycle().skip(128).take(len).collect()
}

fn another_look_at_an_ignored_connection_is_no_loss() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let (mut client, mut server) = connected();
        let ignored = agent.counters.connections_ignored;
        let noise = noise(5_000);
        let mut carry = |calls| {
            let mut buffer = vec![0; noise.len()];
            for _ in 0..calls {
                client.write_all(&noise).expect("sent");
                std::io::Read::read_exact(&mut server, &mut buffer).expect("received");
            }
        };
        agent.until("both ends are ignored", |agent| {
            carry(4);
            (agent.counters.connections_ignored >= ignored + 2).then_some(())
        });
        agent.catch_up();
        let lost = agent.counters.events_lost;
        // Several times as many as until the first looks.
        carry(2_000);
        agent.catch_up();
        assert_eq!(agent.counters.events_lost, lost, "{:?}", agent.counters);
    }
    Ok(())
}

fn many_pipelined_requests_are_all_counted() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(hooks)?;
        let (mut client, server) = connected();
        let (batch, rounds) = (16, 500);
        let serving = std::thread::spawn(move || {
            let mut server = server;
            let request = http::request("/pipelined");
            let mut buffer = vec![0; request.len() * batch];
            for _ in 0..rounds {
                std::io::Read::read_exact(&mut server, &mut buffer).expect("received");
                server.write_all(&http::OK.repeat(batch)).expect("sent");
            }
        });
        let mut buffer = vec![0; http::OK.len() * batch];
        for round in 0..rounds {
            client.write_all(&http::request("/pipelined").repeat(batch)).expect("sent");
            std::io::Read::read_exact(&mut client, &mut buffer).expect("received");
            if round == 0 {
                // Until the agent knows the requests each is a record, for which a slow agent's ring buffer may be too small.
                agent.catch_up();
            }
        }
        serving.join().expect("served");
        let all = (batch * rounds) as u64;
        assert_eq!(agent.counts("/pipelined"), (all, all), "{hooks:?}, {:?}", agent.counters);
    }
    Ok(())
}

/// Most buffers of one call (`UIO_MAXIOV`).
const BUFFERS_MAX: usize = 1024;

fn requests_in_a_thousand_buffers_of_one_call_are_all_counted() -> Outcome {
    for hooks in EVERY_HOOKS {
        for counts in [&[][..], &["--no-offload"]] {
            let mut agent = Agent::start(&[hooks, counts].concat())?;
            let requests = 40;
            for by in [By::Vector, By::Message] {
                let (client, mut server) = connected();
                let mut bytes = http::request("/many-buffers").repeat(requests);
                let each = bytes.len().div_ceil(BUFFERS_MAX);
                let mut vectors: Vec<libc::iovec> = bytes
                    .chunks_mut(each)
                    .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() })
                    .collect();
                assert!((BUFFERS_MAX / 2..=BUFFERS_MAX).contains(&vectors.len()), "{}", vectors.len());
                let message = message(&mut vectors);
                let count = i32::try_from(vectors.len()).expect("few");
                // SAFETY: the buffers live until after the call.
                let sent = unsafe {
                    match by {
                        By::Vector => libc::writev(client.as_raw_fd(), message.msg_iov, count),
                        _ => libc::sendmsg(client.as_raw_fd(), &raw const message, 0),
                    }
                };
                assert_eq!(usize::try_from(sent), Ok(bytes.len()), "{by:?}");
                let mut buffer = vec![0; bytes.len()];
                std::io::Read::read_exact(&mut server, &mut buffer).expect("received");
                server.write_all(&http::OK.repeat(requests)).expect("sent");
                let mut buffer = vec![0; http::OK.len() * requests];
                std::io::Read::read_exact(&mut &client, &mut buffer).expect("received");
            }
            let all = 2 * requests as u64;
            assert_eq!(agent.counts("/many-buffers"), (all, all), "{hooks:?} {counts:?}");
        }
    }
    Ok(())
}
