//! Sends an encoded answer piece by piece, within a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use futures_util::{StreamExt, stream};

use super::encoding::{CutOff, Encoded};

/// Longest time that a client may take for a whole answer.
const DELIVERY_MAX: Duration = Duration::from_mins(1);

/// The body of an answer; `done` is called once the last piece was taken, and dropped in any case.
pub fn body(encoded: Arc<Encoded>, done: impl FnOnce(&Encoded) + Send + 'static) -> Body {
    let began = Instant::now();
    let pieces = stream::unfold(Some((encoded, 0, done)), move |state| async move {
        let (encoded, at, done) = state?;
        if began.elapsed() > DELIVERY_MAX {
            return Some((Err(CutOff), None));
        }
        match encoded.piece(at) {
            Ok(Some(piece)) => Some((Ok(piece), Some((encoded, at + 1, done)))),
            Ok(None) => {
                done(&encoded);
                None
            }
            Err(cut_off) => Some((Err(cut_off), None)),
        }
    });
    Body::from_stream(pieces.fuse())
}
