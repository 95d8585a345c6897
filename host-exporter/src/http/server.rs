//! Accepts connections and bounds them: their number, the time for a request's header, the time to take a response.
//!
//! Every route is a GET whose body is not read, so a body can take no memory; a connection that does not get its
//! header across in time is closed. While too many are open, idle and slow ones make room
//! ([`super::slots`]).

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::watch,
    time::timeout,
};
use tokio_io_timeout::TimeoutWriter;

use super::{
    slots::{Connection, Place, Serving, Slots},
    tls::{PeerCertificate, Tls},
};

/// Largest header of a request, in bytes.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// How long open requests may take to finish once the server stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at one time.
    pub connections_max: usize,
    /// Connections of one client.
    pub client_max: usize,
    /// Time for a request's header, and for each part of a response.
    pub io_timeout: Duration,
}

/// Serves until stopped, then lets open requests finish. With TLS nothing else is accepted.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<Tls>>,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Slots::new(bounds.connections_max, bounds.client_max);
    // Each connection's task holds a receiver, so the channel closes with the last of them.
    let (tasks, task) = watch::channel(());
    let mut retry = pin!(slots.retry());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
            never = retry.as_mut() => match never {},
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: the next moment may be better.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // One that finds no place is closed.
        let Some(place) = slots.open(peer.ip()) else { continue };
        let (router, slots, stop, task) = (router.clone(), Arc::clone(&slots), stop.clone(), task.clone());
        let tls = tls.clone();
        tokio::spawn(async move {
            let _task = task;
            let io_timeout = bounds.io_timeout;
            let stream = with_write_timeout(stream, io_timeout);
            let Some(tls) = tls else {
                serve_connection(stream, None, router, &slots, &place, io_timeout, stop).await;
                return;
            };
            let accepted = tokio::select! {
                accepted = tls.accept(stream, io_timeout) => accepted,
                () = place.connection.evicted() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    serve_connection(stream, peer, router, &slots, &place, io_timeout, stop).await;
                }
                Err(error) => tracing::debug!(%error, "TLS handshake"),
            }
        });
    }
    drop((listener, task));
    let _ = timeout(STOP_GRACE, tasks.closed()).await;
}

/// Serves one connection until it ends, has to make room, or the server stops.
async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: Option<PeerCertificate>,
    router: Router,
    slots: &Arc<Slots>,
    place: &Place,
    io_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let (slots, connection, router) = (Arc::clone(slots), Arc::clone(&place.connection), router.clone());
        async move {
            let Some(serving) = slots.serve(&connection, io_timeout).await else {
                return Err("too many requests");
            };
            let response = router.call(request).await.unwrap_or_else(|never| match never {});
            Ok(response.map(|inner| Answer { inner, _serving: serving }))
        }
    });
    let stream =
        Watched { inner: stream, slots: Arc::clone(slots), connection: Arc::clone(&place.connection) };
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(io_timeout).max_buf_size(HEADER_BYTES_MAX);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let finished = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = place.connection.evicted() => return,
        () = stopped(&mut stop) => None,
    };
    let result = if let Some(result) = finished {
        result
    } else {
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Err(error) = result {
        tracing::debug!(%error, "HTTP connection");
    }
}

/// A response's body; the connection serves as long as it exists.
struct Answer {
    inner: axum::body::Body,
    _serving: Serving,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A stream whose writes are noted: a client that takes nothing is the first of those that are answered to make room.
struct Watched<S> {
    inner: S,
    slots: Arc<Slots>,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        match &written {
            Poll::Pending => self.connection.wrote(None),
            Poll::Ready(Ok(bytes)) => self.connection.wrote(Some(*bytes)),
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed
            && self.connection.flushed()
        {
            self.slots.hand_out();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Ready once the server stops; the guard of the watched value is not kept.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A stream with a bound on the time of each write; a client that reads nothing ends its connection. A box, because the
/// timer cannot be moved and hyper moves its streams.
fn with_write_timeout<S: AsyncWrite>(stream: S, limit: Duration) -> Pin<Box<TimeoutWriter<S>>> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limit));
    Box::pin(stream)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_served_and_one_that_reads_nothing_is_let_go() {
        let (server, mut client) = duplex(8);
        let mut server = with_write_timeout(server, Duration::from_secs(10));
        let slow = tokio::spawn(async move {
            let mut read = [0; 8];
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                client.read_exact(&mut read).await.expect("read");
            }
            client
        });
        server.write_all(&[1; 64]).await.expect("a slow client gets everything");
        let _client = slow.await.expect("joined");
        let error = server.write_all(&[1; 64]).await.expect_err("it has no reader");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
