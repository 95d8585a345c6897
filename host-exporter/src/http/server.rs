//! Accepts connections and bounds them: their number, the time for a request's header, the time to take a response.
//!
//! Every route is a GET whose body nobody reads, so a body can take no memory; a connection that does not get its
//! header across in time is closed, and while the largest number of connections is open no further one is accepted.

use std::{pin::pin, sync::Arc, time::Duration};

use super::patience::Patient;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};

/// Largest header of a request, in bytes.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// How long open requests may take to finish once the server stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Serves until told to stop, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    patience: Duration,
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
            server.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEADER_BYTES_MAX);
            let mut connection =
                pin!(server.serve_connection(TokioIo::new(Patient::new(stream, patience)), service));
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
