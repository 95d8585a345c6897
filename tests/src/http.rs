//! A plain HTTP client: one request after another on one connection, nothing retried or added.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait;

/// Limit of one attempt to connect to a server that may not listen yet.
const ATTEMPT: Duration = Duration::from_secs(1);

/// A response: its status and body.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines without their line ends.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that stays open for several requests.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    /// Connects. Call it on a thread in the hub to reach a sandbox.
    pub fn open(to: SocketAddr) -> Result<Self> {
        Self::open_within(to, wait::SOON)
    }

    /// Connects once the server listens, which in a guest can be after its agent is attached; the guest boots meanwhile. Connecting sends no byte, so
    /// that no attempt is counted anywhere.
    pub fn open_once_listening(to: SocketAddr) -> Result<Self> {
        wait::until(&format!("{to} listens"), wait::SOON, || Self::open_within(to, ATTEMPT).map(Some))
    }

    fn open_within(to: SocketAddr, limit: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, limit).with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(wait::SOON)).context("set a deadline")?;
        stream.set_write_timeout(Some(wait::SOON)).context("set a deadline")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self { stream: BufReader::new(stream), host: to.to_string() })
    }

    /// Sends one request without a body and reads its response.
    pub fn request(&mut self, method: &str, target: &str) -> Result<Response> {
        self.send(method, target, "")?;
        self.receive(method).with_context(|| format!("{method} {target} of {}", self.host))
    }

    /// Sends one request without waiting: `headers` are whole lines, each with its CRLF.
    pub fn send(&mut self, method: &str, target: &str, headers: &str) -> Result<()> {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host);
        self.raw(head.as_bytes())
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).with_context(|| format!("send to {}", self.host))
    }

    /// Ends the sending direction.
    pub fn finish(&mut self) -> Result<()> {
        self.stream.get_mut().shutdown(Shutdown::Write).context("end the sending side")
    }

    /// Reads the response to a request with this method.
    pub fn receive(&mut self, method: &str) -> Result<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let Some(status) = status else { bail!("not a status line: {status_line:?}") };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            headers.push(line);
        }
        let mut response = Response { status, headers, body: Vec::new() };
        let bodyless = method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status);
        if !bodyless {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    /// Reads until the other side closes; a reset counts as an end.
    pub fn drain(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(bytes),
            Err(error) => Err(error).context("read to the end"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("read a line")? == 0 {
            bail!("the connection was closed before a whole response");
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn body(&mut self, head: &Response) -> Result<Vec<u8>> {
        if head.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            let mut body = Vec::new();
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                    .with_context(|| format!("chunk size {size:?}"))?;
                body.extend(self.exactly(size)?);
                self.line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        match head.header("content-length") {
            Some(length) => self.exactly(length.parse().context("content-length")?),
            None => self.drain(),
        }
    }

    /// Reads this many bytes.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).context("read a body")?;
        Ok(bytes)
    }
}

/// One request on a connection of its own.
pub fn get(to: SocketAddr, target: &str) -> Result<Response> {
    Connection::open(to)?.request("GET", target)
}
