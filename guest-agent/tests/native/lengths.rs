//! Bytes that come from a pipe, and several datagrams of one call.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

use porthole_agent_api::agent::Side;

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, EVERY_HOOKS},
    http,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        a_body_spliced_from_a_pipe_counts_in_length,
        several_datagrams_of_one_call_are_counted_one_by_one,
        a_body_spliced_into_a_pipe_does_not_upset_what_follows,
        datagrams_that_come_fewer_than_asked_for_are_counted_one_by_one,
    ]
}

/// Both ends of a connection.
pub fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    (client, listener.accept().expect("accepted").0)
}

fn a_body_spliced_from_a_pipe_counts_in_length() -> Outcome {
    const BODY: usize = 20_000;
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;
        let (mut client, mut server) = connected();
        let (from, mut to) = std::io::pipe().expect("pipe");
        for _ in 0..7 {
            client.write_all(&http::request("/spliced")).expect("sent");
            http::read_head(&mut server).expect("request");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
            server.write_all(head.as_bytes()).expect("sent");
            to.write_all(&vec![b'x'; BODY]).expect("in the pipe");
            let mut left = BODY;
            while left > 0 {
                let (null, out) = (std::ptr::null_mut(), server.as_raw_fd());
                // SAFETY: no offsets.
                let moved = unsafe { libc::splice(from.as_raw_fd(), null, out, null, left, 0) };
                left -= usize::try_from(moved).expect("spliced");
            }
            client.read_exact(&mut vec![0; head.len() + BODY]).expect("answer");
        }
        assert_eq!(agent.counts("/spliced"), (7, 7));
        let sizes = agent.series(Side::SIDE_SERVER, "/spliced")[0].response_bytes;
        assert!(sizes >= 7 * BODY as u64, "{sizes}");
    }
    Ok(())
}

/// A DNS message with one question of type A; an answer when `flags` has that bit (RFC 1035, section 4).
pub fn question(id: u16, flags: u16, name: &[&str]) -> Vec<u8> {
    let mut message = Vec::new();
    for number in [id, flags, 1, 0, 0, 0] {
        message.extend(number.to_be_bytes());
    }
    for label in name {
        message.push(u8::try_from(label.len()).expect("short"));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn several_datagrams_of_one_call_are_counted_one_by_one() -> Outcome {
    const AT_ONCE: usize = 4;
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;
        // Both sockets stay unconnected: the addresses are in the calls.
        let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let to = server.local_addr().expect("address");
        let name = ["together", "example"];
        for round in 0..10_u16 {
            let mut asked: Vec<Vec<u8>> = (0..4).map(|i| question(round * 4 + i, 0x0100, &name)).collect();
            // One by one, as the C library does without an address, to have the answers come in one call.
            for message in &asked {
                client.send_to(message, to).expect("sent");
            }
            let mut from = None;
            for message in &mut asked {
                let mut buffer = [0; 512];
                let (len, peer) = server.recv_from(&mut buffer).expect("a question");
                assert_eq!(&buffer[..len], &message[..]);
                from = Some(peer);
                message[2] = 0x81;
                message[3] = 0x80;
            }
            server.connect(from.expect("a client")).expect("connected");
            let mut vectors: Vec<libc::iovec> = asked
                .iter_mut()
                .map(|message| libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() })
                .collect();
            // SAFETY: all zero is valid; the buffers live until after the calls.
            unsafe {
                let mut messages: [libc::mmsghdr; AT_ONCE] = std::mem::zeroed();
                for (message, vector) in messages.iter_mut().zip(&mut vectors) {
                    message.msg_hdr.msg_iov = vector;
                    message.msg_hdr.msg_iovlen = 1;
                }
                let count = u32::try_from(AT_ONCE).expect("few");
                let sent = libc::sendmmsg(server.as_raw_fd(), messages.as_mut_ptr(), count, 0);
                assert_eq!(usize::try_from(sent), Ok(AT_ONCE));
                let (fd, null) = (client.as_raw_fd(), std::ptr::null_mut());
                let received = libc::recvmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_WAITFORONE, null);
                assert_eq!(usize::try_from(received), Ok(AT_ONCE), "loopback delivers before it returns");
            }
        }
        assert_eq!(agent.counts("together.example"), (40, 40));
    }
    Ok(())
}

fn a_body_spliced_into_a_pipe_does_not_upset_what_follows() -> Outcome {
    const BODY: usize = 20_000;
    for hooks in EVERY_HOOKS {
        // User space, which must find the next request behind bytes that it never saw.
        for counts in [&[][..], &["--no-offload"]] {
            let mut agent = Agent::start(&[hooks, counts, &["--cpu-share", "0"]].concat())?;
            let (mut client, mut server) = connected();
            let (mut from, to) = std::io::pipe().expect("pipe");
            let head = format!("POST /into-pipe HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n");
            for _ in 0..7 {
                client.write_all(head.as_bytes()).expect("sent");
                http::read_head(&mut server).expect("request");
                client.write_all(&vec![b'x'; BODY]).expect("sent");
                let mut left = BODY;
                while left > 0 {
                    let (null, out) = (std::ptr::null_mut(), to.as_raw_fd());
                    // SAFETY: no offsets.
                    let moved = unsafe { libc::splice(server.as_raw_fd(), null, out, null, left, 0) };
                    let moved = usize::try_from(moved).expect("spliced");
                    from.read_exact(&mut vec![0; moved]).expect("out of the pipe");
                    left -= moved;
                }
                server.write_all(http::OK).expect("sent");
                client.read_exact(&mut [0; http::OK.len()]).expect("answer");
            }
            assert_eq!(agent.counts("/into-pipe"), (7, 7), "{hooks:?} {counts:?}");
        }
    }
    Ok(())
}

fn datagrams_that_come_fewer_than_asked_for_are_counted_one_by_one() -> Outcome {
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--cpu-share", "0"]].concat())?;
        let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        client.connect(server.local_addr().expect("address")).expect("connected");
        server.connect(client.local_addr().expect("address")).expect("connected");
        let mut buffers = [[0_u8; 512]; 8];
        let mut vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
            .collect();
        // SAFETY: all zero is valid.
        let mut messages: [libc::mmsghdr; 8] = unsafe { std::mem::zeroed() };
        for (message, vector) in messages.iter_mut().zip(&mut vectors) {
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // Another number of them each time, with the same array for up to eight.
        for round in 0..12_u16 {
            let asked: Vec<Vec<u8>> =
                (0..=round % 5).map(|i| question(round * 8 + i, 0x0100, &["fewer", "example"])).collect();
            for message in &asked {
                client.send(message).expect("sent");
            }
            // SAFETY: the buffers live until after the call.
            let received = unsafe {
                let null = std::ptr::null_mut();
                libc::recvmmsg(server.as_raw_fd(), messages.as_mut_ptr(), 8, libc::MSG_DONTWAIT, null)
            };
            assert_eq!(usize::try_from(received), Ok(asked.len()), "loopback delivers before it returns");
            for message in &asked {
                let mut answer = message.clone();
                (answer[2], answer[3]) = (0x81, 0x80);
                server.send(&answer).expect("answered");
                client.recv(&mut [0; 512]).expect("an answer");
            }
        }
        let all = (0..12).map(|round| 1 + round % 5).sum();
        assert_eq!(agent.counts("fewer.example"), (all, all), "{hooks:?}");
    }
    Ok(())
}
