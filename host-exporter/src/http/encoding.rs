//! Answers that may be long, kept compressed while they are sent; requests for the same at the same time share one.

use std::{
    collections::VecDeque,
    io::{self, BufWriter, Write},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{FutureExt, future::Shared};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::{
    exposition::{self, Format, sink::Output},
    fleet::{Fleet, sandbox::Sandbox},
    ledger::{self, Durable, Store},
    topology::Topology,
};

/// Compressed bytes of all answers that are being sent. The oldest is dropped beyond, and its readers are cut off: a
/// reader that is slow keeps no memory that a later scrape needs.
const KEPT_BYTES_MAX: usize = 48 << 20;

/// An answer is given again for as long as it took to make, and no longer than this.
const GIVEN_AGAIN_MAX: Duration = Duration::from_millis(500);

/// Largest age of the totals in a tenant's scrape.
const TOTALS_AGE_MAX: Duration = Duration::from_secs(1);

/// For how long a compression that was requested is made with every exposition.
const ASKED_FOR: Duration = Duration::from_mins(1);

/// A form of the exposition, and how it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The form.
    pub format: Format,
    /// Compressed by gzip for the client; otherwise only in memory.
    pub gzip: bool,
}

/// An encoded answer.
#[derive(Debug)]
pub struct Encoded {
    gzip: bool,
    /// Empty once it was dropped.
    pieces: Mutex<Vec<Bytes>>,
    bytes: usize,
    length: usize,
    /// Ended sandboxes that an exposition shows.
    pub ended: Vec<Arc<Sandbox>>,
}

/// The answer was dropped to make room for later ones.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
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

    fn is_whole(&self) -> bool {
        self.pieces.lock().len() == self.length
    }

    fn drop_pieces(&self) {
        self.pieces.lock().clear();
    }
}

/// Compresses the pieces as they come, in one way or in several.
#[derive(Default)]
struct Compressor {
    gzip: Option<Gzip>,
    lz4: Option<Vec<Bytes>>,
}

struct Gzip {
    encoder: Box<GzEncoder<Vec<u8>>>,
    pieces: Vec<Bytes>,
}

/// Compressed bytes after which a piece is closed.
const PIECE: usize = 64 << 10;

impl Compressor {
    fn new(compressions: Compressions) -> Self {
        let gzip = || Gzip {
            encoder: Box::new(GzEncoder::new(Vec::with_capacity(2 * PIECE), Compression::fast())),
            pieces: Vec::new(),
        };
        Self { gzip: compressions.gzip.then(gzip), lz4: compressions.none.then(Vec::new) }
    }

    /// One answer in each way.
    fn finish(self, ended: &[Arc<Sandbox>]) -> Answers {
        let gzip = self.gzip.map(|Gzip { encoder, mut pieces }| {
            // Writing to memory does not fail.
            pieces.push(Bytes::from(encoder.finish().unwrap_or_default()));
            Encoded::new(true, pieces, ended)
        });
        let lz4 = self.lz4.map(|pieces| Encoded::new(false, pieces, ended));
        Answers([gzip, lz4].into_iter().flatten().map(Arc::new).collect())
    }
}

/// How clients want an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compressions {
    gzip: bool,
    none: bool,
}

impl Compressions {
    fn with(mut self, gzip: bool) -> Self {
        *(if gzip { &mut self.gzip } else { &mut self.none }) = true;
        self
    }

    fn has(self, gzip: bool) -> bool {
        if gzip { self.gzip } else { self.none }
    }
}

/// The answers that one encoding makes.
#[derive(Clone, Debug)]
struct Answers(Vec<Arc<Encoded>>);

impl Answers {
    fn with(&self, gzip: bool) -> Option<&Arc<Encoded>> {
        self.0.iter().find(|encoded| encoded.gzip == gzip)
    }
}

impl Output for Compressor {
    fn piece(&mut self, bytes: &[u8]) {
        if let Some(Gzip { encoder, pieces }) = &mut self.gzip {
            // Writing to memory does not fail.
            let _ = encoder.write_all(bytes);
            if encoder.get_ref().len() >= PIECE {
                pieces.push(Bytes::from(std::mem::take(encoder.get_mut())));
            }
        }
        if let Some(pieces) = &mut self.lz4 {
            // A reader that is slow holds one of them, decompressed.
            for part in bytes.chunks(PIECE) {
                pieces.push(Bytes::from(lz4_flex::compress_prepend_size(part)));
            }
        }
    }
}

impl Encoded {
    fn new(gzip: bool, pieces: Vec<Bytes>, ended: &[Arc<Sandbox>]) -> Self {
        let bytes = pieces.iter().map(Bytes::len).sum();
        Self { gzip, length: pieces.len(), pieces: Mutex::new(pieces), bytes, ended: ended.to_vec() }
    }
}

