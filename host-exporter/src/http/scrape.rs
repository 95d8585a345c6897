//! `GET /metrics`: the exposition is encoded while it is sent, a piece at a time, so that its size costs no memory.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use super::App;
use crate::exposition;

/// Size of a piece, in bytes.
const PIECE: usize = 64 << 10;

/// Pieces that wait for the client.
const PIECES_AHEAD: usize = 2;

type Piece = Result<Bytes, CutOff>;

/// The response cannot be completed; the client sees the connection break instead of half an exposition.
#[derive(Debug, thiserror::Error)]
#[error("the exposition was cut off")]
struct CutOff;

/// Answers a scrape.
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let Ok(permit) = Arc::clone(&app.scrapes).try_acquire_owned() else {
        app.fleet.own.scrapes_failed.inc();
        let retry = [(header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, "too many scrapes at one time\n").into_response();
    };
    let (pieces, received) = mpsc::channel::<Piece>(PIECES_AHEAD);
    let handle = Handle::current();
    let content_type = negotiate(&headers);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let began = Instant::now();
        let mut writer = PieceWriter {
            piece: String::with_capacity(PIECE),
            pieces,
            handle,
            timeout: app.timeout,
            holding: Arc::default(),
            cut_off: false,
        };
        let holding = Arc::clone(&writer.holding);
        let encoded = exposition::encode(&app.fleet, &mut writer, &holding).and_then(|()| writer.send());
        if encoded.is_ok() {
            app.fleet.own.scrapes.inc();
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            app.fleet.own.last_scrape_ns.set(took);
        } else {
            app.fleet.own.scrapes_failed.inc();
            let _ = writer.pieces.try_send(Err(CutOff));
        }
    });
    let body = futures_util::stream::unfold(received, |mut received| async move {
        received.recv().await.map(|piece| (piece, received))
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(body)).into_response()
}

/// OpenMetrics unless the client names only other types.
fn negotiate(headers: &HeaderMap) -> HeaderValue {
    let accepts = |media_type: &str| {
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|range| {
                range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case(media_type))
            })
        })
    };
    let only_text = (accepts("text/plain") || accepts("text/*")) && !accepts("application/openmetrics-text");
    HeaderValue::from_static(if only_text { exposition::TEXT } else { exposition::OPENMETRICS })
}

/// Hands text over in pieces; waits for the client to take them, but not for ever.
struct PieceWriter {
    piece: String,
    pieces: mpsc::Sender<Piece>,
    handle: Handle,
    timeout: Duration,
    holding: exposition::Holding,
    cut_off: bool,
}

impl PieceWriter {
    fn send(&mut self) -> fmt::Result {
        if self.cut_off {
            return Err(fmt::Error);
        }
        let piece = std::mem::replace(&mut self.piece, String::with_capacity(PIECE));
        let sent = self.handle.block_on(timeout(self.timeout, self.pieces.send(Ok(Bytes::from(piece)))));
        if matches!(sent, Ok(Ok(()))) {
            return Ok(());
        }
        self.cut_off = true;
        Err(fmt::Error)
    }
}

impl fmt::Write for PieceWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.piece.push_str(text);
        if self.piece.len() >= PIECE && !self.holding.load(Ordering::Relaxed) { self.send() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_and_browsers_get_openmetrics_and_text_only_clients_text() {
        let answer = |accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            negotiate(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(answer(Some(prometheus)), exposition::OPENMETRICS);
        assert_eq!(answer(None), exposition::OPENMETRICS);
        assert_eq!(answer(Some("*/*")), exposition::OPENMETRICS);
        assert_eq!(answer(Some("text/plain;version=0.0.4")), exposition::TEXT);
    }
}
