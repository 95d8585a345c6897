//! A stream of frames from a guest that cannot make the host allocate without bound.
//!
//! It collects each frame of ttrpc and
//! - refuses a frame longer than [`FRAME_BYTES_MAX`] by its header, and ends a connection whose frame does not arrive
//!   within [`FRAME_TIME`];
//! - has every frame inspected before anything decodes it, and drops one that is refused;
//! - reads a frame only when the caller wants one, so that a guest's frames do not pile up;
//! - stops reading while the guest, or its tenant, has sent more than its rate;
//! - reads the body of a long frame only when there is room for it in what all frames at one time may take.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use porthole_inspection::frame::{Collector, HEADER, Header};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep},
};

use crate::{accumulate::budget::FrameRoom, metering::TokenBucket};

/// Longest frame, bytes: what the contract allows a batch, and room for its envelope.
pub const FRAME_BYTES_MAX: usize = 256 << 10;

/// Longest time from the first byte of a frame to its last.
pub const FRAME_TIME: Duration = Duration::from_secs(5);

/// Bytes per second that a guest may send in the long run; an agent with a thousand busy series sends some 200 kB/s.
pub const BYTES_PER_SECOND: u32 = 512 << 10;

/// Bytes that a guest may send at once: the full state of a sandbox with the largest number of ordinary series.
pub const BYTES_BURST: u32 = 4 << 20;

/// A frame up to this length needs no room of its own, bytes.
pub const FRAME_BYTES_FREE: usize = 4 << 10;

/// A whole frame that was admitted, and the room that it takes until it goes.
#[derive(Debug)]
pub struct Frame {
    /// The call that it belongs to.
    pub stream: u32,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    bytes: Vec<u8>,
    _room: Option<FrameRoom>,
}

impl Frame {
    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }
}

/// What a guest may send.
pub trait Policy: Send + Sync {
    /// What becomes of a frame of this type and body.
    fn admit(&mut self, kind: u8, body: &[u8]) -> Admission;

    /// Bytes came.
    fn received(&mut self, bytes: usize);

    /// The time until more may come, besides the stream's own rate.
    fn wait(&mut self) -> Duration;

    /// Waits for room for a frame of so many bytes.
    fn room(&self, bytes: usize) -> Pin<Box<dyn Future<Output = FrameRoom> + Send + Sync>>;
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is handed over.
    Pass,
    /// It is dropped.
    Drop,
    /// The connection ends.
    End,
}

/// Room for the frame that is being collected.
enum Room {
    /// It needs none.
    None,
    Waiting(Pin<Box<dyn Future<Output = FrameRoom> + Send + Sync>>),
    Taken(FrameRoom),
}

/// The host's end.
pub struct GuardedStream<S: ?Sized> {
    inner: Pin<Box<S>>,
    policy: Box<dyn Policy>,
    room: Room,
    frame: Collector,
    bucket: TokenBucket,
    pause: Pin<Box<Sleep>>,
    paused: bool,
    /// Runs while a frame is being collected.
    frame_deadline: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + ?Sized> GuardedStream<S> {
    /// Guards a stream.
    pub fn new(inner: Pin<Box<S>>, policy: Box<dyn Policy>) -> Self {
        Self {
            inner,
            policy,
            room: Room::None,
            frame: Collector::default(),
            bucket: TokenBucket::new(f64::from(BYTES_PER_SECOND), f64::from(BYTES_BURST)),
            pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
            paused: false,
            frame_deadline: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// The next frame; nothing at the end of the stream. What was collected stays when this is given up.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Writes all of these bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes).await
    }

    /// Ready when the guest may send more.
    fn poll_rate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.paused {
            ready!(self.pause.as_mut().poll(cx));
            self.paused = false;
        }
        let wait = self.bucket.wait().max(self.policy.wait());
        if wait.is_zero() {
            return Poll::Ready(());
        }
        self.pause.as_mut().reset(Instant::now() + wait);
        self.paused = true;
        self.pause.as_mut().poll(cx).map(|()| self.paused = false)
    }

    /// Ready when there is room for the frame.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Room::Waiting(waiting) = &mut self.room {
            self.room = Room::Taken(ready!(waiting.as_mut().poll(cx)));
        }
        Poll::Ready(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame>>> {
        loop {
            if self.frame.missing() == 0 {
                if let Some(frame) = self.collected()? {
                    return Poll::Ready(Ok(Some(frame)));
                }
                continue;
            }
            // The clock of a frame is stopped while the guest is held back.
            if self.poll_room(cx).is_pending() || self.poll_rate(cx).is_pending() {
                self.frame_deadline.as_mut().reset(Instant::now() + FRAME_TIME);
                return Poll::Pending;
            }
            let is_first = self.frame.is_empty();
            let Poll::Ready(read) = self.frame.poll_read(self.inner.as_mut(), cx)? else {
                if !is_first && self.frame_deadline.as_mut().poll(cx).is_ready() {
                    let message = format!("a frame that did not arrive within {FRAME_TIME:?}");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
                }
                return Poll::Pending;
            };
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
            if is_first {
                self.frame_deadline.as_mut().reset(Instant::now() + FRAME_TIME);
            }
            #[allow(clippy::cast_precision_loss)]
            let cost = read as f64;
            self.bucket.spend(cost);
            self.policy.received(read);
        }
    }

    /// A header or a whole frame is there; a frame that passes.
    fn collected(&mut self) -> io::Result<Option<Frame>> {
        let Some(Header { length, stream, kind, flags }) = self.frame.header() else { return Ok(None) };
        if !self.frame.wants_body() {
            if length > FRAME_BYTES_MAX {
                let message = format!("a frame of {length} bytes; {FRAME_BYTES_MAX} are allowed");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            if length > FRAME_BYTES_FREE {
                self.room = Room::Waiting(self.policy.room(length));
            }
            self.frame.want_body(length);
            return Ok(None);
        }
        let bytes = self.frame.take();
        let room = match std::mem::replace(&mut self.room, Room::None) {
            Room::Taken(room) => Some(room),
            Room::None | Room::Waiting(_) => None,
        };
        let frame = Frame { stream, kind, flags, bytes, _room: room };
        match self.policy.admit(kind, frame.body()) {
            Admission::Pass => Ok(Some(frame)),
            Admission::Drop => Ok(None),
            Admission::End => Err(io::Error::new(io::ErrorKind::InvalidData, "refused too often")),
        }
    }
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
