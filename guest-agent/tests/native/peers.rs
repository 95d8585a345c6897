//! Sockets of datagrams with several peers: clients that query several name servers from one socket, as musl's resolver
//! does, and a server with many clients.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
};

use porthole_agent_api::agent::Side;
use porthole_trials::{Outcome, Trial, trials};

use crate::harness::{Agent, DEADLINE, EVERY_CAPTURE};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        one_socket_that_asks_several_servers_is_answered_by_each,
        one_socket_that_asks_several_servers_is_answered_by_each_whatever_the_hooks,
        one_socket_that_asks_several_servers_is_answered_by_each_in_packets,
        datagrams_of_one_call_have_their_own_peers,
        a_hundred_datagrams_of_one_call_are_all_counted,
    ]
}

const LOOKUPS: u16 = 20;
const SERVERS: usize = 3;

fn one_socket_that_asks_several_servers_is_answered_by_each() -> Outcome {
    look_up_at_several(&["--hooks", "auto"], "several-best.example")
}

fn one_socket_that_asks_several_servers_is_answered_by_each_whatever_the_hooks() -> Outcome {
    look_up_at_several(&["--hooks", "raw-tracepoint"], "several-raw.example")
}

fn one_socket_that_asks_several_servers_is_answered_by_each_in_packets() -> Outcome {
    look_up_at_several(&["--capture", "packets"], "several-packets.example")
}

fn socket(family: &str) -> UdpSocket {
    let socket = UdpSocket::bind((family, 0)).expect("bound");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    socket
}

/// A question for an address.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The answer to a question, with this response code.
fn answer(question: &[u8], code: u8) -> Vec<u8> {
    [&question[..2], &[0x81, 0x80 | code], &question[4..]].concat()
}

/// One socket queries all servers at once with one id, over IPv4 and over IPv6; one of the servers refuses. Two more
/// clients query the first server the same with the same id.
fn look_up_at_several(arguments: &[&str], zone: &str) -> Outcome {
    let mut agent = Agent::start(arguments)?;
    let name = format!("host.{zone}");
    let mut addresses = BTreeSet::new();
    for family in ["127.0.0.1", "::1"] {
        let servers: Vec<UdpSocket> = (0..SERVERS).map(|_| socket(family)).collect();
        let at = |server: &UdpSocket| server.local_addr().expect("bound");
        addresses.extend(servers.iter().map(|server| at(server).to_string()));
        for id in 0..LOOKUPS {
            let clients = [socket(family), socket(family), socket(family)];
            for server in &servers {
                clients[0].send_to(&question(id, &name), at(server)).expect("sent");
            }
            for client in &clients[1..] {
                client.send_to(&question(id, &name), at(&servers[0])).expect("sent");
            }
            // The last server answers first.
            for (number, server) in servers.iter().enumerate().rev() {
                let asked: Vec<(Vec<u8>, SocketAddr)> = (0..if number == 0 { 3 } else { 1 })
                    .map(|_| {
                        let mut bytes = [0; 512];
                        let (length, from) = server.recv_from(&mut bytes).expect("asked");
                        (bytes[..length].to_vec(), from)
                    })
                    .collect();
                let code = if number == SERVERS - 1 { 5 } else { 0 };
                for (bytes, from) in asked.iter().rev() {
                    server.send_to(&answer(bytes, code), from).expect("sent");
                }
            }
            for (client, answers) in clients.iter().zip([SERVERS, 1, 1]) {
                for _ in 0..answers {
                    client.recv_from(&mut [0; 512]).expect("answered");
                }
            }
        }
    }
    agent.catch_up();
    let lookups = u64::from(LOOKUPS);
    for (side, status, each) in [
        (Side::SIDE_SERVER, "NOERROR", 4),
        (Side::SIDE_CLIENT, "NOERROR", 4),
        (Side::SIDE_SERVER, "REFUSED", 1),
        (Side::SIDE_CLIENT, "REFUSED", 1),
    ] {
        let series = agent.series(side, zone);
        let counted: u64 = series
            .iter()
            .filter(|series| series.key.status == status)
            .map(|series| series.duration.count)
            .sum();
        assert_eq!(counted, 2 * each * lookups, "{side:?} {status}: {series:#?}");
    }
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        assert!(agent.series(side, zone).iter().all(|series| !series.key.status.is_empty()), "no failures");
    }
    let peers: BTreeSet<String> =
        agent.series(Side::SIDE_CLIENT, zone).iter().map(|series| series.key.peer.clone()).collect();
    assert_eq!(peers, addresses);
    Ok(())
}

