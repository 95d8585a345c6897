//! A connection to a guest whose frames are inspected one by one, below ttrpc's client.
//!
//! ttrpc's client takes frames of up to 4 MiB as fast as they come, and decodes what it gets. This stream collects each frame,
//! hands on what passes, drops what does not, ends a connection on which too many do not, and reads at a bounded rate.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{fields::Refusal, frame::Collector};

/// Bytes that the guest may send in a second in the long run; the answers to a call are a few kilobytes.
pub const BYTES_PER_SECOND: u32 = 128 << 10;

/// Bytes that it may send at once.
pub const BYTES_AT_ONCE: u32 = 4 << 20;

/// Frames that may be refused before the connection ends.
pub const REFUSED_MAX: u32 = 16;

/// What a frame may be.
#[derive(Clone, Copy, Debug)]
pub struct Inspection {
    /// Longest body, bytes.
    pub bytes_max: usize,
    /// Looks at a frame of this type and body.
    pub inspect: fn(u8, &[u8]) -> Result<(), Refusal>,
}

/// The client's end.
pub struct InspectedStream<S: ?Sized> {
    inner: Pin<Box<S>>,
    inspection: Inspection,
    frame: Collector,
    /// A frame that has passed, with its header, and how much of it was handed on.
    passed: Option<(Vec<u8>, usize)>,
    refused: u32,
    /// When everything that was read so far would have arrived at the bounded rate.
    due: Instant,
    pause: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + ?Sized> InspectedStream<S> {
    /// Inspects what comes over a stream.
    pub fn new(inner: Pin<Box<S>>, inspection: Inspection) -> Self {
        Self {
            inner,
            inspection,
            frame: Collector::default(),
            passed: None,
            refused: 0,
            due: Instant::now(),
            pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Collects a frame that passes; false at the end of the stream.
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.passed.is_none() {
            if self.frame.missing() == 0 {
                self.collected()?;
                continue;
            }
            ready!(self.pause.as_mut().poll(context));
            let read = ready!(self.frame.poll_read(self.inner.as_mut(), context))?;
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            self.spend(read);
        }
        Poll::Ready(Ok(true))
    }

    /// A header or a whole frame is there.
    fn collected(&mut self) -> io::Result<()> {
        let Some(header) = self.frame.header() else { return Ok(()) };
        if !self.frame.wants_body() {
            if header.length > self.inspection.bytes_max {
                return Err(io::Error::new(io::ErrorKind::InvalidData, Refusal::TooLong));
            }
            self.frame.want_body(header.length);
            return Ok(());
        }
        let inspected = (self.inspection.inspect)(header.kind, self.frame.body());
        let frame = self.frame.take();
        match inspected {
            Ok(()) => self.passed = Some((frame, 0)),
            Err(refusal) => {
                self.refused += 1;
                if self.refused > REFUSED_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
                }
            }
        }
        Ok(())
    }

    /// Notes what was read; the next read waits for what is beyond the bounds.
    fn spend(&mut self, bytes: usize) {
        let per_second = f64::from(BYTES_PER_SECOND);
        let now = Instant::now();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.due = self.due.max(now) + Duration::from_secs_f64(f64::from(bytes) / per_second);
        let ahead = Duration::from_secs_f64(f64::from(BYTES_AT_ONCE) / per_second);
        self.pause.as_mut().reset(self.due.checked_sub(ahead).unwrap_or(now));
    }
}

impl<S: AsyncRead + ?Sized> AsyncRead for InspectedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !ready!(this.poll_frame(context))? {
            return Poll::Ready(Ok(()));
        }
        let Some((frame, passed)) = &mut this.passed else { return Poll::Ready(Ok(())) };
        let rest = frame.get(*passed..).unwrap_or_default();
        let some = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..some]);
        *passed += some;
        if *passed == frame.len() {
            this.passed = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + ?Sized> AsyncWrite for InspectedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().inner.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner.as_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("small");
        [&length.to_be_bytes()[..], &[0, 0, 0, 1, kind, 0], body].concat()
    }

    /// Refuses bodies that begin with `!`.
    fn inspect(_: u8, body: &[u8]) -> Result<(), Refusal> {
        if body.first() == Some(&b'!') { Err(Refusal::Malformed) } else { Ok(()) }
    }

    const INSPECTION: Inspection = Inspection { bytes_max: 8 << 10, inspect };

    /// What arrives of these bytes before the stream ends, and how it ends.
    async fn arrives(bytes: Vec<u8>) -> (Vec<u8>, io::Result<()>) {
        let (host, mut guest) = tokio::io::duplex(1000);
        let send = tokio::spawn(async move { guest.write_all(&bytes).await });
        let mut stream = InspectedStream::new(Box::pin(host), INSPECTION);
        let (mut got, mut some) = (Vec::new(), [0; 300]);
        let end = loop {
            match stream.read(&mut some).await {
                Ok(0) => break Ok(()),
                Ok(count) => got.extend_from_slice(&some[..count]),
                Err(error) => break Err(error),
            }
        };
        drop(stream);
        // It fails when the stream was given up.
        let _ = send.await.expect("no panic");
        (got, end)
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_arrives_unchanged_and_what_does_not_is_left_out() {
        let (good, bad) = (frame(2, &[b'x'; 5000]), frame(2, b"!"));
        let (got, end) = arrives([&good[..], &bad, &frame(2, b""), &bad, &good].concat()).await;
        end.expect("a whole stream");
        assert!(got == [&good[..], &frame(2, b""), &good].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_refused_frames_a_giant_or_half_of_one_end_the_connection() {
        let most = usize::try_from(REFUSED_MAX).expect("small");
        arrives(frame(2, b"!").repeat(most)).await.1.expect("as many as are allowed");
        arrives(frame(2, b"!").repeat(most + 1)).await.1.expect_err("one too many");
        let giant = u32::try_from(INSPECTION.bytes_max + 1).expect("small").to_be_bytes();
        let (got, end) = arrives([&frame(2, b"x")[..], &giant, &[0; 6]].concat()).await;
        assert_eq!((got, end.is_err()), (frame(2, b"x"), true));
        arrives(frame(2, b"whole")[..12].to_vec()).await.1.expect_err("half of one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_without_end_is_read_at_a_bounded_rate() {
        let frames = frame(2, &[0; 4086]).repeat(3 * 1024);
        let begin = Instant::now();
        arrives(frames).await.1.expect("a whole stream");
        // 12 MiB, of which 4 at once.
        let least = Duration::from_secs(u64::from((8 << 20) / BYTES_PER_SECOND));
        let elapsed = begin.elapsed();
        assert!(elapsed >= least && elapsed <= least + Duration::from_secs(2), "{elapsed:?}");
    }
}
