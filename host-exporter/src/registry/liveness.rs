//! Whether a record's companion lives: it holds the sandbox's lock file while it does.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::Path};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use porthole_registry::{SandboxKey, lock_path, record_path};

/// Whether a record's companion lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// It holds the lock.
    Alive,
    /// The lock can be taken, or is not there.
    Dead,
    /// It cannot be known: the lock file cannot be opened.
    Unknown,
}

/// Checks the lock without keeping it. A shared lock, so that two readers do not see each other as a companion.
pub fn companion(directory: &Path, sandbox: &SandboxKey) -> Companion {
    match File::open(lock_path(directory, sandbox)) {
        Ok(file) => match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Companion::Dead,
            Err((_, Errno::EWOULDBLOCK)) => Companion::Alive,
            Err(_) => Companion::Unknown,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Companion::Dead,
        Err(_) => Companion::Unknown,
    }
}

/// Removes what a dead companion left. Does nothing when a companion has come to life since; false then.
pub fn remove_orphan(directory: &Path, sandbox: &SandboxKey) -> io::Result<bool> {
    let lock = lock_path(directory, sandbox);
    let held = match File::open(&lock) {
        Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Some(held),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(false),
            Err((_, errno)) => return Err(errno.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(held) = &held {
        // A new companion may have replaced the file that we hold.
        let (ours, theirs) = (held.metadata()?, std::fs::metadata(&lock)?);
        if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
            return Ok(false);
        }
    }
    for path in [record_path(directory, sandbox), lock] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SandboxKey {
        "acme@shop-1".parse().expect("id")
    }

    #[test]
    fn a_held_lock_is_a_living_companion() {
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(companion(dir.path(), &id()), Companion::Dead, "no lock at all");
        let file = File::create(lock_path(dir.path(), &id())).expect("lock file");
        assert_eq!(companion(dir.path(), &id()), Companion::Dead, "no process holds it");
        let held = Flock::lock(file, FlockArg::LockExclusive).expect("held");
        assert_eq!(companion(dir.path(), &id()), Companion::Alive);
        drop(held);
        assert_eq!(companion(dir.path(), &id()), Companion::Dead);
    }

    #[test]
    fn a_lock_that_cannot_be_opened_says_nothing() {
        let dir = tempfile::tempdir().expect("directory");
        let path = lock_path(dir.path(), &id());
        // It leads to itself, which no user can open.
        std::os::unix::fs::symlink(&path, &path).expect("symlink");
        assert_eq!(companion(dir.path(), &id()), Companion::Unknown);
        std::fs::write(record_path(dir.path(), &id()), "{}").expect("record");
        remove_orphan(dir.path(), &id()).expect_err("nothing is known of it");
        assert!(record_path(dir.path(), &id()).exists());
    }

    #[test]
    fn only_the_dead_are_removed() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(record_path(dir.path(), &id()), "{}").expect("record");
        let file = File::create(lock_path(dir.path(), &id())).expect("lock file");
        let held = Flock::lock(file, FlockArg::LockExclusive).expect("held");
        assert!(!remove_orphan(dir.path(), &id()).expect("looked"));
        assert!(record_path(dir.path(), &id()).exists());
        drop(held);
        assert!(remove_orphan(dir.path(), &id()).expect("removed"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listing").count(), 0);
    }
}
