//! The state directory: made, taken, and kept from a second exporter.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The state directory or the ledger cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another exporter uses the directory.
    #[error("{0} is in use by another porthole-exporter")]
    InUse(PathBuf),
    /// The database refused.
    #[error("the ledger: {0}")]
    Store(String),
    /// The form could not be written as JSON.
    #[error("encoding the ledger: {0}")]
    Encode(#[from] serde_json::Error),
}

/// Keeps a second exporter out of the state directory as long as it exists.
#[derive(Debug)]
pub struct DirectoryLock(#[allow(dead_code)] Flock<File>);

pub(super) fn io_error<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> LedgerError + 'a {
    move |source| LedgerError::Io { doing, path: path.to_owned(), source }
}

/// Makes the state directory, if it is not there, and takes it.
pub fn take_directory(directory: &Path) -> Result<DirectoryLock, LedgerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(io_error("making the state directory", directory))?;
    let path = directory.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o640)
        .open(&path)
        .map_err(io_error("opening", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(DirectoryLock(held)),
        Err((_, Errno::EWOULDBLOCK)) => Err(LedgerError::InUse(directory.to_owned())),
        Err((_, errno)) => Err(io_error("locking", &path)(errno.into())),
    }
}
