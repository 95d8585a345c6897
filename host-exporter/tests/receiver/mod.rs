//! A receiver of alerts.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::http::{StatusCode, Uri};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Its address, and path and message of what is posted to it after so many refusals.
pub async fn start(refusals: usize) -> (SocketAddr, UnboundedReceiver<(String, Value)>) {
    let (received, messages) = unbounded_channel();
    let left = Arc::new(AtomicUsize::new(refusals));
    let handler = move |uri: Uri, axum::Json(message): axum::Json<Value>| {
        let refused = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        // A test that has ended takes nothing more.
        if !refused {
            let _ = received.send((uri.path().to_owned(), message));
        }
        async move { if refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new().fallback(axum::routing::post(handler));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, messages)
}