/// A name server that receives and sends several datagrams with one call.
fn datagrams_of_one_call_have_their_own_peers() -> Outcome {
    const CLIENTS: usize = 5;
    for (arguments, zone) in
        [(["--hooks", "auto"], "batch-best.example"), (["--hooks", "raw-tracepoint"], "batch-raw.example")]
    {
        let mut agent = Agent::start(&arguments)?;
        let server = socket("127.0.0.1");
        let address = server.local_addr().expect("bound");
        let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| socket("127.0.0.1")).collect();
        for client in &clients {
            client.send_to(&question(7, &format!("host.{zone}")), address).expect("sent");
        }
        let mut batch = Batch::new(CLIENTS);
        assert_eq!(batch.receive(&server), CLIENTS);
        for (number, message) in batch.bytes.iter_mut().enumerate() {
            message[2] = 0x81;
            message[3] = 0x80 | u8::try_from(number).expect("few");
        }
        assert_eq!(batch.send(&server), CLIENTS);
        for client in &clients {
            client.recv_from(&mut [0; 512]).expect("answered");
        }
        agent.catch_up();
        for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
            let mut statuses: Vec<_> =
                agent.series(side, zone).iter().map(|series| series.key.status.clone()).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, ["FORMERR", "NOERROR", "NOTIMP", "NXDOMAIN", "SERVFAIL"], "{side:?}");
        }
    }
    Ok(())
}

/// A client that sends its questions with one call, and a server that receives and answers them with one each.
fn a_hundred_datagrams_of_one_call_are_all_counted() -> Outcome {
    const QUESTIONS: u16 = 100;
    const ROUNDS: u16 = 3;
    for arguments in EVERY_CAPTURE {
        let mut agent = Agent::start(&[arguments, &["--cpu-share", "0"]].concat())?;
        let (server, client) = (socket("127.0.0.1"), socket("127.0.0.1"));
        client.connect(server.local_addr().expect("bound")).expect("connected");
        for round in 0..ROUNDS {
            let mut asked = Batch::new(QUESTIONS.into());
            for (number, (bytes, length)) in asked.bytes.iter_mut().zip(&mut asked.lengths).enumerate() {
                let number = u16::try_from(number).expect("few");
                let message = question(round * QUESTIONS + number, "host.hundred.example");
                bytes[..message.len()].copy_from_slice(&message);
                *length = message.len();
            }
            let to = address_of(&server);
            asked.peers.fill(to);
            assert_eq!(asked.send(&client), usize::from(QUESTIONS));
            let mut batch = Batch::new(QUESTIONS.into());
            assert_eq!(batch.receive(&server), usize::from(QUESTIONS), "loopback delivers before it returns");
            for message in &mut batch.bytes {
                (message[2], message[3]) = (0x81, 0x80);
            }
            assert_eq!(batch.send(&server), usize::from(QUESTIONS));
            assert_eq!(Batch::new(QUESTIONS.into()).receive(&client), usize::from(QUESTIONS));
        }
        let all = u64::from(QUESTIONS * ROUNDS);
        assert_eq!(agent.counts("hundred.example"), (all, all), "{arguments:?}");
    }
    Ok(())
}

/// The address of a socket, as calls take it.
fn address_of(socket: &UdpSocket) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = socket.local_addr().expect("bound") else { panic!("an IPv4 socket") };
    // SAFETY: plain integers.
    let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    to.sin_family = libc::sa_family_t::try_from(libc::AF_INET).expect("small");
    to.sin_port = address.port().to_be();
    to.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    to
}

/// Datagrams of one call of recvmmsg(2) or sendmmsg(2), with their peers.
struct Batch {
    bytes: Vec<[u8; 512]>,
    peers: Vec<libc::sockaddr_in>,
    lengths: Vec<usize>,
}

impl Batch {
    fn new(count: usize) -> Self {
        // SAFETY: plain integers.
        let nobody: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        Self { bytes: vec![[0; 512]; count], peers: vec![nobody; count], lengths: vec![512; count] }
    }

    /// Does a call with the messages; gives how many it took.
    fn call(&mut self, call: impl FnOnce(*mut libc::mmsghdr, libc::c_uint) -> libc::c_int) -> usize {
        let mut vectors: Vec<libc::iovec> = self
            .bytes
            .iter_mut()
            .zip(&self.lengths)
            .map(|(bytes, length)| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: *length })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut self.peers)
            .map(|(vector, peer)| {
                // SAFETY: plain integers and pointers, all of which may be zero.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_name = (&raw mut *peer).cast();
                message.msg_hdr.msg_namelen =
                    libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).expect("short");
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let taken = call(messages.as_mut_ptr(), libc::c_uint::try_from(messages.len()).expect("few"));
        self.lengths = messages.iter().map(|message| message.msg_len as usize).collect();
        usize::try_from(taken).expect("no error")
    }

    fn receive(&mut self, socket: &UdpSocket) -> usize {
        let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
        // SAFETY: messages, buffers and addresses live until after the call.
        self.call(|messages, count| unsafe { libc::recvmmsg(fd, messages, count, 0, std::ptr::null_mut()) })
    }

    fn send(&mut self, socket: &UdpSocket) -> usize {
        let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
        // SAFETY: messages, buffers and addresses live until after the call.
        self.call(|messages, count| unsafe { libc::sendmmsg(fd, messages, count, 0) })
    }
}
