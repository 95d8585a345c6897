//! Reads all records of the directory; unchanged files are not read again.

use std::{
    collections::HashMap,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use porthole_registry::{
    SandboxRecord,
    last_state::{self, LastStateName},
};

use super::liveness::{self, Companion};

/// Records beyond this many are not read: the registry is the host's, but a mistake there must not take all memory.
pub const RECORDS_MAX: usize = 50_000;

/// What distinguishes a file's content from its earlier one.
type Stamp = (u64, u64, i64, i64);

/// One record of the directory.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its content.
    pub record: Arc<SandboxRecord>,
    /// Whether the one who wrote it lives.
    pub companion: Companion,
}

/// All that the directory held at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The records that can be read.
    pub found: Vec<Found>,
    /// Files that are named like records and cannot be read as such; of those that could be before, the earlier record is
    /// among the found.
    pub unreadable: usize,
    /// The last states of agents; of each sandbox with a record in the state `ended`, if there is one.
    pub last_states: Vec<LastStateName>,
}

/// The directory, with what is known of its files.
#[derive(Debug)]
pub struct Scanner {
    directory: PathBuf,
    known: HashMap<PathBuf, Known>,
}

/// What is known of a file.
#[derive(Debug)]
struct Known {
    /// The file when it was last looked at.
    stamp: Stamp,
    /// That could not be read.
    failed: bool,
    /// What was read last.
    record: Option<Arc<SandboxRecord>>,
}

impl Scanner {
    /// A scanner of the directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, known: HashMap::new() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the directory. One that does not exist holds no sandbox; any other failure is no statement about
    /// sandboxes.
    pub fn scan(&mut self) -> io::Result<Snapshot> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Snapshot::default()),
            Err(error) => return Err(error),
        };
        let mut snapshot = Snapshot::default();
        let mut seen = HashMap::with_capacity(self.known.len());
        for entry in entries {
            let path = entry?.path();
            if !is_record(&path) || seen.len() >= RECORDS_MAX {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            let stamp = (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
            let known = match self.known.remove(&path) {
                Some(known) if known.stamp == stamp && !known.failed => known,
                // What could not be read may be readable by now, and what was read once is not gone because it cannot be
                // read now: the sandbox stays what it was until its record can be read.
                earlier => {
                    let said_before = earlier.as_ref().is_some_and(|known| known.stamp == stamp);
                    let read = read(&path, said_before);
                    let failed = read.is_none();
                    Known { stamp, failed, record: read.or(earlier.and_then(|known| known.record)) }
                }
            };
            snapshot.unreadable += usize::from(known.failed);
            if let Some(record) = &known.record {
                snapshot.found.push(Found {
                    companion: liveness::companion(&self.directory, &record.key()),
                    record: Arc::clone(record),
                });
            }
            seen.insert(path, known);
        }
        self.known = seen;
        // After the records: a companion leaves the last state before its record has the state `ended`.
        snapshot.last_states = last_state::list(&self.directory)?;
        Ok(snapshot)
    }
}

fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
        && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

/// Reads a record; the reason why not is logged once.
fn read(path: &Path, said_before: bool) -> Option<Arc<SandboxRecord>> {
    match SandboxRecord::read(path) {
        Ok(record) if path.file_stem().is_some_and(|stem| stem == record.key().to_string().as_str()) => {
            Some(Arc::new(record))
        }
        _ if said_before => None,
        Ok(record) => {
            tracing::warn!(path = %path.display(), sandbox = %record.key(), "the record's sandbox is not that of its file name; ignored");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "record ignored");
            None
        }
    }
}
