//! A stream from a guest that cannot make the host allocate without bound.
//!
//! ttrpc's client reads frames as fast as they come, up to 4 MiB each, and starts a task for every one of them, whether
//! or not anybody takes them. This wrapper reads the frame headers as they pass (ttrpc PROTOCOL.md: length, stream id,
//! type, flags; 10 bytes, big endian) and
//! - refuses a frame longer than [`FRAME_BYTES_MAX`] before its body is read;
//! - reads a frame only when the one before was worked off, which also keeps them in order: ttrpc's tasks would hand
//!   over a stream's last batch after the end of the connection now and then, that is, not at all;
//! - stops reading while the guest has sent more than its rate;
//! - ends both directions when its [`Control`] is dropped, even while ttrpc's own tasks hang in a write.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Longest frame: a batch of 512 series with every text and histogram at its bound is about 1.8 MiB.
pub const FRAME_BYTES_MAX: usize = 2 << 20;

/// Bytes per second that a guest may send in the long run; an agent with a thousand busy series sends some 200 kB/s.
pub const BYTES_PER_SECOND: u32 = 2 << 20;

/// Bytes that a guest may send at once: the full state of a sandbox with the largest number of ordinary series.
pub const BYTES_BURST: u32 = 8 << 20;

/// Most that one read takes over.
const READ_MAX: usize = 8 << 10;

/// Length of a ttrpc frame header.
const HEADER: usize = 10;

/// The consumer's end: gives frames back, and closes the stream when dropped.
#[derive(Debug)]
pub struct Control(Arc<Mutex<Gate>>);

#[derive(Debug)]
struct Gate {
    /// A frame was read and is not worked off.
    in_flight: bool,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Control {
    /// One frame was worked off.
    pub fn release(&self) {
        let mut gate = self.0.lock();
        gate.in_flight = false;
        if let Some(reader) = gate.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let mut gate = self.0.lock();
        gate.closed = true;
        for waker in [gate.reader.take(), gate.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

enum Position {
    Header { read: usize, bytes: [u8; HEADER] },
    Body { left: usize },
}

/// The ttrpc client's end.
pub struct GuardedStream<S: ?Sized> {
    inner: Pin<Box<S>>,
    gate: Arc<Mutex<Gate>>,
    position: Position,
    bucket: f64,
    filled: Instant,
    pause: Pin<Box<Sleep>>,
    paused: bool,
}

impl<S: AsyncRead + AsyncWrite + ?Sized> GuardedStream<S> {
    /// Guards a stream.
    pub fn new(inner: Pin<Box<S>>) -> (Self, Control) {
        let gate = Arc::new(Mutex::new(Gate { in_flight: false, closed: false, reader: None, writer: None }));
        let stream = Self {
            inner,
            gate: Arc::clone(&gate),
            position: Position::Header { read: 0, bytes: [0; HEADER] },
            bucket: f64::from(BYTES_BURST),
            filled: Instant::now(),
            pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
            paused: false,
        };
        (stream, Control(gate))
    }

    /// Ready when the guest may send more.
    fn poll_rate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.paused {
            ready!(self.pause.as_mut().poll(cx));
            self.paused = false;
        }
        let now = Instant::now();
        let earned = now.duration_since(self.filled).as_secs_f64() * f64::from(BYTES_PER_SECOND);
        self.bucket = (self.bucket + earned).min(f64::from(BYTES_BURST));
        self.filled = now;
        if self.bucket >= 0.0 {
            return Poll::Ready(());
        }
        let until = now + Duration::from_secs_f64(-self.bucket / f64::from(BYTES_PER_SECOND));
        self.pause.as_mut().reset(until);
        self.paused = true;
        self.pause.as_mut().poll(cx).map(|()| self.paused = false)
    }

    /// How much may be read now: never past the end of a header or of a frame.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut gate = self.gate.lock();
        if gate.closed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // Kept in every case: closing must wake a reader that waits for the guest or for the clock.
        gate.reader = Some(cx.waker().clone());
        match self.position {
            Position::Header { read: 0, .. } if gate.in_flight => Poll::Pending,
            Position::Header { read, .. } => Poll::Ready(Ok(HEADER - read)),
            Position::Body { left } => Poll::Ready(Ok(left.min(READ_MAX))),
        }
    }

    /// Follows the frames in what was read.
    fn passed(&mut self, read: &[u8]) -> io::Result<()> {
        match &mut self.position {
            Position::Header { read: known, bytes } => {
                bytes[*known..*known + read.len()].copy_from_slice(read);
                *known += read.len();
                if *known == HEADER {
                    let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
                    if length > FRAME_BYTES_MAX {
                        let message = format!("a frame of {length} bytes; {FRAME_BYTES_MAX} are allowed");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                    }
                    self.position = Position::Body { left: length };
                }
            }
            Position::Body { left } => *left -= read.len(),
        }
        if matches!(self.position, Position::Body { left: 0 }) {
            self.position = Position::Header { read: 0, bytes: [0; HEADER] };
            self.gate.lock().in_flight = true;
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + ?Sized> AsyncRead for GuardedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let allowance = ready!(this.poll_allowance(cx))?;
        ready!(this.poll_rate(cx));
        let mut scratch = [0_u8; READ_MAX];
        let mut scratch = ReadBuf::new(&mut scratch[..allowance.min(buf.remaining())]);
        ready!(this.inner.as_mut().poll_read(cx, &mut scratch))?;
        let read = scratch.filled();
        #[allow(clippy::cast_precision_loss)]
        let cost = read.len() as f64;
        this.bucket -= cost;
        this.passed(read)?;
        buf.put_slice(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + ?Sized> GuardedStream<S> {
    fn poll_open(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut gate = self.gate.lock();
        if gate.closed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        gate.writer = Some(cx.waker().clone());
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + ?Sized> AsyncWrite for GuardedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_open(cx)?;
        self.get_mut().inner.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_open(cx)?;
        self.get_mut().inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
