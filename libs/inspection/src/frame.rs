//! Collects the frames of ttrpc from a stream (ttrpc PROTOCOL.md: length, stream id, type, flags; 10 bytes, big endian; then the
//! body). What may come, and when it is read, is its user's.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// Length of a frame's header.
pub const HEADER: usize = 10;

/// Most that one read takes over.
const READ_MAX: usize = 8 << 10;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the body.
    pub length: usize,
    /// The call that the frame belongs to.
    pub stream: u32,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
}

/// A frame that is being collected.
#[derive(Debug, Default)]
pub struct Collector {
    bytes: Vec<u8>,
    /// The length of the body, once it is wanted.
    body: Option<usize>,
}

impl Collector {
    /// Whether nothing of a frame has come.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes until the header is there, or the whole frame once its body is wanted.
    pub fn missing(&self) -> usize {
        (HEADER + self.body.unwrap_or_default()).saturating_sub(self.bytes.len())
    }

    /// The header, once it is there.
    pub fn header(&self) -> Option<Header> {
        let (length, rest) = self.bytes.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let &[kind, flags, ..] = rest else { return None };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        Some(Header { length, stream: u32::from_be_bytes(*stream), kind, flags })
    }

    /// Whether the body is wanted.
    pub fn wants_body(&self) -> bool {
        self.body.is_some()
    }

    /// Collects a body of this length, too, which its user has bounded.
    pub fn want_body(&mut self, length: usize) {
        self.body = Some(length);
        self.bytes.reserve_exact(length.min(READ_MAX));
    }

    /// Reads some of what is missing: how many bytes; none at the end of the stream, which is an error within a frame.
    pub fn poll_read<S: AsyncRead + ?Sized>(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut scratch = [0; READ_MAX];
        let mut scratch = ReadBuf::new(&mut scratch[..self.missing().min(READ_MAX)]);
        ready!(stream.poll_read(context, &mut scratch))?;
        let read = scratch.filled();
        if read.is_empty() && !self.bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.bytes.extend_from_slice(read);
        Poll::Ready(Ok(read.len()))
    }

    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// The frame with its header; the next one begins. The memory of a frame is not kept while a guest is silent.
    pub fn take(&mut self) -> Vec<u8> {
        self.body = None;
        std::mem::take(&mut self.bytes)
    }
}
