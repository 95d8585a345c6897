//! The lock that a sandbox's companion holds while it lives (see `porthole_registry`).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use porthole_registry::{SandboxKey, create_directory, lock_path, record_path};
use tokio::time::{Instant, sleep};

/// Time between two attempts. A reader of the registry that probes the lock holds it for a moment.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The held lock of a sandbox.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    record: PathBuf,
}

impl Lock {
    /// Takes the lock. A companion of an earlier sandbox of the same name, which holds it, is signalled to finish.
    pub async fn acquire(directory: &Path, sandbox: &SandboxKey, timeout: Duration) -> io::Result<Self> {
        create_directory(directory)?;
        let lock = lock_path(directory, sandbox);
        let deadline = Instant::now() + timeout;
        loop {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock)?;
            if try_lock(&file)? {
                if is_at(&file, &lock) {
                    file.set_len(0)?;
                    // One that an earlier version left may have other rights: who can open it can hold it.
                    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
                    return Ok(Self { file, path: lock, record: record_path(directory, sandbox) });
                }
            } else if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} is held", lock.display())));
            } else if file.metadata()?.len() == 0 {
                io::Write::write_all(&mut &file, b"w")?;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Waits, unless a companion of a new sandbox of the same id waits for the lock.
    pub async fn shown_for(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && self.file.metadata().is_ok_and(|found| found.len() == 0) {
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Removes record and lock, in this order, so that no reader finds a record without a lock.
    pub fn release(self) {
        for path in [&self.record, &self.path] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove");
            }
        }
    }
}

/// Whether no living companion holds the lock of a sandbox.
pub fn is_free(directory: &Path, sandbox: &SandboxKey) -> bool {
    match File::open(lock_path(directory, sandbox)) {
        Ok(file) => try_lock(&file).unwrap_or(false),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes record and lock of a companion that died.
pub fn remove_left_over(directory: &Path, sandbox: &SandboxKey) {
    for path in [record_path(directory, sandbox), lock_path(directory, sandbox)] {
        let _ = std::fs::remove_file(path);
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the open file is still the one at the path: its holder may have removed it before we locked it.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    file.metadata().ok().map(identity) == std::fs::metadata(path).ok().map(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SandboxKey {
        "n@s".parse().expect("key")
    }

    #[tokio::test]
    async fn a_held_lock_is_seen_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(is_free(dir.path(), &id()));
        let lock = Lock::acquire(dir.path(), &id(), Duration::ZERO).await.expect("locked");
        assert!(!is_free(dir.path(), &id()));
        Lock::acquire(dir.path(), &id(), Duration::ZERO).await.expect_err("held");
        lock.release();
        assert_eq!(std::fs::read_dir(dir.path()).expect("listing").count(), 0);
    }

    #[tokio::test]
    async fn only_root_can_open_a_lock() {
        let dir = tempfile::tempdir().expect("directory");
        let registry = dir.path().join("registry");
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        Lock::acquire(&registry, &id(), Duration::ZERO).await.expect("locked").release();
        assert_eq!(mode(&registry), 0o700);
        let path = lock_path(&registry, &id());
        std::fs::write(&path, "").expect("left by an earlier version");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
        let lock = Lock::acquire(&registry, &id(), Duration::ZERO).await.expect("locked");
        assert_eq!(mode(&path), 0o600);
        lock.release();
    }

    #[tokio::test]
    async fn one_that_waits_cuts_the_showing_short() {
        let dir = tempfile::tempdir().expect("directory");
        let first = Lock::acquire(dir.path(), &id(), Duration::ZERO).await.expect("locked");
        let sandbox = id();
        let second = Lock::acquire(dir.path(), &sandbox, Duration::from_mins(1));
        let ending = async {
            first.shown_for(Duration::from_mins(1)).await;
            first.release();
        };
        let begin = Instant::now();
        let (second, ()) = tokio::join!(second, ending);
        let second = second.expect("locked");
        assert!(begin.elapsed() < Duration::from_secs(30));
        assert!(lock_path(dir.path(), &id()).exists(), "the new lock is at the path");
        second.release();
    }
}
