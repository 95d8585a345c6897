//! Accepts connections and bounds them: their number, the time for a request's header, the time to take a response.
//!
//! Every route is a GET whose body nobody reads, so a body can take no memory; a connection that does not get its
//! header across in time is closed, and while the largest number of connections is open no further one is accepted.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::AsyncWrite,
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_io_timeout::TimeoutWriter;

/// Largest header of a request, in bytes.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// How long open requests may take to finish once the server stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Serves until stopped, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    io_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let connections_max = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let permits = Arc::new(Semaphore::new(connections_max as usize));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = stopped(&mut stop) => break,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: the next moment may be better.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let mut stop = stop.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(io_timeout).max_buf_size(HEADER_BYTES_MAX);
            let mut connection =
                pin!(server.serve_connection(TokioIo::new(with_write_timeout(stream, io_timeout)), service));
            let finished = tokio::select! {
                result = connection.as_mut() => Some(result),
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
        });
    }
    drop(listener);
    let _ = timeout(STOP_GRACE, permits.acquire_many(connections_max)).await;
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
    use std::io;

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
        let error = server.write_all(&[1; 64]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
