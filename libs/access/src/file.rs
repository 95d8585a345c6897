//! The file of the grants: read whole, replaced whole.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::{Grants, InvalidGrants};

/// Largest file that is read: as many grants as there may be, and room.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Rights of the file: its owner's alone.
const MODE: u32 = 0o600;

/// First line of the file.
const HEAD: &str = "# Who may read what from porthole-exporter. `porthole token` rewrites this file; comments are not kept.\n\n";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others than its owner can read or write it.
    #[error("{path} has mode {mode:04o}: others than its owner have rights to it; run `chmod 600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is too large.
    #[error("{path} has more than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It has not the form of grants.
    #[error("{path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Its content, or the change to it, is not valid.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: InvalidGrants,
    },
}

/// Reads the grants; there are none where there is no file.
pub fn read(path: &Path) -> Result<Grants, AccessError> {
    let path_of = || path.to_owned();
    let io = |source| AccessError::Io { path: path_of(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Grants::default()),
        opened => opened.map_err(io)?,
    };
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(AccessError::Mode { path: path_of(), mode });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(AccessError::TooLarge { path: path_of() });
    }
    let malformed = |error: toml::de::Error| AccessError::Malformed {
        path: path_of(),
        // A message with a piece of the file could show a digest; line and column suffice.
        message: match error.span() {
            Some(at) => {
                let line = text.get(..at.start).map_or(0, |before| before.matches('\n').count() + 1);
                format!("line {line}: {}", error.message())
            }
            None => error.message().to_owned(),
        },
    };
    let grants: Grants = toml::from_str(&text).map_err(malformed)?;
    grants.validate().map_err(|source| AccessError::Invalid { path: path_of(), source })?;
    Ok(grants)
}

/// Changes the grants; a reader gets the old ones or the new ones. Only one at a time changes them.
pub fn update<T>(
    path: &Path,
    change: impl FnOnce(&mut Grants) -> Result<T, InvalidGrants>,
) -> Result<T, AccessError> {
    let io = |source| AccessError::Io { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opened = File::open(directory).map_err(io)?;
    let lock = Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| io(errno.into()))?;
    let mut grants = read(path)?;
    let changed =
        change(&mut grants).map_err(|source| AccessError::Invalid { path: path.to_owned(), source })?;
    let text = toml::to_string(&grants)
        .map_err(|error| AccessError::Malformed { path: path.to_owned(), message: error.to_string() })?;
    // Through a link: what it points to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut staged = tempfile::Builder::new()
        .prefix(".access-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(target.parent().unwrap_or(directory))
        .map_err(io)?;
    staged.write_all(HEAD.as_bytes()).and_then(|()| staged.write_all(text.as_bytes())).map_err(io)?;
    staged.as_file().sync_all().map_err(io)?;
    staged.persist(&target).map_err(|error| io(error.error))?;
    // The new name is on disk before a revocation counts as done.
    lock.sync_all().map_err(io)?;
    Ok(changed)
}