/// A value as JSON, which is compressed as it is written.
fn json(value: &impl Serialize) -> serde_json::Result<Answers> {
    let mut writer = BufWriter::with_capacity(PIECE, Json(Compressor::new(LISTING)));
    serde_json::to_writer(&mut writer, value)?;
    let Json(compressor) = writer.into_inner().map_err(|error| serde_json::Error::io(error.into_error()))?;
    Ok(compressor.finish(&[]))
}

/// A value as JSON, for one client alone; [`Encodings::keep`] bounds it while it is sent.
pub fn json_once(value: &impl Serialize) -> serde_json::Result<Arc<Encoded>> {
    let answers = json(value)?;
    answers.with(false).cloned().ok_or_else(|| serde_json::Error::io(io::ErrorKind::InvalidData.into()))
}

/// Listings are not compressed for clients.
const LISTING: Compressions = Compressions { gzip: false, none: true };

/// Takes JSON in pieces.
struct Json(Compressor);

impl Write for Json {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.piece(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode(
    fleet: &Fleet,
    totals: &Durable,
    topology: &Topology,
    of: Option<&str>,
    format: Format,
    compressions: Compressions,
) -> Answers {
    let mut compressor = Compressor::new(compressions);
    let ended = exposition::encode(fleet, totals, topology, of, format, &mut compressor);
    compressor.finish(&ended)
}

/// The totals that tenants' scrapes share: gathering them takes all sandboxes, and a tenant's scrape its own alone.
#[derive(Debug, Default)]
struct SharedTotals(Mutex<Option<(Weak<Durable>, Instant)>>);

impl SharedTotals {
    /// Totals that are on disk, not older than [`TOTALS_AGE_MAX`]; `None` once the store is closed.
    fn get(&self, fleet: &Fleet, store: &Store) -> Option<Arc<Durable>> {
        let mut shared = self.0.lock();
        if let Some((totals, made)) = &*shared
            && made.elapsed() < TOTALS_AGE_MAX
            && let Some(totals) = totals.upgrade()
        {
            return Some(totals);
        }
        let totals = Arc::new(ledger::save(fleet, store)?);
        *shared = Some((Arc::downgrade(&totals), Instant::now()));
        // Held for as long as they may be used, and no longer.
        let held = Arc::clone(&totals);
        tokio::spawn(async move {
            tokio::time::sleep(TOTALS_AGE_MAX).await;
            drop(held);
        });
        Some(totals)
    }
}

/// An encoding that runs, or waits for its turn.
#[derive(Clone, Debug)]
struct Running {
    asked: Asked,
    compressions: Compressions,
    answers: Shared<futures_util::future::BoxFuture<'static, Option<Answers>>>,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// Of everything, or of one tenant.
    Exposition { of: Option<Arc<str>>, format: Format },
    /// A listing, with its filter.
    Listing(String),
}

impl Asked {
    /// Whether it is an exposition of the same: an older one in another form must not follow a newer one, or counters would
    /// fall.
    fn replaces(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Exposition { of, .. }, Self::Exposition { of: earlier, .. }) => of == earlier,
            _ => false,
        }
    }
}

/// An answer that is given again to requests for the same that come soon after.
#[derive(Debug)]
struct Recent {
    asked: Asked,
    /// Kept only while it is being sent: a client alone gets a new one each time.
    encoded: Weak<Encoded>,
    until: Instant,
}

/// What clients have requested, whether compressed by gzip, and when last.
type AskedFor = Vec<(Asked, bool, Instant)>;

/// The encodings that run, and the answers that are being sent.
#[derive(Debug)]
pub struct Encodings {
    /// Makes listings, in threads that scrapes go before.
    background: Handle,
    /// What is shown of the totals is written first.
    topology: Arc<Topology>,
    store: Arc<Store>,
    running: Arc<Mutex<Vec<Running>>>,
    asked_for: Mutex<AskedFor>,
    recent: Arc<Mutex<Vec<Recent>>>,
    /// One at a time, so that scrapes take one core at most.
    scrapes: Arc<tokio::sync::Mutex<()>>,
    /// The same for tenants' scrapes: many tenants at one time hold up each other and no operator. They take half of a core
    /// at most.
    tenant_scrapes: Arc<tokio::sync::Mutex<()>>,
    totals: Arc<SharedTotals>,
    /// The same for listings, which take half of a core at most while others wait for theirs.
    listings: Arc<tokio::sync::Mutex<()>>,
    sent: Mutex<VecDeque<Weak<Encoded>>>,
}

