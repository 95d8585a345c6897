//! Requests of one shape on one connection, whose responses all have the same length.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    ops::Range,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use porthole_bench_guest::{DIGIT, Greeting};

/// After this time without a byte a response is taken as whole. Idle time costs nothing.
const SILENCE: Duration = Duration::from_millis(500);

/// A connection with its requests.
pub struct Stream {
    connection: TcpStream,
    /// As many requests as go out at once.
    requests: Vec<u8>,
    /// Where the numbers are.
    numbers: Vec<Range<usize>>,
    depth: u64,
    /// Bytes of that many responses.
    responses: usize,
    sent: u64,
    buffer: Vec<u8>,
}

impl Stream {
    /// Connects, greets, and makes one request to learn how long a response is.
    pub fn connect(
        port: u16,
        greeting: Greeting,
        request: &[u8],
        depth: u64,
        expected: &str,
    ) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        stream.set_read_timeout(Some(SILENCE)).context("set a timeout")?;
        if greeting == Greeting::Mysql {
            log_in(&mut stream)?;
        }
        let mut one = request.to_vec();
        number(&mut one, &runs(request), 0);
        stream.write_all(&one).context("send")?;
        let response = until_silence(&mut stream)?;
        let text = String::from_utf8_lossy(&response);
        ensure!(text.contains(expected), "no `{expected}` in the response {text:?}");
        stream.set_read_timeout(None).context("set no timeout")?;
        let requests = request.repeat(usize::try_from(depth).context("a depth")?);
        let responses = response.len() * usize::try_from(depth).context("a depth")?;
        let numbers = runs(&requests);
        Ok(Self {
            connection: stream,
            requests,
            numbers,
            depth,
            responses,
            sent: 0,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Makes requests and reads their responses.
    pub fn run(&mut self, requests: u64) -> Result<()> {
        for _ in 0..requests.div_ceil(self.depth) {
            number(&mut self.requests, &self.numbers, self.sent);
            self.sent += self.depth;
            self.connection.write_all(&self.requests).context("send")?;
            let mut missing = self.responses;
            while missing > 0 {
                let room = missing.min(self.buffer.len());
                let came = self.connection.read(&mut self.buffer[..room]).context("receive")?;
                ensure!(came > 0, "the server closes the connection");
                missing -= came;
            }
        }
        Ok(())
    }
}

/// Where the numbers are in requests.
fn runs(requests: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, byte) in requests.iter().enumerate() {
        match runs.last_mut() {
            _ if *byte != DIGIT => {}
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// Writes the numbers that follow this one: each has as many digits as there is room for, the first of them not 0.
fn number(requests: &mut [u8], runs: &[Range<usize>], first: u64) {
    for (value, run) in (first..).zip(runs) {
        let mut rest = value;
        let digits = &mut requests[run.clone()];
        let (leading, others) = digits.split_at_mut(1);
        for digit in others.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        leading.fill(b'1' + u8::try_from(rest % 9).unwrap_or(0));
    }
}

/// Everything that comes until nothing comes for a while.
fn until_silence(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the server closes the connection after {:?}", String::from_utf8_lossy(&all)),
            Ok(came) => all.extend_from_slice(&buffer[..came]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                ensure!(!all.is_empty(), "the server does not answer");
                return Ok(all);
            }
            Err(error) => return Err(error).context("receive"),
        }
    }
}

/// Capabilities (MariaDB's `Connection` documentation): long password, connect with database, protocol 4.1,
/// transactions, secure connection, plugin authentication.
const CAPABILITIES: u32 = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;

/// The login of MySQL's protocol without a password.
fn log_in(stream: &mut TcpStream) -> Result<()> {
    until_silence(stream).context("the server's greeting")?;
    let mut body = CAPABILITIES.to_le_bytes().to_vec();
    body.extend_from_slice(&(16_u32 << 20).to_le_bytes());
    body.push(33); // utf8_general_ci
    body.extend_from_slice(&[0; 23]);
    body.extend_from_slice(b"root\0\0bench\0mysql_native_password\0");
    let length = u32::try_from(body.len()).context("a short login")?;
    let mut packet = length.to_le_bytes()[..3].to_vec();
    packet.push(1);
    packet.extend_from_slice(&body);
    stream.write_all(&packet).context("log in")?;
    let answer = until_silence(stream).context("the answer to the login")?;
    ensure!(answer.get(4) == Some(&0), "the login is refused: {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_length_and_differ() {
        let template = b"GET /a/###/b/##";
        let mut requests = template.repeat(2);
        let runs = runs(&requests);
        number(&mut requests, &runs, 98);
        assert_eq!(String::from_utf8_lossy(&requests), "GET /a/198/b/19GET /a/200/b/21");
        number(&mut requests, &runs, 0);
        assert_eq!(String::from_utf8_lossy(&requests), "GET /a/100/b/11GET /a/102/b/13");
    }

    #[test]
    fn a_request_without_numbers_stays_as_it_is() {
        let mut requests = b"GET key".to_vec();
        let runs = runs(&requests);
        number(&mut requests, &runs, 7);
        assert_eq!(requests, b"GET key");
    }
}
