//! A stream from a guest that cannot make the host allocate without bound.
//!
//! ttrpc's client reads frames as fast as they come, up to 4 MiB each, and starts a task for every one of them, whether
//! or not anybody takes them. This wrapper collects each frame (ttrpc PROTOCOL.md: length, stream id, type, flags; 10
//! bytes, big endian; then the body) and
//! - refuses a frame longer than [`FRAME_BYTES_MAX`] by its header, and ends a connection whose frame does not arrive
//!   within [`FRAME_TIME`];
//! - has every frame inspected before ttrpc sees it, and drops one that is refused;
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

use crate::metering::TokenBucket;

/// Longest frame, bytes: what the contract allows a batch, and room for its envelope.
pub const FRAME_BYTES_MAX: usize = 256 << 10;

/// Longest time from the first byte of a frame to its last.
pub const FRAME_TIME: Duration = Duration::from_secs(5);

/// Bytes per second that a guest may send in the long run; an agent with a thousand busy series sends some 200 kB/s.
pub const BYTES_PER_SECOND: u32 = 512 << 10;

/// Bytes that a guest may send at once: the full state of a sandbox with the largest number of ordinary series.
pub const BYTES_BURST: u32 = 4 << 20;

/// Most that one read takes over.
const READ_MAX: usize = 8 << 10;

/// Length of a ttrpc frame header.
const HEADER: usize = 10;

/// Where in it the type is.
const TYPE_AT: usize = 8;

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

/// Says whether a frame of this type and body may be handed on.
pub trait Inspect: Send + Sync {
    /// What becomes of the frame.
    fn admit(&mut self, kind: u8, body: &[u8]) -> Admission;
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is handed on.
    Pass,
    /// It is dropped.
    Drop,
    /// The connection ends.
    End,
}

/// Which part of a frame comes next.
#[derive(Clone, Copy)]
enum Position {
    Header,
    Body {
        length: usize,
    },
    /// Everything was collected; so much was handed on.
    Passing {
        passed: usize,
    },
}

/// The ttrpc client's end.
pub struct GuardedStream<S: ?Sized> {
    inner: Pin<Box<S>>,
    gate: Arc<Mutex<Gate>>,
    inspect: Box<dyn Inspect>,
    position: Position,
    /// The frame that is being collected or handed on, with its header.
    frame: Vec<u8>,
    bucket: TokenBucket,
    pause: Pin<Box<Sleep>>,
    paused: bool,
    /// Runs while a frame is being collected.
    frame_deadline: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + ?Sized> GuardedStream<S> {
    /// Guards a stream.
    pub fn new(inner: Pin<Box<S>>, inspect: Box<dyn Inspect>) -> (Self, Control) {
        let gate = Arc::new(Mutex::new(Gate { in_flight: false, closed: false, reader: None, writer: None }));
        let stream = Self {
            inner,
            gate: Arc::clone(&gate),
            inspect,
            position: Position::Header,
            frame: Vec::new(),
            bucket: TokenBucket::new(f64::from(BYTES_PER_SECOND), f64::from(BYTES_BURST)),
            pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
            paused: false,
            frame_deadline: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        (stream, Control(gate))
    }

    /// Ready when the guest may send more.
    fn poll_rate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.paused {
            ready!(self.pause.as_mut().poll(cx));
            self.paused = false;
        }
        let wait = self.bucket.wait();
        if wait.is_zero() {
            return Poll::Ready(());
        }
        self.pause.as_mut().reset(Instant::now() + wait);
        self.paused = true;
        self.pause.as_mut().poll(cx).map(|()| self.paused = false)
    }

    /// Ready when the next frame may be read: the one before was worked off.
    fn poll_turn(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut gate = self.gate.lock();
        if gate.closed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // Kept in every case: closing must wake a reader that waits for the guest or for the clock.
        gate.reader = Some(cx.waker().clone());
        if gate.in_flight && self.frame.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Collects a whole frame; false at the end of the stream.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let missing = match self.position {
                Position::Passing { .. } => return Poll::Ready(Ok(true)),
                Position::Header => HEADER - self.frame.len(),
                Position::Body { length } => HEADER + length - self.frame.len(),
            };
            if missing == 0 {
                self.collected()?;
                continue;
            }
            ready!(self.poll_turn(cx))?;
            // The clock of a frame is stopped while the guest is held back.
            if self.poll_rate(cx).is_pending() {
                self.frame_deadline.as_mut().reset(Instant::now() + FRAME_TIME);
                return Poll::Pending;
            }
            let mut scratch = [0_u8; READ_MAX];
            let mut scratch = ReadBuf::new(&mut scratch[..missing.min(READ_MAX)]);
            if self.inner.as_mut().poll_read(cx, &mut scratch)?.is_pending() {
                if !self.frame.is_empty() && self.frame_deadline.as_mut().poll(cx).is_ready() {
                    let message = format!("a frame that did not arrive within {FRAME_TIME:?}");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
                }
                return Poll::Pending;
            }
            let read = scratch.filled();
            if read.is_empty() {
                return Poll::Ready(if self.frame.is_empty() {
                    Ok(false)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
            if self.frame.is_empty() {
                self.frame_deadline.as_mut().reset(Instant::now() + FRAME_TIME);
            }
            #[allow(clippy::cast_precision_loss)]
            let cost = read.len() as f64;
            self.bucket.spend(cost);
            self.frame.extend_from_slice(read);
        }
    }

    /// A header or a whole frame is there.
    fn collected(&mut self) -> io::Result<()> {
        if let Position::Header = self.position {
            let length = self.frame.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
            if length > FRAME_BYTES_MAX {
                let message = format!("a frame of {length} bytes; {FRAME_BYTES_MAX} are allowed");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            self.frame.reserve_exact(length.min(READ_MAX));
            self.position = Position::Body { length };
            return Ok(());
        }
        let kind = self.frame.get(TYPE_AT).copied().unwrap_or(0);
        match self.inspect.admit(kind, self.frame.get(HEADER..).unwrap_or_default()) {
            Admission::Pass => self.position = Position::Passing { passed: 0 },
            Admission::Drop => self.next_frame(),
            Admission::End => return Err(io::Error::new(io::ErrorKind::InvalidData, "refused too often")),
        }
        Ok(())
    }

    fn next_frame(&mut self) {
        // The memory of a frame is not kept while a guest is silent.
        self.frame = Vec::new();
        self.position = Position::Header;
    }
}

impl<S: AsyncRead + AsyncWrite + ?Sized> AsyncRead for GuardedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !ready!(this.poll_frame(cx))? {
            return Poll::Ready(Ok(()));
        }
        if let Position::Passing { passed } = &mut this.position {
            let rest = this.frame.get(*passed..).unwrap_or_default();
            let some = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..some]);
            *passed += some;
            if *passed == this.frame.len() {
                this.next_frame();
                this.gate.lock().in_flight = true;
            }
        }
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
