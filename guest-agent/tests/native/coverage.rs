//! What moved and no exchange accounts for is counted, whatever the reason. The protocol is one that nothing else on
//! the machine is likely to use meanwhile.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
};

use porthole_agent_api::agent::{Protocol, Side};
use porthole_trials::{CannotRun, Outcome, Trial, trials};

use crate::harness::{Agent, EVERY_HOOKS};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        whole_conversations_are_accounted_for,
        whole_conversations_are_accounted_for_from_packets,
        what_a_call_carries_beyond_the_limit_is_not,
        what_is_sent_from_a_file_is_not,
        what_is_no_message_is_not,
        what_is_lost_up_to_a_connections_end_is_not,
    ]
}

const GET: &[u8] = b"get key:1\r\n";
const VALUE: &[u8] = b"VALUE key:1 0 4\r\nbody\r\nEND\r\n";

/// The most bytes that are captured of a call.
const CALL_MAX: usize = 1 << 20;

/// A connection to itself: the client's end, and the server's.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    (client, listener.accept().expect("accepted").0)
}

fn say(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).expect("sent");
    to.read_exact(&mut vec![0; bytes.len()]).expect("received");
}

/// Some exchanges, each of which is counted at both ends.
fn converse(client: &mut TcpStream, server: &mut TcpStream, exchanges: usize) {
    for _ in 0..exchanges {
        say(client, server, GET);
        say(server, client, VALUE);
    }
}

/// Sends bytes with one call, while the other end takes them in many.
fn say_at_once(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 32 * 1024];
            let mut left = bytes.len();
            while left > 0 {
                left -= to.read(&mut buffer).expect("received");
            }
        });
        // One call takes all, as the socket blocks.
        assert_eq!(from.write(bytes).expect("sent"), bytes.len());
    });
}

fn unaccounted(agent: &Agent) -> u64 {
    let number = usize::try_from(Protocol::PROTOCOL_MEMCACHED as i32).expect("small");
    agent.counters.bytes_unaccounted.get(number).copied().unwrap_or(0)
}

/// Starts an agent and plays a conversation under it; gives the bytes that nothing accounts for.
fn unaccounted_after(
    arguments: &[&str],
    converse: impl FnOnce(&mut TcpStream, &mut TcpStream),
) -> Result<(u64, Agent), CannotRun> {
    let mut agent = Agent::start(arguments)?;
    let (mut client, mut server) = connection();
    converse(&mut client, &mut server);
    agent.catch_up();
    Ok((unaccounted(&agent), agent))
}

fn gets(agent: &Agent, side: Side) -> u64 {
    let all = agent.all(side);
    let ours =
        all.iter().filter(|series| series.key.protocol.enum_value() == Ok(Protocol::PROTOCOL_MEMCACHED));
    ours.map(|series| series.duration.count).sum()
}

fn assert_whole(arguments: &[&str]) -> Outcome {
    let (bytes, agent) = unaccounted_after(arguments, |client, server| {
        converse(client, server, 50);
        // Several messages in a call.
        say(client, server, &GET.repeat(100));
        say(server, client, &VALUE.repeat(100));
    })?;
    let counted = [Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| gets(&agent, side));
    assert_eq!((bytes, counted), (0, [150, 150]), "{arguments:?}");
    assert!(agent.counters.bytes_accounted >= 300 * (GET.len() + VALUE.len()) as u64);
    Ok(())
}

fn whole_conversations_are_accounted_for() -> Outcome {
    EVERY_HOOKS.iter().try_for_each(|hooks| assert_whole(hooks))
}

fn whole_conversations_are_accounted_for_from_packets() -> Outcome {
    assert_whole(&["--capture", "packets"])
}

fn what_a_call_carries_beyond_the_limit_is_not() -> Outcome {
    for hooks in EVERY_HOOKS {
        let requests = GET.repeat(3 * CALL_MAX / GET.len());
        let (bytes, _) = unaccounted_after(hooks, |client, server| {
            converse(client, server, 50);
            say_at_once(client, server, &requests);
        })?;
        // At the end that sent them. The other one received them in shorter calls, for which the ring buffer may be too small.
        let least = (requests.len() - CALL_MAX - 8192) as u64;
        assert!(
            (least..2 * requests.len() as u64).contains(&bytes),
            "{hooks:?}: {bytes} of {}",
            requests.len()
        );
    }
    Ok(())
}

fn what_is_sent_from_a_file_is_not() -> Outcome {
    for hooks in EVERY_HOOKS {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("value");
        std::fs::write(&path, VALUE).expect("written");
        let (bytes, _) = unaccounted_after(hooks, |client, server| {
            converse(client, server, 50);
            say(client, server, GET);
            let file = File::open(&path).expect("opened");
            let mut offset = 0;
            // SAFETY: two open descriptors, and a number that lives until after the call.
            let sent =
                unsafe { libc::sendfile(server.as_raw_fd(), file.as_raw_fd(), &raw mut offset, VALUE.len()) };
            assert_eq!(usize::try_from(sent), Ok(VALUE.len()));
            client.read_exact(&mut vec![0; VALUE.len()]).expect("received");
            converse(client, server, 1);
        })?;
        assert!(bytes >= VALUE.len() as u64, "{hooks:?}: {bytes}");
    }
    Ok(())
}

fn what_is_no_message_is_not() -> Outcome {
    for hooks in EVERY_HOOKS {
        let (bytes, _) = unaccounted_after(hooks, |client, server| {
            converse(client, server, 50);
            for _ in 0..40 {
                say(client, server, &[0xfe; 1000]);
            }
        })?;
        // At both ends; the first bytes might have become a line.
        assert!((60_000..=80_000).contains(&bytes), "{hooks:?}: {bytes}");
    }
    Ok(())
}

/// The ring buffer has no room for a connection's last bytes: only its end shows that they moved.
fn what_is_lost_up_to_a_connections_end_is_not() -> Outcome {
    const EXCHANGES: usize = 2_000;
    for hooks in EVERY_HOOKS {
        let mut agent = Agent::start(&[hooks, &["--ring-kib", "64"]].concat())?;
        let (mut client, mut server) = connection();
        converse(&mut client, &mut server, 50);
        agent.catch_up();
        agent.stop();
        converse(&mut client, &mut server, EXCHANGES);
        drop((client, server));
        agent.resume();
        let sent = 2 * (50 + EXCHANGES) as u64;
        let size = (GET.len() + VALUE.len()) as u64;
        let missing = agent.until("what was lost is reported", |agent| {
            let counted: u64 =
                [Side::SIDE_SERVER, Side::SIDE_CLIENT].iter().map(|&side| gets(agent, side)).sum();
            // At each end one request that lost its response may count as well.
            let least = (sent - counted).saturating_sub(2) * size;
            (unaccounted(agent) >= least).then_some(unaccounted(agent))
        });
        assert!(agent.counters.events_lost > 0 && missing <= sent * size, "{hooks:?}: {missing}");
    }
    Ok(())
}
