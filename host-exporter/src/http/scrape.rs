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
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use super::App;
use crate::{
    exposition,
    fleet::{Fleet, sandbox::Sandbox},
};

/// Size of a piece, in bytes.
const PIECE: usize = 64 << 10;

/// Pieces that wait for the client.
const PIECES_AHEAD: usize = 2;

/// What the encoder hands to the response.
enum Part {
    Piece(Bytes),
    /// Everything was encoded; these ended sandboxes are in it.
    Whole(Vec<Arc<Sandbox>>),
}

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
    let (pieces, received) = mpsc::channel::<Part>(PIECES_AHEAD);
    let handle = Handle::current();
    let delivery =
        Delivery { fleet: Arc::clone(&app.fleet), began: Instant::now(), whole: false, _permit: permit };
    let content_type = negotiate(&headers);
    tokio::task::spawn_blocking(move || {
        let mut writer = PieceWriter {
            piece: String::with_capacity(PIECE),
            pieces,
            handle,
            timeout: app.timeout,
            holding: Arc::default(),
            cut_off: false,
        };
        let holding = Arc::clone(&writer.holding);
        // A failure drops the channel without the last part, which the response takes for what it is.
        if let Ok(ended) = exposition::encode(&app.fleet, &mut writer, &holding) {
            let _ = writer.send().and_then(|()| writer.hand_over(Part::Whole(ended)));
        }
    });
    let body = futures_util::stream::unfold(Some((received, delivery)), |state| async move {
        let (mut received, mut delivery) = state?;
        match received.recv().await {
            Some(Part::Piece(piece)) => Some((Ok(piece), Some((received, delivery)))),
            Some(Part::Whole(ended)) => {
                delivery.done(&ended);
                None
            }
            None => Some((Err(CutOff), None)),
        }
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(body)).into_response()
}

/// Counts a scrape when it was delivered, and as failed when it goes before that.
struct Delivery {
    fleet: Arc<Fleet>,
    began: Instant,
    whole: bool,
    _permit: OwnedSemaphorePermit,
}

impl Delivery {
    fn done(&mut self, ended: &[Arc<Sandbox>]) {
        self.whole = true;
        self.fleet.own.scrapes.inc();
        let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.fleet.own.last_scrape_ns.set(took);
        self.fleet.scraped(ended);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.whole {
            self.fleet.own.scrapes_failed.inc();
        }
    }
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
    pieces: mpsc::Sender<Part>,
    handle: Handle,
    timeout: Duration,
    holding: exposition::Holding,
    cut_off: bool,
}

impl PieceWriter {
    fn send(&mut self) -> fmt::Result {
        let piece = std::mem::replace(&mut self.piece, String::with_capacity(PIECE));
        self.hand_over(Part::Piece(Bytes::from(piece)))
    }

    fn hand_over(&mut self, part: Part) -> fmt::Result {
        if self.cut_off {
            return Err(fmt::Error);
        }
        let sent = self.handle.block_on(timeout(self.timeout, self.pieces.send(part)));
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
