//! The host's files before and after: everything that is not the sandbox's own must be what it was.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Directories in which nothing changes while a guest runs.
const QUIET: [&str; 7] = ["/boot", "/dev", "/etc", "/home", "/opt", "/srv", "/usr"];

/// Below them, what the kernel and terminals change by themselves.
const RESTLESS: [&str; 3] = ["/dev/pts", "/dev/shm", "/dev/mqueue"];

/// Directories that others write to: only names with the attacker's word count there.
const BUSY: [&str; 5] = ["/dev/shm", "/run", "/tmp", "/var", "/root"];

/// Deepest level that is searched for names in busy directories.
const DEPTH_MAX: usize = 6;

/// Most differences that are listed.
const LISTED: usize = 10;

/// What identifies a file and its state: number, mode, owner, size and device, times of contents and of the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    changed: (i64, i64, i64, i64),
}

/// All files of the quiet directories, and all mounts.
#[derive(Debug)]
pub struct Audit {
    files: BTreeMap<PathBuf, State>,
    mounts: Vec<String>,
}

impl Audit {
    /// Looks at the quiet directories and at `further` ones.
    pub fn take(further: &[&Path]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for top in QUIET.iter().map(Path::new).chain(further.iter().copied()) {
            walk(top, &RESTLESS.map(Path::new), &mut files);
        }
        let table = fs::read_to_string("/proc/self/mountinfo").context("read the table of mounts")?;
        // proc(5): the fifth field is the mount point.
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned);
        let quiet = |point: &String| QUIET.iter().any(|top| point.starts_with(top));
        Ok(Self { files, mounts: points.filter(quiet).collect() })
    }

    /// Looks at these directories, but not at what is in `left_out`.
    pub fn of(directories: &[&Path], left_out: &[&Path]) -> Self {
        let mut files = BTreeMap::new();
        for top in directories {
            walk(top, left_out, &mut files);
        }
        Self { files, mounts: Vec::new() }
    }

    /// What is different now.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, state) in &now.files {
            match self.files.get(path) {
                None => found.push(format!("{} is new", path.display())),
                Some(before) if before != state => found.push(format!("{} was changed", path.display())),
                Some(_) => {}
            }
        }
        let gone = self.files.keys().filter(|path| !now.files.contains_key(*path));
        found.extend(gone.map(|path| format!("{} is gone", path.display())));
        let mounted = now.mounts.iter().filter(|point| !self.mounts.contains(point));
        found.extend(mounted.map(|point| format!("{point} was mounted on")));
        found.truncate(LISTED);
        found
    }
}

fn walk(top: &Path, left_out: &[&Path], files: &mut BTreeMap<PathBuf, State>) {
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if left_out.iter().any(|left_out| path.starts_with(left_out)) {
                continue;
            }
            let Ok(found) = path.symlink_metadata() else { continue };
            let kind = found.file_type();
            // Terminals have the times of their last use.
            let changed = if kind.is_file() || kind.is_dir() && !path.starts_with("/dev") || kind.is_symlink()
            {
                (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
            } else {
                (0, 0, 0, 0)
            };
            let size = if kind.is_file() { found.size() } else { found.rdev() };
            let state = State {
                inode: found.ino(),
                mode: found.mode(),
                owner: (found.uid(), found.gid()),
                size,
                changed,
            };
            if kind.is_dir() {
                left.push(path.clone());
            }
            files.insert(path, state);
        }
    }
}

/// Names with the attacker's word in busy directories, but for those below `own`.
pub fn marked(mark: &str, own: &[&Path]) -> Vec<String> {
    let mut found = Vec::new();
    for top in BUSY {
        search(Path::new(top), mark, own, 0, &mut found);
    }
    found.truncate(LISTED);
    found
}

fn search(directory: &Path, mark: &str, own: &[&Path], depth: usize, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if own.contains(&path.as_path()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(mark) {
            found.push(format!("{} is the guest's", path.display()));
        }
        if depth < DEPTH_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&path, mark, own, depth + 1, found);
        }
    }
}

/// Bytes that files below a directory take, on its own file system, but for those of paths with these beginnings.
pub fn stored(directory: &Path, left_out: &[&str]) -> u64 {
    let own = directory.symlink_metadata().map(|found| found.dev()).ok();
    let mut sum = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = path.symlink_metadata() else { continue };
        let is_left_out = left_out.iter().any(|beginning| path.to_string_lossy().starts_with(beginning));
        // Containers' root file systems are mounted there.
        if is_left_out || Some(found.dev()) != own {
            continue;
        }
        // stat(2): in units of 512 bytes, whatever the file system's own.
        sum += found.blocks() * 512;
        if found.is_dir() {
            sum += stored(&path, left_out);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn every_kind_of_change_is_seen_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("audit-{}", std::process::id()));
        fs::create_dir_all(directory.join("kept")).expect("directory");
        for name in ["written", "mode", "gone", "replaced", "untouched"] {
            fs::write(directory.join(name), name).expect("file");
        }
        fs::create_dir(directory.join("own")).expect("directory");
        let look = || Audit::of(&[&directory], &[&directory.join("own")]);
        let before = look();
        assert_eq!(before.differences(&look()), Vec::<String>::new());
        fs::write(directory.join("written"), "WRITTEN").expect("file");
        fs::set_permissions(directory.join("mode"), fs::Permissions::from_mode(0o4755)).expect("mode");
        fs::remove_file(directory.join("gone")).expect("removed");
        fs::remove_file(directory.join("replaced")).expect("removed");
        symlink("/etc", directory.join("replaced")).expect("symlink");
        fs::write(directory.join("kept/new"), "").expect("file");
        fs::write(directory.join("own/new"), "").expect("file");
        let found = before.differences(&look());
        let named = |name: &str| found.iter().filter(|line| line.contains(&format!("/{name} "))).count();
        assert_eq!(["written", "mode", "gone", "replaced", "new"].map(named), [1; 5], "{found:?}");
        assert_eq!(named("untouched"), 0, "{found:?}");
        fs::remove_dir_all(&directory).expect("removed");
    }
}