impl Encodings {
    /// No encodings yet.
    pub fn new(store: Arc<Store>, topology: Arc<Topology>, background: Handle) -> Self {
        Self {
            background,
            store,
            topology,
            running: Arc::default(),
            asked_for: Mutex::default(),
            recent: Arc::default(),
            scrapes: Arc::default(),
            tenant_scrapes: Arc::default(),
            totals: Arc::default(),
            listings: Arc::default(),
            sent: Mutex::default(),
        }
    }

    /// An exposition of now, of everything or of one tenant: the one that is being encoded, one of a moment ago that is still
    /// being sent, or a new one. `None` when encoding failed, or the exporter ends: without its store, totals could be shown
    /// that a restart takes back.
    pub async fn exposition(
        &self,
        fleet: &Arc<Fleet>,
        of: Option<Arc<str>>,
        variant: Variant,
    ) -> Option<Arc<Encoded>> {
        let (fleet, store) = (Arc::clone(fleet), Arc::clone(&self.store));
        let topology = Arc::clone(&self.topology);
        let totals = Arc::clone(&self.totals);
        let Variant { format, gzip } = variant;
        let asked = Asked::Exposition { of: of.clone(), format };
        let compressions = self.compressions(&asked, gzip);
        let make = move || {
            let saved;
            let totals = match &of {
                None => {
                    saved = ledger::save(&fleet, &store)?;
                    &saved
                }
                Some(_) => &*totals.get(&fleet, &store)?,
            };
            Some(encode(&fleet, totals, &topology, of.as_deref(), format, compressions))
        };
        self.shared(asked, gzip, compressions, make).await
    }

    /// How an exposition is to be compressed for those that have requested it lately: most of the work is the same, and clients of
    /// one kind do not wait until those of the other have got theirs.
    fn compressions(&self, asked: &Asked, gzip: bool) -> Compressions {
        let mut asked_for = self.asked_for.lock();
        let now = Instant::now();
        asked_for.retain(|(of, compression, at)| {
            (of, *compression) != (asked, gzip) && now.duration_since(*at) < ASKED_FOR
        });
        asked_for.push((asked.clone(), gzip, now));
        let same = asked_for.iter().filter(|(of, ..)| of == asked);
        same.fold(Compressions::default(), |all, (_, gzip, _)| all.with(*gzip))
    }

