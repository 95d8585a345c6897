//! What sends requests, each with a length of its own.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::http;

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By HTTP/1, on a connection that is kept.
    Kept,
    /// By HTTP/1, on a connection of its own each, with which the response ends.
    Closed,
    /// By HTTP/2, as a call of gRPC, on a connection that is kept.
    Http2,
}

/// One that sends one request after the other.
#[derive(Debug)]
pub struct Client {
    port: u16,
    kind: Kind,
    stream: Option<TcpStream>,
    /// Of HTTP/2: the next stream's number.
    next: u32,
}

/// RFC 9113, section 3.4, and a `SETTINGS` frame without any.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not indexed (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

impl Client {
    /// One that is connected to this port.
    pub fn connect(port: u16, kind: Kind) -> Self {
        let mut client = Self { port, kind, stream: None, next: 1 };
        if kind != Kind::Closed {
            client.stream = Some(client.connection());
        }
        if kind == Kind::Http2 {
            client.kept().write_all(PREFACE).expect("sent");
        }
        client
    }

    fn connection(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).expect("connected")
    }

    fn kept(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("connected")
    }

    /// Sends the request of this number, and waits for its response.
    pub fn send(&mut self, number: usize) {
        let pad = "x".repeat(number + 1);
        let request = format!("GET /work HTTP/1.1\r\nHost: front\r\nPad: {pad}\r\n\r\n");
        match self.kind {
            Kind::Kept => {
                self.kept().write_all(request.as_bytes()).expect("sent");
                http::read_head(self.kept()).expect("answered");
            }
            Kind::Closed => {
                let mut stream = self.connection();
                stream.write_all(request.as_bytes()).expect("sent");
                assert!(stream.read_to_end(&mut Vec::new()).expect("answered") > 0);
            }
            Kind::Http2 => self.send_frames(&pad),
        }
    }

    fn send_frames(&mut self, pad: &str) {
        let stream = self.next;
        self.next += 2;
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/front.Front/Work"),
            (":authority", "front"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let block = fields.map(|(name, value)| field(name, value)).concat();
        let length = u32::try_from(pad.len()).expect("short").to_be_bytes();
        let message = [&[0], &length[..], pad.as_bytes()].concat();
        let request =
            [frame(HEADERS, END_HEADERS, stream, &block), frame(DATA, END_STREAM, stream, &message)].concat();
        self.kept().write_all(&request).expect("sent");
        loop {
            let mut head = [0; 9];
            self.kept().read_exact(&mut head).expect("answered");
            let [a, b, c, kind, flags, of @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            self.kept().read_exact(&mut vec![0; length]).expect("answered");
            if kind == SETTINGS && flags & ACK == 0 {
                self.kept().write_all(&frame(SETTINGS, ACK, 0, &[])).expect("sent");
            }
            if u32::from_be_bytes(of) == stream && flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS) {
                return;
            }
        }
    }
}
