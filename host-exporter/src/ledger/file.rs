//! The ledger's file: one line that names form, version, length and checksum, then JSON; replaced as a whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{FILE, VERSION, form::Ledger};
use crate::fleet::unix_ms;

/// First word of the file.
const MAGIC: &str = "porthole-ledger";

/// Largest ledger that is read, in bytes.
const BYTES_MAX: u64 = 1 << 30;

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
        /// What the system said.
        source: io::Error,
    },
    /// Another exporter uses the directory.
    #[error("{0} is in use by another porthole-exporter")]
    InUse(PathBuf),
    /// The form could not be written as JSON.
    #[error("encoding the ledger: {0}")]
    Encode(#[from] serde_json::Error),
}

/// Keeps a second exporter out of the state directory as long as it exists.
#[derive(Debug)]
pub struct DirectoryLock(#[allow(dead_code)] Flock<File>);

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LedgerError + 'a {
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

/// Reads the ledger; `None` when there is none, or none that can be used: that one is moved aside.
pub(super) fn load(directory: &Path) -> Result<Option<Ledger>, LedgerError> {
    let path = directory.join(FILE);
    let bytes = match fs::metadata(&path)
        .and_then(|metadata| if metadata.len() > BYTES_MAX { Ok(Vec::new()) } else { fs::read(&path) })
    {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("reading", &path)(error)),
    };
    match parse(&bytes) {
        Ok(ledger) => Ok(Some(ledger)),
        Err(reason) => {
            let aside = directory.join(format!("{FILE}.unusable-{}", unix_ms()));
            fs::rename(&path, &aside).map_err(io_error("moving aside", &path))?;
            tracing::error!(
                ledger = %path.display(),
                moved_to = %aside.display(),
                reason,
                "the ledger cannot be used; applications' totals start from zero"
            );
            Ok(None)
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Ledger, String> {
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("it has no first line")?;
    let (line, body) = (&bytes[..end], &bytes[end + 1..]);
    let line = std::str::from_utf8(line).map_err(|_| "its first line is no text")?;
    let words: Vec<&str> = line.split(' ').collect();
    let [MAGIC, version, length, checksum] = words[..] else {
        return Err(format!("its first line is not `{MAGIC} VERSION LENGTH CHECKSUM`"));
    };
    if version != VERSION.to_string() {
        return Err(format!("it has version {version}, this exporter reads {VERSION}"));
    }
    if length != body.len().to_string() {
        return Err(format!("{} bytes follow where {length} are announced", body.len()));
    }
    if checksum != format!("{:016x}", fnv1a(body)) {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// Writes the ledger so that a reader sees the old or the new one, also after a power failure.
pub(super) fn save(directory: &Path, ledger: &Ledger) -> Result<(), LedgerError> {
    let body = serde_json::to_vec(ledger)?;
    let path = directory.join(FILE);
    let staged = directory.join(format!("{FILE}.new"));
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o640).open(&staged)?;
        writeln!(file, "{MAGIC} {VERSION} {} {:016x}", body.len(), fnv1a(&body))?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&staged, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(io_error("writing", &path))
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): against torn and flipped bytes, not against people.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
