//! Files that are read again when they change: a look at what the system knows about them. That holds also where a file is
//! replaced through a link, as Kubernetes and certificate managers do.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What distinguishes one state of a file from another; `None` where it cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State(Option<(u64, u64, u64, i64, i64)>);

impl State {
    fn of(path: &Path) -> Self {
        let of = |file: fs::Metadata| {
            let nanoseconds =
                |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
            (
                file.dev(),
                file.ino(),
                file.len(),
                nanoseconds(file.mtime(), file.mtime_nsec()),
                nanoseconds(file.ctime(), file.ctime_nsec()),
            )
        };
        Self(fs::metadata(path).ok().map(of))
    }
}

/// Files that are read again together.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    states: Vec<State>,
}

impl Watched {
    /// Files as they are before they are read for the first time.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let states = paths.iter().map(|path| State::of(path)).collect();
        Self { paths, states }
    }

    /// Whether one of them is another than at the last look. A file that changes between the look and the reading is another at
    /// the next look.
    pub fn changed(&mut self) -> bool {
        let now: Vec<_> = self.paths.iter().map(|path| State::of(path)).collect();
        let changed = now != self.states;
        self.states = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_reached_by_another_link_has_changed_once() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a"), "1").expect("written");
        std::os::unix::fs::symlink(path("a"), path("link")).expect("link");
        let mut watched = Watched::new(vec![path("link")]);
        assert!(!watched.changed());
        fs::write(path("a"), "12").expect("written");
        assert!(watched.changed() && !watched.changed());
        fs::write(path("new"), "34").expect("written");
        fs::rename(path("new"), path("a")).expect("replaced");
        assert!(watched.changed() && !watched.changed());
        fs::write(path("b"), "56").expect("written");
        std::os::unix::fs::symlink(path("b"), path("new")).expect("link");
        fs::rename(path("new"), path("link")).expect("replaced");
        assert!(watched.changed() && !watched.changed());
        fs::remove_file(path("b")).expect("removed");
        assert!(watched.changed() && !watched.changed());
    }
}
