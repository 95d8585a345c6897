//! Conversations with both ends in one thread of this process: so many system calls for each round, exactly, no change
//! of context between them, and at a chosen pace. The servers of [`super::workload`] are real; these are countable.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use porthole_testbed::interrupt;

/// System calls of one round: both ends send and receive.
pub const CALLS_PER_ROUND: u64 = 4;

/// How long an end waits for what is already there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often an interrupt is looked for, and the pace kept, in rounds.
const LOOK: u64 = 32;

/// The bytes of one round.
#[derive(Clone, Debug)]
pub struct Words {
    request: Vec<u8>,
    response: Vec<u8>,
    /// Requests in one round.
    pub depth: u64,
}

impl Words {
    /// HTTP/1.1 requests for a path, several in one write.
    pub fn http(method: &str, path: &str, depth: u64) -> Self {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        Self::repeated(&request, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n", depth)
    }

    /// Redis commands, several in one write.
    pub fn redis(depth: u64) -> Self {
        Self::repeated("*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", "$5\r\nvalue\r\n", depth)
    }

    /// A binary protocol without a parser.
    pub fn unknown() -> Self {
        let bytes = |start: u8| (start..=255).step_by(7).collect::<Vec<_>>();
        Self { request: bytes(0x91), response: bytes(0xa3), depth: 1 }
    }

    fn repeated(request: &str, response: &str, depth: u64) -> Self {
        let times = |text: &str| (0..depth).flat_map(|_| text.bytes()).collect();
        Self { request: times(request), response: times(response), depth }
    }
}

/// A connection with both its ends.
pub struct Talk<S> {
    client: S,
    server: S,
    buffer: Vec<u8>,
}

/// A server that others can talk to as well.
pub fn listen() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")
}

impl Talk<TcpStream> {
    /// Over TCP on this machine, to a server of its own.
    pub fn tcp() -> Result<Self> {
        Self::to(&listen()?)
    }

    /// The same, to a server that others talk to as well.
    pub fn to(listener: &TcpListener) -> Result<Self> {
        let client = TcpStream::connect(listener.local_addr().context("an address")?).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        for end in [&client, &server] {
            end.set_nodelay(true).and_then(|()| end.set_read_timeout(Some(PATIENCE))).context("a socket")?;
        }
        Ok(Self { client, server, buffer: Vec::new() })
    }
}

impl Talk<UnixStream> {
    /// Over a unix-domain socket.
    pub fn unix() -> Result<Self> {
        let (client, server) = UnixStream::pair().context("a pair of sockets")?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).context("a socket")?;
        }
        Ok(Self { client, server, buffer: Vec::new() })
    }
}

impl<S: Read + Write> Talk<S> {
    /// A request and its answer, or as many as the words have.
    pub fn round(&mut self, words: &Words) -> Result<()> {
        self.client.write_all(&words.request).context("send a request")?;
        read(&mut self.server, &mut self.buffer, words.request.len())?;
        self.server.write_all(&words.response).context("send a response")?;
        read(&mut self.client, &mut self.buffer, words.response.len())
    }

    /// So many rounds as fast as it goes; how long they took.
    pub fn rounds(&mut self, words: &Words, rounds: u64) -> Result<Duration> {
        repeat(rounds, || self.round(words))
    }
}

fn read(end: &mut impl Read, buffer: &mut Vec<u8>, bytes: usize) -> Result<()> {
    buffer.resize(bytes, 0);
    let mut at = 0;
    while at < bytes {
        let read = end.read(buffer.get_mut(at..).unwrap_or_default()).context("receive")?;
        ensure!(read > 0, "a connection ended early");
        at += read;
    }
    Ok(())
}

/// Does something so many times as fast as it goes; how long that took.
pub fn repeat(times: u64, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    for number in 0..times {
        if number % (LOOK * LOOK) == 0 {
            interrupt::check()?;
        }
        work()?;
    }
    Ok(start.elapsed())
}

/// Does something for a while, at most so many times a second; how often it did.
pub fn paced(rate: f64, length: Duration, mut work: impl FnMut() -> Result<()>) -> Result<u64> {
    let start = Instant::now();
    let mut done = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length {
            return Ok(done);
        }
        interrupt::check()?;
        let ahead = due(done, rate).saturating_sub(elapsed);
        if ahead > Duration::from_micros(200) {
            std::thread::sleep(ahead);
            continue;
        }
        for _ in 0..LOOK {
            work()?;
        }
        done += LOOK;
    }
}

/// When so many are due at this rate; at once where the rate has no bound.
#[allow(clippy::cast_precision_loss)]
fn due(done: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(done as f64 / rate).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_say_what_they_have_to() {
        for words in [Words::http("GET", "/a", 1), Words::redis(16), Words::unknown()] {
            Talk::tcp().unwrap().rounds(&words, 3).unwrap();
            Talk::unix().unwrap().rounds(&words, 3).unwrap();
        }
        assert_eq!(Words::redis(16).request.len(), 16 * Words::redis(1).request.len());
    }

    #[test]
    fn the_pace_is_what_is_due() {
        assert_eq!(due(500, 1000.0), Duration::from_millis(500));
        assert_eq!(due(500, f64::INFINITY), Duration::ZERO);
    }

    #[test]
    fn a_pace_is_not_exceeded() {
        let mut times = 0;
        let work = || {
            times += 1;
            Ok(())
        };
        let done = paced(1000.0, Duration::from_millis(50), work).unwrap();
        assert_eq!(done, times);
        assert!((LOOK..=50 + LOOK).contains(&done), "{done}");
    }
}
