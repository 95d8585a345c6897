//! One encoding of the exposition for all who ask at the same time, kept compressed while it is sent.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{FutureExt, future::Shared};
use parking_lot::Mutex;

use crate::{
    exposition::{self, Format, sink::Output},
    fleet::{Fleet, sandbox::Sandbox},
    ledger::{self, Store},
};

/// Compressed bytes of all encodings that are being sent. The oldest is dropped beyond, and its readers are cut off: a
/// reader that is slow keeps no memory that a later scrape needs.
const KEPT_BYTES_MAX: usize = 48 << 20;

/// A form of the exposition, and how it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The form.
    pub format: Format,
    /// Compressed by gzip for the client; otherwise only in memory.
    pub gzip: bool,
}

/// An encoded exposition.
#[derive(Debug)]
pub struct Encoded {
    gzip: bool,
    /// Empty once it was dropped.
    pieces: Mutex<Vec<Bytes>>,
    bytes: usize,
    length: usize,
    /// Ended sandboxes that it shows.
    pub ended: Vec<Arc<Sandbox>>,
}

/// The exposition was dropped to make room for later ones.
#[derive(Debug, thiserror::Error)]
#[error("the exposition was cut off")]
pub struct CutOff;

impl Encoded {
    /// A piece as the client gets it; `None` after the last.
    pub fn piece(&self, at: usize) -> Result<Option<Bytes>, CutOff> {
        if at >= self.length {
            return Ok(None);
        }
        let piece = self.pieces.lock().get(at).cloned().ok_or(CutOff)?;
        if self.gzip {
            return Ok(Some(piece));
        }
        lz4_flex::decompress_size_prepended(&piece).map(|piece| Some(Bytes::from(piece))).map_err(|_| CutOff)
    }

    fn drop_pieces(&self) {
        self.pieces.lock().clear();
    }
}

/// Compresses the pieces as they come.
enum Compressor {
    Gzip { encoder: Box<GzEncoder<Vec<u8>>>, pieces: Vec<Bytes> },
    Lz4 { pieces: Vec<Bytes> },
}

/// Compressed bytes after which a piece is closed.
const PIECE: usize = 64 << 10;

impl Compressor {
    fn new(gzip: bool) -> Self {
        if gzip {
            let encoder = Box::new(GzEncoder::new(Vec::with_capacity(2 * PIECE), Compression::fast()));
            Self::Gzip { encoder, pieces: Vec::new() }
        } else {
            Self::Lz4 { pieces: Vec::new() }
        }
    }

    fn finish(self) -> Vec<Bytes> {
        match self {
            Self::Gzip { encoder, mut pieces } => {
                // Writing to memory does not fail.
                pieces.push(Bytes::from(encoder.finish().unwrap_or_default()));
                pieces
            }
            Self::Lz4 { pieces } => pieces,
        }
    }
}

impl Output for Compressor {
    fn piece(&mut self, bytes: &[u8]) {
        match self {
            Self::Gzip { encoder, pieces } => {
                // Writing to memory does not fail.
                let _ = encoder.write_all(bytes);
                if encoder.get_ref().len() >= PIECE {
                    pieces.push(Bytes::from(std::mem::take(encoder.get_mut())));
                }
            }
            Self::Lz4 { pieces } => {
                for part in bytes.chunks(4 * PIECE) {
                    pieces.push(Bytes::from(lz4_flex::compress_prepend_size(part)));
                }
            }
        }
    }
}

fn encode(fleet: &Fleet, store: &Store, variant: Variant) -> Encoded {
    let mut compressor = Compressor::new(variant.gzip);
    let totals = ledger::save(fleet, store);
    let ended = exposition::encode(fleet, &totals, variant.format, &mut compressor);
    let pieces = compressor.finish();
    let bytes = pieces.iter().map(Bytes::len).sum();
    Encoded { gzip: variant.gzip, length: pieces.len(), pieces: Mutex::new(pieces), bytes, ended }
}

type Running = Shared<futures_util::future::BoxFuture<'static, Option<Arc<Encoded>>>>;

/// The encodings that run and those that are being sent.
#[derive(Debug)]
pub struct Encodings {
    /// What is shown of the totals is written first.
    store: Arc<Store>,
    running: Mutex<Vec<(Variant, Running)>>,
    /// One at a time, so that scrapes take one core at most.
    turn: Arc<tokio::sync::Mutex<()>>,
    sent: Mutex<VecDeque<Weak<Encoded>>>,
}

impl Encodings {
    /// No encodings yet.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, running: Mutex::default(), turn: Arc::default(), sent: Mutex::default() }
    }

    /// An exposition of now: the one that is being encoded, or a new one. `None` when encoding failed.
    pub async fn get(&self, fleet: &Arc<Fleet>, variant: Variant) -> Option<Arc<Encoded>> {
        let running = {
            let mut running = self.running.lock();
            running.retain(|(_, encoding)| encoding.peek().is_none());
            if let Some((_, encoding)) = running.iter().find(|(of, _)| *of == variant) {
                encoding.clone()
            } else {
                let encoding = self.start(Arc::clone(fleet), variant);
                running.push((variant, encoding.clone()));
                encoding
            }
        };
        let encoded = running.await?;
        self.keep(&encoded);
        Some(encoded)
    }

    fn start(&self, fleet: Arc<Fleet>, variant: Variant) -> Running {
        let (turn, store) = (Arc::clone(&self.turn), Arc::clone(&self.store));
        // A task of its own: it ends even if the client that began it goes.
        let task = tokio::spawn(async move {
            let _turn = turn.lock().await;
            tokio::task::spawn_blocking(move || Arc::new(encode(&fleet, &store, variant))).await
        });
        let encoded = async move {
            match task.await {
                Ok(Ok(encoded)) => Some(encoded),
                Ok(Err(error)) | Err(error) => {
                    tracing::error!(%error, "encoding the exposition failed");
                    None
                }
            }
        };
        encoded.boxed().shared()
    }

    /// Drops the oldest ones that are still being sent when all of them are too large.
    fn keep(&self, encoded: &Arc<Encoded>) {
        let mut sent = self.sent.lock();
        sent.retain(|kept| kept.strong_count() > 0);
        if !sent.iter().any(|kept| std::ptr::eq(kept.as_ptr(), Arc::as_ptr(encoded))) {
            sent.push_back(Arc::downgrade(encoded));
        }
        let mut bytes: usize = sent.iter().filter_map(Weak::upgrade).map(|kept| kept.bytes).sum();
        while bytes > KEPT_BYTES_MAX && sent.len() > 1 {
            let Some(oldest) = sent.pop_front() else { break };
            if let Some(oldest) = oldest.upgrade() {
                oldest.drop_pieces();
                bytes -= oldest.bytes;
            }
        }
    }
}
