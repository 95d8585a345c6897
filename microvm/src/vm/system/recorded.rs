//! The recording implementation: keeps what was asked, in order, and fails at a chosen operation.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{FileSystem, MemoryBounds, System};

/// Records every operation as a line. Handles are the paths that they stand for.
#[derive(Debug, Default)]
pub struct Recorded {
    lines: Mutex<Vec<String>>,
    fails_at: Option<&'static str>,
}

impl Recorded {
    /// Fails at the first operation whose line begins with this.
    pub fn failing_at(start: &'static str) -> Self {
        Self { fails_at: Some(start), ..Self::default() }
    }

    /// What was asked so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no test panics here").clone()
    }

    fn record(&self, line: String) -> io::Result<()> {
        let fails = self.fails_at.is_some_and(|start| line.starts_with(start));
        self.lines.lock().expect("no test panics here").push(line);
        if fails { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }
}

impl System for Recorded {
    type Handle = PathBuf;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.record(format!("create_directory {}", path.display()))
    }

    fn mount_memory(&self, target: &Path, _: MemoryBounds) -> io::Result<()> {
        self.record(format!("mount_memory {}", target.display()))
    }

    fn bind_slave(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.record(format!("bind_slave {} {}", source.display(), target.display()))
    }

    fn open_directory(&self, path: &Path) -> io::Result<PathBuf> {
        self.record(format!("open_directory {}", path.display())).map(|()| path.to_owned())
    }

    fn create_directory_in(&self, parent: &PathBuf, name: &str) -> io::Result<PathBuf> {
        let path = parent.join(name);
        self.record(format!("create_directory_in {}", path.display())).map(|()| path)
    }

    fn create_file_in(&self, parent: &PathBuf, name: &str) -> io::Result<PathBuf> {
        let path = parent.join(name);
        self.record(format!("create_file_in {}", path.display())).map(|()| path)
    }

    fn is_directory(&self, path: &Path) -> io::Result<bool> {
        Ok(path.extension().is_none())
    }

    fn mount(&self, file_system: &FileSystem, target: &Path) -> io::Result<()> {
        self.record(format!("mount {} {}", file_system.kind, target.display()))
    }

    fn clone_tree(&self, source: &Path) -> io::Result<PathBuf> {
        self.record(format!("clone_tree {}", source.display())).map(|()| source.to_owned())
    }

    fn restrict_tree(&self, tree: &PathBuf, read_only: bool) -> io::Result<()> {
        let how = if read_only { "read-only" } else { "writable" };
        self.record(format!("restrict_tree {} {how}", tree.display()))
    }

    fn attach_tree(&self, tree: &PathBuf, target: &PathBuf) -> io::Result<()> {
        self.record(format!("attach_tree {} {}", tree.display(), target.display()))
    }

    fn detach_below(&self, directory: &Path) -> io::Result<()> {
        self.record(format!("detach_below {}", directory.display()))
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.record(format!("remove_directory {}", directory.display()))
    }
}