    /// A listing, likewise; `name` is that of the listing and its filter.
    pub async fn listing<T: Serialize>(
        &self,
        name: String,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Arc<Encoded>> {
        let make = move || match json(&make()) {
            Ok(answers) => Some(answers),
            Err(error) => {
                tracing::error!(%error, "making a listing failed");
                None
            }
        };
        self.shared(Asked::Listing(name), false, LISTING, make).await
    }

    async fn shared(
        &self,
        asked: Asked,
        gzip: bool,
        compressions: Compressions,
        make: impl FnOnce() -> Option<Answers> + Send + 'static,
    ) -> Option<Arc<Encoded>> {
        let answers = {
            let mut running = self.running.lock();
            if let Some(recent) = self.recent(&asked, gzip) {
                return Some(recent);
            }
            let fits = |running: &&Running| running.asked == asked && running.compressions.has(gzip);
            if let Some(running) = running.iter().find(fits) {
                running.answers.clone()
            } else {
                let started = self.start(asked, compressions, make);
                running.push(started.clone());
                started.answers
            }
        };
        let encoded = answers.await?.with(gzip).cloned()?;
        self.keep(&encoded);
        Some(encoded)
    }

    /// The answer of a moment ago, so that for requests without pause the same is sent instead of a new one made.
    fn recent(&self, asked: &Asked, gzip: bool) -> Option<Arc<Encoded>> {
        let mut recent = self.recent.lock();
        let now = Instant::now();
        recent.retain(|recent| recent.until > now && recent.encoded.strong_count() > 0);
        let of_same = recent.iter().filter(|recent| recent.asked == *asked);
        let mut encoded = of_same.filter_map(|recent| recent.encoded.upgrade());
        encoded.find(|encoded| encoded.gzip == gzip && encoded.is_whole())
    }

    fn start(
        &self,
        asked: Asked,
        compressions: Compressions,
        make: impl FnOnce() -> Option<Answers> + Send + 'static,
    ) -> Running {
        let (turn, pauses) = match &asked {
            Asked::Exposition { of: None, .. } => (&self.scrapes, false),
            Asked::Exposition { of: Some(_), .. } => (&self.tenant_scrapes, true),
            Asked::Listing(_) => (&self.listings, true),
        };
        let turn = Arc::clone(turn);
        let threads =
            if matches!(asked, Asked::Listing(_)) { self.background.clone() } else { Handle::current() };
        let (running, recent) = (Arc::clone(&self.running), Arc::clone(&self.recent));
        let (result, waiting) = tokio::sync::oneshot::channel();
        let of = asked.clone();
        // A task of its own: it ends even if the client that began it goes.
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            let began = Instant::now();
            let answers = match threads.spawn_blocking(make).await {
                Ok(answers) => answers,
                Err(error) => {
                    tracing::error!(%error, ?asked, "encoding failed");
                    None
                }
            };
            let took = began.elapsed().min(GIVEN_AGAIN_MAX);
            // Also when all clients have gone: a later one must not get what is old by then.
            running
                .lock()
                .retain(|running| !(running.asked == asked && running.compressions == compressions));
            if let Some(answers) = &answers {
                let mut recent = recent.lock();
                recent.retain(|recent| !asked.replaces(&recent.asked));
                let until = Instant::now() + took;
                recent.extend(answers.0.iter().map(|encoded| Recent {
                    asked: asked.clone(),
                    encoded: Arc::downgrade(encoded),
                    until,
                }));
            }
            // There may be no client left.
            let _ = result.send(answers);
            if pauses {
                tokio::time::sleep(took).await;
            }
        });
        let answers = async move { waiting.await.ok().flatten() }.boxed().shared();
        Running { asked: of, compressions, answers }
    }

    /// Drops all that are still being sent but the last.
    pub fn shed(&self) {
        let mut sent = self.sent.lock();
        let last = sent.pop_back();
        for older in sent.drain(..).filter_map(|kept| kept.upgrade()) {
            older.drop_pieces();
        }
        sent.extend(last);
    }

    /// Counts an answer among those that are being sent, and drops the oldest when all of them are too large.
    pub fn keep(&self, encoded: &Arc<Encoded>) {
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::{accumulate::budget::Limits, fleet::Retention};

    fn text(encoded: Option<Arc<Encoded>>) -> String {
        let piece = encoded.expect("made").piece(0).expect("whole").expect("a piece");
        String::from_utf8(piece.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn a_listing_whose_clients_have_gone_is_not_given_to_later_ones() {
        let directory = tempfile::tempdir().expect("directory");
        let encodings = Encodings::new(
            Arc::new(Store::open(directory.path()).expect("a store")),
            Arc::new(Topology::new(0)),
            Handle::current(),
        );
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let gone = encodings.listing("a".to_owned(), move || wait.recv().map_or(0, |()| 1));
        assert!(gone.now_or_never().is_none(), "the client goes while it is made");
        go.send(()).expect("it is being made");
        while !encodings.running.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(text(encodings.listing("a".to_owned(), || 2).await), "2");
    }

    #[tokio::test]
    async fn an_exposition_is_made_once_for_all_compressions_that_were_asked_for_lately() {
        let directory = tempfile::tempdir().expect("directory");
        let encodings = Encodings::new(
            Arc::new(Store::open(directory.path()).expect("a store")),
            Arc::new(Topology::new(0)),
            Handle::current(),
        );
        let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
        let fleet = Arc::new(Fleet::new(Limits::of_series(1), retention));
        let ask = |gzip| encodings.exposition(&fleet, None, Variant { format: Format::OpenMetrics, gzip });
        for gzip in [false, true] {
            assert_eq!(ask(gzip).await.expect("made").gzip, gzip);
        }
        let mut asked = [false, true].map(|gzip| Box::pin(ask(gzip)));
        for asked in &mut asked {
            assert!(asked.now_or_never().is_none(), "it is being made");
        }
        assert_eq!(encodings.running.lock().len(), 1, "one encoding for both");
        let [plain, gzip] = asked;
        let (plain, gzip) = (plain.await.expect("made"), gzip.await.expect("made"));
        let text = plain.piece(0).expect("whole").expect("a piece");
        let mut decompressed = Vec::new();
        let piece = gzip.piece(0).expect("whole").expect("a piece");
        flate2::read::GzDecoder::new(&*piece).read_to_end(&mut decompressed).expect("gzip");
        assert_eq!(decompressed, text);
    }

    #[tokio::test]
    async fn what_took_long_is_given_again_while_it_is_sent_and_only_then() {
        let directory = tempfile::tempdir().expect("directory");
        let encodings = Encodings::new(
            Arc::new(Store::open(directory.path()).expect("a store")),
            Arc::new(Topology::new(0)),
            Handle::current(),
        );
        let sent = encodings.listing("a".to_owned(), || 1).await.expect("made");
        for recent in encodings.recent.lock().iter_mut() {
            recent.until += Duration::from_hours(1);
        }
        assert_eq!(text(encodings.listing("a".to_owned(), || 2).await), "1");
        assert_eq!(text(encodings.listing("b".to_owned(), || 3).await), "3");
        drop(sent);
        assert_eq!(text(encodings.listing("a".to_owned(), || 4).await), "4");
    }
}
