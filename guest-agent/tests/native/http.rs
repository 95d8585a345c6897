//! A small HTTP/1.1 server and client over plain sockets.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

/// An answer without a body.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A request without a body.
pub fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()
}

/// Reads up to and with the next blank line.
pub fn read_head(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(n) => head.extend_from_slice(&buffer[..n]),
        }
    }
    Some(head)
}

/// Reads up to and with the next blank line, and nothing behind it.
pub fn read_head_alone(stream: &mut impl Read) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    head
}

/// Sends a request and waits for its answer.
pub fn exchange(stream: &mut (impl Read + Write), path: &str) {
    stream.write_all(&request(path)).expect("sent");
    read_head(stream).expect("answered");
}

/// The same, of a server that takes its time.
pub fn exchange_slowly(stream: &mut (impl Read + Write), path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{SLOWLY}\r\n").as_bytes()).expect("sent");
    read_head(stream).expect("answered");
}

/// A header with which the server waits for [`SLOW`] before it answers.
const SLOWLY: &str = "Slowly: please\r\n";

/// How long the server takes for a slow response.
pub const SLOW: Duration = Duration::from_millis(30);

/// A server that answers everything until it is dropped; a thread for each connection.
pub struct Server {
    pub address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("address");
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("accepted");
                let mut first = [0; 1];
                // A connection that sends nothing ends the server.
                if !matches!(stream.peek(&mut first), Ok(1)) {
                    return;
                }
                std::thread::spawn(move || {
                    // Requests that were sent without waiting may have come together.
                    while let Some(heads) = read_head(&mut stream) {
                        if heads.windows(SLOWLY.len()).any(|line| line == SLOWLY.as_bytes()) {
                            std::thread::sleep(SLOW);
                        }
                        let requests = heads.windows(4).filter(|end| end == b"\r\n\r\n").count();
                        for _ in 0..requests {
                            if stream.write_all(OK).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { address, accepting: Some(accepting) }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream
    }

    /// So many requests on one connection.
    pub fn get(&self, path: &str, times: usize) {
        let mut stream = self.connect();
        for _ in 0..times {
            exchange(&mut stream, path);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}
